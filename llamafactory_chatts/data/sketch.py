"""Series that are alike: the one sketch and the one threshold of ``prepare`` (duplicates, splits) and ``check``.

A series is reduced to its length, mean, standard deviation and eight projections of its normalised values onto fixed
random directions. Two series are alike when they have one length and all these numbers agree within
:data:`TOLERANCE` standard deviations: one is then a rounded copy of the other, rounded to about 1/60 of its standard
deviation or finer. A shifted, scaled, shorter or resampled copy is another series, and so is one with noise that can
be seen.
"""

import hashlib
import itertools
import math
from array import array
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np


TOLERANCE = 0.02
PROJECTIONS = 8
LONGEST = 1 << 16
"""Points up to which each has a direction of its own; behind them the directions repeat."""

LARGE = 1e150
"""Values whose squares may not fit float64."""

CELL = 0.25
"""Width of the cells that sketches are sorted into."""


class Sketch(NamedTuple):
    """What is kept of a series of shape ``(points,)``; ``spread``, its standard deviation, is 0 for a constant."""

    points: int
    mean: float
    spread: float
    places: tuple[float, ...]


_WIDTH = 3 + PROJECTIONS


@cache
def _directions() -> np.ndarray:
    signs = np.random.default_rng(0).integers(0, 2, (PROJECTIONS, LONGEST), dtype=np.int8)
    return (signs * 2 - 1).astype(np.float32)


def sketch(series: np.ndarray) -> Sketch:
    """Return the sketch of a series: finite float64 values of shape ``(length,)``, at least one."""
    scale = max(float(np.abs(series).max()) / LARGE, 1.0)
    values = series / scale if scale > 1 else series
    mean, spread = float(values.mean()), float(values.std())
    if not spread > 1e-9 * abs(mean):  # constant but for the noise of floating point
        return Sketch(len(series), mean * scale + 0.0, 0.0, (0.0,) * PROJECTIONS)

    normal = ((values - mean) / spread).astype(np.float32)
    total = np.zeros(PROJECTIONS)
    for start in range(0, len(normal), LONGEST):
        piece = normal[start : start + LONGEST]
        # einsum, not a matrix product: a BLAS would start threads of its own in every worker process
        total += np.einsum("dn,n->d", _directions()[:, : len(piece)], piece)

    return Sketch(len(series), mean * scale, spread * scale, tuple((total / math.sqrt(len(series))).tolist()))


def alike(one: Sketch, other: Sketch) -> bool:
    """Return whether two series are one up to rounding; constants are where six digits agree."""
    if one.points != other.points or (one.spread > 0) != (other.spread > 0):
        return False

    if not one.spread:
        return f"{one.mean:.5e}" == f"{other.mean:.5e}"

    room = TOLERANCE * max(one.spread, other.spread)
    if abs(one.mean - other.mean) > room or abs(one.spread - other.spread) > room:
        return False

    return all(abs(here - there) <= TOLERANCE for here, there in zip(one.places, other.places))


def _around(place: float, margin: float) -> range:
    """Return the cells that anything within ``margin`` cells of a place may be in."""
    return range(math.floor(place - margin), math.floor(place + margin) + 1)


def _cells(first: Sketch, tolerance: float) -> Iterator[tuple[int, ...]]:
    """Yield the cells in which sketches lie that agree with one within a tolerance; its own cell alone for 0.

    Cells of the mean are as wide as the standard deviation demands, so that copies on other levels, or of other sizes,
    do not fill one cell.
    """
    room = tolerance / (1 - tolerance) * 1.001  # of the larger of two standard deviations, in units of the smaller
    rest = [_around(place / CELL, tolerance * 1.001 / CELL) for place in first.places]
    for size in _around(math.log(first.spread) / CELL, room / CELL):
        unit = CELL * math.exp(size * CELL)
        for level in _around(first.mean / unit, room * first.spread / unit):
            for cell in itertools.product(*rest):
                yield (size, level, *cell)


class Alike:
    """Groups of series that were seen, one or more series each, in about 200 bytes a series."""

    def __init__(self) -> None:
        self._newest: dict[int, int] = {}
        """Hash of a cell -> the group that was put there last."""

        self._before, self._tags, self._start = array("q"), array("Q"), array("Q", [0])
        self._numbers = array("d")

    def _group(self, number: int) -> list[Sketch]:
        found = self._numbers[self._start[number] * _WIDTH : self._start[number + 1] * _WIDTH]
        rows = (found[at : at + _WIDTH] for at in range(0, len(found), _WIDTH))
        return [Sketch(int(row[0]), row[1], row[2], tuple(row[3:])) for row in rows]

    def _keys(self, group: Sequence[Sketch], key: int, tolerance: float) -> Iterator[int]:
        """Yield hashes of cells: of the first series that is not constant; the others are only compared."""
        constants = [(item.points, f"{item.mean:.5e}" if not item.spread else "") for item in group]
        varied = next((item for item in group if item.spread), None)
        for cell in _cells(varied, tolerance) if varied else [()]:
            yield hash((key, *constants, *cell))

    def find(self, group: Sequence[Sketch], key: int = 0) -> int | None:
        """Return the tag of the first group added with this key whose series are alike, one by one; None without."""
        hits = []
        for cell in self._keys(group, key, TOLERANCE):
            number = self._newest.get(cell, -1)
            while number >= 0:
                other = self._group(number)
                if len(other) == len(group) and all(map(alike, group, other)):
                    hits.append(number)

                number = self._before[number]

        return self._tags[min(hits)] if hits else None

    def add(self, group: Sequence[Sketch], key: int = 0, tag: int = 0) -> None:
        """Remember a group under a key.

        Args:
            group: sketches of its series.
            key: hash of 64 bits of whatever else must be equal.
            tag: what :meth:`find` shall return, 0 to ``2**64 - 1``. Of groups that are exactly equal the first stays.
        """
        cell = next(self._keys(group, key, 0))
        number = last = self._newest.get(cell, -1)
        while number >= 0:
            if self._group(number) == list(group):
                return

            number = self._before[number]

        self._newest[cell] = len(self._before)
        self._before.append(last)
        self._tags.append(tag)
        self._start.append(self._start[-1] + len(group))
        for item in group:
            self._numbers.extend((item.points, item.mean, item.spread, *item.places))


def hashed(*parts: bytes) -> int:
    """Return a 64-bit hash of byte strings; where one ends and the next begins counts."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)

    return int.from_bytes(digest.digest(), "little")
