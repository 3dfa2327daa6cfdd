"""Cutting series into pieces, and moving labelled intervals along.

Every change of a series - a slice, a window, dropped gaps, resampling - keeps for each of its points the range of
points of the file that it stands for (``low`` to ``high``). Intervals are moved by these two vectors alone, so the
changes can be combined in any order.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...core.errors import ChatTSError


@dataclass(frozen=True)
class Piece:
    """Series of equal length, with what each point stands for.

    Attributes:
        values: float64 vectors of shape ``(points,)``, one per series; NaN is a gap.
        low, high: int64 vectors of shape ``(points,)``: first and last point of the file that a point stands for,
            both included, never decreasing.
    """

    values: tuple[np.ndarray, ...]
    low: np.ndarray
    high: np.ndarray

    def __len__(self) -> int:
        return len(self.low)

    def cut(self, start: int, stop: int) -> "Piece":
        """Return the points ``start`` to ``stop - 1``."""
        return Piece(tuple(v[start:stop] for v in self.values), self.low[start:stop], self.high[start:stop])

    def take(self, kept: np.ndarray) -> "Piece":
        """Return the points of an index vector or a boolean mask."""
        return Piece(tuple(v[kept] for v in self.values), self.low[kept], self.high[kept])

    def move(self, start: int, end: int) -> tuple[int, int] | None:
        """Return where the points ``start`` to ``end`` of the file are now (both included), None if none is left."""
        first = int(np.searchsorted(self.high, start, "left"))
        last = int(np.searchsorted(self.low, end, "right")) - 1
        return (first, last) if first <= last else None

    def spans(self, start: int, end: int) -> bool:
        """Return whether an interval of the file lies at least partly between the first and the last point."""
        return len(self) > 0 and start <= int(self.high[-1]) and end >= int(self.low[0])


def whole(values: list[np.ndarray]) -> Piece:
    """Return series as a piece in which each point stands for itself.

    Raises:
        ChatTSError: they differ in length.
    """
    lengths = {len(v) for v in values}
    if len(lengths) != 1:
        raise ChatTSError(
            f"series of {', '.join(map(str, sorted(lengths)))} points cannot be cut together",
            fix="Use slice, window, resample and gaps: drop on series of one length",
        )

    index = np.arange(lengths.pop(), dtype=np.int64)
    return Piece(tuple(values), index, index)


def bounds(points: int, span: list[int | None]) -> tuple[int, int]:
    """Return start and stop of ``slice: [a, b]`` for a series of ``points`` points, as Python's slices count."""
    start, stop, _ = slice(*span).indices(points)
    return start, max(start, stop)


def starts(points: int, length: int, stride: int) -> list[int]:
    """Return the first point of each window; the last window ends with the series, so no point is left out."""
    if points <= length:
        return [0]

    found = list(range(0, points - length + 1, stride))
    if found[-1] + length < points:
        found.append(points - length)

    return found


def windows(piece: Piece, length: int, stride: int) -> Iterator[Piece]:
    """Yield windows of ``length`` points, ``stride`` points apart; a shorter series is one window."""
    for start in starts(len(piece), length, stride):
        yield piece.cut(start, start + length)
