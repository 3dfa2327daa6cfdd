"""What is wrong with an answer: no JSON, another form than its schema, an interval that its series does not have."""

import json
import os
from collections.abc import Iterator

from ...core.errors import ChatTSError, shorten
from ..labels import answers


INTERVALS = "intervals"
"""In place of a schema file: the packaged schema, a list of ``{"interval": [start, end], "type": "..."}``."""

NORMAL = "(none)"
"""Label of an answer that lists no anomaly."""

UNNAMED = "(no type)"

Problem = tuple[str, str]


def _parse(text: str) -> tuple[object, Problem | None]:
    """Return the content of an answer, and why it is no JSON."""
    try:
        return json.loads(text), None
    except (ValueError, RecursionError) as error:
        what = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply, or a huge number"

    try:
        return answers.parse(text), ("answer-python", text)
    except ChatTSError:
        return None, ("answer-json", f"{what} in {shorten(text, 60)}")


class AnswerChecker:
    """Checks answers one after the other.

    Args:
        schema: JSON schema that each answer must match. Without one (None) only answers that are meant as a list of
            intervals are held against the packaged schema, and all others count as prose.
    """

    def __init__(self, schema: str | os.PathLike | None = None) -> None:
        self.demanded = schema is not None
        self.validator = answers.validator(None if schema in (None, INTERVALS) else os.fspath(schema))

    def check(self, answer: str, points: list[int]) -> tuple[list[Problem], list[str] | None]:
        """Check one answer.

        Args:
            answer: the text.
            points: length of each series of the row; an interval must lie in the longest, as the answer does not
                say which one it is about.

        Returns:
            problems as (code, detail), and the labels of the answer: the type of each interval, or :data:`NORMAL` for
            an empty list; None for an answer that is no list of intervals.
        """
        text = answer.strip()
        if not self.demanded and not self._meant(text):
            return [], None

        content, problem = _parse(text)
        problems = [problem] if problem else []
        intervals = read_intervals(content)
        if problem and problem[0] == "answer-json":
            return problems, None

        wrong = list(_wrong_intervals(intervals, max(points, default=0))) if points else []
        problems += wrong
        if not wrong:
            error = next(self.validator.iter_errors(content), None)
            if error:
                place = "".join(f"[{part!r}]" for part in error.absolute_path)
                problems.append(("answer-schema", f"{place + ': ' if place else ''}{shorten(error.message)}"))

        if not isinstance(content, list):
            return problems, None

        return problems, [label for _, _, label in intervals] if content else [NORMAL]

    @staticmethod
    def _meant(text: str) -> bool:
        """Whether a text is meant as a list of intervals, even if it is none."""
        return text[:1] in ("[", "{") and ("interval" in text or text.strip("[] \n") == "")


def read_intervals(content: object) -> list[tuple[int, int, str]]:
    """Return (start, end, type) of each interval in the content of an answer; what has another form is left out."""
    found = []
    for item in content if isinstance(content, list) else []:
        span = item.get("interval") if isinstance(item, dict) else None
        if isinstance(span, (list, tuple)) and len(span) == 2 and all(map(_is_index, span)):
            found.append((int(span[0]), int(span[1]), str(item.get("type") or UNNAMED)))

    return found


def marks(answer: str) -> list[tuple[int, int, str]]:
    """Return the intervals that an answer marks, also where it is a Python literal; empty for prose."""
    return read_intervals(_parse(answer.strip())[0]) if AnswerChecker._meant(answer.strip()) else []


def _is_index(value: object) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**53 and value == int(value)
    )


def _wrong_intervals(intervals: list[tuple[int, int, str]], points: int) -> Iterator[Problem]:
    for start, end, _ in intervals:
        if end < start:
            yield "interval-reversed", f"[{start}, {end}]"

        if min(start, end) < 0 or max(start, end) >= points:
            yield "interval-outside", f"[{start}, {end}] but the series has the points 0 to {points - 1}"
