"""Reading the series of a file that a dataset cell points to."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ChatTSError, shorten
from ..core.series import as_series
from .column_files import is_numeric, numbers, read_columns


if TYPE_CHECKING:
    import pyarrow as pa


SUFFIXES = (".csv", ".npy", ".parquet")


def inside(media_dir: str, cell: str) -> str:
    """Return the path of ``cell`` below ``media_dir``.

    Raises:
        ChatTSError: the path leaves ``media_dir``, is missing, or has a suffix that is not read.
    """
    root = os.path.realpath(media_dir)
    path = os.path.realpath(os.path.join(root, cell))
    if os.path.commonpath([root, path]) != root:
        raise ChatTSError(
            f"the series file {shorten(cell)} lies outside media_dir",
            fix="Move it below media_dir, or set media_dir to a folder above it",
        )

    if not os.path.isfile(path):
        raise ChatTSError(f"the series file {shorten(cell)} does not exist", fix=f"Looked below media_dir {media_dir}")

    if Path(path).suffix.lower() not in SUFFIXES:
        raise ChatTSError(
            f"the series file {shorten(cell)} is of a kind that is not read", fix=f"Use one of {', '.join(SUFFIXES)}"
        )

    return path


def read_series_file(path: str) -> list[np.ndarray]:
    """Read one file: a series per numeric column (``.csv``, ``.parquet``) or per row of a 2-D array (``.npy``).

    In tables a column named ``value`` is taken alone if there is one; otherwise every numeric column. A ``.csv`` may
    do without a line of names.

    Returns:
        float64 vectors of shape ``(length,)``.

    Raises:
        ChatTSError: unreadable, without numbers, or with gaps.
    """
    name = os.path.basename(path)
    try:
        columns = _read_columns(path)
    except ChatTSError as err:
        place = os.path.basename(err.where or name)  # with the line where one is to blame
        raise ChatTSError(f"the series file {shorten(place)} cannot be read: {err.what}", fix=err.fix) from err
    except Exception as err:
        raise ChatTSError(f"the series file {shorten(name)} cannot be read: {shorten(err)}") from err

    if not columns:
        raise ChatTSError(f"the series file {shorten(name)} has no numeric column", fix="Give it a `value` column")

    series = []
    for label, values in columns.items():
        try:
            series.append(as_series(values))
        except ChatTSError as err:
            raise ChatTSError(f"{shorten(name)}, {label}: {err.what}", fix=err.fix) from err

    return series


def _read_columns(path: str) -> Mapping[str, object]:
    found = read_columns(path)
    columns = {name: column for name, column in zip(found.names, found.columns) if name}  # without: a row number
    table = {name: column for name, column in columns.items() if not isinstance(column, np.ndarray)}
    if path.lower().endswith(".npy"):
        return columns

    if "value" in table:
        table = {"value": table["value"]}

    numeric = {f"column {name}": numbers(column)[0] for name, column in table.items() if _has_numbers(column)}
    if len(table) == 1 and not numeric:
        [(name, column)] = table.items()
        return {f"column {name}": [_number(cell) for cell in column.to_pylist()]} if len(column) else {}

    return numeric


def _has_numbers(column: "pa.Array") -> bool:
    """Return whether a column is one of numbers, or of gaps alone, which the reader of series will name."""
    return is_numeric(column) or str(column.type) == "null" and len(column) > 0


def _number(value: object) -> object:
    """Return the number that a text is; anything else as it is, for :func:`as_series` to name."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
