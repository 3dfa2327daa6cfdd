"""Columns that hold series although nothing says so: by their name, or by cells full of numbers."""

import re
from collections.abc import Callable, Collection, Mapping
from numbers import Real

import numpy as np

from ..core.contract import COLUMN, PLACEHOLDER
from ..core.errors import ChatTSError
from .entries import FILE


NAMES = (COLUMN, "timeserie", "timeseriesdata", "series", "ts", "tsdata", "tsvalues", "signal", "signals")
"""What public datasets call a column of series; in lower case, letters alone."""

ENOUGH_POINTS = 16
"""Numbers of a list under another name from which on it is taken for a series; shorter ones are intervals, boxes."""

_FILES = (".csv", ".npy", ".parquet")
_VECTORS = re.compile(r"embed|vector|token|mask|logit|logp|ids$|label", re.IGNORECASE)
"""Names of long lists of numbers that are no series."""


def looks_like_series(name: str, cell: object) -> bool:
    """Tell whether a cell holds series: numbers or series files under one of ``NAMES``, or a long list of numbers.

    Args:
        name: of its column.
        cell: of a row: a list of lists, a flat list, text, anything.
    """
    known = re.sub(r"[^a-z]", "", name.lower()) in NAMES
    items = [cell] if isinstance(cell, str) else _items(cell)
    texts = [item for item in items if isinstance(item, str)]
    if texts and len(texts) == len(items):
        return known and all(text.lower().endswith(_FILES) for text in texts)

    longest = max(map(_items, items), key=len, default=[]) or items
    numbers = (value is None or isinstance(value, Real) and not isinstance(value, bool) for value in longest)
    if not longest or not all(value for value, _ in zip(numbers, range(ENOUGH_POINTS))):
        return False

    return known or len(longest) >= ENOUGH_POINTS and not _VECTORS.search(name)


def _items(cell: object) -> list[object]:
    """Return the items of a list or a vector; none of anything else."""
    return list(cell) if isinstance(cell, (list, tuple, np.ndarray)) else []


def holds_placeholder(name: str, cell: object) -> bool:
    """Tell whether a cell is a text with a mark for a series."""
    return isinstance(cell, str) and PLACEHOLDER in cell


def unmapped(
    row: Mapping[str, object], mapped: Collection[str], holds: Callable[[str, object], bool] = looks_like_series
) -> list[str]:
    """Return the columns of a row that ``mapped``, the columns an entry names, leaves out although they hold series.

    Args:
        holds: called with name and cell; what to look for instead.
    """
    return [name for name, cell in row.items() if name not in mapped and holds(name, cell)]


def not_mapped(name: str, filled: int, rows: int, where: str, placeholders: bool = False) -> ChatTSError:
    """Return the error for a column that ``columns`` leaves out: the rows would train as plain text.

    Args:
        filled, rows: rows that have it, and all of them.
        placeholders: it holds texts with ``<ts><ts/>``, not series.
    """
    share = f"all {rows} rows" if filled == rows else f"{filled} of {rows} rows"
    held, role = (PLACEHOLDER, "prompt") if placeholders else ("series", COLUMN)
    return ChatTSError(
        f"{share} hold {held} in {name!r}, which `columns` does not name: they would be trained as text alone",
        where=where,
        fix=f'Add "{role}": "{name}" to `columns` of this entry in {FILE}, or take the column out of the file',
    )
