"""A series as ChatTS reads it: the value-preserving encoding, its text header and its length in patches.

Source of the numbers: the encoding of the published ChatTS processors, checked against values they
produced (``tests/golden/encoding.jsonl``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import ChatTSError, shorten


THRESHOLD = 3.0
"""Deviations from the mean that reach this value are scaled down to it; smaller ones are never scaled up."""

_BOOLEANS = frozenset({bool, np.bool_})


def num_patches(points: int, patch_size: int) -> int:
    """Return how many positions a series of ``points`` values takes: the only length formula."""
    return -(-points // patch_size)


def as_series(value: Any) -> np.ndarray:
    """Return one series as a float64 vector.

    Args:
        value: numbers in a list, tuple or array of shape ``(length,)``.

    Raises:
        ChatTSError: empty, not one-dimensional, or holding anything but finite numbers. The message names
            the first bad position and has no ``where``: the caller knows the file and row.
    """
    listed = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if not listed and not (isinstance(value, np.ndarray) and value.ndim):
        raise ChatTSError(
            f"a series must be a list of numbers, not {type(value).__name__} ({shorten(value, 40)})",
            fix="Write each series as [1.0, 2.0, ...]",
        )

    if len(value) == 0:
        raise ChatTSError("a series is empty", fix="Give it at least one point or remove it and its <ts><ts/>")

    if listed and not _BOOLEANS.isdisjoint(map(type, value)):  # numpy would read true as 1.0
        raise _not_numbers(value)

    try:
        array = np.asarray(value)
        if array.dtype == object and array.ndim == 1 and all(_is_number(item) for item in array):
            array = array.astype(np.float64)  # whole numbers above 64 bits, or a column of Python floats
    except OverflowError:
        raise _too_large() from None
    except ValueError:  # lists of unequal length inside
        raise _not_numbers(value) from None

    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise _not_numbers(value)

    array = array.astype(np.float64, copy=False)
    finite = np.isfinite(array)
    if not finite.all():
        index = int(np.argmin(finite))
        name = "NaN" if np.isnan(array[index]) else "an infinite value"
        raise ChatTSError(f"a series holds {name} at point {index}", fix="Fill or remove gaps before training")

    if np.abs(array).max() > 1e300:
        raise _too_large()

    return array


def _is_number(item: Any) -> bool:
    return isinstance(item, (int, float, np.integer, np.floating)) and not isinstance(item, bool)


def _too_large() -> ChatTSError:
    return ChatTSError("a series holds values above 1e300", fix="Rescale it")


def _not_numbers(value: Any) -> ChatTSError:
    for index, item in enumerate(value):
        if not _is_number(item):
            listed = isinstance(item, (list, tuple, np.ndarray))
            kind = "null" if item is None else "a list" if listed else type(item).__name__
            return ChatTSError(
                f"a series holds {kind} at point {index} ({shorten(item, 40)})",
                fix="Every point must be a number, and each series one flat list; fill or remove gaps",
            )

    return ChatTSError("a series must be one flat list of numbers", fix="Write each series as [1.0, 2.0, ...]")


@dataclass(frozen=True)
class EncodedSeries:
    """A series after the value-preserving encoding.

    Attributes:
        values: float16 vector, centred and scaled, what the encoder sees.
        header: text put in front of the placeholder.
        offset: minus the mean, in the unit of the data.
        scale: the divisor, 1.0 where nothing was scaled.
    """

    values: np.ndarray
    header: str
    offset: float
    scale: float

    @property
    def vanished(self) -> bool:
        """True when a varying series became constant in float16 (its amplitude is too small)."""
        return bool(self.scale == 1.0 and np.ptp(self.values) < 1e-3 and self._varies)

    _varies: bool = False


def encode(series: Any) -> EncodedSeries:
    """Encode one series of shape ``(length,)``; see :func:`as_series` for what is refused."""
    x = as_series(series)
    values, mean, scale = _scaled(x)
    header = (
        f"[offset={-mean:.4f}|scaling={scale:.4f}|length={len(x)}|max={float(np.max(x)):.4f}"
        f"|min={float(np.min(x)):.4f}|left={float(x[0]):.4f}|right={float(x[-1]):.4f}]"
    )
    return EncodedSeries(values, header, -mean, scale, bool(np.ptp(x) > 0))


def _scaled(x: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return the values after the encoding (float16), the mean and the scale of a checked float64 vector."""
    mean = float(np.mean(x))
    centred = x - mean
    largest = max(float(centred.max()), -float(centred.min()))
    scale = 1.0
    if largest >= THRESHOLD:
        scale = largest / THRESHOLD
        centred /= scale

    return centred.astype(np.float16), mean, scale


def stack(encoded: Sequence[EncodedSeries]) -> np.ndarray:
    """Return the tensor of a batch: shape ``(series, 2 * longest, 1)``, float16.

    Value and mask are interleaved (``v0, 1, v1, 1, ...``), zeros stand behind a shorter series.
    """
    return _interleave([item.values for item in encoded])


def encode_batch(series: Sequence[np.ndarray]) -> np.ndarray:
    """Return ``stack`` of all series ``encode``d, without their headers and without checking them again.

    Args:
        series: float64 vectors that went through :func:`as_series` before.
    """
    return _interleave([_scaled(item)[0] for item in series])


def _interleave(vectors: list[np.ndarray]) -> np.ndarray:
    longest = max(map(len, vectors), default=0)
    batch = np.zeros((len(vectors), longest, 2), dtype=np.float16)
    for row, values in enumerate(vectors):
        batch[row, : len(values), 0] = values
        batch[row, : len(values), 1] = 1

    return batch.reshape(len(vectors), 2 * longest, 1)
