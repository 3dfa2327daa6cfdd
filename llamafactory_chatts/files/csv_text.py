"""Reading delimited text as people's tools write it: the encoding, the separator and the names are found out.

One pass of pyarrow's reader does the work; only the first 64 KB are looked at beforehand.
"""

import csv
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from ..core.errors import ChatTSError, shorten


if TYPE_CHECKING:
    import pyarrow as pa


SNIFF, SAMPLED = 1 << 16, 200
"""Bytes and lines that are looked at before parsing."""

SEPARATORS = ("\t", ";", ",")
"""In the order of preference: a tab or semicolon that fits every line leaves the commas to be decimal commas."""

EMPTY = ("", "nan", "NaN", "NAN", "-nan", "-NaN", "null", "NULL", "None", "NA", "N/A", "n/a", "#N/A", "<NA>")
"""Cells that stand for a missing value."""

_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))

_NUMBER = re.compile(r"\s*[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?\s*")
POINT = re.compile(r"\s*[+-]?(\d*\.\d+|\d+\.)([eE][+-]?\d+)?\s*")
COMMA = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")
DATE = re.compile(
    r"\s*(\d{4}[-/.年]\d{1,2}[-/.月]\d{1,2}日?|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d{8})([ T]+\d{1,2}[:时]\d{1,2}.*)?\s*"
    r"|\s*\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?\s*"
)
"""What looks like a date, a date with a time, or a time of day."""


@dataclass
class CsvText:
    """A parsed file.

    Attributes:
        names: one per column, stripped; "" where the header has none, "0", "1", ... where there is no header.
        columns: one arrow array per column, all of the same length: numbers, times or text.
        first_line: the line (1-based) of the file that holds row 0.
        header: whether the first line held names.
        encoding, separator, decimal: what was found; ``decimal`` is "." or ",".
    """

    names: list[str]
    columns: list["pa.Array"]
    first_line: int
    header: bool
    encoding: str
    separator: str
    decimal: str


def read_bytes(path: str | os.PathLike) -> bytes:
    """Return a file's bytes; a :class:`ChatTSError` says in plain words why it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: str | os.PathLike, error: OSError) -> ChatTSError:
    """Return the error of a file that the system does not hand out."""
    if isinstance(error, FileNotFoundError):
        return ChatTSError("the file does not exist", where=str(path), fix="Correct the name or put the file there")

    if isinstance(error, IsADirectoryError):
        return ChatTSError("a folder stands where a file should be", where=str(path), fix="Name a file")

    if isinstance(error, PermissionError):
        return ChatTSError("no permission to read the file", where=str(path), fix="Allow reading it")

    return ChatTSError(f"the file cannot be read ({error.strerror})", where=str(path), fix="Name a file that is there")


def decode(data: bytes, path: str | os.PathLike) -> tuple[str, bytes]:
    """Return the encoding of a text file and the text in UTF-8 without its byte order mark.

    Raises:
        ChatTSError: neither UTF-8 (or UTF-16 with its mark) nor GBK (GB 18030).
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            try:
                return encoding, data.decode(encoding).encode()
            except UnicodeDecodeError as error:
                raise _undecodable(path, error) from None

    if b"\0" in data[:SNIFF]:
        raise ChatTSError("the file is no text, it holds zero bytes", where=str(path), fix="Save it as CSV in UTF-8")

    if data.isascii():
        return "utf-8", data

    try:
        data.decode("utf-8")
        return "utf-8", data
    except UnicodeDecodeError as error:
        first = error

    try:
        return "gb18030", data.decode("gb18030").encode()
    except UnicodeDecodeError:
        raise _undecodable(path, first) from None


def _undecodable(path: str | os.PathLike, error: UnicodeDecodeError) -> ChatTSError:
    line = error.object[: error.start].count(b"\n") + 1
    return ChatTSError(
        f"the text is neither UTF-8 nor GBK (byte 0x{error.object[error.start]:02x})",
        where=f"{path}:{line}",
        fix="Save the file in UTF-8",
    )


def read_csv(path: str | os.PathLike, decimal: str | None = None) -> CsvText:
    """Read delimited text.

    Args:
        path: a file in UTF-8 (with or without byte order mark), UTF-16 with its mark, or GBK; separated by comma,
            semicolon or tab; with or without a line of names. An empty line is a row without values.
        decimal: "." or ","; found out if None, and then "," is possible only between semicolons or tabs.

    Raises:
        ChatTSError: not readable, empty, no text, a name twice in the header, a line with too many or too few
            cells, or a quote that is never closed; ``where`` is ``file:line`` if a line is to blame.
    """
    encoding, data = decode(read_bytes(path), path)
    start = len(data) - len(data.lstrip(b"\r\n"))
    first_line = data.count(b"\n", 0, start) + 1
    data = data.strip(b"\r\n\x1a")  # tools of old end a file with 0x1a
    if not data.strip():
        raise ChatTSError("the file is empty", where=str(path), fix="Put the series into it or remove it")

    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")

    quoted = b'"' in data
    if quoted and data.count(b'"') % 2:
        raise ChatTSError("a quote is opened and never closed", where=str(path), fix='Close or remove the "')

    separator = None
    if data[:4].lower() == b"sep=" and data[4:5] in (b",", b";", b"\t"):  # Excel's own line
        separator = data[4:5].decode()
        data, first_line = data.partition(b"\n")[2], first_line + 1

    sample = _sample(data)
    separator = separator or _separator(sample, decimal)
    reader = csv.reader(StringIO(sample), delimiter=separator)
    names = [name.strip() for name in next(reader)]
    header = not _is_data(names)
    skip = reader.line_num if header else 0
    rows = [row for row in reader if row]
    if header:
        if rows and all(len(row) == len(names) + 1 and not row[-1].strip() for row in rows):
            names.append("")  # every line but the header ends with a separator
        _check_names(names, f"{path}:{first_line}")
    else:
        rows.insert(0, names)
        names = [str(index) for index in range(len(names))]

    decimal = decimal or (decimal_sign(cell for row in rows for cell in row) if separator != "," else ".")
    shape = (len(names), skip, separator, decimal, quoted, os.fspath(path), first_line)
    columns = _parse(data, *shape)
    if len(names) > 1 and not quoted and len(columns[0]) <= data.count(b"\n") - skip:  # empty lines were passed over
        gap = separator.encode() * (len(names) - 1)
        columns = _parse(re.sub(rb"(?<=\n) *(?=\r?\n)", gap, data), *shape)

    return CsvText(names, columns, first_line + skip, header, encoding, separator, decimal)


def _sample(data: bytes) -> str:
    """Return the first lines that are whole, at most 200 and 64 KB of them."""
    head = data[:SNIFF]
    if len(data) > SNIFF:
        head = head[: head.rfind(b"\n") + 1] or head

    lines = head.split(b"\n", SAMPLED)[:SAMPLED]
    return b"\n".join(lines).decode("utf-8", errors="ignore")  # a header longer than the sample may end anywhere


def _separator(sample: str, decimal: str | None) -> str:
    """Return the separator that splits all of the first lines alike; if none does, the header's most frequent one."""
    lines = re.sub(r'"[^"]*"', "", sample).split("\n")
    lines = [line.rstrip("\r") for line in lines if line.strip(" \r")]
    counts = {sign: [line.count(sign) for line in lines] for sign in SEPARATORS}
    for sign, found in counts.items():
        trailing = set(found[1:]) == {found[0] + 1} and all(line.endswith(sign) for line in lines[1:])
        if found[0] and (set(found) == {found[0]} or trailing):
            if not (sign == "," and decimal == ","):  # lone decimal commas
                return sign

    best = max(reversed(SEPARATORS), key=lambda sign: counts[sign][0])
    return "\t" if best == "," and decimal == "," and '"' not in sample else best


def _is_data(cells: list[str]) -> bool:
    numbers = [bool(_NUMBER.fullmatch(cell)) for cell in cells]
    return any(numbers) and all(number or DATE.fullmatch(cell) for number, cell in zip(numbers, cells))


def _check_names(names: list[str], where: str) -> None:
    seen: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        if name and name in seen:
            raise ChatTSError(
                f"the header names {shorten(repr(name), 40)} twice, in columns {seen[name]} and {position}",
                where=where,
                fix="Give each column a name of its own",
            )
        seen[name] = position


def decimal_sign(cells: Iterable[str]) -> str:
    """Return "," if some cells are numbers with a decimal comma and none has a decimal point, otherwise "."."""
    comma = False
    for cell in cells:
        if POINT.fullmatch(cell):
            return "."
        comma = comma or bool(COMMA.fullmatch(cell))

    return "," if comma else "."


def _parse(
    data: bytes, width: int, skip: int, separator: str, decimal: str, quoted: bool, path: str, first_line: int
) -> list["pa.Array"]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    ragged = []

    def note(row: "arrow_csv.InvalidRow") -> str:
        if row.text.strip():
            ragged.append(row)
        return "skip"

    names = [str(index) for index in range(width)]
    parse = arrow_csv.ParseOptions(
        delimiter=separator,
        newlines_in_values=quoted,
        ignore_empty_lines=width > 1,
        invalid_row_handler=note,
    )
    read = arrow_csv.ReadOptions(
        use_threads=False,
        column_names=names,
        skip_rows=skip,
        block_size=min(len(data) + 1, 1 << 28),  # types are inferred from the first block
    )
    convert = arrow_csv.ConvertOptions(
        null_values=list(EMPTY),
        decimal_point=decimal,
        check_utf8=False,
        timestamp_parsers=[arrow_csv.ISO8601, "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d"],
    )
    if skip and data.count(b"\n") < skip:  # nothing below the header
        return [pa.nulls(0)] * width

    try:
        try:
            table = arrow_csv.read_csv(pa.BufferReader(data), read, parse, convert)
        except pa.ArrowInvalid as error:
            if "conversion error" not in str(error):
                raise

            ragged.clear()  # a later block differs in kind from the first: take everything as text
            convert.column_types = dict.fromkeys(names, pa.string())
            table = arrow_csv.read_csv(pa.BufferReader(data), read, parse, convert)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ChatTSError(f"the table cannot be read ({shorten(error)})", where=path, fix="Correct the file") from None

    if ragged:
        row = ragged[0]
        line = f":{first_line + row.number - 1}" if row.number and not quoted else ""
        others = f", and {len(ragged) - 1} more such lines" if len(ragged) > 1 else ""
        raise ChatTSError(
            f"a line has {row.actual_columns} cells instead of {row.expected_columns}"
            f" ({shorten(row.text, 40)}){others}",
            where=f"{path}{line}",
            fix="Give every line as many cells as the header, or name the decimal sign",
        )

    return [column.combine_chunks() if column.num_chunks != 1 else column.chunk(0) for column in table.columns]
