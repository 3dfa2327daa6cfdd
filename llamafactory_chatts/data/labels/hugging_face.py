"""Folders that Hugging Face datasets wrote, read without it: save_to_disk, DatasetDict, or Parquet files."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import ChatTSError, shorten
from ...rows.reading import UnreadableRow, read_rows


if TYPE_CHECKING:
    import pyarrow as pa


DICT, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
BATCH = 64
"""Rows that are turned into Python objects at once."""


def is_hf_folder(folder: Path) -> bool:
    """Return whether a folder is one of those that :func:`hf_rows` reads."""
    return (
        any((folder / name).is_file() for name in (DICT, STATE)) or next(folder.rglob("*.parquet"), None) is not None
    )


def hf_rows(folder: Path, split: list[str] | None = None) -> Iterator[tuple[str, int, object]]:
    """Yield (file below the folder, row from 1, row) of a folder.

    Args:
        folder: one with ``dataset_dict.json``, with ``state.json`` and ``.arrow`` files, or with ``.parquet`` files.
        split: the splits of a ``dataset_dict.json`` to take, in this order; all in its own order if None.

    Raises:
        ChatTSError: a JSON file of the folder is broken, or a split is not there. A shard that is missing or broken
            becomes an :class:`.reading.UnreadableRow` in its place.
    """
    if (folder / DICT).is_file():
        there = _json(folder / DICT).get("splits")
        if not isinstance(there, list):
            raise ChatTSError("the key 'splits' is missing", where=str(folder / DICT), fix="Save the dataset again")

        wanted = there if split is None else split
        for name in wanted:
            if name not in there:
                raise ChatTSError(f"there is no split {name!r}", where=str(folder), fix=f"Use: {', '.join(there)}")

        for name in wanted:
            for file, number, row in _saved(folder / name):
                yield f"{name}/{file}", number, row
    elif (folder / STATE).is_file():
        yield from _saved(folder)
    else:
        for path in sorted(folder.rglob("*.parquet")):
            name = path.relative_to(folder).as_posix()
            try:
                for number, row in read_rows(path):
                    yield name, number, row
            except ChatTSError as error:
                yield name, 1, UnreadableRow(f"{error.what} (nothing of this file was read)")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ChatTSError(f"not readable as JSON ({shorten(error)})", where=str(path), fix="Save it again") from None

    if not isinstance(content, dict):
        raise ChatTSError("not a JSON object", where=str(path), fix="Save the dataset again")

    return content


def _saved(folder: Path) -> Iterator[tuple[str, int, object]]:
    """Yield the rows of one ``save_to_disk`` folder."""
    state = _json(folder / STATE)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise ChatTSError(
            "the rows are chosen by a separate index", where=str(folder / STATE), fix="Call flatten_indices() and save"
        )

    for item in state.get("_data_files") or []:
        name = os.path.basename(item.get("filename", ""))  # never outside the folder
        number = 0
        try:
            for batch in _batches(folder / name):
                for start in range(0, batch.num_rows, BATCH):
                    for row in batch.slice(start, BATCH).to_pylist():
                        number += 1
                        yield name, number, row
        except FileNotFoundError:
            yield name, 1, UnreadableRow(f"the file {name} is missing")
        except Exception as error:  # a damaged file fails in pyarrow in many ways
            if isinstance(error, (GeneratorExit, MemoryError)):
                raise

            yield name, number + 1, UnreadableRow(f"broken Arrow file: {shorten(error)} (nothing behind it was read)")


def _batches(path: Path) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa

    with pa.memory_map(os.fspath(path)) as stream:
        try:
            reader = pa.ipc.open_stream(stream)
        except pa.ArrowInvalid:
            stream.seek(0)
            file = pa.ipc.open_file(stream)
            yield from (file.get_batch(index) for index in range(file.num_record_batches))
        else:
            yield from reader
