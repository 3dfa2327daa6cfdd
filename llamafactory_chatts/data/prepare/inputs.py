"""What ``prepare`` reads: labels in chunks, and what identifies the files it reads them from."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from ... import __version__
from ..labels import sources
from ..labels.formats import LabelRow
from ..labels.matching import FolderIndex
from .config import Recipe, Source


CHUNK, CHUNK_WINDOWS = 16, 2
"""Labels handed to a worker at a time; fewer where each becomes many rows."""

PEEKED = 20
COUNTED_BYTES = 64 << 20
"""A label file up to this size is read once more beforehand, to know how long the run will take."""


def _labels(recipe: Recipe, number: int) -> Iterator[LabelRow]:
    return iter(sources.open_source(recipe.sources[number].raw, Path()))


def chunks(recipe: Recipe, skip: int) -> Iterator[tuple[int, list[LabelRow]]]:
    """Yield source number and labels, without the first ``skip`` chunks; the same chunks in every run."""
    for number, source in enumerate(recipe.sources):
        labels = _labels(recipe, number)
        while chunk := list(islice(labels, CHUNK if source.window is None else CHUNK_WINDOWS)):
            if skip:
                skip -= 1
            else:
                yield number, chunk


def wants_messages(recipe: Recipe) -> bool:
    """Return whether rows are written as messages: as the recipe says, or if a source begins with such rows."""
    if recipe.rows != "auto":
        return recipe.rows == "messages"

    for number in range(len(recipe.sources)):
        for label in islice(_labels(recipe, number), PEEKED):
            if label.messages and [turn.get("role") for turn in label.messages] != ["user", "assistant"]:
                return True

    return False


def count(recipe: Recipe) -> int | None:
    """Return the number of labels, None where only reading all of them would tell."""
    total = 0
    for number, source in enumerate(recipe.sources):
        files = [Path(path) for path in source.labels]
        if all(path.is_file() and path.suffix.lower() == ".jsonl" for path in files):
            total += sum(_lines(path) for path in files)
        elif all(path.is_file() and path.stat().st_size <= COUNTED_BYTES for path in files):
            total += sum(1 for _ in _labels(recipe, number))
        else:
            return None

    return total


def _lines(path: Path) -> int:
    with open(path, "rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def digests(source: Source, index: FolderIndex | None) -> dict[str, str]:
    """Return sha256 of the names, sizes and times of a source's label files and of its series files."""
    files = []
    for labels in map(Path, source.labels):
        files += sorted(map(str, filter(Path.is_file, labels.rglob("*")))) if labels.is_dir() else [str(labels)]

    found = {}
    for what, paths in (("labels", files), ("series", index.paths if index else [])):
        digest = hashlib.sha256()
        for path in paths:
            with suppress(OSError):  # what cannot be read is reported where it is read
                status = os.stat(path)
                digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))

        found[what] = digest.hexdigest()

    return found


def fingerprint(recipe: Recipe, inputs: list[dict[str, str]], messages: bool) -> str:
    """Return what tells whether an interrupted run can be continued: the same recipe, over the same files."""
    config = {key: value for key, value in recipe.config.items() if key not in ("dataset_info", "dataset_name")}
    what = [__version__, config, inputs, messages, CHUNK, CHUNK_WINDOWS]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()
