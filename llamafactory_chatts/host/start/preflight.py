"""A recipe's mistakes, all at once, when a training starts and before anything is loaded."""

import os
import sys
from typing import Any

from ...core.contract import PREFLIGHT_SWITCH, TEMPLATE
from ...core.errors import ChatTSError
from ...recipe.context import Context
from ...recipe.reading import recipe_of
from ...recipe.rules import check_recipe
from ..compat import patch
from ..say.failure import record_failure
from .engines import refuse_engines


def check_before_start(tuner: Any, name: str) -> None:
    """A starting training looks for the mistakes that ``doctor RECIPE`` finds; if it fails, that is written.

    ``name`` is ``_training_function(config)``, or ``_ray_training_function(ray_args, config)`` in front of Ray.
    """

    def build(original: Any) -> Any:
        def start(*args: Any, **kwargs: Any) -> None:
            given = (kwargs["config"] if "config" in kwargs else args[-1]).get("args")
            with record_failure(given) as recorder:
                if preflight_is_on() and os.environ.get("RANK", "0") == "0":  # the launcher ends the others
                    refuse_mistakes(given)

                if given is not None:
                    refuse_engines(given)  # whatever the switch says: series would be lost in silence

                recorder.loading = True
                return original(*args, **kwargs)

        return start

    patch(tuner, name, build)


def preflight_is_on() -> bool:
    """Tell whether ``LLAMAFACTORY_CHATTS_PREFLIGHT`` leaves it on, which is the default."""
    return os.environ.get(PREFLIGHT_SWITCH, "1").strip().lower() not in ("0", "false", "off", "no")


def refuse_mistakes(args: dict[str, Any] | list[str] | None) -> None:
    """Raise one :class:`ChatTSError` that lists the mistakes of a training with template ``chatts``, if there are any.

    Args:
        args: keys and values of a recipe, or the words of a command line. Other templates are left alone.
    """
    if args is None:
        return

    recipe = recipe_of(args, sys.argv)
    if recipe.get("template") != TEMPLATE or not Context(recipe).on("do_train"):
        return

    said = check_recipe(recipe, at_start=True)
    for finding in said:
        if finding.level == "warning":
            print(f"ChatTS: {finding.line()}", file=sys.stderr, flush=True)

    found = [finding for finding in said if finding.level == "error"]
    if found:
        lines = "".join(f"\n  {finding.line()}" for finding in found)
        count = "a mistake" if len(found) == 1 else f"{len(found)} mistakes"
        raise ChatTSError(
            f"{count} in this recipe{lines}\n  Nothing was loaded",
            where=str(recipe.path or "") or None,
            fix=f"Correct it, or set {PREFLIGHT_SWITCH}=0 to start all the same",
        )
