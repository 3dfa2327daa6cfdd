"""A cell with series, as training, ``prepare``, ``check`` and ``plan`` read it."""

import numpy as np

from ..core.errors import ChatTSError, shorten
from ..core.series import as_series
from ..files.series_files import inside, read_series_file


_ITEMS = (list, tuple, str, np.ndarray)


def items_of(cell: object) -> list[object]:
    """Return the items of a cell, unread: a list or vector is a series, a text the path of a file.

    One flat list, or one text, is one item. Nothing is copied but the outermost list.

    Raises:
        ChatTSError: the cell is no list.
    """
    if cell is None:
        return []

    if isinstance(cell, str):
        return [cell]

    if isinstance(cell, np.ndarray) and cell.dtype.kind in "iuf" and cell.ndim == 1:
        return [cell] if len(cell) else []

    if not isinstance(cell, (list, tuple, np.ndarray)):
        raise ChatTSError(
            f"the timeseries cell is {type(cell).__name__} ({shorten(cell, 40)})",
            fix="Write a list of series, [[1.0, 2.0], [3.0]]",
        )

    return list(cell) if any(isinstance(item, _ITEMS) for item in cell) or not len(cell) else [cell]


def read_item(item: object, number: int, media_dir: str) -> list[np.ndarray]:
    """Return the series of an item: itself, or those of the file that it names below ``media_dir``.

    Args:
        number: of the item in its cell, from 1.

    Returns:
        float64 vectors of shape ``(length,)``, at least one point each, all finite.

    Raises:
        ChatTSError: something else than numbers, gaps, or a file that cannot be read.
    """
    if isinstance(item, str):
        return read_series_file(inside(media_dir, item))

    if not isinstance(item, _ITEMS):
        kind = "null" if item is None else type(item).__name__
        raise ChatTSError(
            f"series {number} is {kind} ({shorten(item, 40)}) among lists",
            fix="Write each series as a list of numbers",
        )

    return [as_series(item)]


def read_cell(cell: object, media_dir: str) -> tuple[list[np.ndarray], list[ChatTSError]]:
    """Return the series of a cell and, one by one, what is wrong with items that cannot be used."""
    series: list[np.ndarray] = []
    wrong: list[ChatTSError] = []
    for number, item in enumerate(items_of(cell), start=1):
        try:
            series += read_item(item, number, media_dir)
        except ChatTSError as error:
            wrong.append(error)

    return series, wrong
