"""Rows that occur twice and series that are in two parts, in about 70 bytes a series.

A series is kept as a sketch: length, mean, standard deviation and eight projections of its normalised values onto
fixed random directions. Two sketches agree within :data:`TOLERANCE` (in units of the standard deviation) when one
series is a rounded copy of the other; a shifted, scaled or shorter copy is another series.
"""

from array import array
from collections.abc import Iterator

import numpy as np


TOLERANCE = 0.02
PROJECTIONS = 8
LONGEST = 1 << 16
"""Points up to which each has a direction of its own; behind them the directions repeat."""

NEIGHBOURS = 64
"""Series of one cell that each is compared with."""

_CELL = 0.25
"""Width of the cells that sketches are first sorted into; three grids, moved by a third each, so that two sketches
that agree share a cell in one of them although a border lies between them in another."""

Place = tuple[int, int]
"""Number of the file, row."""

_ROW_BITS = 40


def _pack(place: Place) -> int:
    return place[0] << _ROW_BITS | place[1]


def _unpack(packed: np.uint64) -> Place:
    return int(packed) >> _ROW_BITS, int(packed) & ((1 << _ROW_BITS) - 1)


class Sketches:
    """The sketches of all series of several parts."""

    def __init__(self) -> None:
        self._directions = np.random.default_rng(0).standard_normal((LONGEST, PROJECTIONS)).astype(np.float32)
        self._part, self._place, self._length = array("H"), array("Q"), array("I")
        self._moments, self._sketch = array("d"), array("f")

    def add(self, part: int, place: Place, series: np.ndarray) -> None:
        """Add a series (float64, shape ``(length,)``, finite). A constant one is left out: it identifies nothing."""
        mean, deviation = float(series.mean()), float(series.std())
        if not deviation > 1e-12 * abs(mean) or not np.isfinite(deviation):
            return

        values = ((series - mean) / deviation).astype(np.float32)
        total = np.zeros(PROJECTIONS, np.float32)
        for start in range(0, len(values), LONGEST):
            piece = values[start : start + LONGEST]
            total += piece @ self._directions[: len(piece)]

        self._part.append(part)
        self._place.append(_pack(place))
        self._length.append(len(series))
        self._moments.extend((mean, deviation))
        self._sketch.frombytes((total / np.sqrt(len(series))).astype(np.float32).tobytes())

    def in_two_parts(self) -> Iterator[tuple[Place, Place]]:
        """Yield each series of a part that an earlier part holds, too, as (its place, the earlier place), in order."""
        part = np.frombuffer(self._part, np.uint16)
        if not len(part) or (part == part[0]).all():
            return

        place, length = np.frombuffer(self._place, np.uint64), np.frombuffer(self._length, np.uint32)
        moments = np.frombuffer(self._moments, np.float64).reshape(-1, 2)
        sketch = np.frombuffer(self._sketch, np.float32).reshape(-1, PROJECTIONS)
        earlier = np.full(len(part), -1, np.int64)
        for shift in (0.0, 1 / 3, 2 / 3):
            key = _keys(np.floor(sketch / _CELL + shift).astype(np.int64), length)
            order = np.lexsort((np.arange(len(part)), key))  # within a cell the order of adding, so parts in order
            key = key[order]
            for back in range(1, NEIGHBOURS + 1):  # shifted copies of one shape share a cell: look at several
                same = key[back:] == key[:-back]
                if not same.any():
                    break

                later, candidate = order[back:][same], order[:-back][same]
                hit = (part[later] != part[candidate]) & (length[later] == length[candidate])
                later, candidate = later[hit], candidate[hit]
                close = _agree(sketch, moments, later, candidate)
                earlier[later[close]] = candidate[close]

        for index in np.flatnonzero(earlier >= 0):
            yield _unpack(place[index]), _unpack(place[earlier[index]])


def _keys(cells: np.ndarray, length: np.ndarray) -> np.ndarray:
    key = length.astype(np.uint64)
    for column in cells.T:
        key = key * np.uint64(0x9E3779B97F4A7C15) + column.astype(np.uint64)
        key ^= key >> np.uint64(29)

    return key


def _agree(sketch: np.ndarray, moments: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    room = TOLERANCE * moments[one, 1]
    near = np.abs(moments[one] - moments[other]) <= room[:, None]
    return near.all(axis=1) & (np.abs(sketch[one] - sketch[other]) <= TOLERANCE).all(axis=1)


class Repeats:
    """Hashes of the questions and answers of all rows."""

    def __init__(self) -> None:
        self._part, self._place = array("H"), array("Q")
        self._question, self._answer = array("Q"), array("Q")

    def add(self, part: int, place: Place, question: int, answer: int) -> None:
        """Add a row by its two hashes of 64 bits."""
        self._part.append(part)
        self._place.append(_pack(place))
        self._question.append(question)
        self._answer.append(answer)

    def found(self) -> Iterator[tuple[str, Place, Place]]:
        """Yield (``duplicate`` or ``contradiction``, place, earlier place) of rows within one part, in order."""
        part, places = np.frombuffer(self._part, np.uint16), np.frombuffer(self._place, np.uint64)
        question, answer = np.frombuffer(self._question, np.uint64), np.frombuffer(self._answer, np.uint64)
        order = np.lexsort((np.arange(len(part)), answer, question, part))
        if len(order) < 2:
            return

        asked = (question[order][1:] == question[order][:-1]) & (part[order][1:] == part[order][:-1])
        equal = asked & (answer[order][1:] == answer[order][:-1])
        repeats = []
        for hits, code in ((equal, "duplicate"), (asked & ~equal, "contradiction")):
            for index in np.flatnonzero(hits):
                one, other = sorted((int(order[index]), int(order[index + 1])))
                repeats.append((other, one, code))

        for other, one, code in sorted(repeats):
            yield code, _unpack(places[other]), _unpack(places[one])
