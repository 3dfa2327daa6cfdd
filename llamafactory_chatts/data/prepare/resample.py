"""Fewer points: means of buckets, or the points that keep the shape (largest triangle, three buckets)."""

import numpy as np

from .windows import Piece


METHODS = ("mean", "lttb")


def edges(points: int, buckets: int) -> np.ndarray:
    """Return ``buckets + 1`` limits that cut ``points`` points into buckets of nearly equal size."""
    return np.arange(buckets + 1, dtype=np.int64) * points // buckets


def resample(piece: Piece, points: int, method: str) -> Piece:
    """Return at most ``points`` points; a shorter piece is returned as it is.

    Args:
        piece: series without gaps.
        points: at least 3.
        method: ``mean`` (a point stands for its whole bucket) or ``lttb`` (some points are kept as they are).
    """
    if len(piece) <= points:
        return piece

    if method == "lttb":
        return piece.take(lttb(np.stack(piece.values), points))

    limits = edges(len(piece), points)
    sizes = np.diff(limits)
    values = tuple(np.add.reduceat(v, limits[:-1]) / sizes for v in piece.values)
    return Piece(values, piece.low[limits[:-1]], piece.high[limits[1:] - 1])


def lttb(values: np.ndarray, points: int) -> np.ndarray:
    """Return the indices of the points that keep the shape, first and last included.

    Several series share the indices, so that they stay aligned: the triangles of a bucket's point are added up over
    the series, each in units of its standard deviation.
    Source: S. Steinarsson, Downsampling Time Series for Visual Representation (2013), section 4.2.

    Args:
        values: shape ``(series, length)``, without gaps.
        points: 3 to ``length``.
    """
    length = values.shape[1]
    spread = values.std(axis=1, keepdims=True)
    scaled = values / np.where(spread > 0, spread, 1.0)
    limits = 1 + edges(length - 2, points - 2)  # the first and the last point are buckets of their own
    means = np.add.reduceat(scaled[:, :-1], limits[:-1], axis=1)
    means = np.concatenate([means / np.diff(limits), scaled[:, -1:]], axis=1)  # the last bucket is the last point
    centres = np.append((limits[:-1] + limits[1:] - 1) / 2, length - 1)

    chosen = np.zeros(points, dtype=np.int64)
    chosen[-1] = length - 1
    before = 0
    for bucket in range(points - 2):
        low, high = limits[bucket], limits[bucket + 1]
        left, right = scaled[:, before, None], means[:, bucket + 1, None]
        width = centres[bucket + 1] - before
        rise = (np.arange(low, high) - before) * (right - left)
        areas = np.abs(rise - width * (scaled[:, low:high] - left))
        before = int(low + areas.sum(axis=0).argmax())
        chosen[bucket + 1] = before

    return chosen
