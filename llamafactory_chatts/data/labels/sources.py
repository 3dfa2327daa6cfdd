"""Label files and folders of every kind that people have -> one stream of labels."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import ChatTSError, shorten
from ...files.csv_text import unreadable
from ...rows.reading import SUFFIXES, UnreadableRow, read_rows
from .formats import FORMATS, LabelRow, read_row
from .hugging_face import hf_rows, is_hf_folder


__all__ = ["LabelRow", "open_source"]

WHOLE = 200_000_000
"""Bytes up to which a file that is one JSON object is read at once."""

CHUNK = 1 << 20


def open_source(config: Mapping[str, object], base_dir: str | os.PathLike) -> Iterator[LabelRow]:
    """Return the labels of a source, one after the other; memory does not grow with the file.

    Args:
        config: the source as the recipe has it. ``labels`` is a path (or a list of them): JSON Lines, a JSON array,
            one JSON object whose only list is the rows, Parquet, or a folder that Hugging Face datasets wrote; in
            UTF-8, UTF-16 with its mark, or GBK. ``format`` is a key of :data:`.formats.FORMATS`, ``hf`` (a
            folder; its rows are recognised by their keys) or ``auto``, the default, row by row. ``split`` names the
            parts of a ``dataset_dict.json`` to take, all by default.
        base_dir: where relative paths begin.

    Returns:
        an iterator. A row that cannot be read has a ``problem``; nothing is left out.

    Raises:
        ChatTSError: at once, if the format is unknown or a file is not there or may not be read.
    """
    form = config.get("format") or "auto"
    if form not in (*FORMATS, "auto", "hf"):
        raise ChatTSError(
            f"{shorten(repr(form))} is no format", where="format", fix=f"Use one of auto, hf, {', '.join(FORMATS)}"
        )

    labels = config.get("labels")
    names = labels if isinstance(labels, (list, tuple)) else [labels]
    paths = [os.fspath(name) for name in names if isinstance(name, (str, os.PathLike))]
    if not paths or not all(paths) or len(paths) < len(names):
        raise ChatTSError(f"{shorten(repr(labels))} is no path", where="labels", fix="Name a file")

    files = [(path, Path(base_dir, path)) for path in paths]
    for _, path in files:
        _check(path, form)

    split = config.get("split")
    return _labels(files, form, [split] if isinstance(split, str) else split if isinstance(split, list) else None)


def _check(path: Path, form: str) -> None:
    try:
        if path.is_dir():
            if form not in ("auto", "hf") or not is_hf_folder(path):
                raise ChatTSError(
                    "a folder stands where a label file should be, and it is none that Hugging Face datasets wrote",
                    where=str(path),
                    fix="Name a file, or a folder with dataset_dict.json, state.json or .parquet files",
                )

            os.listdir(path)
            return

        with open(path, "rb") as stream:
            if not stream.read(1):
                raise ChatTSError("the label file is empty", where=str(path), fix="Put the labels into it")
    except OSError as error:
        raise unreadable(path, error) from None

    if path.suffix.lower() not in SUFFIXES:
        raise ChatTSError(
            "files of this kind hold no labels", where=str(path), fix=f"Use one of {', '.join(SUFFIXES)}"
        )


def _labels(files: list[tuple[str, Path]], form: str, split: list[str] | None) -> Iterator[LabelRow]:
    inner = "auto" if form == "hf" else form
    for name, path in files:
        if path.is_dir():
            for inside, number, row in hf_rows(path, split):
                yield _label(row, inner, f"{name.rstrip('/')}/{inside}", number)
        else:
            for number, row in _rows(path):
                yield _label(row, inner, name, number)


def _label(row: object, form: str, file: str, number: int) -> LabelRow:
    if isinstance(row, UnreadableRow):
        return LabelRow(file, number, problem=str(row))

    return read_row(row, form, file, number)


def _rows(path: Path) -> Iterator[tuple[int, object]]:
    if path.suffix.lower() == ".parquet":
        yield from read_rows(path)
        return

    with _as_utf8(path) as readable:
        if path.suffix.lower() == ".json" and (rows := _rows_of_object(readable)) is not None:
            yield from enumerate(rows, start=1)
        else:
            yield from read_rows(readable)


def _encoding(path: Path) -> str:
    """Return the encoding of a text file: by its mark, else by its first part that is more than ASCII."""
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK):
            if stream.tell() == len(chunk) and chunk.startswith((b"\xff\xfe", b"\xfe\xff")):
                return "utf-16"

            if chunk.isascii():
                continue

            return _encoding_of(chunk + stream.readline(CHUNK))

    return "utf-8"


def _encoding_of(chunk: bytes) -> str:
    """Return the encoding in which more of the lines can be read: one damaged line must not decide for the others."""
    lines = [line for line in chunk.splitlines() if not line.isascii()]

    def readable(line: bytes, encoding: str) -> bool:
        try:
            line.decode(encoding)
        except UnicodeDecodeError as error:
            return len(line) == len(chunk) and len(line) - error.start < 4  # a file of one line, cut in a character

        return True

    utf8, gbk = (sum(readable(line, encoding) for line in lines) for encoding in ("utf-8", "gb18030"))
    return "gb18030" if gbk > utf8 else "utf-8"


@contextmanager
def _as_utf8(path: Path) -> Iterator[Path]:
    """Give a path under which the text is in UTF-8: the file itself, or a copy for the time being.

    A character that is broken in the file becomes a byte that is broken in UTF-8, too, so that its row is reported.
    """
    encoding = _encoding(path)
    if encoding == "utf-8":
        yield path
        return

    with tempfile.TemporaryDirectory(prefix="labels_") as folder:
        copy = Path(folder, path.name)
        with open(path, encoding=encoding, errors="surrogateescape", newline="") as read, open(copy, "wb") as write:
            while text := read.read(CHUNK):
                write.write(text.encode("utf-8", "surrogateescape"))

        yield copy


def _rows_of_object(path: Path) -> list[object] | None:
    """Return the rows of a file that is one JSON object over several lines: its only list, or itself."""
    if path.stat().st_size > WHOLE:
        return None

    with open(path, encoding="utf-8-sig", errors="replace") as stream:
        first = next((line for line in stream if line.strip()), "").strip()
        if not first.startswith("{"):
            return None

        try:
            json.loads(first)
            more = any(line.strip() for line in stream)
        except ValueError:
            more = False
        else:
            if more:  # JSON Lines
                return None

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return None

    lists = [value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    talk = {"messages", "conversations"} & content.keys()
    return lists[0] if len(lists) == 1 and not talk else [content]
