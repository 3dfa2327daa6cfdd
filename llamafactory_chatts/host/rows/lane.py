"""How series travel through LLaMA-Factory: in its audio lists, each series as the bytes of float64 values.

Bytes keep the Arrow column typed and small to copy; an empty item stands for "this row has no series", so
that a column whose first thousand rows have none still gets the right type.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ...core.series import as_series


NO_SERIES = b""


def pack(series: Sequence[np.ndarray]) -> list[bytes]:
    """Return the lane items of one row for vectors of shape ``(length,)``; never an empty list."""
    return [np.ascontiguousarray(item, dtype="<f8").tobytes() for item in series] or [NO_SERIES]


def read_arrow(row: Any, column: str) -> list[np.ndarray] | None:
    """Return the series of a cell that still lies in an Arrow table as lists of numbers.

    A million points so cost a view instead of a million Python floats.

    Args:
        row: what ``datasets`` hands to a mapped function, or any other mapping.
        column: of the series: a list of lists, or one flat list.

    Returns:
        vectors of shape ``(length,)`` in the type they are stored in, unchecked; None for a cell of another kind,
        with gaps, or outside Arrow, which has to be read as a Python object.
    """
    table = getattr(row, "pa_table", None)
    if table is None or column not in getattr(row, "keys_to_format", ()) or table.num_rows != 1:
        return None

    cell = table.column(column)[0]  # a scalar: nothing is copied
    if not isinstance(cell, _LISTS) or cell.values is None:
        return None

    inner = cell.values
    if _holds_numbers(inner.type):
        series = [inner] if len(inner) else []
    elif isinstance(inner, _LIST_ARRAYS) and _holds_numbers(inner.type.value_type) and not inner.null_count:
        series = [item.values for item in inner]
    else:
        return None

    return None if any(item.null_count for item in series) else [item.to_numpy() for item in series]


_LISTS = (pa.ListScalar, pa.LargeListScalar, pa.FixedSizeListScalar)
_LIST_ARRAYS = (pa.ListArray, pa.LargeListArray, pa.FixedSizeListArray)


def _holds_numbers(kind: pa.DataType) -> bool:
    return pa.types.is_float64(kind) or pa.types.is_float32(kind) or pa.types.is_signed_integer(kind)


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
