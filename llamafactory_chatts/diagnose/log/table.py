"""The table of known failures, ``causes.tsv``: what each looks like, what is wrong, what to change.

A line is a failure, its columns the fields of :class:`Row`; earlier lines win over later ones.
"""

import csv
import functools
import re
from dataclasses import dataclass
from pathlib import Path

from ...core.installs import STACK, install
from .saying import SAYING, Match


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
    certainty: str = "certain"


@dataclass(frozen=True, eq=False)
class Row:
    """One known failure. Patterns are regular expressions, searched; an empty one fits everything.

    Attributes:
        pattern: fits ``Class: message`` of an exception, and lines that hold one of ``lines``.
        cause, fix: what went wrong and what to change (see :func:`fill`); ``=name`` for a function of ``saying.py``
            that says the cause, and the fix where none stands here.
        certainty: as in a :class:`Diagnosis`.
        kind: ``general``: true of many failures; used when no other row fits an exception it was raised from or with.
            ``peer``: a consequence in one process of what happened to another one. ``benign``: such a line also
            stands in healthy logs; it counts only when nothing else explains a failure.
        lines: words, with ``|`` between them, one of which stands in a line outside tracebacks that shows the
            failure; empty: the pattern is for exceptions only.
        frame: fits the innermost frame (``file:line in function``), for exceptions that only their place tells.
        explains: fits an exception's text: a line of this row above such an exception is its cause, whatever another
            row says about the exception; empty: none.
        phase: fits what the run was doing (see :class:`Facts`).
    """

    pattern: str
    cause: str
    fix: str = ""
    certainty: str = "certain"
    kind: str = ""
    lines: str = ""
    frame: str = ""
    explains: str = ""
    phase: str = ""

    @property
    def special(self) -> bool:
        """Whether a line that shows it is the cause by itself."""
        return not self.kind

    @property
    def general(self) -> bool:
        """Whether other rows go first."""
        return "general" in self.kind

    @property
    def peer(self) -> bool:
        """Whether the cause is to be looked for in another process."""
        return "peer" in self.kind

    @property
    def benign(self) -> bool:
        """Whether such lines stand in healthy logs, too."""
        return "benign" in self.kind

    @functools.cached_property
    def words(self) -> list[str]:
        """The words of lines that may show it."""
        return self.lines.split("|") if self.lines else []

    def match(self, text: str, frame: str = "", phase: str = "") -> Match | None:
        """Return where the pattern fits an exception's text, None where text, frame or phase do not fit."""
        fits = _compiled(self.frame).search(frame) and _compiled(self.phase).search(phase)
        return self.search(text) if fits else None

    def search(self, text: str) -> Match | None:
        """Return where the pattern fits a text, whatever its place."""
        return _compiled(self.pattern).search(text)

    def is_explanation_of(self, text: str) -> bool:
        """Tell whether a line of this row explains an exception below it."""
        return bool(self.explains and _compiled(self.explains).search(text))

    def say(self, match: Match) -> tuple[str, str]:
        """Return what is wrong and what to change."""
        if not self.cause.startswith("="):
            return fill(self.cause, match), fill(self.fix, match)

        said = SAYING[self.cause[1:]](match)
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


def _read() -> list[Row]:
    with open(Path(__file__).with_name("causes.tsv"), encoding="utf-8", newline="") as file:
        table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, restval="")
        return sorted((Row(**cells) for cells in table), key=lambda row: row.general)


ALL = _read()
OUT_OF_MEMORY = next(row for row in ALL if row.cause == "=out_of_memory")
"""The row for the GPU's memory, which also judges what our own error adds."""
