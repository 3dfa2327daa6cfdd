"""A JSON or JSONL file that could not be loaded: the rows at fault, or a reading that needs no guess at types."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from ...core.errors import ChatTSError, Problems, shorten
from .converter import ChatTSDatasetConverter


def _rows(path: str) -> Iterator[tuple[int, Any]]:
    """Yield (row number from 1, row or the JSON error) of a ``.json`` or ``.jsonl`` file."""
    with open(path, encoding="utf-8-sig") as file:
        if path.endswith(".jsonl"):
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except json.JSONDecodeError as err:
                        yield number, err

            return

        try:
            content = json.load(file)
        except json.JSONDecodeError as err:
            yield err.lineno, err
            return

    yield from enumerate(content if isinstance(content, list) else [content], start=1)


def _shape(cell: Any) -> str:
    if isinstance(cell, str) or (isinstance(cell, list) and cell and isinstance(cell[0], str)):
        return "paths"
    if isinstance(cell, list) and cell and not isinstance(cell[0], list):
        return "one flat list"

    return "a list of lists"


def explain(path: str, dataset_attr: Any, data_args: Any, answers: int) -> bool:
    """Raise a :class:`ChatTSError` that names the wrong rows.

    Args:
        path: of the file.
        dataset_attr, data_args, answers: as for :class:`.converter.ChatTSDatasetConverter`.

    Returns:
        True when all rows are right (the reader failed on something else), False when the file is not of a kind
        that can be looked at here.
    """
    if not os.path.isfile(path) or not path.endswith((".json", ".jsonl")):
        return False

    converter = ChatTSDatasetConverter(dataset_attr, data_args, answers=answers)
    names = dict.fromkeys(name for _, row in _rows(path) if isinstance(row, dict) for name in row)
    problems, checked = Problems(), 0
    shapes: dict[str, str] = {}
    for number, row in _rows(path):
        checked += 1
        where = f"{path}:{number}"
        if isinstance(row, json.JSONDecodeError):
            problems.add(where, f"this is no JSON ({row.msg})", "Write one JSON object per line (.jsonl)")
        elif not isinstance(row, dict):
            problems.add(where, f"a row must be an object, not {type(row).__name__}", "Write {...}")
        else:
            if row.get(converter.column):
                shapes.setdefault(_shape(row[converter.column]), where)

            try:
                converter({name: row.get(name) for name in names})  # as the host's reader fills them
            except ChatTSError as err:
                problems.add(where, err.what, err.fix or "")

    if not checked:
        raise ChatTSError("the file has no rows", where=path, fix="Add rows or remove it from `dataset`")

    problems.raise_if_any(path, checked)
    if len(shapes) > 1:
        kinds = ", ".join(f"{where} holds {shape}" for shape, where in shapes.items())
        raise ChatTSError(
            f"the {converter.column} cells are of different kinds: {shorten(kinds, 300)}",
            where=path,
            fix="Write every cell as a list of lists",
        )

    return True


def _features(path: str) -> Any:
    """Return the type of each column, as all rows of the file together need it."""
    import pyarrow as pa
    from datasets import Features

    types: dict[str, Any] = {}
    numbered = _rows(path)
    while chunk := list(islice(numbered, 256)):
        for name in dict.fromkeys(name for _, row in chunk for name in row):
            try:
                known = pa.schema([(name, types.get(name, pa.null()))])
                found = pa.schema([(name, pa.array([row.get(name) for _, row in chunk]).type)])
                types[name] = pa.unify_schemas([known, found], promote_options="permissive").field(name).type
            except (pa.ArrowException, OverflowError) as err:
                raise ChatTSError(
                    f"the column {name!r} holds values of different types in rows {chunk[0][0]} to {chunk[-1][0]} "
                    f"({shorten(err, 60)})",
                    where=path,
                    fix="Write values of the same type in every row",
                ) from err

    return Features.from_arrow_schema(pa.schema(list(types.items())))


def _generate(path: str, names: list[str], state: tuple[int, int]) -> Iterator[dict[str, Any]]:
    for _, row in _rows(path):
        yield {name: row.get(name) for name in names}


@contextmanager
def reading_by_rows(loader: Any, path: str, split: str) -> Iterator[None]:
    """Let the host's loader read one JSON file row by row; ``split`` must name all of it."""
    from datasets import Dataset

    features, stat, original = _features(path), os.stat(path), loader.load_dataset

    def load_dataset(*args: Any, cache_dir: str | None = None, **kwargs: Any) -> Any:
        if split != "train":
            return original(*args, cache_dir=cache_dir, **kwargs)

        given = {"path": path, "names": list(features), "state": (stat.st_mtime_ns, stat.st_size)}
        return Dataset.from_generator(_generate, features=features, cache_dir=cache_dir, gen_kwargs=given)

    loader.load_dataset = load_dataset
    try:
        yield
    finally:
        loader.load_dataset = original
