"""Check a dataset before a training: structure, series, answers, duplicates, leakage.

DATASET is a file (.jsonl, .json, .parquet), a folder of them, or a name in dataset_info.json. Of a split written by
`prepare`, the name without _train, _validation, _test means all parts; the parts are compared with each other.

errors     what stops a training or spoils it; the exit code is 1
warnings   what should be looked at; the exit code stays 0
An argument that cannot be used gives the exit code 2.

examples:
  lmf-chatts check chatts_demo
  lmf-chatts check mydata/train.jsonl --against mydata/test.jsonl --model bases/chatts-8b
  lmf-chatts check mydata/plants.parquet --answer-schema intervals --json > findings.json
  lmf-chatts check mydata/train.jsonl --preview 20 --out pictures --html check.html
"""

import argparse
import json
import sys
from typing import Any

from ..core.errors import ChatTSError


PAGE_SAMPLES = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("dataset", metavar="DATASET", help="file, folder, or name in dataset_info.json")
    parser.add_argument(
        "--dataset-info", metavar="DIR", help="folder of dataset_info.json, or the file (default: dataset_info)"
    )
    parser.add_argument("--against", metavar="OTHER", help="dataset whose series must not be in DATASET")
    parser.add_argument(
        "--model", metavar="DIR", help="ChatTS folder: its limit on the length (default: 32768 points)"
    )
    parser.add_argument(
        "--answer-schema",
        metavar="F",
        help="JSON schema of every answer, or `intervals` for the packaged one (default: only answers that look like "
        "a list of intervals are held against it)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--preview", type=int, metavar="N", help="draw N samples as PNG")
    parser.add_argument("--out", metavar="DIR", help="folder of the pictures (default: check_preview)")
    parser.add_argument("--html", metavar="FILE", help=f"write one page, with N samples (default: {PAGE_SAMPLES})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the drawn samples (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Check, print the findings, write what was asked for; return 1 when there are errors."""
    if args.preview is not None and args.preview < 1:
        raise ChatTSError(f"{args.preview} samples", where="--preview", fix="Give a number from 1")

    if args.out is not None and args.preview is None:
        raise ChatTSError("there is nothing to put there", where="--out", fix="Add --preview N")

    from rich.console import Console

    from ..data.check import dataset as checks

    screen = Console(stderr=True)
    with screen.status(f"reading {args.dataset}") as status:
        findings = checks.check(
            args.dataset,
            dataset_info=args.dataset_info,
            model=args.model,
            answer_schema=args.answer_schema,
            against=args.against,
            samples=args.preview or (PAGE_SAMPLES if args.html else 0),
            seed=args.seed,
            progress=lambda rows: status.update(f"{rows:,} rows of {args.dataset}"),
        )

    written = _pictures(args, findings) if args.preview or args.html else []
    if args.json:
        print(json.dumps({**findings.as_dict(), "written": written}, ensure_ascii=False, indent=2))
    else:
        _print(findings)
        for path in written:
            print(path)

    return findings.status


def _pictures(args: argparse.Namespace, findings: Any) -> list[str]:
    from ..data.check import page as check_page
    from ..data.check import preview
    from ..data.check.preview_fonts import HINT

    pictures = [preview.draw(sample) for sample in findings.samples]
    note = HINT if any(picture.substituted for picture in pictures) else ""
    if note:
        print(f"preview: {note}", file=sys.stderr)

    written = []
    if args.preview:
        written += map(str, preview.write(pictures, args.out or "check_preview"))

    if args.html:
        check_page.write(args.html, findings, pictures, note)
        written.append(args.html)

    return written


def _print(findings: Any) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=False)
    colours = {"error": "bold red", "warning": "yellow", "info": "cyan"}
    shortest, median, longest = findings.length_range()
    for name, rows in findings.parts:
        print(f"{name}: {rows} rows")

    for name in findings.compared:
        print(f"compared with {name}")

    print(f"{findings.series} series of {shortest} to {longest} points, median {median}")
    if findings.found():
        table = Table(show_lines=False)
        for name, justify in (("Level", "left"), ("Code", "left"), ("Total", "right"), ("Rows", "right")):
            table.add_column(name, justify=justify, no_wrap=True)

        table.add_column("What", ratio=1)
        for item in findings.found():
            level = Text(item.level, style=colours[item.level])
            table.add_row(level, item.code, str(item.total), str(item.rows), Text(f"{item.title}. {item.fix}."))

        console.print(table)
        for item in findings.found():
            print(f"{item.code}:")
            for where, detail in item.examples[:3]:
                print(f"  {where}{': ' if detail else ''}{detail}")

            if item.total > 3:
                print(f"  ... and {item.total - 3} more")

    totals = [f"{findings.total(level)} {level}s" for level in ("error", "warning")]
    print(", ".join(totals) if findings.found() else "nothing wrong")
