"""Duplicate rows: the same text with the same series, to the bit or up to rounding.

Only hashes are kept of the rows seen. For near duplicates a row is reduced to a few random projections of its
series, in units of their standard deviation. These are put on a grid; a row that falls close to a line of the grid
also looks into the neighbouring cell, so that two series that differ by rounding always meet.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


MODES = ("off", "exact", "near")

DIRECTIONS = 8
CELL = 0.02
TOLERANCE = 0.004
"""Projections that differ by at most this (in standard deviations) count as equal: rounding to about 1/200 of the
standard deviation, or finer. Different series share all cells with a probability around ``CELL ** DIRECTIONS``."""

LEVEL_TOLERANCE = 0.01
"""Largest difference of two means, in standard deviations."""


def exact_key(text: str, series: Sequence[np.ndarray]) -> int:
    """Return a 64-bit hash of a row's text and its series (float64 vectors)."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    for values in series:
        digest.update(len(values).to_bytes(8, "big"))
        digest.update(np.ascontiguousarray(values, dtype=np.float64))

    return int.from_bytes(digest.digest(), "big")


@dataclass(frozen=True)
class Sketch:
    """A row reduced to what finds its near duplicates.

    Attributes:
        cells: hash of its cell first, then of the neighbours that may hold a near duplicate.
        levels: mean of each series.
        spreads: standard deviation of each series.
    """

    cells: tuple[int, ...]
    levels: tuple[float, ...]
    spreads: tuple[float, ...]


_directions: dict[int, np.ndarray] = {}


def _project(values: np.ndarray) -> np.ndarray:
    """Return random projections, each of unit variance for a series of unit variance."""
    length = len(values)
    if length not in _directions:
        if len(_directions) >= 16:  # lengths differ from row to row: the signs are made again, not all kept
            _directions.clear()

        signs = np.random.default_rng(length).integers(0, 2, (DIRECTIONS, length), dtype=np.int8) * 2 - 1
        _directions[length] = signs.astype(np.float32)

    # einsum, not a matrix product: a BLAS would start threads of its own in every worker process
    return np.einsum("dn,n->d", _directions[length], values.astype(np.float32)) / np.sqrt(length)


def sketch(text: str, series: Sequence[np.ndarray]) -> Sketch:
    """Return the sketch of a row.

    Args:
        text: everything that is not a series; near duplicates have the same text.
        series: float64 vectors without gaps.
    """
    seed = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    levels, spreads = [], []
    places = np.zeros(DIRECTIONS)
    for number, values in enumerate(series):
        seed.update(len(values).to_bytes(8, "big"))
        level, spread = float(values.mean()), float(values.std())
        if spread <= 1e-9 * abs(level):  # constant but for the noise of floating point
            spread = 0.0

        levels.append(level)
        spreads.append(spread)
        if spread:  # the weight depends on the place of the series in the row: swapped series are not the same row
            weight = 1 / (1 + number % 7)
            places += weight * _project((values - level) / spread) + weight * np.log(spread)
        else:
            seed.update(b"constant")

    cells = places / CELL
    base = np.floor(cells)
    inside = cells - base
    margin = TOLERANCE / CELL
    steps = [(0, -1) if f < margin else (0, 1) if f > 1 - margin else (0,) for f in inside]
    start = seed.digest()
    keys = []
    for step in itertools.product(*steps):
        cell = (base + np.array(step)).astype(np.int64).tobytes()
        keys.append(int.from_bytes(hashlib.blake2b(start + cell, digest_size=8).digest(), "big"))

    return Sketch(tuple(keys), tuple(levels), tuple(spreads))


class Seen:
    """The rows seen so far; what is kept can be written down and read back to continue a run."""

    def __init__(self) -> None:
        self._exact: set[int] = set()
        self._near: dict[int, list[tuple[tuple[float, ...], tuple[float, ...]]]] = {}

    def add(self, key: int | Sketch) -> list[Any] | None:
        """Remember a row; return what :meth:`restore` needs for it, or None if it is a duplicate."""
        if isinstance(key, Sketch):
            if any(_close(key, other) for cell in key.cells for other in self._near.get(cell, ())):
                return None

            record = [key.cells[0], list(key.levels), list(key.spreads)]
        elif key in self._exact:
            return None
        else:
            record = [key]

        self.restore([record])
        return record

    def restore(self, records: Iterator[list[Any]] | list[list[Any]]) -> None:
        """Remember rows of an earlier run."""
        for record in records:
            if len(record) == 1:
                self._exact.add(record[0])
            else:
                self._near.setdefault(record[0], []).append((tuple(record[1]), tuple(record[2])))


def _close(key: Sketch, other: tuple[tuple[float, ...], tuple[float, ...]]) -> bool:
    levels, spreads = other
    for here, there, spread, its in zip(key.levels, levels, key.spreads, spreads):
        unit = max(spread, its) or 1e-6 * max(abs(here), abs(there))  # constants: six digits
        if abs(here - there) > LEVEL_TOLERANCE * unit and here != there:
            return False

    return True
