"""The errors of this package in a log that shows no exception's name: the package's source is the table of its texts.

``lmf-chatts`` prints an error as one line, the API answers with it, and people copy the last line only. The sentences
of the source, with anything in place of their fields, are looked for in the lines: what is wrong, and the fix behind
it (see :class:`ChatTSError`).
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from .lines import Line


PACKAGE = Path(__file__).parents[2]
ENOUGH, ENOUGH_ALONE = 17, 18
"""Letters that what and fix together must have besides their fields, to be told from other texts; what by itself."""

_LEAST_OF_EACH, _LEAST_WORDS = 5, 2
_NAMES = ("what", "why", "reason", "problem", "text", "message", "wrong")
"""Variables in which a function keeps the text of an error until it raises it."""

_RAISERS = {
    "ChatTSError": 0,
    "Problem": 1,
    "Finding": 2,
    "add": 1,
    "raise_if_any": 0,
    "NotThisFormat": 0,
    "Rejected": 0,
}
"""What is called with the text of an error, and which argument that is; ``fix`` stands one or two behind it."""

_DOCTORS = {"causes", "cause.py", "conclusion.py", "signals.py", "unknown.py", "own_errors.py"}
"""Files (and a folder) with what ``doctor`` itself says."""

_FIELD = r".{0,300}?"
_ENDS = ""
"""Stands behind the last piece of a text's first line, when further lines follow."""

_LETTERS = re.compile(r"[^\W\d_]")


def patterns_of(source: str) -> Iterator[str]:
    """Yield the patterns of the errors that a module raises, collects or reports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in _RAISERS:
                named = {item.arg: item.value for item in node.keywords}
                at = _RAISERS[name]
                what = named.get("what") or (node.args[at] if len(node.args) > at else None)
                fixes = [named["fix"]] if "fix" in named else node.args[at + 1 : at + 3][-1:]
                yield from _sentences(what, fixes[0] if fixes else None)
        elif isinstance(node, ast.Tuple) and len(node.elts) > 1:
            yield from _sentences(*node.elts[-2:], both=True)
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in _NAMES:
            yield from _sentences(node.value, None)


def _sentences(what: ast.expr | None, fix: ast.expr | None, both: bool = False) -> Iterator[str]:
    """Yield the patterns of ``what. fix.`` for every text that the two may be; ``both``: only where there are both."""
    for first in _choices(what):
        if " ".join(filter(None, first)).count(" ") < _LEAST_WORDS - 1:
            continue

        for second in _choices(fix) or [[]]:
            letters = [len(_LETTERS.findall("".join(filter(None, parts)))) for parts in (first, second)]
            together = sum(letters) >= ENOUGH and min(letters) >= _LEAST_OF_EACH
            if together or letters[0] >= ENOUGH_ALONE and not both:
                yield _pattern(first) + (rf"{_FIELD}[.:].{{0,300}}?{_pattern(second)}" if together else "")


def _pattern(parts: list[str | None]) -> str:
    words = (_FIELD if part is None else r"\s+".join(map(re.escape, part.split(" "))) for part in parts)
    return re.sub(rf"^(?:{re.escape(_FIELD)})+|(?:{re.escape(_FIELD)})+$", "", "".join(words))


def _choices(node: ast.expr | None) -> list[list[str | None]]:
    """Return the texts that an expression of the source may be: their pieces on the first line, None for a field."""
    if isinstance(node, ast.IfExp):
        return [*_choices(node.body), *_choices(node.orelse)]

    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [
            left if left[-1] == _ENDS else [*left, *right]
            for left in _choices(node.left)
            for right in _choices(node.right) or [[None]]
        ]

    values = node.values if isinstance(node, ast.JoinedStr) else [node] if isinstance(node, ast.Constant) else []
    found: list[str | None] = []
    for value in values:
        text = value.value if isinstance(value, ast.Constant) else None
        found.append(text.partition("\n")[0] if isinstance(text, str) else None)
        if isinstance(text, str) and "\n" in text:
            found.append(_ENDS)
            break

    return [found] if any(found) else []


@functools.cache
def patterns() -> tuple[re.Pattern[str], ...]:
    """Return the patterns of all errors; the rules and answers of ``doctor`` itself are none."""
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if not _DOCTORS & {path.parent.name, path.name}]
    found = {one for path in files for one in patterns_of(path.read_text(encoding="utf-8"))}
    return tuple(map(re.compile, sorted(found)))


def own_error(lines: list[Line], code: int | None) -> tuple[Line, str] | None:
    """Return the first line that holds an error of this package, and the whole text with the lines that belong to it.

    Args:
        lines: the last lines of a log, outside tracebacks.
        code: exit code of the run: with 2, ``lmf-chatts`` ends after it has printed an error as its last line.
    """
    found = [at for at, line in enumerate(lines) if any(pattern.search(line.text) for pattern in patterns())][:1]
    if not found and code == 2 and any("lmf-chatts" in line.text for line in lines):
        found = [at for at, line in enumerate(lines) if line.text.endswith(".")][-1:]

    for at in found:
        while at and lines[at].text.startswith("  "):
            at -= 1

        return lines[at], _whole(lines, at)

    return None


def _whole(lines: list[Line], index: int) -> str:
    """Return the text that begins in a line: the lines below it that are set in belong to it."""
    text = [lines[index].text]
    for line in lines[index + 1 :]:
        if not line.text.startswith("  "):
            break

        text.append(line.text)

    return "\n".join(text)
