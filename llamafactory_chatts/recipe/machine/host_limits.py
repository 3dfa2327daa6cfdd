"""What of this machine's memory and processors a program may use: the kernel's figures and the control group's."""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path

import psutil

from ...core.memory import GIB


NO_LIMIT = 2**60
"""Bytes from which a limit stands for none (version 1 writes a number just below 2**63)."""

CGROUP = "/sys/fs/cgroup"
RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")
"""What a group counts as used and gives back when memory is asked for: the page cache, mostly read files."""


@dataclass(frozen=True)
class Memory:
    """Host memory in GiB.

    Attributes:
        total: of the machine.
        available: what a program can get without swapping: files in the page cache count as free, as they do in the
            kernel's MemAvailable, also inside a control group.
        swap: free.
        limit: of the control group; None without one.
    """

    total: float
    available: float
    swap: float
    limit: float | None = None

    @property
    def largest(self) -> float:
        """GiB that a program could have at most: all of it, or the control group's limit."""
        return min(self.total, self.limit or inf)


def _read(path: Path) -> str:
    """Return a file's text; "" when it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _groups(controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield each control group above this process: its folder, and whether it is of version 2.

    A container sees its own group at the top; its path in /proc may be that of the machine, so both are looked at.
    """
    for line in _read(Path(psutil.PROCFS_PATH, "self", "cgroup")).splitlines() or ["0::/"]:
        _, kinds, path = line.split(":", 2)
        if not kinds or controller in kinds.split(","):
            top, parts = Path(CGROUP, controller if kinds else ""), path.strip("/").split("/")
            yield from ((top.joinpath(*parts[:depth]), not kinds) for depth in range(len(parts) + 1))


def _counts(text: str) -> dict[str, int]:
    """Return the numbers of a group's file with a name and a number a line."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def host_memory() -> Memory:
    """Return the memory of this machine, as far as this process may use it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # some sandboxes have no /proc/vmstat, which is not needed
        machine, swap = psutil.virtual_memory(), psutil.swap_memory()

    available, limit = machine.available / GIB, None
    for folder, second in _groups("memory"):
        names = ("memory.max", "memory.current") if second else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        most, used = (_read(folder / name).strip() for name in names)
        if not most.isdigit() or int(most) >= NO_LIMIT:
            continue

        limit = min(int(most) / GIB, limit or inf)
        if used.isdigit():
            counted = _counts(_read(folder / "memory.stat"))
            cache = sum(counted.get(("" if second else "total_") + name, 0) for name in RECLAIMABLE)
            available = min(available, (int(most) - max(int(used) - cache, 0)) / GIB)

    return Memory(machine.total / GIB, available, swap.free / GIB, limit)


def oom_kills() -> int:
    """Return how many processes of this control group the kernel's OOM killer has ended since it was made."""
    return _counts(_read(Path(CGROUP, "memory.events"))).get("oom_kill", 0)


def processors() -> int:
    """Return how many processors this process may use at a time: its own set, and the control group's quota."""
    count = len(os.sched_getaffinity(0))
    for folder, second in _groups("cpu"):
        names = ("cpu.max",) if second else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        numbers = " ".join(_read(folder / name) for name in names).split()
        if len(numbers) == 2 and all(number.isdigit() for number in numbers) and int(numbers[1]):
            count = min(count, max(1, -(-int(numbers[0]) // int(numbers[1]))))

    return count
