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

_LEAST_OF_EACH = 5
_NAMES = ("what", "why", "reason", "problem", "text", "message", "wrong")
"""Variables in which a function keeps the text of an error until it raises it."""

_RAISERS = {
    "ChatTSError": 0, "Problem": 1, "Finding": 2, "add": 1, "raise_if_any": 0, "NotThisFormat": 0, "Rejected": 0,
}  # fmt: skip
"""What is called with the text of an error, and which argument that is; ``fix`` stands one or two behind it."""

_FIELD = r".{0,300}?"
_LETTERS = re.compile(r"[^\W\d_]")


def patterns_of(source: str) -> Iterator[str]:
    """Yield the patterns of the errors that a module raises, collects or reports."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in _RAISERS:
                named = {item.arg: item.value for item in node.keywords}
                what, *rest = [*node.args[_RAISERS[name] :], None]
                yield from _sentences(named.get("what", what), named.get("fix", ([None, *rest[:-1]][:3])[-1]))
            case ast.Tuple(elts=[*_, what, fix]):
                yield from _sentences(what, fix, both=True)
            case ast.Assign(targets=[ast.Name(id=name), *_], value=what) if name in _NAMES:
                yield from _sentences(what, None)


def _sentences(what: ast.expr | None, fix: ast.expr | None, both: bool = False) -> Iterator[str]:
    """Yield the patterns of ``what. fix.`` for every text that the two may be; ``both``: only where there are both."""
    for first in _lines(what):
        for second in _lines(fix) or [""]:
            letters = [len(_LETTERS.findall(text)) for text in (first, second)]
            together = sum(letters) >= ENOUGH and min(letters) >= _LEAST_OF_EACH
            words = first.replace("\0", " ").split(" ")
            if len(words) > 1 and (together or letters[0] >= ENOUGH_ALONE and not both):
                yield _pattern(first) + (rf"{_FIELD}[.:].{{0,300}}?{_pattern(second)}" if together else "")


def _pattern(text: str) -> str:
    return _FIELD.join(r"\s+".join(map(re.escape, part.split(" "))) for part in text.split("\0"))


def _lines(node: ast.expr | None) -> list[str]:
    """Return the first lines of the texts that an expression of the source may be, without fields around them."""
    return list(filter(None, (text.split("\n")[0].strip("\0") for text in _texts(node))))


def _texts(node: ast.expr | None) -> list[str]:
    r"""Return the texts that an expression of the source may be, with ``\0`` for each field."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in parts)]
        case ast.IfExp(body=one, orelse=other):
            return [*_texts(one), *_texts(other)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [one + other for one in _texts(left) for other in _texts(right) or ["\0"]]
        case _:
            return []


@functools.cache
def patterns() -> tuple[re.Pattern[str], ...]:
    """Return the patterns of all errors; the rows and answers of ``doctor`` itself are none."""
    here = [path for path in Path(__file__).parent.rglob("*.py") if path.name != "diagnose.py"]
    files = set(PACKAGE.rglob("*.py")) - set(here)
    found = {one for path in files for one in patterns_of(path.read_text(encoding="utf-8"))}
    return tuple(map(re.compile, sorted(found)))


def own_error(lines: list[Line], code: int | None) -> tuple[Line, str] | None:
    """Return the first line that holds an error of this package, and the whole text with the lines set in below it.

    Args:
        lines: the last lines of a log, outside tracebacks.
        code: exit code of the run: with 2, ``lmf-chatts`` ends after it has printed an error as its last line.
    """
    at = next((at for at, line in enumerate(lines) if any(one.search(line.text) for one in patterns())), None)
    if at is None and code == 2 and any("lmf-chatts" in line.text for line in lines):
        at = next((at for at in reversed(range(len(lines))) if lines[at].text.endswith(".")), None)

    if at is None:
        return None

    while at and lines[at].text.startswith("  "):
        at -= 1

    end = next((n for n in range(at + 1, len(lines)) if not lines[n].text.startswith("  ")), len(lines))
    return lines[at], "\n".join(line.text for line in lines[at:end])
