"""The table of refusals: which rows hold for which recipes, and the one question to it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...core.contract import TEMPLATE
from ...core.errors import ChatTSError
from ..context import Context
from ..finding import Finding, Level
from .data import DATA
from .evaluation import EVALUATION, GENERATION
from .ignored import IGNORED
from .machine import MACHINE
from .methods import METHODS
from .quantisation import QUANTISATION
from .refusal import Refusal
from .series import ENCODER, NOT_OURS, OWN


@dataclass(frozen=True)
class Section:
    """Rows that hold for the same recipes.

    Attributes:
        rows: in the order in which they are said.
        applies: whether a recipe is one of them.
        own: they are refused by this package itself in every process, also where the preflight is switched off.
        level: how bad it is.
    """

    rows: tuple[Refusal, ...]
    applies: Callable[[Context], bool]
    own: bool = False
    level: Level = "error"


def _trains(context: Context) -> bool:
    return context.trains


SECTIONS: tuple[Section, ...] = (
    *(Section(rows, _trains) for rows in (MACHINE, QUANTISATION, METHODS, EVALUATION, GENERATION, DATA)),
    Section(OWN, lambda c: c.is_chatts, own=True),
    Section(NOT_OURS, lambda c: c.get("template") != TEMPLATE, own=True),
    Section(ENCODER, lambda c: c.is_chatts and c.on("do_train")),
    Section(IGNORED, lambda c: c.on("do_train"), level="warning"),
)


def refused(context: Context, own: bool = False) -> Iterator[Finding]:
    """Yield an error for each row whose condition holds, and a warning for each setting without effect.

    Args:
        context: the recipe with the facts about it.
        own: ask only for what this package refuses itself, whatever the host and the preflight do.
    """
    for section in SECTIONS:
        if (section.own or not own) and section.applies(context):
            for key, wrong, what, fix in section.rows:
                if wrong(context):
                    yield Finding(section.level, key, what, context.recipe.where(key), fix)


def refuse(context: Context, own: bool = False, keys: tuple[str, ...] = ()) -> None:
    """Raise a :class:`ChatTSError` for the first row that refuses a recipe; with ``keys`` of those about them."""
    errors = (finding for finding in refused(context, own) if finding.level == "error")
    first = next((finding for finding in errors if not keys or finding.subject in keys), None)
    if first is not None:
        where = f"{first.where}: {first.subject}" if first.where else first.subject
        raise ChatTSError(first.what, where=where, fix=first.fix)
