"""A log, read once: what is kept of it, and what ``doctor`` says about it."""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import ChatTSError
from .causes import Cause, all_causes
from .diagnosis import Diagnosis
from .log_facts import Facts
from .log_lines import Line, read_lines
from .log_signals import quote
from .log_tracebacks import Tracebacks


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


def diagnose_log(path: Path, exit_code: int | None = None) -> list[Diagnosis]:
    """Say why a run failed.

    Args:
        path: what llamafactory-cli, torchrun, deepspeed, accelerate or lmf-chatts printed, stdout and stderr; also a
            notebook's output, or only its last lines.
        exit_code: of the run, where it is known; else the log's last line ``exit code N`` is taken.

    Returns:
        the cause first; empty for a run that succeeded, or for which the log shows neither failure nor an end that is
        missing.

    Raises:
        ChatTSError: the file cannot be read.
    """
    from .log_conclusion import conclude

    try:
        reading = read(Path(path))
    except OSError as err:
        raise ChatTSError(
            f"the log cannot be read: {err.strerror or err}", str(path), "Give the path of a text file"
        ) from err

    found, numbers = conclude(reading, exit_code), _numbers(reading.facts)
    silent = exit_code is None and not reading.facts.code and not reading.tracebacks.all()
    return [*numbers, *found] if silent else [*found, *numbers]


def complains(text: str) -> bool:
    """Tell whether a line speaks of something wrong."""
    lower = text[:2000].lower()
    return any(word in lower for word in _COMPLAINTS)


def read(path: Path) -> Reading:
    """Read a log once, in pieces."""
    reading = Reading()
    rules = [(index, cause) for index, cause in enumerate(all_causes()) if cause.needles]
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


def _numbers(facts: Facts) -> list[Diagnosis]:
    """Judge loss and gradient norms; single NaN norms belong to the start of fp16 training."""
    line, what = facts.nan_loss, "the loss became NaN or infinite"
    if line is None and facts.nan_grads is not None and facts.nan_grads[1] >= 3:
        line, steps = facts.nan_grads
        what = f"gradients are NaN or infinite from here on ({steps} logged steps)"

    if line is None:
        return []

    half = "use bf16: true if the card has it (this run was fp16), " if facts.half else ""
    return [
        Diagnosis(
            f"{what}; what was trained after this line is worthless",
            quote(line),
            f"Go back to a checkpoint from before; {half}lower learning_rate (a tenth), set warmup_ratio: 0.1 and "
            "max_grad_norm: 1.0, and check the series for extreme values: `lmf-chatts check`",
        )
    ]
