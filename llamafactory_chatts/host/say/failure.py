"""A training that fails writes what it knows of its end into the output folder; ``doctor FOLDER`` reads it."""

import contextlib
import json
import os
import resource
import sys
import traceback
from collections.abc import Iterator
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ...core.atomic import write_text
from ...core.contract import FAILURE, TEMPLATE
from ...core.errors import ChatTSError
from ...core.memory import GIB
from ...recipe.reading import recipe_of


PACKAGES = ("llamafactory-chatts", "llamafactory", "transformers", "torch", "peft", "trl", "accelerate", "deepspeed")
FRAMES = 40
"""Frames that are kept of an exception, from its innermost one."""

_PHASES = (
    ("_load_single_dataset", "while the dataset was being prepared"),
    ("get_dataset", "while the dataset was being prepared"),
    ("load_model", "while the weights were being loaded"),
    ("evaluate", "during evaluation"),
    ("evaluation_loop", "during evaluation"),
    ("_save_checkpoint", "while or after a checkpoint was saved"),
    ("train", "during training"),
)
"""Function on the way to an exception -> what the run was doing, in the words of ``doctor LOG``; inner ones first."""


class Recorder:
    """What is written when a training fails; ``loading``: past the checks, so the output folder may be made."""

    def __init__(self, given: dict[str, Any] | list[str] | None) -> None:
        recipe = recipe_of(given, sys.argv) if given is not None else None
        folder = recipe.get("output_dir") if recipe is not None and recipe.get("template") == TEMPLATE else None
        self.rank = int(os.environ.get("RANK", "0"))
        self.path = Path(str(folder), _name(self.rank)) if folder else None
        self.loading = False

    def forget(self) -> None:
        """Remove what an earlier run has left: one's own file, and as rank 0 those of ranks that are no more."""
        if self.path is None:
            return

        now = {_name(rank) for rank in range(int(os.environ.get("WORLD_SIZE", "1")))}
        gone = [path for path in self.path.parent.glob(FAILURE) if path.name not in now] if self.rank == 0 else []
        for path in (self.path, *gone):
            with contextlib.suppress(OSError):
                path.unlink()

    def write(self, error: BaseException) -> None:
        if self.path is None or not (self.loading or self.path.parent.is_dir()):
            return

        exceptions = [describe(one) for one in chain(error)]
        content = {
            "time": datetime.now().astimezone().isoformat(timespec="milliseconds"),
            "rank": self.rank,
            "processes": int(os.environ.get("WORLD_SIZE", "1")),
            "command": sys.argv,
            "phase": phase(error),
            "step": step(error),
            "exceptions": exceptions,
            "memory_gib": memory(),
            "versions": {name: version for name in PACKAGES if (version := _version(name))},
        }
        write_text(self.path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def record_failure(given: dict[str, Any] | list[str] | None) -> Iterator[Recorder]:
    """Write ``failure.json`` when the enclosed training raises; the exception goes on as it was.

    Each process writes a file of its own. torchrun's file of a process's error is written, too, so that its summary
    shows the exception instead of an exit code. A process that is ended by a signal writes nothing.

    Args:
        given: what the host's ``read_args`` returned. Trainings with other templates are left alone.
    """
    recorder = Recorder(given)
    try:
        recorder.forget()
        yield recorder
    except BaseException as error:
        if not (isinstance(error, SystemExit) and not error.code):
            with contextlib.suppress(Exception):  # it must not stand in the way of the error itself
                recorder.write(error)

            if recorder.path is not None and isinstance(error, Exception):
                with contextlib.suppress(Exception):
                    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

                    get_error_handler().record_exception(error)

        raise


def chain(error: BaseException) -> list[BaseException]:
    """Return the exceptions from the first one raised to ``error``."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found and len(found) < 20:
        found.insert(0, one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)

    return found


def describe(error: BaseException) -> dict[str, Any]:
    """Return an exception as ``failure.json`` holds it; the fields of a ChatTSError stand beside its text."""
    kind = type(error)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    found: dict[str, Any] = {
        "kind": module + kind.__qualname__,
        "message": str(error)[:8000],
        "frames": [[frame.filename, frame.lineno or 0, frame.name] for frame in frames],
    }
    if isinstance(error, ChatTSError):
        found |= {"what": error.what, "where": error.where, "fix": error.fix}

    return found


def phase(error: BaseException) -> str:
    """Return what the run was doing, from the functions that the exception went through; "" where they do not say."""
    functions = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    return next((words for name, words in _PHASES if name in functions), "")


def step(error: BaseException) -> int | None:
    """Return the last finished optimizer step of the trainer that the exception went through."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        state = getattr(frame.f_locals.get("self"), "state", None)
        number = getattr(state, "global_step", None)
        found = number if isinstance(number, int) else found

    return found


def memory() -> dict[str, float]:
    """Return GiB: the process's peak of host memory, and of its GPU what PyTorch holds and held at most."""
    found = {"host_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["gpu_reserved"] = torch.cuda.memory_reserved() / GIB
        found["gpu_peak"] = torch.cuda.max_memory_reserved() / GIB

    return {name: round(value, 2) for name, value in found.items()}


def _name(rank: int) -> str:
    return FAILURE.replace("*", f".rank{rank}" if rank else "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
