"""Rows of a dataset file, one after the other: JSON Lines, a JSON array, or Parquet. Memory stays flat."""

import codecs
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import ChatTSError, shorten


SUFFIXES = (".jsonl", ".json", ".parquet")
CHUNK = 1 << 20
LARGEST_ROW = 1 << 28
"""Characters of a JSON array that may belong to one row; more means that a bracket is missing."""

PARQUET_POINTS = 2_000_000
"""Points to aim at in one batch of a Parquet file."""


class UnreadableRow(Exception):
    """Stands in the place of a row: why it cannot be read."""


Row = tuple[int, "dict[str, Any] | UnreadableRow"]


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


def _loads(text: str) -> Any:
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


class _Text:
    """The part of a JSON text that is in memory, with its reading position."""

    def __init__(self, file: Any) -> None:
        self.file, self.decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.at, self.ended = "", 0, False

    def more(self) -> None:
        """Read on; what lies before the position is let go. Doubles what is there: a long row costs no more."""
        data = self.file.read(max(CHUNK, len(self.text) - self.at))
        self.ended = not data
        self.text = self.text[self.at :] + self.decoder.decode(data, final=self.ended)
        self.at = 0

    def next(self) -> str:
        """Return the next character that is no white space, without passing it; empty at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1

            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]

            self.more()

    def value(self) -> Any:
        """Return the JSON value at the position and pass it."""
        decode = json.JSONDecoder().raw_decode
        while True:
            try:
                value, end = decode(self.text, self.at)
                if end < len(self.text) or self.ended:  # a number at the edge may go on
                    self.at = end
                    return value
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - 16
                if self.ended or not cut or len(self.text) - self.at > LARGEST_ROW:
                    tail = ", at the end of the file: is it truncated?" if self.ended and cut else ""
                    raise UnreadableRow(f"broken JSON: {error.msg}{tail}") from None

            self.more()


def _array(path: str | os.PathLike) -> Iterator[Row]:
    """Yield the rows of a JSON array; behind a broken one nobody can tell where the next begins: it is the last."""
    number = 0
    with open(path, "rb") as file:
        text = _Text(file)
        try:
            text.next()
            text.at += 1
            while (mark := text.next()) != "]" or number:
                if number:
                    if mark == "]":
                        break

                    if mark != ",":
                        raise UnreadableRow(
                            "broken JSON: a comma or ] is missing"
                            if mark
                            else "broken JSON: the array does not end: is the file truncated?"
                        )

                    text.at += 1
                    text.next()

                value = text.value()
                number += 1
                yield number, value

            text.at += 1
            if text.next():
                raise UnreadableRow("broken JSON: something follows the array")
        except UnreadableRow as error:
            yield number + 1, UnreadableRow(f"{error} (nothing behind it was read)")
        except UnicodeDecodeError:
            yield number + 1, UnreadableRow("not UTF-8; is the file GBK or UTF-16? (nothing behind it was read)")
        except (RecursionError, ValueError) as error:
            yield number + 1, UnreadableRow(f"broken JSON: {shorten(error)} (nothing behind it was read)")


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


def _cells(column: Any) -> Any:
    """Return the cells of a column; nested lists of numbers as vectors, everything else as Python values."""
    import pyarrow.types as types

    def listed(kind: Any) -> bool:
        return types.is_list(kind) or types.is_large_list(kind)

    kind = column.type
    if not listed(kind) or not listed(kind.value_type):
        return column.to_pylist()

    number = kind.value_type.value_type
    if not (types.is_floating(number) or types.is_integer(number)):
        return column.to_pylist()

    return _vectors(column)


def _vectors(column: Any) -> Iterator[list[np.ndarray | None] | None]:
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
