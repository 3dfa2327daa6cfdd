"""The checks of one row: its structure, its placeholders, its series, its answers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...core.contract import ADVISED_POINTS, ADVISED_SERIES
from ...core.errors import ChatTSError, shorten
from ...core.placeholders import check_placeholders
from ...core.series import encode
from ...rows.cells import read_cell
from ...rows.layout import Conversation, Layout
from ..sketch import hashed
from .answer_checks import AnswerChecker
from .findings import Findings


if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError


@dataclass(frozen=True)
class CheckedRow:
    """A row that could be read: what later checks need of it.

    Attributes:
        labels: labels of the answer; None where it is prose.
        question, answer: hashes of 64 bits; the question includes the series.
    """

    conversation: Conversation
    series: list[np.ndarray]
    labels: list[str] | None
    question: int
    answer: int


def _code(error: ChatTSError) -> str:
    """Return the code of what :func:`.cells.read_cell` refused."""
    if "series file" in error.what:
        return "series-file"

    if any(word in error.what for word in ("NaN", "infinite", "holds null", "above 1e300")):
        return "gaps"

    return "empty-series" if "is empty" in error.what else "not-numbers"


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class RowChecker:
    """Checks the rows of one part and adds what is wrong to the findings.

    Args:
        limit: points of the longest series that the model takes.
        media_dir: folder that paths in the series column are below.
    """

    def __init__(
        self, findings: Findings, layout: Layout, answers: AnswerChecker, limit: int, media_dir: str = "."
    ) -> None:
        from jsonschema import Draft202012Validator

        self.findings, self.layout, self.answers = findings, layout, answers
        self.limit, self.media_dir = limit, media_dir
        self.validator = Draft202012Validator(layout.schema())

    def check(self, row: object, where: str, text_only: bool = True) -> CheckedRow | None:
        """Check a row; returns None where it could not be read far enough to compare it with others.

        Args:
            text_only: say so where it has no series.
        """
        add = self.findings.add
        cell, column = None, self.layout.columns.get("timeseries")
        plain = row
        if isinstance(row, dict) and column in row and isinstance(row[column], (list, tuple)):
            cell, plain = row[column], {**row, column: []}  # its numbers are checked below

        errors = sorted(self.validator.iter_errors(plain), key=lambda error: error.validator != "required")
        if errors:
            for what in list(dict.fromkeys(map(_explain, errors)))[:3]:  # each missing column is an error of its own
                add("structure", where, what)

            return None

        try:
            talk = self.layout.read(plain)
        except ChatTSError as error:
            add("turns", where, error.what)
            return None

        cell = talk.cell if cell is None else cell
        series, wrong = read_cell(cell, self.media_dir)
        for refused in wrong:
            add(_code(refused), where, refused.what)

        self._check_placeholders(talk, len(series) + len(wrong), where)
        self._check_series(series, where)
        if text_only and not (series or wrong):
            add("text-only", where)

        labels = self._check_answers(talk, [] if wrong else series, bool(series or wrong), where)
        if wrong:
            return None

        texts = [talk.system, *(part for turn in talk.turns for part in (turn["role"], turn["content"]))]
        values = [item.astype(np.float32).tobytes() for item in series]  # the precision of Parquet output
        question, answer = [*map(_text, [*texts, talk.tools]), *values], [_text(text) for text in talk.answers]
        if talk.desired is not None:  # KTO: an answer is good or bad; several to one question are what it is made of
            question, answer = [*question, *answer], [b"good" if talk.desired else b"bad"]
        elif self.layout.ranking:  # several pairs to one question are no contradiction, one pair both ways round is
            question = [*question, *sorted(answer)]

        return CheckedRow(talk, series, labels, hashed(*question), hashed(*answer))

    def _check_placeholders(self, talk: Conversation, series: int, where: str) -> None:
        try:
            check_placeholders(talk.turns, series, talk.system)
            check_placeholders([{"role": "assistant", "content": text} for text in talk.answers], 0)
        except ChatTSError as error:
            self.findings.add("placeholders", where, error.what)

    def _check_series(self, series: list[np.ndarray], where: str) -> None:
        found = self.findings
        if len(series) > ADVISED_SERIES:
            found.add("many-series", where, f"{len(series)} series")

        for index, values in enumerate(series, start=1):
            points = len(values)
            name = f"series {index}" if len(series) > 1 else "the series"
            found.series += 1
            found.points += points
            found.lengths[points] += 1
            if points > self.limit:
                found.add("too-long", where, f"{name} has {points} points, the model takes {self.limit}")
            elif points > ADVISED_POINTS[1]:
                found.add("long", where, f"{name} has {points} points")
            elif points < ADVISED_POINTS[0]:
                found.add("short", where, f"{name} has {points} points")

            low, high = float(values.min()), float(values.max())
            if low == high:
                found.add("constant", where, f"{name}: {points} times {low:g}")
            elif high - low < 1.0 and encode(values).vanished:  # larger ones survive; the header takes time to write
                found.add("vanished", where, f"{name} varies by {high - low:.3g} around {low:.6g}")

    def _check_answers(
        self, talk: Conversation, series: list[np.ndarray], about_series: bool, where: str
    ) -> list[str] | None:
        labels = None
        if self.layout.ranking and len({text.strip() for text in talk.answers}) == 1:
            self.findings.add("answers-equal", where, shorten(talk.answers[0]))

        for text in talk.answers:
            if not text.strip():
                self.findings.add("answer-empty", where)
                continue

            if not about_series and not self.answers.demanded:
                continue  # text mixed in against forgetting

            problems, found = self.answers.check(text, [len(values) for values in series])
            labels = labels or found  # of a pair, the chosen answer
            if problems and labels is None:
                labels = []  # meant as a list, not prose
            for code, detail in problems:
                self.findings.add(code, where, detail)

        return labels


def _explain(error: "ValidationError") -> str:
    """Return what is wrong with the structure, for an error of jsonschema."""
    place = ".".join(str(part) for part in error.absolute_path)
    head = f"{place}: " if place else ""
    if error.validator == "required":
        absent = [key for key in error.validator_value if key not in error.instance]
        there = ", ".join(map(repr, error.instance))
        return f"{head}{', '.join(map(repr, absent))} is missing, there are {shorten(there)}"

    if error.validator == "type":
        wanted = error.validator_value
        wanted = wanted if isinstance(wanted, str) else " or ".join(kind for kind in wanted if kind != "null")
        return f"{head or 'the row: '}{shorten(repr(error.instance), 40)} is no {wanted}"

    if error.validator == "enum":
        return f"{head}{error.instance!r} is none of {', '.join(error.validator_value)}"

    return head + shorten(error.message)
