"""How many rows of a dataset carry series, and rows whose series would be left out."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...core.contract import COLUMN, PLACEHOLDER
from ...rows.mapped_columns import looks_like_series, not_mapped
from .lane import NO_SERIES


PROBED = 64
"""Rows at the start of streamed data that are looked at."""

ROLES = (
    *("prompt", "query", "response", "history", "messages", "system", "tools"),
    *("images", "videos", "audios", "chosen", "rejected", "kto_tag", COLUMN),
)
"""Attributes of a ``DatasetAttr`` that name a column."""


_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def refuse_unmapped(rows: Any, attr: Any, file: str, logger: Any) -> None:
    """Refuse a dataset that trains as text although all rows have series in a column that its entry does not name.

    A column of texts with ``<ts><ts/>`` counts, too. Where only some rows have one, a warning says so.

    Args:
        rows: a ``Dataset``, or a list of the first rows of a streamed one.
        attr: ``DatasetAttr`` of LLaMA-Factory.
        file: named in the message.

    Raises:
        ChatTSError: every row has such a cell.
    """
    column = getattr(attr, COLUMN, None)
    if column is not None and with_series(rows, column) != 0:
        return

    mapped = {getattr(attr, role, None) for role in ROLES}
    for name in _columns(rows):
        series, filled, marked = (0, 0, 0) if name in mapped else _held(rows, name)
        if not (series or marked):
            continue

        error = not_mapped(name, filled if series else marked, len(rows), file, placeholders=not series)
        if (filled if series else marked) == len(rows):
            raise error

        logger.warning_rank0(f"ChatTS: {error}")


def _columns(rows: Any) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row) if isinstance(rows, list) else rows.column_names)


def with_series(rows: Any, column: str) -> int | None:
    """Return how many rows have something in the column of series; None where there is no such column."""
    return _held(rows, column)[1] if column in _columns(rows) else None


def _held(rows: Any, name: str) -> tuple[bool, int, int]:
    """Return whether a column's first filled cell holds series, its filled cells, and those with ``<ts><ts/>``."""
    first, filled, marked = None, 0, 0
    for column in _pieces(rows, name):
        if any(is_kind(column.type) for is_kind in _LISTS):
            there = pc.greater(pc.fill_null(pc.list_value_length(column), 0), 0)
        elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            there = pc.greater(pc.fill_null(pc.utf8_length(column), 0), 0)
            marked += pc.sum(pc.match_substring(column, PLACEHOLDER)).as_py() or 0
        else:
            return False, filled, 0

        filled += pc.sum(there).as_py() or 0
        at = pc.index(there, True).as_py()
        first = column[at].as_py() if first is None and at >= 0 else first

    return first is not None and looks_like_series(name, first), filled, marked


def _pieces(rows: Any, name: str) -> Iterator[Any]:
    if isinstance(rows, list):
        try:
            yield pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, TypeError, ValueError):  # the converter names what is wrong with a row
            yield pa.nulls(len(rows))
    else:
        for table in rows.select_columns(name).with_format("arrow").iter(batch_size=1000):
            yield table[name]


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
