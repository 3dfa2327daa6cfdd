"""Text files as people save them: UTF-8 is read, any other encoding is named together with the way to convert it."""

import codecs
import os
import re
import shlex
from pathlib import Path

from ..core.errors import ChatTSError


TEXT_SUFFIXES = (".json", ".jsonl", ".csv", ".txt")
CHUNK = 1 << 20


_MARKS = (  # the mark of UTF-32 begins with that of UTF-16
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_ALONE = re.compile(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])")
_HIGH = re.compile(rb"[\x80-\xff]")


def _of_wide_characters(sample: bytes) -> str | None:
    """Return the encoding of text whose characters have two or four bytes; None for any other."""
    marked = next((name for mark, name in _MARKS if sample.startswith(mark)), None)
    zeros = [sample[start:200:2].count(0) for start in (0, 1)]
    if marked or max(zeros) <= min(len(sample), 200) // 8 or min(zeros) * 4 > max(zeros):
        return marked

    return "UTF-16LE" if zeros[1] > zeros[0] else "UTF-16BE"


def guess_encoding(sample: bytes) -> str:
    """Return the name, as ``iconv`` knows it, of an encoding other than UTF-8 that fits some bytes.

    Western letters with marks stand alone among ASCII; a Chinese character of GBK has two bytes, the first, and mostly
    both, above 127. Most Western text could be read as GBK, too, so this is looked at first.
    """
    wide = _of_wide_characters(sample)
    if wide:
        return wide

    if len(_ALONE.findall(sample)) * 2 <= len(_HIGH.findall(sample)):
        try:
            sample.decode("gb18030")
            return "GB18030"
        except UnicodeDecodeError as error:
            if error.end >= len(sample) - 4:  # a character cut at the end of the sample says nothing
                return "GB18030"

    try:
        sample.decode("cp1252")
        return "CP1252"
    except UnicodeDecodeError:
        return "LATIN1"


def not_utf8(path: str | os.PathLike, sample: bytes, line: int | None = None) -> ChatTSError:
    """Return the error for a file that is not UTF-8.

    Args:
        path: of the file.
        sample: bytes of it, among them some that are not UTF-8.
        line: of the first such byte.
    """
    encoding = guess_encoding(sample)
    where = f"{path}:{line}" if line else str(path)
    shown = {"GB18030": "GBK"}.get(encoding, encoding)
    return ChatTSError(
        f"the file is not UTF-8; it looks like {shown}",
        where=where,
        fix=f"Convert it: iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > NEW_FILE",
    )


def check_utf8(path: str | os.PathLike, limit: int | None = None) -> None:
    """Raise a :class:`ChatTSError` where a file is damaged or not UTF-8, with the line and the encoding that fits.

    Args:
        path: of the file; read in pieces.
        limit: bytes to look at; None for all.
    """
    decoder, line, seen = codecs.getincrementaldecoder("utf-8")(), 1, 0
    with open(path, "rb") as file:
        while (limit is None or seen < limit) and (chunk := file.read(CHUNK)):
            if seen == 0 and _of_wide_characters(chunk):
                raise not_utf8(path, chunk)

            if b"\0" in chunk:
                line += chunk.count(b"\n", 0, chunk.index(0))
                what = "it holds a zero byte: the file is damaged"
                raise ChatTSError(what, where=f"{path}:{line}", fix="Copy or write it again")

            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                raise not_utf8(path, error.object, line + error.object.count(b"\n", 0, error.start)) from None

            line += chunk.count(b"\n")
            seen += len(chunk)

        if decoder.getstate()[0] and not file.read(1):
            raise ChatTSError("the last character is cut", where=f"{path}:{line}", fix="Copy or write the file again")


def check_files(path: str | os.PathLike, limit: int | None = None) -> None:
    """Check the encoding (:func:`check_utf8`) of a text file, or of the text files of a folder."""
    files = sorted(Path(path).iterdir()) if Path(path).is_dir() else [Path(path)]
    for file in files:
        if file.suffix.lower() in TEXT_SUFFIXES and file.is_file():
            check_utf8(file, limit)


def read_text(path: str | os.PathLike) -> str:
    """Return the text of a file in UTF-8 without its byte order mark, line ends as they are.

    Raises:
        ChatTSError: it is missing, cannot be opened, or is not UTF-8.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ChatTSError("the file is missing", where=str(path), fix="Check its name and folder") from None
    except OSError as error:
        raise ChatTSError(f"cannot be read ({error.strerror})", where=str(path), fix="Mend its rights") from None

    if _of_wide_characters(data):
        raise not_utf8(path, data)

    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, data, 1 + data.count(b"\n", 0, error.start)) from None
