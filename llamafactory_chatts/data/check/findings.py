"""What a check of a dataset found: a level, a code, a total and the first examples of each."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ...core.contract import ADVISED_POINTS, ADVISED_SERIES
from ...core.errors import shorten


ERROR, WARNING, INFO = "error", "warning", "info"
LEVELS = (ERROR, WARNING, INFO)
_SHORT, _LONG = ADVISED_POINTS

CODES: dict[str, tuple[str, str, str]] = {
    "unreadable": (ERROR, "row that cannot be read", "Correct or remove it; a truncated file has to be written again"),
    "no-rows": (ERROR, "file without rows", "Write rows into it, or name another file"),
    "structure": (ERROR, "columns or turns are not as declared", "Correct the row, or `columns` in dataset_info.json"),
    "turns": (ERROR, "turns do not alternate", "Start with a user turn and end with an assistant turn"),
    "placeholders": (ERROR, "<ts><ts/> and series do not fit", "Write <ts><ts/> once per series, in user turns"),
    "series-file": (ERROR, "series file that cannot be used", "Put the file below the folder of the dataset"),
    "not-numbers": (ERROR, "series that is no flat list of numbers", "Write each series as [1.0, 2.0, ...]"),
    "empty-series": (ERROR, "series without points", "Remove it together with its <ts><ts/>"),
    "gaps": (ERROR, "NaN, null or infinite values", "Fill or remove gaps (`gaps:` of lmf-chatts prepare)"),
    "too-long": (ERROR, "series past the model's limit", "Cut it into windows or resample it"),
    "answer-empty": (ERROR, "row without an answer", "Write an answer or remove the row"),
    "answer-python": (
        ERROR,
        "answer is a Python literal, not JSON",
        "Convert it: answers: json of lmf-chatts prepare",
    ),
    "answer-json": (ERROR, "answer is not JSON", "Write the answer as the prompt demands"),
    "answer-schema": (ERROR, "answer does not match its schema", "Correct the answer"),
    "interval-outside": (
        ERROR,
        "interval outside the series",
        "Points count from 0; both ends belong to the interval",
    ),
    "interval-reversed": (ERROR, "interval that ends before it starts", "Write the smaller index first"),
    "series-unmapped": (
        ERROR,
        "series that `columns` does not name, in every row",
        "Name their column, or the rows train as text alone",
    ),
    "placeholders-unmapped": (
        ERROR,
        "<ts><ts/> in a column that `columns` does not name, in every row",
        "Name it as the prompt, and the column of series",
    ),
    "answers-equal": (ERROR, "chosen and rejected answer are the same", "Write two answers, or remove the row"),
    "leakage": (ERROR, "same series in two parts", "Keep it in one part; lmf-chatts prepare splits by source series"),
    "constant": (WARNING, "constant series", "Nothing can be learnt from it but its level; check the source"),
    "vanished": (WARNING, "amplitude too small to survive the encoding", "Rescale it, e.g. to a smaller unit"),
    "short": (WARNING, f"series of fewer than {_SHORT} points", f"ChatTS is made for {_SHORT} to {_LONG} points"),
    "long": (WARNING, f"series of more than {_LONG} points", f"ChatTS is made for {_SHORT} to {_LONG} points"),
    "many-series": (WARNING, f"more than {ADVISED_SERIES} series in a row", "Split the row"),
    "duplicate": (WARNING, "row that occurs twice", "Remove it (`deduplicate:` of lmf-chatts prepare)"),
    "contradiction": (WARNING, "same question and series, another answer", "Decide for one answer"),
    "answer-mixed": (WARNING, "answer in prose among answers in JSON", "Write all answers as the prompt demands"),
    "imbalance": (WARNING, "labels are unbalanced", "Add rows of the rare labels, or drop some of the common ones"),
    "series-unmapped-some": (
        WARNING,
        "series that `columns` does not name, in some rows",
        "Name their column, or take it out of the file",
    ),
    "text-only": (INFO, "row without series", "Fine when mixed in on purpose"),
    "not-compared": (INFO, "row of another part that could not be compared", "Check that part, too"),
    "skipped-file": (INFO, "file of a folder that is no dataset", "LLaMA-Factory may stumble over it; move it away"),
}
"""Code -> level, what it is, what to change. The order is that of the report."""


@dataclass
class Finding:
    """All occurrences of one code.

    Attributes:
        total: occurrences; a row with three constant series counts three times.
        rows: rows concerned.
        examples: the first ones, as (``file:row``, detail).
    """

    code: str
    total: int = 0
    rows: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)
    _last: str = ""

    @property
    def level(self) -> str:
        return CODES[self.code][0]

    @property
    def title(self) -> str:
        return CODES[self.code][1]

    @property
    def fix(self) -> str:
        return CODES[self.code][2]


@dataclass
class Findings:
    """The result of a check: findings by code, and what the dataset holds.

    Attributes:
        parts: (name as the user gave it, rows) of each file that was checked.
        lengths: points -> number of series.
        labels: label -> occurrences, where answers have labels.
        samples: rows drawn for a preview (:class:`~.preview.Sample`), in their order.
    """

    dataset: str
    shown: int = 10
    parts: list[tuple[str, int]] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    rows: int = 0
    series: int = 0
    points: int = 0
    lengths: Counter = field(default_factory=Counter)
    labels: Counter = field(default_factory=Counter)
    samples: list[Any] = field(default_factory=list)
    _found: dict[str, Finding] = field(default_factory=dict)

    def add(self, code: str, where: str, detail: str = "", count: int = 1) -> None:
        """Count an occurrence of ``code`` (a key of :data:`CODES`) at ``where`` (``file:row``).

        Rows must arrive in order: a row that is named again right away is not counted as another row.
        """
        assert code in CODES, code
        finding = self._found.setdefault(code, Finding(code))
        finding.total += count
        if where != finding._last:
            finding.rows += count
            finding._last = where

        if len(finding.examples) < self.shown:
            finding.examples.append((where, shorten(detail, 160)))

    def __getitem__(self, code: str) -> Finding:
        return self._found.get(code) or Finding(code)

    def found(self) -> list[Finding]:
        """Return the findings, errors first."""
        order = list(CODES)
        return sorted(self._found.values(), key=lambda item: (LEVELS.index(item.level), order.index(item.code)))

    def total(self, level: str) -> int:
        """Return the occurrences of a level."""
        return sum(item.total for item in self._found.values() if item.level == level)

    @property
    def status(self) -> int:
        """The exit status: 1 when there are errors, otherwise 0."""
        return 1 if self.total(ERROR) else 0

    def length_range(self) -> tuple[int, int, int]:
        """Return the points of the shortest, the median and the longest series (zeros without series)."""
        if not self.lengths:
            return 0, 0, 0

        passed, middle = 0, (self.lengths.total() + 1) // 2
        ordered = sorted(self.lengths.items())
        median = ordered[-1][0]
        for points, count in ordered:
            passed += count
            if passed >= middle:
                median = points
                break

        return ordered[0][0], median, ordered[-1][0]

    def as_dict(self) -> dict[str, object]:
        """Return everything but the samples, for JSON."""
        shortest, median, longest = self.length_range()
        return {
            "dataset": self.dataset,
            "files": [{"file": name, "rows": rows} for name, rows in self.parts],
            "compared_with": self.compared,
            "rows": self.rows,
            "series": self.series,
            "points": {"total": self.points, "shortest": shortest, "median": median, "longest": longest},
            "labels": dict(self.labels.most_common()),
            "totals": {level: self.total(level) for level in LEVELS},
            "findings": [
                {
                    "level": item.level,
                    "code": item.code,
                    "title": item.title,
                    "total": item.total,
                    "rows": item.rows,
                    "fix": item.fix,
                    "examples": [{"where": where, "detail": detail} for where, detail in item.examples],
                }
                for item in self.found()
            ],
            "status": self.status,
        }
