"""Turn label files and folders of series into one dataset that trains.

A recipe names the sources: a label file each, a folder of series, and rules by which a label finds its file.
The result is JSON Lines or Parquet with the columns input, output and timeseries (or messages and timeseries),
with an entry in dataset_info.json. A row that cannot be used is never lost in silence: it is in NAME.rejects.jsonl
with its reason, and read = written + rejected for every source. A run that was interrupted goes on where it stopped
when the same command is given again.

exit status: 0 if rows were written, 1 if none could be, 2 for a mistake in the recipe

examples:
  # four plants with ready rules for their file names
  lmf-chatts prepare examples/prepare_plants.yaml

  # the same labels, files of exactly the same name only: what do the rules bring?
  lmf-chatts prepare examples/prepare_plants.yaml --exact-only

  # to Parquet, answers turned into JSON, on four processes
  lmf-chatts prepare examples/prepare_plants.yaml --output dataset_info/plants.parquet --answers json --workers 4

a recipe, with every key that most people need (all keys: examples/prepare_plants.yaml):
  output: dataset_info/plant.jsonl
  dataset_info: dataset_info
  answers: json
  split: {train: 0.9, validation: 0.1}
  sources:
    - labels: plant/labels.json
      series: plant/csv
      match: [exact, {suffix: {".jpg": ".csv"}}, unique-stem]
      gaps: interpolate
      window: {length: 1024, stride: 512}
"""

import argparse
import json
import sys

from ..core.errors import shorten


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; those that also stand in the recipe override it."""
    parser.add_argument("config", metavar="CONFIG.yaml", help="the recipe")
    parser.add_argument(
        "--exact-only", action="store_true", help="match by exact name only; writes NAME_exact_only, no dataset_info"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per CPU core)")
    parser.add_argument("--output", metavar="FILE", help="file to write, .jsonl or .parquet (instead of the recipe's)")
    parser.add_argument(
        "--answers", choices=("json", "keep"), help="json: Python literals become JSON (instead of the recipe's)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Prepare the dataset and print the report."""
    from ..data.prepare import run as prepare

    changes = {key: getattr(args, key) for key in ("output", "answers") if getattr(args, key) is not None}
    report = prepare.prepare(
        args.config, workers=args.workers, exact_only=args.exact_only, progress=sys.stderr.isatty(), **changes
    )
    if args.json:
        print(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        _print(report)

    return 0 if report.rows else 1


def _print(report) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("source", "read", "written", "rejected", "dataset rows", "reasons", title="prepared")
    for source in [*report.sources, report.total()]:
        reasons = "\n".join(f"{count} {reason}" for reason, count in source.reasons.most_common())
        numbers = (source.read, source.written, source.rejected, source.rows)
        table.add_row(shorten(source.name, 40), *map(str, numbers), reasons)

    for column in table.columns[1:5]:
        column.justify = "right"

    console = Console(width=None if sys.stdout.isatty() else 119, highlight=False, markup=False, soft_wrap=False)
    console.print(table)
    for line in report.lines():
        console.print(line, soft_wrap=True)
