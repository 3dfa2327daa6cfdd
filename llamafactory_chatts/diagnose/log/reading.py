"""A log, read once: what is kept of it."""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from .facts import Facts
from .lines import Line, read_lines
from .table import ALL, Row
from .traces import Traces


_COMPLAINTS = (
    "error", "exception", "fail", "fatal", "cannot", "can't", "could not", "couldn't", "unable", "not found",
    "no such", "not support", "unsupported", "invalid", "mismatch", "missing", "denied", "refused", "expected",
    "too old", "too new", "too small", "abort", "not installed", "unknown", "unrecognized", "incompatible",
    "what():", "killed", "not allowed",
)  # fmt: skip
"""Words of lines that speak of something wrong."""

_FIRST, _LAST = 40, 80
"""Complaints kept from the beginning of a log, and from its end."""


@dataclass
class Reading:
    """Everything that one pass over a log keeps; its size does not depend on the log's.

    Attributes:
        hits: by row, the first line outside tracebacks that shows its failure.
        complaints: lines outside tracebacks that speak of something wrong, the first ones; late: the last ones.
        tail: the last lines outside tracebacks.
    """

    facts: Facts = field(default_factory=Facts)
    traces: Traces = field(default_factory=Traces)
    hits: dict[Row, Line] = field(default_factory=dict)
    complaints: list[Line] = field(default_factory=list)
    late: deque[Line] = field(default_factory=lambda: deque(maxlen=_LAST))
    tail: deque[Line] = field(default_factory=lambda: deque(maxlen=60))

    def add(self, line: Line) -> None:
        """Take a line."""
        inside, text = self.traces.add(line), line.text
        if not text:
            return

        self.facts.add(line)
        self.tail.append(line)
        if inside:
            return

        lower = text[:2000].lower()
        if text[0] != "{" and any(word in lower for word in _COMPLAINTS):
            (self.complaints if len(self.complaints) < _FIRST else self.late).append(line)

        for row in _SHOWN_BY_LINES:
            if row not in self.hits and any(word in text for word in row.words) and row.search(text):
                self.hits[row] = line


_SHOWN_BY_LINES = [row for row in ALL if row.lines]


def read(path: Path) -> Reading:
    """Read a log once, in pieces."""
    reading = Reading()
    for line in read_lines(path):
        reading.add(line)

    return reading
