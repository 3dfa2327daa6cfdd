"""Locks of PyTorch's extension builds: one that a killed build left lets the next start wait for ever, in silence."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ..context import Context
from ..finding import Finding


OLD = 15 * 60
"""Seconds; a build of one of DeepSpeed's operations takes one to five minutes, also on busy cores."""

FIX = "No build runs any more: delete that file, or the start waits for it for ever"


def stale_locks() -> list[Path]:
    """Return the locks in the folders where this Python builds whose builder is gone.

    A builder keeps its lock file open. Where that cannot be seen (another user's, no /proc), a lock that is older
    than :data:`OLD` counts as left behind.
    """
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    if named:
        found = Path(named).glob("*/lock")
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "torch_extensions"
        found = cache.glob(f"py{sys.version_info.major}{sys.version_info.minor}{sys.abiflags}_*/*/lock")

    found = sorted(found)
    held = _open_files() if found else set()
    return [path for path in found if _is_stale(path, held)]


def _is_stale(path: Path, held: set[tuple[int, int]] | None) -> bool:
    try:
        entry = path.stat()
    except OSError:  # gone in the meantime
        return False

    if held is not None and entry.st_uid == os.getuid():
        return (entry.st_dev, entry.st_ino) not in held

    return time.time() - entry.st_mtime > OLD


def _open_files() -> set[tuple[int, int]] | None:
    """Return device and inode of each file named `lock` that a process of this user has open; None without /proc.

    Not their paths, as psutil gives them: the same folder may be mounted elsewhere for another process.
    """
    if not Path("/proc/self/fd").is_dir():
        return None

    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link).endswith("/lock"):
                entry = link.stat()
                found.add((entry.st_dev, entry.st_ino))
        except OSError:  # another user's, or gone
            continue

    return found


def extension_builds(machine: object) -> Iterator[Finding]:
    """Of ``lmf-chatts doctor``: locks of builds that no longer run."""
    stale = stale_locks()
    for path in stale:
        yield Finding("error", "builds", f"{path.parent.name}: a build that was ended left its lock", str(path), FIX)

    if not stale:
        yield Finding("ok", "builds", "no build of a PyTorch extension left its lock")


def waits_for_build(context: Context) -> Iterator[Finding]:
    """Of a recipe: DeepSpeed builds its operations when a training starts."""
    for path in stale_locks() if context.deepspeed is not None and context.trains else ():
        what = f"DeepSpeed would wait for ever for {path}, which a build that was ended has left"
        yield Finding("error", "deepspeed", what, context.recipe.where("deepspeed"), FIX)
