"""The columns of a table or array file, whatever its kind: the one place that opens files of series."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ChatTSError, shorten
from .csv_text import COMMA, EMPTY, decimal_sign, read_csv, unreadable


if TYPE_CHECKING:
    import pyarrow as pa


SUFFIXES = (".csv", ".tsv", ".txt", ".npy", ".npz", ".parquet", ".feather", ".xlsx")
"""Endings of the files that can be read, in lower case."""

LARGEST_SERIES_COUNT = 1024
"""Rows above which a matrix is taken to lie on its side."""

_PLAIN = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?").fullmatch


@dataclass
class Columns:
    """What a file holds, before anything is chosen from it.

    Attributes:
        names: one per column; "" where a table gives none.
        columns: numpy vectors of shape ``(length,)`` from array files, arrow arrays from tables. Columns of a table
            have one length.
        header: False where a text file starts with numbers; the names are then "0", "1", ...
        first_line: line (1-based) of row 0 in a text file or sheet, None elsewhere.
        how: what was found out: ``encoding``, ``separator``, ``decimal``, ``sheet``.
    """

    names: list[str]
    columns: "list[np.ndarray | pa.Array]"
    header: bool = True
    first_line: int | None = None
    how: dict[str, str] = field(default_factory=dict)


def read_columns(path: str | os.PathLike, decimal: str | None = None) -> Columns:
    """Read a ``.csv``, ``.tsv``, ``.txt``, ``.npy``, ``.npz``, ``.parquet``, ``.feather`` or ``.xlsx`` file.

    Args:
        path: the file.
        decimal: decimal sign of a text file, found out if None; see :func:`csv_text.read_csv`.

    Raises:
        ChatTSError: not there, of another kind, or not readable; ``where`` is the path, with the line if known.
    """
    path = os.fspath(path)
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ChatTSError(
            f"files of the kind {suffix or 'without an ending'} are not read",
            where=path,
            fix=f"Use one of {', '.join(SUFFIXES)}",
        )

    if suffix in (".csv", ".tsv", ".txt"):
        text = read_csv(path, decimal)
        how = {"encoding": text.encoding, "separator": text.separator, "decimal": text.decimal}
        return Columns(text.names, text.columns, text.header, text.first_line, how)

    try:
        with open(path, "rb"):  # libraries word these errors in ways of their own
            pass

        return _READERS[suffix](path)
    except ChatTSError:
        raise
    except OSError as error:
        if error.errno is not None and error.strerror:
            raise unreadable(path, error) from None

        raise _broken(path, suffix, error) from None
    except ImportError:
        raise
    except Exception as error:  # each library has errors of its own for a damaged file
        raise _broken(path, suffix, error) from None


def _broken(path: str, suffix: str, error: Exception) -> ChatTSError:
    return ChatTSError(
        f"this is no readable {suffix} file ({shorten(error)})", where=path, fix="Write the file again, or remove it"
    )


def _rows_of(array: np.ndarray, name: str, path: str) -> dict[str, np.ndarray]:
    """Return the series of an array: itself, or its rows."""
    if array.dtype.names:
        return {key: array[key] for key in array.dtype.names}

    if array.ndim == 0:
        raise ChatTSError("the array is a single number", where=path, fix="Save a vector, or a matrix of rows")

    if array.dtype.kind not in "iuf":
        raise ChatTSError(
            f"the array holds {array.dtype}, not numbers", where=path, fix="Save it as float64 or float32"
        )

    if array.ndim == 1:
        return {name: array}

    if array.ndim == 2 and array.shape[1] == 1 < array.shape[0] or len(array) > LARGEST_SERIES_COUNT:
        raise ChatTSError(
            f"an array of shape {array.shape} would be {len(array)} series, one per row",
            where=path,
            fix="Save one series per row: transpose it",
        )

    return {f"{name}{index}": row for index, row in enumerate(array)}


def _npy(path: str) -> Columns:
    found = _rows_of(np.load(path, allow_pickle=False), "row ", path)
    return Columns(["row 0"] if list(found) == ["row "] else list(found), list(found.values()))


def _npz(path: str) -> Columns:
    found: dict[str, np.ndarray] = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            array = archive[key]
            if array.ndim == 1:  # times and words, too: there are columns of numbers beside them
                found[key] = array
            elif array.ndim:  # a single number or word is a remark
                found |= _rows_of(array, f"{key} row ", path)

    return Columns(list(found), list(found.values()))


def _from_arrow(table: "pa.Table") -> Columns:
    import pyarrow as pa

    columns = []
    for column in table.columns:
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        columns.append(column.dictionary_decode() if pa.types.is_dictionary(column.type) else column)

    names = ["" if name.startswith("__index_level_") else name for name in table.column_names]  # pandas' row number
    return Columns(names, columns)


def _parquet(path: str) -> Columns:
    import pyarrow.parquet as pq

    return _from_arrow(pq.ParquetFile(path).read(use_threads=False))


def _feather(path: str) -> Columns:
    from pyarrow import feather

    return _from_arrow(feather.read_table(path, use_threads=False, memory_map=False))


def _xlsx(path: str) -> Columns:
    try:
        import openpyxl
    except ImportError:
        raise ChatTSError(
            "reading .xlsx files needs openpyxl, which is not installed", where=path, fix="Run: pip install openpyxl"
        ) from None

    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # some tools write wrong ones
        rows = [list(row) for row in sheet.iter_rows(values_only=True)]
        title = sheet.title
    finally:
        book.close()

    while rows and all(cell is None for cell in rows[-1]):
        rows.pop()

    if not rows:
        raise ChatTSError("the first sheet is empty", where=path, fix="Put the series into it")

    width = max(len(row) for row in rows)
    rows = [row + [None] * (width - len(row)) for row in rows]
    header = any(isinstance(cell, str) for cell in rows[0])
    names = ["" if cell is None else str(cell).strip() for cell in rows.pop(0)] if header else None
    names = names or [str(index) for index in range(width)]
    twice = {name for name in names if name and names.count(name) > 1}
    if twice:
        raise ChatTSError(
            f"the header names {shorten(min(twice))!r} twice", where=path, fix="Give each column a name of its own"
        )

    columns = [_cells([row[index] for row in rows]) for index in range(width)]
    return Columns(names, columns, header, 2 if header else 1, {"sheet": title})


def _cells(cells: list[object]) -> "pa.Array":
    """Return the cells of a sheet's column as an arrow array: numbers, times, or else text."""
    import datetime

    import pyarrow as pa

    kinds = {type(cell) for cell in cells} - {type(None)}
    if kinds <= {int, float}:
        return pa.array([float(cell) if isinstance(cell, (int, float)) else None for cell in cells], pa.float64())

    if kinds <= {datetime.datetime}:
        return pa.array(cells, pa.timestamp("us"))

    if len(kinds) == 1 and kinds <= {datetime.date, datetime.time}:
        return pa.array(cells)

    return pa.array([None if cell is None else str(cell) for cell in cells], pa.string())


_READERS = {".npy": _npy, ".npz": _npz, ".parquet": _parquet, ".feather": _feather, ".xlsx": _xlsx}


def is_numeric(column: "np.ndarray | pa.Array") -> bool:
    """Return whether a column is of a numeric type (true and false are none)."""
    if isinstance(column, np.ndarray):
        return column.dtype.kind in "iuf"

    import pyarrow.types as kinds

    return kinds.is_integer(column.type) or kinds.is_floating(column.type) or kinds.is_decimal(column.type)


def numbers(column: "np.ndarray | pa.Array", decimal: str | None = None) -> tuple[np.ndarray, list[int]]:
    """Return a column as float64 and the rows that hold something else than a number.

    Empty cells and cells such as ``NA`` are NaN and not counted. Text is read number by number: with the decimal sign
    given, or with a comma if some cells have one and no cell has a point. Nothing is ever read as a thousands
    separator.
    """
    if is_numeric(column):
        if isinstance(column, np.ndarray):
            return column.astype(np.float64), []

        import pyarrow as pa

        if column.type != pa.float64():
            column = column.cast(pa.float64(), safe=False)  # whole numbers beyond 2**53 are rounded

        return column.to_numpy(zero_copy_only=False), []

    cells = column.tolist() if isinstance(column, np.ndarray) else column.to_pylist()
    texts = [cell for cell in cells if isinstance(cell, str)]
    comma = (decimal or decimal_sign(texts)) == ","
    values, bad = np.full(len(cells), np.nan), []
    if len(texts) == len(cells) and not comma:
        try:  # most cells are fine, and numpy reads them at once; the rest is looked at one by one
            values = np.array([cell if _PLAIN(cell) else "nan" for cell in cells], dtype=np.float64)
        except ValueError:
            values = np.full(len(cells), np.nan)

    for row in np.flatnonzero(np.isnan(values)).tolist():
        cell = cells[row]
        if cell is None or isinstance(cell, str) and cell.strip() in EMPTY:
            continue

        try:
            values[row] = _number(cell, comma)
        except (TypeError, ValueError, OverflowError):
            bad.append(row)

    return values, bad


def _number(cell: object, comma: bool) -> float:
    if isinstance(cell, (bool, np.bool_)) or not isinstance(cell, (str, int, float)):
        raise TypeError

    if isinstance(cell, str):
        if "_" in cell or comma and "." in cell:  # Python reads 1_000 as a number
            raise ValueError

        if comma and COMMA.fullmatch(cell):
            cell = cell.replace(",", ".")

    return float(cell)
