"""Reading the series of a file that a dataset cell points to."""

import os
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ChatTSError, shorten
from .series import as_series


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


def _read_columns(path: str) -> dict[str, Any]:
    if path.lower().endswith(".npy"):
        array = np.load(path, allow_pickle=False)
        rows = array[None, :] if array.ndim == 1 else array
        return {f"row {index}": row for index, row in enumerate(rows)}

    import pandas as pd

    frame = _read_csv(path) if path.lower().endswith(".csv") else pd.read_parquet(path)
    if "value" in frame.columns:
        frame = frame[["value"]]

    numeric = frame.select_dtypes("number")
    if frame.shape[1] == 1 and numeric.empty and len(frame):
        return {f"column {frame.columns[0]}": [_number(value) for value in frame.iloc[:, 0]]}

    return {f"column {name}": numeric[name].to_numpy() for name in numeric.columns}


def _read_csv(path: str) -> Any:
    """Return the table without a column that has no name (a row number); a first line of numbers is data."""
    import pandas as pd

    text = Path(path).read_text(encoding="utf-8-sig").strip("\r\n")
    first = pd.read_csv(StringIO(text), header=None, nrows=1)
    if first.select_dtypes("number").shape[1] == first.shape[1]:
        return pd.read_csv(StringIO(text), header=None, skip_blank_lines=False)

    frame = pd.read_csv(StringIO(text), skip_blank_lines=False)  # an empty line is a gap
    return frame.loc[:, [not str(name).startswith("Unnamed:") for name in frame.columns]]


def _number(value: Any) -> Any:
    """Return the number that a text is; anything else as it is, for :func:`as_series` to name."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
