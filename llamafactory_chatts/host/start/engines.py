"""Other engines of the host, refused wherever a ChatTS training could be started with them."""

import sys
from pathlib import Path
from typing import Any

from ...core.errors import ChatTSError
from ...recipe.context import Context
from ...recipe.launch.engine import ENVIRONMENT, other_engines
from ...recipe.reading import SUFFIXES, Recipe, read_recipe, recipe_of
from ..compat import patch


def refuse_engines(args: dict[str, Any] | list[str]) -> None:
    """Raise a :class:`ChatTSError` for the first engine of the environment that would go round this package.

    Args:
        args: keys and values of a recipe, or the words of a command line. Other models are left alone.
    """
    found = next(other_engines(Context(_with_base(recipe_of(args, sys.argv)))), None)
    if found is not None:
        head = f"{found.where}: {found.subject}" if found.where else found.subject
        raise ChatTSError(found.what, where=head, fix=found.fix)


def _with_base(recipe: Recipe) -> Recipe:
    """The second engine calls the base ``model``."""
    recipe.values.setdefault("model_name_or_path", recipe.get("model"))
    return recipe


def refuse_on_command_line() -> None:
    """Raise ImportError for an engine of the environment and a ChatTS recipe on the command line.

    It is called when the host is looked for: ``USE_V1`` and ``USE_MCA`` change what its first imports do.
    """
    words = sys.argv[1:]
    at = next((at for at, word in enumerate(words) if word.endswith(SUFFIXES) and Path(word).is_file()), None)
    try:
        args = words if at is None else read_recipe(words[at], words[at + 1 :]).values
        refuse_engines(args)
    except ChatTSError as error:
        raise ImportError(str(error)) from None


def ask_before_v1(arg_parser: Any, name: str) -> None:
    """``get_args`` of the second engine, which all its commands call, refuses a ChatTS base and template."""

    def build(original: Any) -> Any:
        def get_args(args: Any = None) -> Any:
            settings = _v1_settings(args)
            context = Context(_with_base(recipe_of(settings, sys.argv)))
            if context.is_chatts:
                raise ChatTSError(ENVIRONMENT["USE_V1"], where="v1", fix="Run: unset USE_V1")

            return original(args)

        return get_args

    patch(arg_parser, name, build)


def _v1_settings(args: Any) -> Any:
    """Return what ``get_args`` was given, or would read from the command line."""
    if args is not None:
        return args

    words = sys.argv[1:]
    if words and words[0].endswith(SUFFIXES):
        try:
            return read_recipe(words[0], words[1:]).values
        except ChatTSError:
            return {}  # the host says what is wrong with it

    return words
