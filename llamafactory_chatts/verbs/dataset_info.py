"""Write or check dataset_info.json, the file in which LLaMA-Factory looks up datasets.

generate   adds the entries of the demo data and writes the schema beside them; other entries stay
validate   names every wrong key, and every data file that does not exist

examples:
  lmf-chatts dataset-info generate
  lmf-chatts dataset-info validate --dir mydata
"""

import argparse
from pathlib import Path

from ..data import dataset_info
from ..data.demo import SHIPPED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("action", choices=("generate", "validate"), help="what to do")
    parser.add_argument(
        "--dir", default="dataset_info", metavar="DIR", help="folder of dataset_info.json (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Do it and print the result."""
    path = Path(args.dir, dataset_info.FILE)
    if args.action == "validate":
        print(f"{path}: {dataset_info.validate(path)} entries, nothing wrong")
        return 0

    missing = dataset_info.generate(args.dir)
    print(f"{path}: {', '.join(dataset_info.shipped_entries())} written")
    for name in missing:
        file = Path(args.dir, name)
        rows, seed = SHIPPED[file.stem]
        print(f"{file} is not there yet: lmf-chatts demo-data --out {file} --rows {rows} --seed {seed}")

    return 0
