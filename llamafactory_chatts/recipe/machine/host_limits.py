"""What of this machine's memory and processors a program may use: the kernel's figures and the control group's."""

import os
from collections.abc import Iterator
from pathlib import Path

from ...core.memory import GIB


NO_LIMIT = 2**60
"""Bytes from which a limit stands for none (version 1 writes a number just below 2**63)."""

CGROUP = "/sys/fs/cgroup"
RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")
"""What a group counts as used and gives back when memory is asked for: the page cache, mostly read files."""


def read(path: str | Path) -> str:
    """Return a file's text; "" when it cannot be read."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _groups() -> Iterator[tuple[str, str, str, str]]:
    """Yield folder, name of limit, name of usage and prefix of statistics of each control group above this process.

    A container sees its own group at the top; its path in /proc may be that of the machine, so both are looked at.
    """
    for line in read("/proc/self/cgroup").splitlines() or ["0::/"]:
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if not kinds:  # version 2
            top, names = CGROUP, ("memory.max", "memory.current", "")
        elif "memory" in kinds.split(","):
            top, names = f"{CGROUP}/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue

        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            yield "/".join([top, *parts[:depth]]), *names


def host_memory() -> dict[str, float | None]:
    """Return GiB: ``total``, ``available``, ``swap``, and ``limit`` of the control group (None without one).

    ``available`` is what a program can get without swapping: files in the page cache count as free, as they do in the
    kernel's MemAvailable, also inside a control group.
    """
    lines = dict(line.split(":", 1) for line in read("/proc/meminfo").splitlines() if ":" in line)
    size = {key: int(value.split()[0]) / 2**20 for key, value in lines.items() if value.split()}
    total, available, limit = size.get("MemTotal"), size.get("MemAvailable"), None
    for folder, most, used, prefix in _groups():
        text = read(f"{folder}/{most}").strip()
        if not text.isdigit() or int(text) >= NO_LIMIT:
            continue

        limit = int(text) / GIB if limit is None else min(limit, int(text) / GIB)
        now = read(f"{folder}/{used}").strip()
        if now.isdigit() and available is not None:
            counted = dict(line.split(" ", 1) for line in read(f"{folder}/memory.stat").splitlines() if " " in line)
            cache = sum(int(counted.get(prefix + name, 0)) for name in RECLAIMABLE)
            available = min(available, (int(text) - max(int(now) - cache, 0)) / GIB)

    return {"total": total, "available": available, "swap": size.get("SwapFree"), "limit": limit}


def largest_memory() -> float | None:
    """Return the GiB that a program could have on this machine at most: all of it, or the control group's limit."""
    size = host_memory()
    known = [value for value in (size["total"], size["limit"]) if value is not None]
    return min(known) if known else None


def processors() -> int:
    """Return how many processors this process may use at a time: its own set, and the control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for line in read("/proc/self/cgroup").splitlines() or ["0::/"]:
        kinds, _, path = line.partition(":")[2].partition(":")
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            below = "/".join(parts[:depth])
            if not kinds:
                quota, _, period = read(f"{CGROUP}/{below}/cpu.max").strip().partition(" ")
            elif "cpu" in kinds.split(","):
                quota, period = (
                    read(f"{CGROUP}/cpu/{below}/cpu.cfs_{what}_us").strip() for what in ("quota", "period")
                )
            else:
                continue

            if quota.isdigit() and period.isdigit() and int(period):
                count = min(count, max(1, -(-int(quota) // int(period))))

    return count
