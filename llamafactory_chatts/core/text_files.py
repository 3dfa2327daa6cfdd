"""Text files as people save them: UTF-8 is read, any other encoding is named together with the way to convert it."""

import codecs
import os
from pathlib import Path

from .errors import ChatTSError


GUESSES = (("GB18030", "gb18030"), ("CP1252", "cp1252"), ("LATIN1", "latin-1"))
"""Encodings that are tried in this order, as iconv and as Python call them."""

TEXT_SUFFIXES = (".json", ".jsonl", ".csv", ".txt")
CHUNK = 1 << 20


def guess_encoding(sample: bytes) -> str:
    """Return the name, as ``iconv`` knows it, of an encoding other than UTF-8 that fits some bytes."""
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"

    if sample[1:80:2].count(0) > 20 or sample[:80:2].count(0) > 20:
        return "UTF-16LE" if sample[1:80:2].count(0) > 20 else "UTF-16BE"

    for name, codec in GUESSES:
        try:
            sample.decode(codec)
        except UnicodeDecodeError as error:
            if error.end < len(sample) - 4:  # a character cut at the end of the sample says nothing
                continue

        return name

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
        fix=f"Convert it: iconv -f {encoding} -t UTF-8 {path} > NEW_FILE",
    )


def check_utf8(path: str | os.PathLike, limit: int | None = None) -> None:
    """Raise a :class:`ChatTSError` where a file is not UTF-8, with the line and the encoding that fits.

    Args:
        path: of the file; read in pieces.
        limit: bytes to look at; None for all.
    """
    decoder, line, seen = codecs.getincrementaldecoder("utf-8")(), 1, 0
    with open(path, "rb") as file:
        while (limit is None or seen < limit) and (chunk := file.read(CHUNK)):
            if seen == 0 and (chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in chunk[:80]):
                raise not_utf8(path, chunk)

            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                raise not_utf8(path, error.object, line + error.object.count(b"\n", 0, error.start)) from None

            line += chunk.count(b"\n")
            seen += len(chunk)


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

    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise not_utf8(path, data)

    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, data, 1 + data.count(b"\n", 0, error.start)) from None
