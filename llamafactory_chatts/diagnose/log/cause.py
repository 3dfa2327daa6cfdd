"""What a known failure looks like: the form of a rule."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from .diagnosis import Certainty


Text = str | Callable[[re.Match[str]], str]
"""A sentence with the named groups of the pattern as ``{fields}``, or a function of the match."""


@dataclass(frozen=True)
class Cause:
    """One known failure.

    Attributes:
        pattern: searched in ``Class: message`` of an exception, and in lines that hold one of ``needles``.
        cause, fix: what went wrong and what to change; fields are named groups of the pattern.
        needles: words one of which stands in a line outside tracebacks that shows the failure; empty: the pattern is
            for exceptions only.
        frame: searched in the innermost frame (``file:line in function``), for exceptions that only their place tells.
        general: true of many failures; used when no other rule fits an exception it was raised from or with.
        peer: a consequence in one process of what happened to another one.
        advised: our own error is raised from such an exception; the sentences are made from the texts of both.
        benign: such a line also stands in healthy logs; it counts only when nothing else explains a failure.
        explains: searched in an exception's text: a line of this rule above such an exception is its cause, whatever
            another rule says about the exception.
        phase: searched in what the run was doing (see :class:`Facts`).
    """

    pattern: re.Pattern[str]
    cause: Text
    fix: Text
    certainty: Certainty = "certain"
    needles: tuple[str, ...] = ()
    frame: re.Pattern[str] | None = None
    general: bool = False
    peer: bool = False
    advised: bool = False
    benign: bool = False
    explains: re.Pattern[str] | None = None
    phase: re.Pattern[str] | None = None

    def match(self, text: str, frame: str = "", phase: str = "") -> re.Match[str] | None:
        """Return where the pattern fits an exception's text, None where text, frame or phase do not fit."""
        if self.frame is not None and not self.frame.search(frame):
            return None

        if self.phase is not None and not self.phase.search(phase):
            return None

        return self.pattern.search(text)


def rule(pattern: str, cause: Text, fix: Text, certainty: Certainty = "certain", **more) -> Cause:
    """Return a rule; ``more``: its other attributes, with ``frame``, ``explains`` and ``phase`` as texts."""
    more |= {key: re.compile(more[key]) for key in ("frame", "explains", "phase") if key in more}

    return Cause(re.compile(pattern), cause, fix, certainty, **more)


def fill(text: Text, match: re.Match[str]) -> str:
    """Return a rule's sentence for a match, on one line."""
    if callable(text):
        return text(match)

    groups = {name: " ".join((value or "?").split())[:300] for name, value in match.groupdict().items()}
    return text.format(**groups)
