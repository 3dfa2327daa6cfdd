"""Why a run failed: its log, read once, and what is concluded from it."""

import re
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..core.errors import ChatTSError, shorten
from .causes import Cause, all_causes, fill
from .diagnosis import Diagnosis
from .log_facts import Facts
from .log_lines import Line, read_lines
from .log_signals import FROM_OUTSIDE, ended_by_signal, explain_signal, interrupted, quote
from .log_tracebacks import Trace, Tracebacks


_WRAPPERS = ("ChildFailedError", "SignalException")
_LAUNCHED = ("torchrun", "launcher", "deepspeed", "accelerate", "bin/python", "-m torch.distributed")
_EXITS = {
    124: ("`timeout` ended the run: its time was over", "Give `timeout` more time; then resume_from_checkpoint: true"),
    126: ("the command could not be executed", "Check its rights (chmod +x) and that it is no folder"),
    127: ("the command was not found", "Activate the environment (source VENV/bin/activate) or correct the name"),
}


@dataclass
class Reading:
    """Everything that one pass over a log keeps; its size does not depend on the log's."""

    facts: Facts = field(default_factory=Facts)
    tracebacks: Tracebacks = field(default_factory=Tracebacks)
    hits: dict[int, tuple[Line, Cause]] = field(default_factory=dict)
    tail: deque[Line] = field(default_factory=lambda: deque(maxlen=5))
    lines: int = 0


def diagnose_log(path: Path, exit_code: int | None = None) -> list[Diagnosis]:
    """Say why a run failed.

    Args:
        path: what llamafactory-cli, torchrun, deepspeed or accelerate printed, stdout and stderr.
        exit_code: of the run, where it is known; else the log's last line ``exit code N`` is taken.

    Returns:
        the cause first; empty for a run that succeeded, or for which the log shows neither failure nor an end that is
        missing.

    Raises:
        ChatTSError: the file cannot be read.
    """
    try:
        reading = read(Path(path))
    except OSError as err:
        raise ChatTSError(
            f"the log cannot be read: {err.strerror or err}", str(path), "Give the path of a text file"
        ) from err

    found = _conclude(reading, exit_code)
    return [*found, *_numbers(reading.facts)]


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

        reading.tail.append(line)
        inside = reading.tracebacks.add(line)
        reading.facts.add(line)
        if inside:
            continue

        for word in words:
            if word in text:
                for index, cause in needles[word]:
                    if index not in reading.hits and cause.pattern.search(text):
                        reading.hits[index] = (line, cause)

    return reading


def _conclude(reading: Reading, exit_code: int | None) -> list[Diagnosis]:
    facts = reading.facts
    code = exit_code if exit_code is not None else facts.code[1] if facts.code else None
    if code == 0:
        return []

    number = ended_by_signal(facts, code)[0]
    traces = _uncaught(reading, code is None)
    if code is None and not number and not traces and not facts.codes and not facts.root:
        return _without_end(reading)

    ctrl_c = next((trace for trace in traces if trace.kind.endswith("KeyboardInterrupt")), None)
    if ctrl_c is not None and number in (0, 2):
        return [interrupted(f" {facts.phase}" if facts.phase else "", quote(_line(ctrl_c)))]

    if number in FROM_OUTSIDE:
        return [explain_signal(facts, code)]

    if facts.finished and number:
        return [explain_signal(facts, code)]

    return [
        _by_rule(reading, traces)
        or explain_signal(facts, code)
        or _by_code(reading, code)
        or _by_peer(traces)
        or _unknown(reading, traces)
    ]


def _uncaught(reading: Reading, only_after_success: bool) -> list[Trace]:
    """Return the tracebacks that ended a process: the last one of each, that of the first failure in front.

    The ranks that only lost a peer come last.
    """
    last: dict[int | None, Trace] = {}
    for trace in reading.tracebacks.all():
        if _is_wrapper(trace) or (only_after_success and trace.number < reading.facts.finished):
            continue

        known = last.get(trace.rank)
        if known is None or not _is_peer(trace) or _is_peer(known):
            last[trace.rank] = trace

    rank = reading.facts.root.get("rank")
    first = int(rank[1].split()[0]) if rank else None
    return sorted(last.values(), key=lambda trace: (_is_peer(trace), trace.rank != first, trace.number))


def _is_wrapper(trace: Trace) -> bool:
    kind = trace.kind.rsplit(".", 1)[-1]
    return kind in _WRAPPERS or (kind == "CalledProcessError" and any(word in trace.message for word in _LAUNCHED))


def _is_peer(trace: Trace) -> bool:
    return any(cause.peer and cause.match(trace.text, trace.frame) for cause in _PEERS)


_PEERS = tuple(cause for cause in all_causes() if cause.peer)


def _by_rule(reading: Reading, traces: list[Trace]) -> Diagnosis | None:
    """Return the finding of the rule that fits best: special before general ones, exceptions before other lines."""
    root = reading.facts.root.get("rank")
    if root and traces and str(traces[0].rank) == root[1].split()[0]:
        traces = traces[:1]  # torchrun has seen which rank failed first: what the others say follows from it

    matched = [found for trace in traces if (found := _match(trace)) is not None]
    for found in matched:
        if isinstance(found, Diagnosis):
            return found

    hits = sorted(reading.hits.values(), key=lambda hit: hit[0].number)
    special = [hit for hit in hits if not (hit[1].benign or hit[1].general or hit[1].peer)]
    first = traces[0] if traces else None
    for trace, cause, match in matched[:1]:
        if not cause.general and not cause.peer and trace is first:
            return _diagnosis(cause, match, _line(trace, match))

    if special:
        line, cause = special[0]
        found = _diagnosis(cause, cause.pattern.search(line.text), line)
        return replace(found, certainty="likely") if traces and not matched else found

    for trace, cause, match in matched:
        if not cause.peer:
            return _diagnosis(cause, match, _line(trace, match))

    rest = [hit for hit in hits if hit[1].general] or [hit for hit in hits if hit[1].benign and not traces]
    rest = [hit for hit in rest if not hit[1].peer]
    return _diagnosis(rest[0][1], rest[0][1].pattern.search(rest[0][0].text), rest[0][0]) if rest else None


def _by_peer(traces: list[Trace]) -> Diagnosis | None:
    """Return that a peer was lost, where no process says more than that."""
    found = _match(traces[0]) if traces and _is_peer(traces[0]) else None
    return _diagnosis(found[1], found[2], _line(found[0], found[2])) if isinstance(found, tuple) else None


def _match(trace: Trace):
    """Return the rule for a traceback and those it was raised from, or the finding that a ChatTSError carries."""
    chain = trace.chain()
    for item in reversed(chain):
        if item.kind.endswith("ChatTSError"):
            return _advised(item) or _passed_on(item)

    found = (
        (item, cause, match)
        for cause in sorted(all_causes(), key=lambda cause: cause.general)
        for item in reversed(chain)
        if (match := cause.match(item.text, item.frame))
    )
    return next(found, None)


def _advised(trace: Trace) -> tuple[Trace, Cause, re.Match[str]] | None:
    """Return the rule for what a ChatTSError was raised from, where it judges both texts, one below the other."""
    for cause in all_causes():
        for item in trace.chain() if cause.advised else ():
            if cause.match(item.text, item.frame):
                text = item.text if item is trace else f"{item.text}\n{trace.text}"
                return item, cause, cause.pattern.search(text)

    return None


def _passed_on(trace: Trace) -> Diagnosis:
    """Split the text of a ChatTSError, ``where: what. fix.``, into cause and fix.

    One that lists several mistakes has them on lines of their own: the first is named, all stand in the fix.
    """
    head, *rest = (" ".join(line.split()) for line in trace.text.removeprefix(trace.kind + ": ").split("\n"))
    rest = [line for line in rest if line]
    what, _, fix = head.partition(". ")
    cause, shown = what.rstrip("."), _line(trace)
    if rest:
        cause = f"{cause}: {rest[0].partition('. ')[0]}"
        shown = Line(trace.number + 1, rest[0], trace.rank)

    fix = " ".join([fix, *rest]).strip()
    return Diagnosis(shorten(cause, 400), quote(shown), fix or "The message says what to change")


def _diagnosis(cause: Cause, match, line: Line) -> Diagnosis:
    rank = f"rank {line.rank}: " if line.rank is not None else ""
    shown = quote(line, line.text.find(match[0]))
    return Diagnosis(rank + fill(cause.cause, match), shown, fill(cause.fix, match), cause.certainty)


def _line(trace: Trace, match: re.Match[str] | None = None) -> Line:
    """Return the line of an exception's text in which a pattern begins to fit."""
    before = trace.text[: match.start()].count("\n") if match else 0
    return Line(trace.number + before, trace.text.split("\n")[before], trace.rank)


def _by_code(reading: Reading, code: int | None) -> Diagnosis | None:
    """Judge exit codes that shells and `timeout` give."""
    if code not in _EXITS:
        return None

    said = [line for line in reading.tail if "not found" in line.text or "denied" in line.text]
    shown = said[-1] if said and code != 124 else reading.facts.code[0] if reading.facts.code else None
    return Diagnosis(_EXITS[code][0], quote(shown) if shown else f"exit code {code}", _EXITS[code][1])


def _unknown(reading: Reading, traces: list[Trace]) -> Diagnosis:
    """Name the last exception, or the last lines; no guess."""
    if traces:
        trace = traces[0]
        place = f" at {trace.frame}" if trace.frame else ""
        who = f"rank {trace.rank}" if trace.rank is not None else "the run"
        return Diagnosis(
            f"cause not recognised; {who} ended with this exception",
            quote(_line(trace)),
            f"Read the traceback from line {trace.start}{place}",
            "likely",
        )

    shown = [quote(line) for line in reading.tail] or ["the log is empty"]
    return Diagnosis(
        "cause not recognised; the log shows no error", " | ".join(shown), "Read the last lines of the log", "likely"
    )


def _without_end(reading: Reading) -> list[Diagnosis]:
    """Judge a log that shows neither an exit code nor an error."""
    facts = reading.facts
    special = [hit for hit in reading.hits.values() if not (hit[1].benign or hit[1].peer)]
    if special and not facts.finished:
        return [_by_rule(reading, [])]

    if facts.started and not facts.finished:
        return [
            Diagnosis(
                f"the log stops {facts.phase} without an error: the run still goes on, or was ended by a signal that "
                "leaves no trace (SIGKILL, or SIGHUP when the terminal closed)",
                quote(reading.tail[-1]),
                "`ps -ef | grep llamafactory` shows whether it runs; else look at `dmesg -T | grep -iE 'oom|killed "
                "process'` and give doctor the exit code",
                "likely",
            )
        ]

    return []


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
