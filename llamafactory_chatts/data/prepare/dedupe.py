"""Rows that are there already, and series that would stand on both sides of a split.

Only hashes and sketches (:mod:`..sketch`) are kept of the rows seen. What is written here as two parts of a split is
therefore no leakage to ``check``, which compares the same sketches.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..sketch import Alike, Sketch, hashed, sketch


MODES = ("off", "exact", "near")


class Key(NamedTuple):
    """What is kept of a row.

    Attributes:
        mode: one of :data:`MODES`.
        value: hash of its text, and with ``exact`` of its series.
        sketches: of its series; empty where neither ``near`` nor a split needs them.
        group: hash of where its series come from; rows that share it are in one part. None without a split.
    """

    mode: str
    value: int
    sketches: tuple[Sketch, ...] = ()
    group: int | None = None


def key_of(text: str, series: Sequence[np.ndarray], mode: str, group: int | None = None) -> Key:
    """Return the key of a row.

    Args:
        text: everything that is not a series; near duplicates have the same text.
        series: float64 vectors without gaps, with the values that the file of the dataset will hold.
        mode: one of :data:`MODES`.
        group: see :class:`Key`.
    """
    sketches = tuple(map(sketch, series)) if mode == "near" or group is not None else ()
    exact = [np.ascontiguousarray(values).tobytes() for values in series] if mode == "exact" else []
    return Key(mode, hashed(text.encode("utf-8", "surrogatepass"), *exact), sketches, group)


class Seen:
    """The rows seen so far; what is kept can be written down and read back to continue a run."""

    def __init__(self) -> None:
        self._exact: set[int] = set()
        self._rows = Alike()
        self._parts: dict[str, Alike] = {}
        self._groups: dict[int, str] = {}

    def part_of(self, keys: Sequence[Key], part: str) -> str:
        """Return the part of a split for the rows of one label.

        That is the one in which their group, or series like theirs, are already; otherwise ``part``.
        """
        group = keys[0].group
        if group is None:
            return part

        if group not in self._groups:
            there = {name for key in keys for name in self._with_series_of(key)}
            return there.pop() if len(there) == 1 else part

        return self._groups[group]

    def _with_series_of(self, key: Key, but: str | None = None) -> list[str]:
        """Return the parts with a series like one of a row; constants are like too many to count."""
        varied = [item for item in key.sketches if item.spread]
        others = ((name, series) for name, series in self._parts.items() if name != but)
        return [name for name, series in others if any(series.find([item]) is not None for item in varied)]

    def refused(self, key: Key, part: str) -> tuple[str, str] | None:
        """Return why a row cannot be in a part: reason and detail; None where it can."""
        there = key.value in self._exact if key.mode == "exact" else False
        if there or key.mode == "near" and self._rows.find(key.sketches, key.value) is not None:
            return "duplicate", "a row with the same text and series was written before"

        other = self._with_series_of(key, but=part) if key.group is not None else []
        return ("leakage", f"a series like one of this row is in the part {other[0]} already") if other else None

    def add(self, key: Key, part: str) -> list[Any]:
        """Remember a row of a part; returns what :meth:`restore` needs for it."""
        record = [key.mode, key.value, key.sketches, key.group, part]
        self.restore([record])
        return record

    def restore(self, records: Iterable[Sequence[Any]]) -> None:
        """Remember rows of an earlier run."""
        for mode, value, numbers, group, part in records:
            sketches = [Sketch(points, mean, spread, tuple(places)) for points, mean, spread, places in numbers]
            if mode == "exact":
                self._exact.add(value)
            elif mode == "near":
                self._rows.add(sketches, value)

            if group is not None:
                self._groups[group] = part
                for item in sketches:
                    if item.spread:
                        self._parts.setdefault(part, Alike()).add([item])
