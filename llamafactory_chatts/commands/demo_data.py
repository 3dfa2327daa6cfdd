"""Write demo data: made-up series with anomalies, questions in Chinese and English, answers in JSON.

The same settings always give the same file.

examples:
  # the training data kept in dataset_info/
  lmf-chatts demo-data

  # its evaluation data, and a larger set with longer series
  lmf-chatts demo-data --out dataset_info/chatts_demo_eval.jsonl --rows 24 --seed 1
  lmf-chatts demo-data --out mydata/large.jsonl --rows 5000 --seed 2 --max-points 1024
"""

import argparse

from ..data.synthesize import demo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; the defaults are those of the stored training file."""
    rows, seed = demo.SHIPPED["chatts_demo"]
    low, high = demo.SHIPPED_POINTS
    parser.add_argument(
        "--out",
        default="dataset_info/chatts_demo.jsonl",
        metavar="FILE",
        help="file to write; one that is there is replaced (default: %(default)s)",
    )
    numbers = (
        ("--rows", rows, "rows of the file"),
        ("--seed", seed, "another seed gives other rows"),
        ("--min-points", low, "shortest series"),
        ("--max-points", high, "longest series"),
    )
    for flag, default, text in numbers:
        parser.add_argument(flag, type=int, default=default, metavar="N", help=f"{text} (default: {default})")


def run(args: argparse.Namespace) -> int:
    """Write the file and print its name."""
    demo.write(args.out, args.rows, args.seed, args.min_points, args.max_points)
    print(f"{args.out}: {args.rows} rows")
    return 0
