"""Missing points: refused, dropped or filled, as the recipe says."""

import numpy as np

from ...core.errors import ChatTSError
from .windows import Piece


METHODS = ("error", "drop", "ffill", "interpolate")


def count(values: tuple[np.ndarray, ...] | list[np.ndarray]) -> int:
    """Return the number of gaps (NaN) of all series."""
    return sum(int(np.isnan(v).sum()) for v in values)


def close(piece: Piece, method: str) -> Piece:
    """Return a piece without gaps; ``drop`` removes a point from all series where one of them has a gap.

    Raises:
        ChatTSError: a gap that the method does not close: any for ``error``, one at the start for ``ffill``, one
            at either end for ``interpolate`` (nothing is invented outside the data), only gaps for ``drop``.
    """
    holes = [np.isnan(v) for v in piece.values]
    if not any(hole.any() for hole in holes):
        return piece

    if method == "error":
        at = min(int(hole.argmax()) for hole in holes if hole.any())
        raise ChatTSError(
            f"{count(piece.values)} gaps, the first at point {int(piece.low[at])}",
            fix="Set gaps: drop, ffill or interpolate",
        )

    if method == "drop":
        left = piece.take(~np.logical_or.reduce(holes))
        if not len(left):
            raise ChatTSError("no point is without a gap", fix="Remove the row, or the empty column")

        return left

    return Piece(tuple(_fill(v, hole, method) for v, hole in zip(piece.values, holes)), piece.low, piece.high)


def _fill(values: np.ndarray, holes: np.ndarray, method: str) -> np.ndarray:
    if not holes.any():
        return values

    if holes[0] or (holes[-1] and method == "interpolate"):
        end = "start" if holes[0] else "end"
        raise ChatTSError(
            f"a gap at the {end} of the series, which {method} cannot fill", fix="Set gaps: drop, or a slice"
        )

    known = np.flatnonzero(~holes)
    if method == "ffill":
        return values[known[np.searchsorted(known, np.arange(len(values)), "right") - 1]]

    filled = values.copy()
    missing = np.flatnonzero(holes)
    filled[missing] = np.interp(missing, known, values[known])
    return filled
