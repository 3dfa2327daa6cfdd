"""The command ``lmf-chatts``: a table of verbs, each imported only when it is called."""

import argparse
import sys
from importlib import import_module

from . import __version__
from .core.errors import ChatTSError


VERBS = (
    ("init-base", "build a ChatTS base: from a Qwen folder, or a tiny one", "llamafactory_chatts.commands.init_base"),
    ("recipes", "list, show or copy the recipes that come with it", "llamafactory_chatts.commands.recipes"),
    ("demo-data", "write demo data", "llamafactory_chatts.commands.demo_data"),
    ("prepare", "turn label files and folders of series into a dataset", "llamafactory_chatts.commands.prepare"),
    ("check", "check a dataset before a training", "llamafactory_chatts.commands.check"),
    (
        "dataset-info",
        "entries of dataset_info.json: add, list, remove, check",
        "llamafactory_chatts.commands.dataset_info",
    ),
    ("plan", "rows, steps, memory, time of a recipe before it runs", "llamafactory_chatts.commands.plan"),
    ("doctor", "check this installation", "llamafactory_chatts.commands.doctor"),
)
"""Verb, help in one line, module with ``add_arguments(parser)`` and ``run(args) -> int``."""

PROG = "lmf-chatts"


def _main_parser() -> argparse.ArgumentParser:
    width = max(len(verb) for verb, _, _ in VERBS)
    verbs = "\n".join(f"  {verb:<{width}}  {text}" for verb, text, _ in VERBS)
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="What LLaMA-Factory has no verb for when it trains models that read time series.",
        epilog=f"verbs:\n{verbs}\n\n{PROG} VERB --help shows the arguments of a verb and a worked example.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    parser.add_argument("verb", metavar="VERB", help="one of those below")
    parser.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="arguments of the verb")
    return parser


def _run(argv: list[str]) -> int:
    args = _main_parser().parse_args(argv)
    modules = {verb: module for verb, _, module in VERBS}
    if args.verb not in modules:
        raise ChatTSError(f"unknown verb {args.verb!r}", where=PROG, fix=f"Use one of: {', '.join(modules)}")

    verb = import_module(modules[args.verb])
    summary, _, rest = verb.__doc__.strip().partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=f"{PROG} {args.verb}",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_arguments(parser)
    try:
        return verb.run(parser.parse_intermixed_args(args.arguments))  # key=value may stand behind an option
    except TypeError as error:
        if "parse_intermixed_args" not in str(error):  # argparse's word for a verb with verbs of its own
            raise

        return verb.run(parser.parse_args(args.arguments))


def main(argv: list[str] | None = None) -> int:
    """Run ``lmf-chatts``.

    Args:
        argv: arguments without the command's name; those of the process if None.

    Returns:
        the exit status: 0, what the verb returned, or 2 after an error that the user can act on.
    """
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except ChatTSError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
