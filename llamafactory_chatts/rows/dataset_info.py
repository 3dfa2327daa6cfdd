"""LLaMA-Factory's dataset_info.json: the entries shipped here, and what is wrong with an entry."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..core.atomic import write_text
from ..core.errors import ChatTSError, Problem, shorten
from ..core.locking import locked
from .entries import Entries, find_mistakes, local_file, raise_mistakes, read_entries


def read(path: str | os.PathLike) -> Entries:
    """Return the content of a dataset_info.json.

    Raises:
        ChatTSError: it is missing or not a JSON object.
    """
    if not os.path.exists(path):
        fix = "Name its folder with --dir, or run dataset-info generate"
        raise ChatTSError("the file is missing", where=str(path), fix=fix)

    return read_entries(path)[1]


def write(path: str | os.PathLike, entries: Entries, *, replace: bool = True) -> Entries:
    """Add or replace entries in a dataset_info.json, atomically; all others stay, in their order.

    Several processes may write at the same time: none loses the entry of another.

    Args:
        replace: when False, an entry that is there already is an error.

    Returns:
        the new content.

    Raises:
        ChatTSError: the file that is there is no JSON object, it cannot be written, or another process holds it.
    """
    target = os.path.realpath(path)  # a link stays a link
    with locked(target):
        text, content = read_entries(path) if os.path.exists(target) else ("{}\n", {})
        there = [name for name in entries if name in content]
        if there and not replace:
            raise ChatTSError("the name is taken", where=f"{path}: {there[0]}", fix="Take another, or add --replace")

        return _put(target, text, content, {**content, **entries})


def remove(path: str | os.PathLike, name: str) -> Entries:
    """Remove an entry, as carefully as :func:`write` adds one; its data file stays. Returns the new content.

    Raises:
        ChatTSError: there is no such entry, or the file cannot be read or written.
    """
    target = os.path.realpath(path)
    if not os.path.exists(target):
        read(path)  # says what is wrong

    with locked(target):
        text, content = read_entries(path)
        if name not in content:
            names = ", ".join(map(shorten, content)) or "none"
            raise ChatTSError("there is no such entry", where=f"{path}: {name}", fix=f"Entries: {names}")

        return _put(target, text, content, {key: entry for key, entry in content.items() if key != name})


def _put(target: str, text: str, old: Entries, new: Entries) -> Entries:
    """Write a content in the way of the text that was there: its indentation, line ends, escapes and last line."""
    if new != old or not os.path.exists(target):
        indent = re.match(r'\s*\{\s*?\n([ \t]*)"', text)
        width = indent[1] if indent else None if old else "  "
        dumped = json.dumps(new, ensure_ascii="\\u" in text, indent=width)
        ends = text[len(text.rstrip()) :]
        write_text(target, dumped.replace("\n", "\r\n" if "\r\n" in text else "\n") + ends)

    return new


def find_problems(path: str | os.PathLike, content: Entries | None = None) -> Iterator[Problem]:
    """Yield what is wrong with a dataset_info.json, each with file and key.

    Entries are held against the schema, and their local files must exist.

    Args:
        path: the file.
        content: what to take for its content; None for what it holds.

    Raises:
        ChatTSError: the file cannot be read at all.
    """
    content = read(path) if content is None else content
    yield from find_mistakes(content, path)
    for name, entry in content.items():
        file = local_file(entry, Path(path).parent) if isinstance(entry, dict) else None
        if file is not None and not file.exists():
            where = f"{path}: {name}.file_name"
            yield Problem(where, f"{file} does not exist", "Correct the name or put the file there")


def validate(path: str | os.PathLike) -> int:
    """Check a dataset_info.json; see :func:`find_problems`.

    Returns:
        the number of entries.

    Raises:
        ChatTSError: one or more mistakes, all of them named.
    """
    raise_mistakes(list(find_problems(path)), str(path))
    return len(read(path))
