"""The command ``lmf-chatts``: a table of commands, each imported only when it is called."""

import argparse
import sys
from importlib import import_module

from . import __version__
from .core.errors import ChatTSError


COMMANDS = (
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
    ("run", "start a training that outlives its terminal: log, PID file", "llamafactory_chatts.commands.run"),
    ("jobs", "several trainings at once: start, status, stop", "llamafactory_chatts.commands.jobs"),
)
"""Command, help in one line, module with ``add_arguments(parser)`` and ``run(args) -> int``."""

PROG = "lmf-chatts"


def _main_parser() -> argparse.ArgumentParser:
    width = max(len(command) for command, _, _ in COMMANDS)
    commands = "\n".join(f"  {command:<{width}}  {text}" for command, text, _ in COMMANDS)
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="What LLaMA-Factory has no command for when it trains models that read time series.",
        epilog=f"commands:\n{commands}\n\n{PROG} COMMAND --help shows its arguments and a worked example.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    parser.add_argument("command", metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="arguments of the command")
    return parser


def _run(argv: list[str]) -> int:
    args = _main_parser().parse_args(argv)
    modules = {command: module for command, _, module in COMMANDS}
    if args.command not in modules:
        raise ChatTSError(f"unknown command {args.command!r}", where=PROG, fix=f"Use one of: {', '.join(modules)}")

    command = import_module(modules[args.command])
    summary, _, rest = command.__doc__.strip().partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=f"{PROG} {args.command}",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    try:
        return command.run(parser.parse_intermixed_args(args.arguments))  # key=value may stand behind an option
    except TypeError as error:
        if "parse_intermixed_args" not in str(error):  # argparse's word for a command with commands of its own
            raise

        return command.run(parser.parse_args(args.arguments))


def main(argv: list[str] | None = None) -> int:
    """Run ``lmf-chatts``.

    Args:
        argv: arguments without the command's name; those of the process if None.

    Returns:
        the exit status: 0, what the command returned, or 2 after an error that the user can act on.
    """
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except ChatTSError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
