"""A log, read once: what is kept of it, and what ``doctor`` says about it."""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from .cause import Cause
from .causes import ALL
from .facts import Facts
from .lines import Line, read_lines
from .tracebacks import Tracebacks


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
        hits: by the rule's place in the table, the first line outside tracebacks that shows its failure.
        complaints: lines outside tracebacks that speak of something wrong. tail: the last lines outside tracebacks.
    """

    facts: Facts = field(default_factory=Facts)
    tracebacks: Tracebacks = field(default_factory=Tracebacks)
    hits: dict[int, tuple[Line, Cause]] = field(default_factory=dict)
    complaints: list[Line] = field(default_factory=list)
    late: deque[Line] = field(default_factory=lambda: deque(maxlen=_LAST))
    tail: deque[Line] = field(default_factory=lambda: deque(maxlen=60))
    lines: int = 0


def complains(text: str) -> bool:
    """Tell whether a line speaks of something wrong."""
    lower = text[:2000].lower()
    return any(word in lower for word in _COMPLAINTS)


def read(path: Path) -> Reading:
    """Read a log once, in pieces."""
    reading = Reading()
    rules = [(index, cause) for index, cause in enumerate(ALL) if cause.needles]
    needles = {needle: [] for _, cause in rules for needle in cause.needles}
    for index, cause in rules:
        for needle in cause.needles:
            needles[needle].append((index, cause))

    words = tuple(needles)
    for line in read_lines(path):
        reading.lines = line.number
        text = line.text
        if not text:
            reading.tracebacks.add(line)
            continue

        inside = reading.tracebacks.add(line)
        reading.facts.add(line)
        reading.tail.append(line)
        if inside:
            continue

        if text[0] != "{" and complains(text):
            (reading.complaints if len(reading.complaints) < _FIRST else reading.late).append(line)

        for word in words:
            if word in text:
                for index, cause in needles[word]:
                    if index not in reading.hits and cause.pattern.search(text):
                        reading.hits[index] = (line, cause)

    return reading
