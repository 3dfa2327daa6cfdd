"""Rows that occur twice, and series that are in two parts (:mod:`..sketch` says what a copy is)."""

from array import array
from collections.abc import Iterator

import numpy as np

from ..sketch import Alike, sketch


Place = tuple[int, int]
"""Number of the file, row."""

_ROW_BITS = 40


def _pack(place: Place) -> int:
    return place[0] << _ROW_BITS | place[1]


def _unpack(packed: int) -> Place:
    return int(packed) >> _ROW_BITS, int(packed) & ((1 << _ROW_BITS) - 1)


class Parts:
    """The series of several parts."""

    def __init__(self) -> None:
        self._parts: dict[int, Alike] = {}

    def add(self, part: int, place: Place, series: np.ndarray) -> Place | None:
        """Add a series (float64, shape ``(length,)``, finite); return where an earlier part holds it, too.

        A constant one is left out: it identifies nothing.
        """
        item = [sketch(series)]
        if not item[0].spread:
            return None

        found = (series.find(item) for number, series in self._parts.items() if number != part)
        earlier = next((tag for tag in found if tag is not None), None)
        self._parts.setdefault(part, Alike()).add(item, tag=_pack(place))
        return None if earlier is None else _unpack(earlier)


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
