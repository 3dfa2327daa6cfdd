"""The form of a known failure: what it looks like, what is wrong, what to change."""

import functools
import re
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from ...core.installs import STACK, install


Certainty = Literal["certain", "likely"]
Match = re.Match[str]

_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")
_FIELD = re.compile(r"\{(?!pip |stack\})([^{}:]+)\}")
_INSTALL = re.compile(r"\{(?:pip ([^{}]+)|stack)\}")


@dataclass(frozen=True)
class Diagnosis:
    """One finding about a failed run.

    Attributes:
        cause: what went wrong, in one line.
        evidence: the line that shows it, with its number (``line 120: ...``), or what is known from outside the log.
        fix: the command to run or the change to make.
        certainty: ``certain`` when the evidence names the cause itself, ``likely`` when it only points to it.
    """

    cause: str
    evidence: str
    fix: str
    certainty: Certainty = "certain"


@dataclass(frozen=True, eq=False)
class Row:
    """One known failure. Patterns are regular expressions, searched.

    Attributes:
        pattern: fits ``Class: message`` of an exception, and lines that hold one of ``lines``.
        what, fix: what went wrong and what to change (see :func:`fill`), or a function of the match that says it;
            without ``fix`` the function says both.
        likely: the pattern only points to the cause, it does not name it.
        lines: words one of which stands in a line outside tracebacks that shows the failure; empty: the pattern is
            for exceptions only.
        frame: fits the innermost frame (``file:line in function``), for exceptions that only their place tells.
        general: true of many failures; used when no other row fits an exception it was raised from or with.
        peer: a consequence in one process of what happened to another one.
        benign: such a line also stands in healthy logs; it counts only when nothing else explains a failure.
        explains: fits an exception's text: a line of this row above such an exception is its cause, whatever another
            row says about the exception.
        phase: fits what the run was doing (see :class:`Facts`).
    """

    pattern: str
    what: str | Callable[[Match], str | tuple[str, str]]
    fix: str = ""
    _: KW_ONLY
    likely: bool = False
    lines: tuple[str, ...] = ()
    frame: str = ""
    general: bool = False
    peer: bool = False
    benign: bool = False
    explains: str | None = None
    phase: str = ""

    @property
    def special(self) -> bool:
        """Whether a line that shows it is the cause by itself."""
        return not (self.general or self.peer or self.benign)

    def match(self, text: str, frame: str = "", phase: str = "") -> Match | None:
        """Return where the pattern fits an exception's text, None where text, frame or phase do not fit."""
        fits = _compiled(self.frame).search(frame) and _compiled(self.phase).search(phase)
        return _compiled(self.pattern).search(text) if fits else None

    def search(self, text: str) -> Match | None:
        """Return where the pattern fits a text, whatever its place."""
        return _compiled(self.pattern).search(text)

    def is_explanation_of(self, text: str) -> bool:
        """Tell whether a line of this row explains an exception below it."""
        return self.explains is not None and bool(_compiled(self.explains).search(text))

    def say(self, match: Match) -> tuple[str, str]:
        """Return what is wrong and what to change."""
        if not callable(self.what):
            return fill(self.what, match), fill(self.fix, match)

        said = self.what(match)
        return said if isinstance(said, tuple) else (said, fill(self.fix, match))


_compiled = functools.cache(re.compile)


def fill(text: str, match: Match) -> str:
    """Return a sentence of the table for a match, on one line.

    ``{name}`` is a named group of the pattern, ``{one|other|some words}`` the first of several that is there, else
    the words; ``[...]`` is left out when a field in it is not there. ``{pip torch}`` becomes the command that installs
    packages in their supported range, ``{stack}`` that for LLaMA-Factory and what it calls.
    """
    groups = match.groupdict()

    def value(field: str) -> str:
        names = field.split("|")
        found = next((groups[name] if name in groups else name for name in names if groups.get(name, name)), "") or ""
        return " ".join(found.split())[:300]

    def command(found: Match) -> str:
        words = re.split(r" (?=[\w-])", found[1]) if found[1] else ["llamafactory", *STACK]
        options = [word for word in words if word.startswith("--")]
        return install(*words[len(options) :], options=" ".join(options))

    text = _OPTIONAL.sub(lambda part: part[1] if all(map(value, _FIELD.findall(part[1]))) else "", text)
    return _INSTALL.sub(command, _FIELD.sub(lambda field: value(field[1]) or "?", text))
