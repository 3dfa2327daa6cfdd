"""How many rows of a dataset carry series, and rows whose series would be left out."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..core.contract import COLUMN
from ..core.series_columns import not_mapped, unmapped
from .lane import NO_SERIES


PROBED = 64
"""Rows in which columns of series are looked for that the entry does not name."""

ROLES = (
    *("prompt", "query", "response", "history", "messages", "system", "tools"),
    *("images", "videos", "audios", "chosen", "rejected", "kto_tag", COLUMN),
)
"""Attributes of a ``DatasetAttr`` that name a column."""


def refuse_unmapped(rows: Any, attr: Any, file: str, logger: Any, streamed: bool = False) -> None:
    """Refuse a dataset whose rows all hold series in a column that its entry does not name; warn where some do.

    Args:
        rows: a ``Dataset``; with ``streamed`` its first rows.
        attr: ``DatasetAttr`` of LLaMA-Factory.
        file: named in the message.

    Raises:
        ChatTSError: every row has such a cell.
    """
    if getattr(attr, COLUMN, None) is not None:
        return

    mapped = {getattr(attr, role, None) for role in ROLES}
    probed: Iterable[dict[str, Any]] = rows if streamed else rows.select(range(min(PROBED, len(rows))))
    for name in dict.fromkeys(name for row in probed for name in unmapped(row, mapped)):
        filled = len(rows) if streamed else _filled(rows, name)
        error = not_mapped(name, filled, len(rows), file)
        if filled == len(rows):
            raise error

        logger.warning_rank0(f"ChatTS: {error}")


def _filled(dataset: Any, name: str) -> int:
    """Return how many cells of a column are neither null nor empty."""
    filled = 0
    for table in dataset.select_columns(name).with_format("arrow").iter(batch_size=1000):
        column = table[name]
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            filled += pc.sum(pc.greater(pc.fill_null(pc.list_value_length(column), 0), 0)).as_py() or 0
        else:
            filled += len(column) - column.null_count

    return filled


def count_series(dataset: Any, file: str) -> str:
    """Return the line that says how many converted rows carry series.

    Args:
        dataset: converted rows, series in ``_audios``.
        file: of the dataset.
    """
    rows, series, most, with_series = len(dataset), 0, 0, 0
    for table in dataset.select_columns("_audios").with_format("arrow").iter(batch_size=1000):
        column = table["_audios"].combine_chunks()
        lengths = pc.list_value_length(column)
        empty = pc.sum(pc.equal(column.flatten(), NO_SERIES)).as_py() or 0  # one such item stands for "none"
        with_series += len(column) - empty
        series += (pc.sum(lengths).as_py() or 0) - empty
        most = max(most, pc.max(lengths).as_py() or 0)

    if not with_series:
        return f"ChatTS: {file}: {rows} rows, none with series."

    each = "1 each" if series == with_series else f"up to {most}"
    without = f", {rows - with_series} without" if with_series < rows else ""
    return f"ChatTS: {file}: {with_series} of {rows} rows carry series ({each}){without}."
