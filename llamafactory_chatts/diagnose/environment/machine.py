"""Checks of the machine: cards, memory, disks, the cache of Hugging Face."""

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ...core.installs import install
from ...core.memory import GIB
from ...recipe.finding import Finding
from ...recipe.machine import gpus
from ...recipe.machine.host_limits import host_memory, oom_kills
from .probes import Installation


STALE_SECONDS = 24 * 3600
LOOKED_AT = 20_000
"""Entries below HF_HOME after which the search for lock files stops."""

SMALL = {"memory": 16, "disk": 50, "shm": 1}
"""GiB below which a warning is given: loading an 8B model, its download and checkpoints, two loader workers."""

FREE_SHARE = 0.8
"""Share of a card's memory below which what is free is called little."""


def _judged(bad: bool, subject: str, what: str, fix: str) -> Finding:
    return Finding("warning", subject, what, fix=fix) if bad else Finding("ok", subject, what)


def gpu(installation: Installation) -> Iterator[Finding]:
    """The cards, whether torch reaches them, and who else computes there."""
    driver = gpus.driver()
    found = driver.cards
    torch = installation.torch.get("torch") or {}
    if not found:
        if torch.get("available"):
            yield Finding("ok", "gpu", f"{torch['count']} that torch can use; nvidia-smi does not show them")
        else:
            what = "none: nvidia-smi shows no GPU (training on the CPU is for tests only)"
            yield Finding("warning", "gpu", what, fix="Run: nvidia-smi   (without it, install the driver)")
        return

    yield from _reachable(driver, torch)
    others = [one for one in driver.processes if one.pid != os.getpid()]
    for card in found:
        shown = f"{card.index}: {card.name}, {card.total / 1024:.1f} GiB, {card.free / 1024:.1f} GiB free"
        shown += "" if card.has_bf16 else ", no bf16 (use fp16: true)"
        here = [f"{one.name} (pid {one.pid}, {one.used} MiB)" for one in others if one.card == card.uuid]
        busy = bool(here) or card.free < FREE_SHARE * card.total
        if busy:
            shown += "; also there: " + ", ".join(here) if here else "; nvidia-smi names no process"

        fix = f"Wait for it, end it, or use other cards: CUDA_VISIBLE_DEVICES={_freer(found, card)}"
        yield _judged(busy, "gpu", shown, fix)


def _freer(found: tuple[gpus.Gpu, ...], busy: gpus.Gpu) -> str:
    free = [str(card.index) for card in found if card != busy and card.free >= FREE_SHARE * card.total]
    return ",".join(free) or "N"


def _reachable(machine: gpus.Driver, torch: dict) -> Iterator[Finding]:
    """Errors for cards that torch does not reach, or has no code for."""
    if not torch or "error" in torch:
        return  # said with the packages

    found, build = machine.cards, torch.get("cuda")
    driver = found[0].driver
    if build is None and not torch.get("hip"):
        what = f"torch {torch['version']} is built without CUDA, there are {len(found)} cards (driver {driver})"
        fix = f"Run: {install('torch', 'torchvision', 'torchaudio', options='--force-reinstall')}"
        yield Finding(
            "error", "gpu", what, fix=f"{fix} (a build for CUDA: its --index-url is on PyTorch's install page)"
        )
    elif not torch.get("available"):
        if os.environ.get("CUDA_VISIBLE_DEVICES") is not None and not gpus.visible(machine):
            setting = os.environ["CUDA_VISIBLE_DEVICES"]
            what = f"CUDA_VISIBLE_DEVICES={setting!r} hides all {len(found)} cards"
            yield Finding("error", "gpu", what, fix="Run: unset CUDA_VISIBLE_DEVICES")
            return

        said = f": {torch['said'][-1]}" if torch.get("said") else ""
        what = f"torch (CUDA {build}) does not reach the cards with driver {driver}{said}"
        fix = f"Install a driver for CUDA {build} or newer, or a torch for an older CUDA (whl/cu126)"
        yield Finding("error", "gpu", what, fix=fix)

    archs = [name for name in torch.get("archs") or [] if name.startswith(("sm_", "compute_"))]
    for card in {card.name: card for card in found}.values():
        if archs and card.capability and not _has_code(archs, card.capability):
            number = ".".join(map(str, card.capability))
            what = f"torch {torch['version']} has no code for {card.name} (compute capability {number})"
            older = card.capability < (7, 5)
            fix = "Install a torch for " + ("an older CUDA: whl/cu126" if older else "a newer CUDA: whl/cu128")
            yield Finding("error", "gpu", what, fix=fix)


def _has_code(archs: list[str], capability: tuple[int, ...]) -> bool:
    """Tell whether a card runs code of one of ``archs``: same major and at most its minor, or any older PTX."""
    found = re.findall(r"\b(sm|compute)_(\d+)(\d)", " ".join(archs))
    codes = [(kind, (int(major), int(minor))) for kind, major, minor in found]
    return any(code <= capability and (kind == "compute" or code[0] == capability[0]) for kind, code in codes)


def memory(installation: Installation) -> Iterator[Finding]:
    """Host memory, the limit of the control group, swap, and whether the OOM killer was here before."""
    size = host_memory()
    limit = f", limited to {size.limit:.1f} by the control group" if size.limit is not None else ""
    what = f"{size.available:.1f} GiB free of {size.total:.1f}{limit}; swap free: {size.swap:.1f} GiB"
    fix = "End other programs; with several processes each loads the base on its own: see lmf-chatts plan RECIPE"
    yield _judged(size.available < SMALL["memory"], "memory", what, fix)
    killed = oom_kills()
    if killed:
        what = f"the OOM killer ended {killed} processes of this control group since it was made"
        yield Finding("warning", "memory", what, fix="Give the container more memory, or start fewer processes")


def shared_memory(installation: Installation) -> Iterator[Finding]:
    """/dev/shm, through which loader workers and NCCL hand over data."""
    if not Path("/dev/shm").is_dir():
        return

    usage = shutil.disk_usage("/dev/shm")
    what = f"/dev/shm: {usage.free / GIB:.2f} GiB free of {usage.total / GIB:.2f}"
    fix = "Start the container with --shm-size=16g (docker) or an emptyDir of medium Memory (Kubernetes)"
    yield _judged(usage.free < SMALL["shm"] * GIB, "shm", what, fix)


def hf_home() -> Path:
    """Return the folder of Hugging Face's caches."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")).expanduser()


def _nearest(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def folders(installation: Installation) -> Iterator[Finding]:
    """HF_HOME and the output folder can be written to and have room."""
    for name, folder in (("HF_HOME", hf_home()), ("output", installation.output)):
        holder = _nearest(folder)
        try:
            with tempfile.TemporaryFile(dir=holder):
                pass
        except OSError as error:
            what = f"{holder} cannot be written to ({error.strerror or error})"
            fix = "Run: export HF_HOME=/a/folder/of/yours" if name == "HF_HOME" else "Write to another output_dir"
            yield Finding("error", name, what, fix=fix)
            continue

        free = shutil.disk_usage(holder).free / GIB
        need = "an 8B model is 16 GiB, a 14B model 28 GiB; checkpoints of full training 3 to 6 times that"
        fix = f"Make room, or use another disk ({need})"
        yield _judged(free < SMALL["disk"], name, f"{folder}: {free:.0f} GiB free", fix)


def lock_files(installation: Installation) -> Iterator[Finding]:
    """Lock files that a killed download left: older than a day and held by nobody, or of another user."""
    home, seen, locks = hf_home(), 0, defaultdict[str, list[Path]](list)
    for folder, _, names in os.walk(home):
        seen += len(names) + 1
        if seen > LOOKED_AT:
            break

        for path in (Path(folder, name) for name in names if name.endswith(".lock")):
            locks[_lock_state(path)].append(path)

    foreign, stale = locks["foreign"], locks["stale"]
    if foreign:
        what = f"{len(foreign)} lock files below {home} belong to another user, as {foreign[0].name}"
        yield Finding("error", "locks", what, str(foreign[0]), "Run: export HF_HOME=/a/folder/of/yours")

    if stale:
        what = f"{len(stale)} lock files below {home} are older than a day and held by nobody"
        fix = f"Run: find {home} -name '*.lock' -mtime +0 -delete   (while no training runs)"
        yield Finding("warning", "locks", what, str(stale[0]), fix)

    if not foreign and not stale:
        yield Finding("ok", "locks", f"no stale lock files below {home}")


def _lock_state(path: Path) -> str:
    """Return ``foreign`` (cannot be opened for writing), ``held``, ``fresh`` or ``stale``."""
    try:
        age = time.time() - path.stat().st_mtime
        with path.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return "held"

            fcntl.flock(file, fcntl.LOCK_UN)
    except PermissionError:
        return "foreign"
    except OSError:
        return "fresh"  # gone in the meantime

    return "stale" if age > STALE_SECONDS else "fresh"
