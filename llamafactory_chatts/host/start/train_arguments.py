"""A recipe on its way through the host's parser: what is refused, and what it leaves open.

Settings that a training recipe leaves open get the value that is best for ChatTS.
"""

import sys
from collections.abc import Callable
from typing import Any

from ...recipe.context import Context
from ...recipe.reading import recipe_of
from ...recipe.refusals.table import refuse
from ..compat import patch
from ..load import base_fingerprint
from ..rows import tokenized
from ..say import out_of_memory
from ..steps import dataloading, token_budget


ADJUSTMENTS: tuple[Callable[[dict[str, Any], Any, Any, Any, Any], None], ...] = (
    dataloading.default_workers,
    dataloading.default_rows_at_a_time,
    token_budget.set_token_budget,
    base_fingerprint.check_checkpoint,
    out_of_memory.remember_arguments,
    tokenized.remember_named,
)
"""Called in this order with (raw_args, model_args, data_args, training_args, finetuning_args), each in every process.

``raw_args`` holds what the recipe or the command line names, so that "not set" can be told from "set to the default".
"""


def adjust_train_arguments(parser: Any, name: str) -> None:
    """Refuse what this package cannot do, and let each of ``ADJUSTMENTS`` change what the host has checked.

    It reaches all that asks for the arguments of a training, in every process, and nothing that builds the argument
    classes by hand.
    """

    def build(original: Any) -> Any:
        def get_train_args(args: dict[str, Any] | list[str] | None = None) -> Any:
            args = parser.read_args(args)
            refuse_own(args)
            parsed = original(args)
            raw = named_arguments(args)
            for adjust in ADJUSTMENTS:
                adjust(raw, *parsed[:4])  # all but the arguments of generation

            return parsed

        return get_train_args

    patch(parser, name, build)


def refuse_before_inference(parser: Any, name: str) -> None:
    """``get_infer_args`` refuses what this package cannot do, for chat, API, export and scores alike."""

    def build(original: Any) -> Any:
        def get_infer_args(args: dict[str, Any] | list[str] | None = None) -> Any:
            args = parser.read_args(args)
            refuse_own(args)
            return original(args)

        return get_infer_args

    patch(parser, name, build)


def refuse_own(args: dict[str, Any] | list[str]) -> None:
    """Raise a :class:`ChatTSError` for the first row of our part of the table of refusals.

    Args:
        args: keys and values of a recipe, or the words of a command line.
    """
    refuse(Context(recipe_of(args, sys.argv), at_start=True), own=True)


def named_arguments(args: dict[str, Any] | list[str]) -> dict[str, Any]:
    """Return what a recipe names, under its field names.

    Args:
        args: a recipe's keys and values, or the words of a command line (``--key value``, ``--key=value`` or
            ``--flag``).

    Returns:
        for a recipe its keys and values; for a command line the key with the word or the words behind it, as text.
    """
    if isinstance(args, dict):
        return dict(args)

    named: dict[str, Any] = {}
    key = None
    for word in args:
        if word.startswith("--"):
            key, _, value = word[2:].partition("=")
            key = key.replace("-", "_")
            named[key] = value
        elif key is not None:
            named[key] = f"{named[key]} {word}".strip()

    return named
