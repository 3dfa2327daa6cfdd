"""Files of series -> series: which columns are series, in the order of their times."""

import os
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ChatTSError, shorten
from .column_files import Columns, is_numeric, numbers, read_columns
from .times import in_order, looks_like_times, moments


if TYPE_CHECKING:
    import pyarrow as pa


VALUE = "value"
"""A column of this name is the series, if nothing else is asked for."""


@dataclass
class Table:
    """The series of one file.

    Attributes:
        names: one per series.
        values: float64 vectors of shape ``(length,)``, in the file's unit; NaN where a cell is empty or no number.
        times: what the rows were put in order by (``datetime64`` or numbers), shape ``(length,)``; None without.
        bad_cells: how many cells hold something else than a number (empty ones do not count).
        bad_example: the first of them, such as ``line 17, column 'value': 'n/v'``; None if there is none.
        reordered: whether sorting by time moved rows.
        how: what was found out: ``encoding``, ``separator``, ``decimal``, ``sheet``, ``time_column``.
    """

    names: list[str]
    values: list[np.ndarray]
    times: np.ndarray | None = None
    bad_cells: int = 0
    bad_example: str | None = None
    reordered: bool = False
    how: dict[str, str] = field(default_factory=dict)


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).casefold()


def _named(found: Columns, name: str | int, path: str) -> int:
    """Return the position of a column that was asked for, by name or by number (from 0)."""
    if isinstance(name, int) and 0 <= name < len(found.names):
        return name

    exact = [index for index, other in enumerate(found.names) if other == name]
    alike = exact or [index for index, other in enumerate(found.names) if _key(other) == _key(str(name))]
    if len(alike) == 1:
        return alike[0]

    there = ", ".join(repr(other) for other in found.names if other)
    hint = "" if found.header else " (the file has no line of names)"
    raise ChatTSError(
        f"{'several columns are' if alike else 'there is no column'} called {name!r}, the file has"
        f" {shorten(there)}{hint}",
        where=path,
        fix="Correct `columns` or `time_column`",
    )


def read_table(
    path: str | os.PathLike,
    columns: list[str | int] | None = None,
    time_column: str | int | None = None,
    decimal: str | None = None,
) -> Table:
    """Read the series of one file.

    Args:
        path: ``.csv``, ``.tsv``, ``.txt`` (UTF-8, GBK; comma, semicolon or tab), ``.npy`` and ``.npz`` (a vector, or
            a series per row), ``.parquet``, ``.feather``, or ``.xlsx`` (first sheet).
        columns: names (or numbers from 0) of the columns that are series. If None: the column ``value`` alone where
            there is one, otherwise every column of numbers that has a name. Text counts as numbers if at least half of
            its cells are; the others are then ``bad_cells``.
        time_column: the column that orders the rows; found out if None (the first that holds dates, or numbers under a
            name such as ``timestamp``). It is no series. Rows of equal time keep their order.
        decimal: "." or ","; found out if None.

    Raises:
        ChatTSError: not readable, no such column, no column of numbers, no rows, or times that cannot be read.
            ``where`` is the path, with the line where one is to blame.
    """
    path = os.fspath(path)
    if decimal not in (None, ".", ","):
        raise ChatTSError(f"{shorten(repr(decimal))} is no decimal sign", where="decimal", fix='Use "." or ","')

    found = read_columns(path, decimal)
    if not any(len(column) for column in found.columns):
        raise ChatTSError("the file has names but no rows", where=path, fix="Put the series into it or remove it")

    wanted = None if columns is None else [_named(found, name, path) for name in columns]
    time = _time_position(found, wanted, time_column, path)
    if wanted is None:
        wanted = _value_position(found, time)

    table = Table([], [], how=dict(found.how))
    for position in range(len(found.names)) if wanted is None else wanted:
        if wanted is None and (position == time or not found.names[position]):
            continue

        column, name = found.columns[position], found.names[position]
        if wanted is None and not _may_be_numbers(column):
            continue

        values, bad = numbers(column, decimal)
        if wanted is None and bad and len(bad) > np.isfinite(values).sum():
            continue

        table.names.append(name or str(position))
        table.values.append(values)
        table.bad_cells += len(bad)
        if bad and table.bad_example is None:
            table.bad_example = _example(found, position, bad[0])

    if not table.names:
        there = ", ".join(repr(name) for name in found.names)
        raise ChatTSError(
            f"no column holds numbers, the file has {shorten(there)}", where=path, fix="Name the series in `columns`"
        )

    if time is not None:
        _sort(table, found, time, path)

    return table


def _may_be_numbers(column: "np.ndarray | pa.Array") -> bool:
    """Return whether a column that nobody named is worth a look: numbers, text, or nothing but gaps."""
    if is_numeric(column):
        return True

    return not isinstance(column, np.ndarray) and str(column.type) in ("null", "string", "large_string")


def _time_position(found: Columns, wanted: list[int] | None, time_column: str | int | None, path: str) -> int | None:
    if time_column is not None:
        return _named(found, time_column, path)

    for position, (name, column) in enumerate(zip(found.names, found.columns)):
        if position not in (wanted or ()) and looks_like_times(name if found.header else "", column):
            return position

    return None


def _value_position(found: Columns, time: int | None) -> list[int] | None:
    keys = [_key(name) for name in found.names]
    named = [index for index, name in enumerate(found.names) if name == VALUE]
    named = named or [index for index, key in enumerate(keys) if key == VALUE]
    return named if len(named) == 1 and named[0] != time else None


def _example(found: Columns, position: int, row: int) -> str:
    cell = found.columns[position][row]
    cell = cell.as_py() if hasattr(cell, "as_py") else cell
    place = f"row {row + 1}" if found.first_line is None else f"line {found.first_line + row}"
    return f"{place}, column {shorten(found.names[position] or str(position), 40)!r}: {shorten(repr(cell), 40)}"


def _sort(table: Table, found: Columns, time: int, path: str) -> None:
    """Put the rows into the order of their times; a file of arrays need not have one time per point."""
    name = found.names[time] or str(time)
    times = moments(found.columns[time], path, name)
    if any(len(values) != len(times) for values in table.values):
        raise ChatTSError(
            f"{name!r} holds {len(times)} times, but a series has another length",
            where=path,
            fix="Store one per point",
        )

    table.how["time_column"] = name
    if not in_order(times):
        order = np.argsort(times, kind="stable")
        table.values = [values[order] for values in table.values]
        times, table.reordered = times[order], True

    table.times = times
