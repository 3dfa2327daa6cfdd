"""Why a JSON or JSONL file could not be loaded: the rows at fault, found with a plain reading."""

import json
import os
from collections.abc import Iterator
from typing import Any

from ..core.errors import ChatTSError, Problems, shorten
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


def explain(path: str, dataset_attr: Any, data_args: Any) -> None:
    """Raise a :class:`ChatTSError` that names the wrong rows; return when the file shows nothing wrong."""
    if not os.path.isfile(path) or not path.endswith((".json", ".jsonl")):
        return

    converter = ChatTSDatasetConverter(dataset_attr, data_args)
    problems, shapes, checked = Problems(), {}, 0
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
                converter(row)
            except ChatTSError as err:
                problems.add(where, err.what, err.fix or "")

    problems.raise_if_any(path, checked)
    if len(shapes) > 1:
        kinds = ", ".join(f"{where} holds {shape}" for shape, where in shapes.items())
        raise ChatTSError(
            f"the {converter.column} cells are of different kinds: {shorten(kinds, 300)}",
            where=path,
            fix="Write every cell as a list of lists",
        )
