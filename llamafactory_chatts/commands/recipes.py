"""Recipes, DeepSpeed files and demo rows that come with the package: list them, show one, copy them.

list            prints each recipe with what it is for
show NAME       prints a recipe
copy DIR        writes examples/ and dataset_info/ into DIR; recipes run from there, as the README shows them

Files that are there already and differ are never replaced.

examples:
  lmf-chatts recipes
  lmf-chatts recipes show chatts_qlora
  lmf-chatts recipes copy plant && cd plant && llamafactory-cli train examples/chatts_qlora.yaml
"""

import argparse
import shutil
from pathlib import Path

from ..core.errors import ChatTSError


PACKAGE = Path(__file__).resolve().parents[1]
FOLDERS = ("examples", "dataset_info")
ACTIONS = ("list", "show", "copy")


def home() -> Path:
    """Return the folder that holds ``FOLDERS``: inside an installed package, or the checkout it is installed from."""
    packed = PACKAGE / "shipped"
    return packed if packed.is_dir() else PACKAGE.parent


def recipes() -> dict[str, Path]:
    """Return name -> file of each recipe."""
    return {path.stem: path for path in sorted((home() / "examples").glob("*.yaml"))}


def copy(folder: Path) -> list[Path]:
    """Copy all files below ``FOLDERS`` into a folder; returns those that were written.

    Raises:
        ChatTSError: a file is there with another content; nothing is written then.
    """
    sources = [path for name in FOLDERS for path in sorted((home() / name).rglob("*")) if path.is_file()]
    targets = {path: folder / path.relative_to(home()) for path in sources if "__pycache__" not in path.parts}
    for source, target in targets.items():
        if target.exists() and target.read_bytes() != source.read_bytes():
            raise ChatTSError("it is there and differs", where=str(target), fix="Name another folder, or move it away")

    written = [source for source, target in targets.items() if not target.exists()]
    for source in written:
        targets[source].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, targets[source])

    return [targets[source] for source in written]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", help="what to do (default: list)")
    parser.add_argument("name", nargs="?", metavar="NAME|DIR", help="recipe to show; folder to copy into")


def run(args: argparse.Namespace) -> int:
    """Do it and print the result."""
    known = recipes()
    if args.action == "list":
        width = max(map(len, known))
        for name, path in known.items():
            print(f"{name:<{width}}  {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")

        return 0

    if args.name is None:
        what = "a name" if args.action == "show" else "a folder"
        raise ChatTSError(
            f"{args.action} needs {what}", where="recipes", fix=f"Run: lmf-chatts recipes {args.action} X"
        )

    if args.action == "show":
        path = known.get(Path(args.name).stem)
        if path is None:
            raise ChatTSError(
                f"there is no recipe {args.name!r}", where="recipes", fix=f"Use one of: {', '.join(known)}"
            )

        print(path.read_text(encoding="utf-8"), end="")
        return 0

    folder = Path(args.name)
    written = copy(folder)
    print(f"{folder}: {len(written)} files written to {' and '.join(f'{name}/' for name in FOLDERS)}")
    print(f"next: cd {folder} && lmf-chatts doctor examples/chatts_qlora.yaml")
    return 0
