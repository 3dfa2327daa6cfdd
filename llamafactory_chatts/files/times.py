"""Columns of times: which column is one, and its moments for the order of the rows."""

from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ChatTSError, shorten
from .column_files import is_numeric
from .csv_text import DATE, EMPTY


if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


NAMES = frozenset(
    "time times timestamp timestamps datetime date ts 时间 时间戳 日期 采样时间 采集时间 日期时间".split()
)
"""Names (folded) under which numbers are times: seconds or milliseconds since 1970, or dates such as 20240131."""

_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", "T%H:%M:%S", "T%H:%M")
_PLAIN_DAYS = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y年%m月%d日", "%d.%m.%Y")
_CLOCK_ONLY = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f")
_EITHER_WAY = (("%d/%m/%Y", "%m/%d/%Y"), ("%d-%m-%Y", "%m-%d-%Y"))


def looks_like_times(name: str, column: "np.ndarray | pa.Array") -> bool:
    """Return whether a column of a table holds times.

    That is: a type of times, text whose first cell looks like a date or a clock, or numbers under a name such as
    ``timestamp``. ``column`` is a numpy vector or an arrow array.
    """
    if is_numeric(column):
        return name.strip().casefold() in NAMES

    if isinstance(column, np.ndarray):
        return column.dtype.kind == "M"

    import pyarrow.types as kinds

    if kinds.is_temporal(column.type):
        return not kinds.is_duration(column.type)

    first = _first_text(column)
    return first is not None and DATE.fullmatch(first) is not None


def _first_text(column: "pa.Array") -> str | None:
    for cell in column:
        text = cell.as_py()
        if text is not None and str(text).strip() not in EMPTY:
            return str(text)

    return None


def moments(column: "np.ndarray | pa.Array", where: str, name: str) -> np.ndarray:
    """Return a column of times as a vector that can be compared: ``datetime64`` or float64.

    A cell without a time gets that of the row before it, so that it stays where it is.

    Raises:
        ChatTSError: a cell is no date, or the dates may be read with the day or the month first and the rows are in
            order under neither reading.
    """
    if is_numeric(column):
        from .column_files import numbers

        return _filled(numbers(column)[0])

    if isinstance(column, np.ndarray):
        return _filled(column)

    import pyarrow as pa

    if pa.types.is_time(column.type) or pa.types.is_date(column.type):
        whole = column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64()).cast(pa.float64(), safe=False)
        return _filled(whole.to_numpy(zero_copy_only=False))

    if pa.types.is_temporal(column.type):
        return _filled(column.to_numpy(zero_copy_only=False))

    return _filled(_parsed([cell and str(cell).strip() for cell in column.to_pylist()], where, name))


def _filled(times: np.ndarray) -> np.ndarray:
    absent = np.isnat(times) if times.dtype.kind == "M" else np.isnan(times)
    if not absent.any() or absent.all():
        return times

    rows = np.where(absent, -1, np.arange(len(times)))
    rows = np.maximum.accumulate(rows)
    return times[np.where(rows < 0, int(np.argmin(absent)), rows)]


def _parsed(cells: list[str | None], where: str, name: str) -> np.ndarray:
    import pandas as pd

    column = pd.Series([None if cell in EMPTY else cell for cell in cells], dtype=object)
    first = column[column.first_valid_index()]

    def read(form: str) -> np.ndarray | None:
        try:
            return pd.to_datetime(column, format=form, errors="raise").to_numpy("datetime64[ns]")
        except (ValueError, TypeError):
            return None

    def one_of(days: tuple[str, ...]) -> np.ndarray | None:
        fitting = (day + clock for day in days for clock in _CLOCKS)
        return next((found for form in fitting if _fits(form, first) and (found := read(form)) is not None), None)

    found = one_of(_PLAIN_DAYS)
    if found is None:
        found = next((times for form in _CLOCK_ONLY if (times := read(form)) is not None), None)

    for pair in () if found is not None else _EITHER_WAY:
        ways = [times for day in pair if (times := one_of((day,))) is not None]
        ordered = [times for times in ways if in_order(_filled(times))]
        if len(ways) == 2 and not ordered:
            raise ChatTSError(
                f"the dates in {name!r} ({shorten(first, 40)}) may start with the day or the month",
                where=where,
                fix="Write them as 2024-01-31, or bring the rows into order",
            )

        if ways:
            return (ordered or ways)[0]

    if found is None:
        try:  # mixed forms, or a zone: ISO 8601 is not ambiguous
            found = pd.to_datetime(column, format="ISO8601", utc=True).to_numpy("datetime64[ns]")
        except (ValueError, TypeError):
            raise _no_date(column, where, name) from None

    return found


def _fits(form: str, text: str) -> bool:
    import pandas as pd

    try:
        pd.to_datetime(text, format=form)
    except ValueError:
        return False

    return True


def _no_date(column: "pd.Series", where: str, name: str) -> ChatTSError:
    bad = next((cell for cell in column if cell is not None and not DATE.fullmatch(str(cell))), None)
    what = f"{shorten(repr(bad), 40)} in the time column {name!r} is no date"
    if bad is None:
        what = f"the dates in the time column {name!r} are not all of one form"

    return ChatTSError(what, where=where, fix="Write the times as 2024-01-31 12:00:00, or name another time_column")


def in_order(times: np.ndarray) -> bool:
    """Return whether no time lies before the one in front of it."""
    return bool(len(times) < 2 or (times[1:] >= times[:-1]).all())
