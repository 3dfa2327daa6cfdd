"""Rows of a dataset file, one after the other: JSON Lines, a JSON array, or Parquet. Memory stays flat."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from ..core.errors import ChatTSError, shorten


if TYPE_CHECKING:
    import pyarrow as pa


SUFFIXES = (".jsonl", ".json", ".parquet")
CHUNK = 1 << 20
LARGEST_ROW = 1 << 28
"""Characters of a JSON array that may belong to one row; more means that a bracket is missing."""

PARQUET_POINTS = 2_000_000
"""Points to aim at in one batch of a Parquet file."""

_GAP = re.compile(r"[ \t\r\n]*([\[,\]]?)[ \t\r\n]*")


class UnreadableRow(Exception):
    """Stands in the place of a row: why it cannot be read."""


Row = tuple[int, object]
"""Its number, and its content: a dict, something else that JSON can hold, or an :class:`UnreadableRow`."""


def read_rows(path: str | os.PathLike) -> Iterator[Row]:
    """Yield (row, content) of a file; a line that cannot be read yields an :class:`UnreadableRow` in its place.

    Rows count from 1; in JSON Lines the number is that of the line. In Parquet a column with series comes as a list
    of float vectors per row.

    Raises:
        ChatTSError: the file cannot be opened, or is of another kind.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ChatTSError("files of this kind are not read", where=str(path), fix=f"Use one of: {', '.join(SUFFIXES)}")

    try:
        if suffix == ".parquet":
            yield from _parquet(path)
        elif suffix == ".json" and _first_character(path) == "[":
            yield from _array(path)
        else:  # LLaMA-Factory reads JSON Lines under the name .json, too
            yield from _lines(path)
    except OSError as error:
        raise ChatTSError(
            f"cannot be read ({error.strerror or shorten(error)})",
            where=str(path),
            fix="Name a file that you can read",
        ) from error


def _first_character(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            if text := chunk.decode("utf-8", "replace").lstrip("\ufeff \t\r\n"):
                return text[0]

    return ""


def _loads(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return UnreadableRow(f"broken JSON: {error.msg} at character {error.pos + 1}")
    except RecursionError:
        return UnreadableRow("broken JSON: nested too deeply")
    except ValueError as error:  # a whole number of thousands of digits
        return UnreadableRow(f"broken JSON: {shorten(error)}")


def _lines(path: str | os.PathLike) -> Iterator[Row]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield number, UnreadableRow(f"not UTF-8 at byte {error.start + 1}; is the file GBK or UTF-16?")
                continue

            if text.strip():
                row = _loads(text)
                if isinstance(row, UnreadableRow) and not text.endswith("\n"):
                    row = UnreadableRow(f"{row} in the last line, which does not end: is the file truncated?")

                yield number, row


def _array(path: str | os.PathLike) -> Iterator[Row]:
    """Yield the rows of a JSON array; behind a broken one nobody can tell where the next begins: it is the last."""
    number = 0
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, row in enumerate(_values(file), start=1):
                yield number, row
    except UnreadableRow as error:
        yield number + 1, UnreadableRow(f"{error} (nothing behind it was read)")
    except UnicodeDecodeError:
        yield number + 1, UnreadableRow("not UTF-8; is the file GBK or UTF-16? (nothing behind it was read)")
    except (RecursionError, ValueError) as error:
        yield number + 1, UnreadableRow(f"broken JSON: {shorten(error)} (nothing behind it was read)")


def _values(file: TextIO) -> Iterator[object]:
    """Yield the values of a JSON array; the text in memory is that of one value and a chunk more.

    Not by ijson: it refuses NaN and whole numbers beyond 64 bits, which Python and pandas write, makes "?" of half
    a surrogate pair, and its memory grows with the square of the depth of brackets.
    """
    decode = json.JSONDecoder().raw_decode
    text, at, before, ended = "", 0, "[", False
    while True:
        gap = _GAP.match(text, at)
        assert gap is not None  # it matches nothing, too
        sign, start = gap[1], gap.end()
        if start < len(text) or ended:
            closed = start if sign == "]" else start + 1 if sign == "[" and text.startswith("]", start) else 0
            if closed:
                if text[closed:].strip() or any(map(str.strip, iter(lambda: file.read(CHUNK), ""))):
                    raise UnreadableRow("broken JSON: something follows the array")

                return

            if sign != before:
                ends = start == len(text) and not sign
                raise UnreadableRow(
                    "broken JSON: the array does not end: is the file truncated?"
                    if ends
                    else "broken JSON: a comma or ] is missing"
                )

            try:
                value, end = decode(text, start)
                if end < len(text) or ended:  # a number at the edge may go on
                    yield value
                    at, before = end, ","
                    continue
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(text) - 16
                if ended or not cut or len(text) - at > LARGEST_ROW:
                    tail = ", at the end of the file: is it truncated?" if ended and cut else ""
                    raise UnreadableRow(f"broken JSON: {error.msg}{tail}") from None

        chunk = file.read(max(CHUNK, len(text) - at))  # doubles what is there: a long row costs no more
        text, at, ended = text[at:] + chunk, 0, not chunk


def _parquet(path: str | os.PathLike) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path, pre_buffer=False)
    except pyarrow.ArrowException as error:
        raise ChatTSError(f"no Parquet file ({shorten(error)})", where=str(path), fix="Write it again") from error

    with file:
        values = file.metadata.num_rows and sum(
            group.column(index).num_values
            for group in map(file.metadata.row_group, range(file.metadata.num_row_groups))
            for index in range(group.num_columns)
        )
        size = max(1, min(4096, int(PARQUET_POINTS * file.metadata.num_rows / max(values, 1))))
        number = 0
        try:
            for batch in file.iter_batches(batch_size=size):
                columns = [_cells(column) for column in batch.columns]
                for cells in zip(*columns):
                    number += 1
                    yield number, dict(zip(batch.schema.names, cells))
        except (pyarrow.ArrowException, OSError) as error:
            yield number + 1, UnreadableRow(f"broken Parquet: {shorten(error)} (nothing behind it was read)")


def _cells(column: "pa.Array") -> Iterable[object]:
    """Return the cells of a column; nested lists of numbers as vectors, everything else as Python values."""
    import pyarrow.types as types

    kind, depth = column.type, 0
    while types.is_list(kind) or types.is_large_list(kind):
        kind, depth = kind.value_type, depth + 1

    numbers = types.is_floating(kind) or types.is_integer(kind)
    return _vectors(column) if numbers and depth == 2 else column.to_pylist()


def _vectors(column: "pa.ListArray") -> Iterator[list[np.ndarray | None] | None]:
    inner = column.values
    points = inner.values.to_numpy(zero_copy_only=False)  # a null becomes NaN, which is reported the same
    starts, offsets = inner.offsets.to_numpy(), column.offsets.to_numpy()
    missing = inner.is_null().to_numpy(zero_copy_only=False)
    for index, null in enumerate(column.is_null().to_pylist()):
        if null:
            yield None
            continue

        span = range(offsets[index], offsets[index + 1])
        yield [None if missing[item] else points[starts[item] : starts[item + 1]] for item in span]
