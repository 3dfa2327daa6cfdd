"""The rows of a recipe's datasets, as far as they show without a tokenizer: columns, series, lengths."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.contract import COLUMN, MAX_OVERLONG_SHARE, PLACEHOLDER, TEMPLATE
from ...core.errors import ChatTSError, shorten
from ...core.series import as_series, encode, num_patches
from ...rows.mapped_columns import unmapped
from ..context import Context
from ..finding import Finding
from ..launch.run import LARGEST_COUNTED


ROWS = 300
"""Rows of a file that are looked at."""

PIECES = re.compile(r"\d|[^\W\d_]+|[^\w\s]+")
"""What a tokenizer never joins: a digit, a word, signs in a row. Their number is a lower bound for the tokens."""

FRAME = 20
"""Tokens around a prompt and an answer: roles, and the system prompt."""


def first_rows(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Return the first rows of a JSON, JSON lines or Parquet file, and whether these are all; else ([], False)."""
    rows: list[Any] = []
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            file = pq.ParquetFile(path)
            rows = next(file.iter_batches(ROWS), None)
            rows = rows.to_pylist() if rows is not None else []
            return rows, len(rows) == file.metadata.num_rows

        if path.suffix == ".jsonl" or path.suffix == ".json":
            with path.open(encoding="utf-8-sig") as file:
                head = file.read(1)
                file.seek(0)
                if head == "[" and path.stat().st_size < LARGEST_COUNTED // 8:
                    rows = json.load(file)
                elif head == "{":
                    for line in file:
                        rows += [json.loads(line)] if line.strip() else []
                        if len(rows) > ROWS:
                            break
    except (OSError, ValueError):
        return [], False  # the run names the line; lmf-chatts check does, too

    whole = len(rows) <= ROWS
    return [row for row in rows[:ROWS] if isinstance(row, dict)], whole and bool(rows)


def rows_of_datasets(context: Context) -> Iterator[Finding]:
    """Columns that no row has, series that no column names, rows that cannot fit; a starting run looks itself."""
    if context.at_start or not context.trains:
        return

    if context.get("tokenized_path") and Path(str(context.get("tokenized_path"))).is_dir():
        return

    info = context.dataset_dir / "dataset_info.json"
    for name, entry in context.entries.items():
        key = "dataset" if name in context.words("dataset") else "eval_dataset"
        path = context.dataset_dir / str(entry.get("file_name", ""))
        for level, what, fix in _entry(context, entry, path):
            yield Finding(level, key, f"{name}: {what}", f"{info}: {name}", fix)


def _entry(context: Context, entry: dict[str, Any], path: Path) -> Iterator[tuple[str, str, str]]:
    formatting, columns = entry.get("formatting", "alpaca"), entry.get("columns")
    named = {key: value for key, value in (columns or {}).items() if isinstance(value, str)}
    if context.stage == "kto" and columns is not None and not named.get("kto_tag"):
        yield "error", "stage kto needs a column that says good or bad", 'Add "kto_tag": "COLUMN" to its columns'

    rows, whole = first_rows(path) if path.is_file() else ([], False)
    if not rows:
        return

    level = "error" if whole else "warning"
    there = {key for row in rows for key in row}
    listed = shorten(", ".join(sorted(there)), 120)
    for key, column in named.items():
        if column not in there:
            yield level, f"no row has the column {column!r} that {key} names (rows have: {listed})", "Correct columns"

    if context.get("template") != TEMPLATE or formatting == TEMPLATE and columns is None:
        return

    if named.get(COLUMN) or formatting == TEMPLATE:
        return

    unnamed = dict.fromkeys(name for row in rows for name in unmapped(row, named.values()))
    for column in unnamed:
        filled = sum(column in unmapped(row, named.values()) for row in rows)
        fix = f'Add "{COLUMN}": "{column}" to its columns'
        what = f"{filled} of {len(rows)} rows hold series in {column!r}, which columns does not name"
        yield ("error" if filled == len(rows) else "warning"), what, fix

    if not unnamed and any(PLACEHOLDER in json.dumps(row, ensure_ascii=False) for row in rows):
        yield level, f"its rows have {PLACEHOLDER}, but columns names no {COLUMN}", f'Add "{COLUMN}": "..." to it'


def shortest_tokens(row: dict[str, Any], column: str, patch_size: int) -> int:
    """Return a number of tokens that a row has at least: patches, pieces of headers and texts, the frame."""
    count = FRAME
    cell = row.get(column)
    series = cell if isinstance(cell, list) else []
    if series and not isinstance(series[0], list):
        series = [series]

    for item in series:
        try:
            array = as_series(item)
            count += num_patches(len(array), patch_size) + len(PIECES.findall(encode(array).header))
        except (ChatTSError, ValueError, TypeError):
            continue  # paths, or a wrong row: the run names it

    texts = " ".join(str(value) for key, value in row.items() if key != column and isinstance(value, str))
    return count + len(PIECES.findall(texts.replace(PLACEHOLDER, " ")))


def rows_too_long(context: Context) -> Iterator[Finding]:
    """Rows of which a lower bound is already longer than ``cutoff_len`` allows."""
    cutoff = context.number("cutoff_len", 2048)
    if context.at_start or not context.is_chatts or context.stage == "pt" or context.on("drop_overlong"):
        return

    block = context.base_config.get("ts")
    patch = block.get("patch_size", 8) if isinstance(block, dict) else 8
    for name in context.series_entries:
        entry = context.entries[name]
        columns = entry.get("columns") or {}
        rows, whole = first_rows(context.dataset_dir / str(entry.get("file_name", "")))
        used = {value for key, value in columns.items() if isinstance(value, str)} or {"input", "output", COLUMN}
        column = columns.get(COLUMN, COLUMN)
        lengths = [
            shortest_tokens({key: value for key, value in row.items() if key in used}, column, int(patch))
            for row in rows
        ]
        long = [length for length in lengths if length > cutoff]
        if not long or len(long) <= MAX_OVERLONG_SHARE * len(rows):
            continue

        what = f"{name}: {len(long)} of {len(rows)} rows that were looked at are longer than {cutoff:g} tokens"
        fix = f"Write cutoff_len: {max(long)} or more (lmf-chatts plan counts exactly), or drop_overlong: true"
        level = "error" if whole else "warning"
        yield Finding(level, "cutoff_len", what, context.recipe.where("cutoff_len"), fix)
