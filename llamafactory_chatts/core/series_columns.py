"""Columns that hold series although nothing says so: by their name, or by cells full of numbers."""

from collections.abc import Collection, Mapping
from typing import Any

from .contract import COLUMN
from .dataset_entries import FILE
from .errors import ChatTSError


NAMES = (COLUMN, "time_series", "timeserie", "timeseries_data", "series", "ts", "ts_data", "ts_values")
"""What public datasets call a column of series."""

ENOUGH_POINTS = 16
"""Numbers of a list under another name from which on it is taken for a series; shorter ones are intervals, boxes."""


def looks_like_series(name: str, cell: Any) -> bool:
    """Tell whether a cell holds series: it has one of ``NAMES`` and is not empty, or it is a long list of numbers.

    Args:
        name: of its column.
        cell: of a row: a list of lists, a flat list, text, anything.
    """
    if name.lower() in NAMES:
        return cell is not None and (not hasattr(cell, "__len__") or len(cell) > 0)

    if not isinstance(cell, (list, tuple)) or not cell:
        return False

    longest = max((item for item in cell if isinstance(item, (list, tuple))), key=len, default=cell)
    number = (isinstance(value, (int, float)) and not isinstance(value, bool) for value in longest[:ENOUGH_POINTS])
    return len(longest) >= ENOUGH_POINTS and all(number)


def unmapped(row: Mapping[str, Any], mapped: Collection[str]) -> list[str]:
    """Return the columns of a row that hold series and that ``mapped``, the columns an entry names, leaves out."""
    return [name for name, cell in row.items() if name not in mapped and looks_like_series(name, cell)]


def not_mapped(name: str, filled: int, rows: int, where: str) -> ChatTSError:
    """Return the error for a column of series that ``columns`` leaves out: the rows would train as plain text."""
    share = f"all {rows} rows" if filled == rows else f"{filled} of {rows} rows"
    return ChatTSError(
        f"{share} hold series in {name!r}, which `columns` does not name: they would be trained as text alone",
        where=where,
        fix=f'Add "{COLUMN}": "{name}" to `columns` of this entry in {FILE}, or take the column out of the file',
    )
