"""How series travel through LLaMA-Factory: in its audio lists, each series as the bytes of float64 values.

Bytes keep the Arrow column typed and small to copy; an empty item stands for "this row has no series", so
that a column whose first thousand rows have none still gets the right type.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.series import as_series


NO_SERIES = b""


def pack(series: Sequence[np.ndarray]) -> list[bytes]:
    """Return the lane items of one row for vectors of shape ``(length,)``; never an empty list."""
    return [np.ascontiguousarray(item, dtype="<f8").tobytes() for item in series] or [NO_SERIES]


def unpack(items: Sequence[Any] | None) -> list[np.ndarray]:
    """Return the series behind lane items; lists of numbers (from chat callers) are taken, too."""
    series = []
    for item in items or []:
        if isinstance(item, (bytes, bytearray, memoryview)):
            if len(item):
                series.append(np.frombuffer(item, dtype="<f8"))
        else:
            series.append(as_series(item))

    return series
