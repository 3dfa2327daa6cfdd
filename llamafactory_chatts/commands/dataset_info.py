"""Add, list, remove and check entries of dataset_info.json, the file in which LLaMA-Factory looks up datasets.

add        adds an entry for a data file whose first rows have the columns it names; a name that is taken is refused
           unless --replace is given
list       prints every entry
remove     removes an entry; its data file stays
validate   names every wrong key, and every data file that does not exist
generate   adds the entries of the demo data and writes the schema beside them

Entries that are not named stay as they are, in their order. Several processes may write at the same time.

examples:
  lmf-chatts dataset-info add plant dataset_info/plant.jsonl
  lmf-chatts dataset-info add pairs pairs.jsonl --dir mydata --formatting sharegpt --messages messages --ranking
  lmf-chatts dataset-info add corpus corpus.jsonl --dir mydata --prompt text --response '' --timeseries ''
  lmf-chatts dataset-info list --dir mydata
  lmf-chatts dataset-info validate
"""

import argparse
import itertools
import json
import os
from pathlib import Path
from typing import Any

from ..core.contract import COLUMN
from ..core.errors import ChatTSError
from ..data.synthesize import demo
from ..rows import dataset_info
from ..rows.entries import ELSEWHERE, FILE
from ..rows.reading import SUFFIXES, read_rows


ACTIONS = ("add", "list", "remove", "validate", "generate")
COLUMNS = {"prompt": "input", "query": "", "response": "output", "history": "", "messages": "", "system": "",
           "tools": "", "chosen": "", "rejected": "", "kto_tag": ""}  # fmt: skip
"""LLaMA-Factory's columns -> what :func:`entry_for` calls them where nothing is said."""

EMPTY = {COLUMN: "these are texts alone", "response": "these are texts to pre-train on"}
"""Columns that a file may lack, and when."""

LOOKED_AT = 100
"""Rows of a file that are read to see whether its columns are there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("action", choices=ACTIONS, help="what to do")
    parser.add_argument("name", nargs="?", metavar="NAME", help="entry (add, remove)")
    parser.add_argument("file", nargs="?", metavar="FILE", help="data file below --dir (add)")
    parser.add_argument(
        "--dir", default="dataset_info", metavar="DIR", help="folder of dataset_info.json (default: %(default)s)"
    )
    parser.add_argument("--formatting", choices=("alpaca", "sharegpt", "openai", "chatts"), help="format of the rows")
    parser.add_argument("--timeseries", default=COLUMN, metavar="COLUMN", help="its name; '' for text-only data")
    parser.add_argument("--ranking", action="store_true", help="rows are pairs, chosen and rejected")
    parser.add_argument("--replace", action="store_true", help="change an entry that is there (add)")
    columns = parser.add_argument_group("columns (add)", "what the file calls LLaMA-Factory's columns")
    for column, default in COLUMNS.items():
        known = f"(default: {default}, in alpaca and chatts rows)" if default else ""
        columns.add_argument(f"--{column.replace('_', '-')}", metavar="COLUMN", help=known or None)


def named_columns(args: argparse.Namespace) -> dict[str, str]:
    """Return what the options call the columns; "" for one that the file has not."""
    return {column: getattr(args, column) for column in COLUMNS if getattr(args, column) is not None}


def entry_for(args: argparse.Namespace) -> dict[str, Any]:
    """Return the entry that the arguments of ``add`` describe.

    Raises:
        ChatTSError: the data file is missing or not below the folder.
    """
    folder = os.path.realpath(args.dir)
    found = next((path for path in (Path(args.dir, args.file), Path(args.file)) if path.exists()), None)
    if found is None:
        raise ChatTSError("the data file is missing", where=args.file, fix=f"Name a file below {args.dir}")

    relative = os.path.relpath(os.path.realpath(found), folder)
    if relative.startswith(os.pardir):
        raise ChatTSError(
            f"the data file is not below {args.dir}",
            where=args.file,
            fix="Move it there, or name its folder with --dir",
        )

    entry: dict[str, Any] = {"file_name": relative}
    if args.formatting:
        entry["formatting"] = args.formatting

    if args.ranking:
        entry["ranking"] = True

    columns = named_columns(args)
    if args.formatting not in ("sharegpt", "openai"):
        columns = {**{column: default for column, default in COLUMNS.items() if default}, **columns}
        if args.ranking and not args.response:
            columns.pop("response")

    columns = {column: name for column, name in columns.items() if name}

    if args.timeseries:
        columns[COLUMN] = args.timeseries

    return {**entry, "columns": columns}


TEXT = "text"
"""The column of texts to pre-train on, in the files of most such collections."""


def for_pretraining(columns: dict[str, str], file: Path) -> dict[str, str]:
    """Return the columns of a file of plain texts, ``{"prompt": "text"}``; ``columns`` for any other file.

    Args:
        columns: those of :func:`entry_for` where no option names one.
        file: its first rows decide: they hold ``text`` and none of ``columns``.
    """
    there = {TEXT} if file.suffix.lower() == ".txt" else first_columns(file)
    return {"prompt": TEXT} if TEXT in there and not there & set(columns.values()) else columns


def first_columns(file: Path) -> set[str]:
    """Return the columns of a file's first rows; none for kinds of files that only LLaMA-Factory reads."""
    there: set[str] = set()
    if file.suffix.lower() in SUFFIXES and file.is_file():
        for _, row in itertools.islice(read_rows(file), LOOKED_AT):
            there |= set(row) if isinstance(row, dict) else set()

    return there


def check_columns(file: Path, columns: dict[str, str]) -> None:
    """Raise a :class:`ChatTSError` where none of a file's first rows has a column that an entry names.

    Kinds of files that only LLaMA-Factory reads (CSV, a folder) are left alone, and files without a row.
    """
    there = first_columns(file)
    for column, name in columns.items() if there else ():
        if name not in there:
            option = "--" + column.replace("_", "-")
            fix = "Name it with"
            if column in EMPTY:
                fix = f"Add {option} '' if {EMPTY[column]}, or"

            raise ChatTSError(
                f"no row has the column {name} ({column}); there are: {', '.join(sorted(there))}",
                where=str(file),
                fix=f"{fix} {option} COLUMN",
            )


def _add(args: argparse.Namespace, path: Path) -> int:
    entry = entry_for(args)
    if not args.formatting and not args.ranking and not named_columns(args):
        entry["columns"] = for_pretraining(entry["columns"], path.parent / entry["file_name"])

    check_columns(path.parent / entry["file_name"], entry["columns"])
    problems = list(dataset_info.find_problems(path, {args.name: entry}))
    if problems:
        first = problems[0]
        raise ChatTSError(first.what, where=first.where, fix=first.fix or None)

    dataset_info.write(path, {args.name: entry}, replace=args.replace)
    print(f"{path}: {args.name} added: {json.dumps(entry, ensure_ascii=False)}")
    return 0


def run(args: argparse.Namespace) -> int:
    """Do it and print the result."""
    path = Path(args.dir, FILE)
    if (args.action in ("add", "remove") and not args.name) or (args.action == "add" and not args.file):
        raise ChatTSError(
            f"{args.action} needs {'a name and a file' if args.action == 'add' else 'a name'}",
            where="dataset-info",
            fix=f"Run: lmf-chatts dataset-info {args.action} NAME" + (" FILE" if args.action == "add" else ""),
        )

    if args.action == "add":
        return _add(args, path)

    if args.action == "remove":
        dataset_info.remove(path, args.name)
        print(f"{path}: {args.name} removed")
        return 0

    if args.action == "list":
        for name, entry in dataset_info.read(path).items():
            if not isinstance(entry, dict) or not isinstance(entry.get("columns", {}), dict):
                print(f"{name}  not a usable entry: see lmf-chatts dataset-info validate")
                continue

            source = next((entry[key] for key in ("file_name", *ELSEWHERE) if key in entry), "?")
            series = entry.get("columns", {}).get(COLUMN, COLUMN if entry.get("formatting") == "chatts" else "-")
            print(f"{name}  {source}  {entry.get('formatting', 'alpaca')}  timeseries: {series}")

        return 0

    if args.action == "validate":
        print(f"{path}: {dataset_info.validate(path)} entries, nothing wrong")
        return 0

    missing = demo.write_entries(args.dir)
    print(f"{path}: {', '.join(demo.shipped_entries())} written")
    for name in missing:
        file = Path(args.dir, name)
        rows, seed = demo.SHIPPED[file.stem]
        print(f"{file} is not there yet: lmf-chatts demo-data --out {file} --rows {rows} --seed {seed}")

    return 0
