"""What is concluded from a log: which of its exceptions and lines ended the run, and the rule that explains it."""

import re
from dataclasses import replace
from typing import Any

from ...core.errors import shorten
from .cause import Cause, fill
from .causes import ALL
from .diagnosis import Diagnosis
from .lines import Line
from .own_errors import own_error
from .reading import Reading
from .signals import FROM_OUTSIDE, ended_by_signal, explain_signal, interrupted, out_of_host_memory, quote
from .tracebacks import Trace
from .unknown import trace_line, unknown


_WRAPPERS = ("ChildFailedError", "SignalException")
_LAUNCHED = ("torchrun", "launcher", "deepspeed", "accelerate", "bin/python", "-m torch.distributed")
_NOTES = re.compile(r"^\[(?:INFO|WARNING)\b|\w+Warning: |^WARNING\b|^\s*\[WARNING\]")
_EXITS = {
    124: ("`timeout` ended the run: its time was over", "Give `timeout` more time; then resume_from_checkpoint: true"),
    126: ("the command could not be executed", "Check its rights (chmod +x) and that it is no folder"),
    127: ("the command was not found", "Activate the environment (source VENV/bin/activate) or correct the name"),
}


def conclude(reading: Reading, exit_code: int | None) -> list[Diagnosis]:
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
        return [interrupted(f" {facts.phase}" if facts.phase else "", quote(trace_line(ctrl_c)))]

    if number in FROM_OUTSIDE:
        return [explain_signal(facts, code)]

    if facts.finished and number:
        return [explain_signal(facts, code)]

    return [
        _by_rule(reading, traces)
        or _by_complaint(reading, traces, code)
        or explain_signal(facts, code)
        or _by_code(reading, code)
        or _by_peer(reading, traces)
        or unknown(reading, traces)
    ]


def _uncaught(reading: Reading, only_after_success: bool) -> list[Trace]:
    """Return the tracebacks that ended a process: the last one of each, that of the first failure in front.

    The ranks that only lost a peer come last.
    """
    last: dict[Any, Trace] = {}
    for trace in reading.tracebacks.all():
        if _is_wrapper(trace) or (only_after_success and trace.number < reading.facts.finished):
            continue

        known = last.get(trace.rank)
        if known is None or not _is_peer(trace) or _is_peer(known):
            last[trace.rank] = trace

    if not last:
        alone = [trace for trace in reading.tracebacks.alone if not _is_wrapper(trace)]
        last = {
            trace.number: trace for trace in alone if not only_after_success or trace.number > reading.facts.finished
        }

    rank = reading.facts.root.get("rank")
    first = int(rank[1].split()[0]) if rank else None
    return sorted(last.values(), key=lambda trace: (_is_peer(trace), trace.rank != first, trace.number))


def _is_wrapper(trace: Trace) -> bool:
    """Tell whether an exception only passes on what another process said above it."""
    kind, said = trace.kind.rsplit(".", 1)[-1], trace.message.partition("\n")[0]
    launched = kind == "CalledProcessError" and any(word in trace.message for word in _LAUNCHED)
    return kind in _WRAPPERS or "See root cause above" in said or launched


def _is_peer(trace: Trace) -> bool:
    return any(cause.peer and cause.match(trace.text, trace.frame) for cause in _PEERS)


_PEERS = tuple(cause for cause in ALL if cause.peer)


def _by_rule(reading: Reading, traces: list[Trace]) -> Diagnosis | None:
    """Return the finding of the rule that fits best.

    What explains an exception above it comes first; then special before general rules, exceptions before other lines.
    """
    root = reading.facts.root.get("rank")
    if root and traces and str(traces[0].rank) == root[1].split()[0]:
        traces = traces[:1]  # torchrun has seen which rank failed first: what the others say follows from it

    matched = [found for trace in traces if (found := _match(trace, reading.facts.phase)) is not None]
    for found in matched:
        if isinstance(found, Diagnosis):
            return found

    phase = reading.facts.phase
    hits = [(line, cause) for line, cause in reading.hits.values() if cause.match(line.text, phase=phase)]
    hits.sort(key=lambda hit: hit[0].number)
    for trace in traces[:1]:
        for line, cause in hits:
            if cause.explains and line.number < trace.number and cause.explains.search(trace.text):
                return _diagnosis(cause, cause.pattern.search(line.text), line)

    for trace, cause, match in matched:
        if not cause.general and not cause.peer and (trace is traces[0] or not trace.frames):
            return _diagnosis(cause, match, trace_line(trace, match))

    special = [hit for hit in hits if not (hit[1].benign or hit[1].general or hit[1].peer)]
    if special:
        line, cause = special[0]
        found = _diagnosis(cause, cause.pattern.search(line.text), line)
        return replace(found, certainty="likely") if traces and not matched else found

    for trace, cause, match in matched:
        if not cause.peer:
            return _diagnosis(cause, match, trace_line(trace, match))

    rest = [hit for hit in hits if hit[1].general] or [hit for hit in hits if hit[1].benign and not traces]
    rest = [hit for hit in rest if not hit[1].peer]
    return _diagnosis(rest[0][1], rest[0][1].pattern.search(rest[0][0].text), rest[0][0]) if rest else None


def _by_complaint(reading: Reading, traces: list[Trace], code: int | None) -> Diagnosis | None:
    """Return what a line says that shows no exception: an error of this package, else one that a rule knows."""
    if any(trace.frames for trace in traces):
        return None

    lines = [line for line in reading.tail if not _NOTES.search(line.text)]
    if (own := own_error(lines, code)) is not None:
        return _passed_on(own[1], own[0])

    for line in [*reading.complaints, *reading.late]:
        if _NOTES.search(line.text) or code is None and line.number < reading.facts.stepped:
            continue

        for cause in ALL:
            if not (cause.benign or cause.general or cause.peer) and (
                match := cause.match(line.text, phase=reading.facts.phase)
            ):
                return _diagnosis(cause, match, line)

    return None


def _by_peer(reading: Reading, traces: list[Trace]) -> Diagnosis | None:
    """Return that a peer was lost, where no process says more than that."""
    found = _match(traces[0], reading.facts.phase) if traces and _is_peer(traces[0]) else None
    return _diagnosis(found[1], found[2], trace_line(found[0], found[2])) if isinstance(found, tuple) else None


def _match(trace: Trace, phase: str):
    """Return the rule for a traceback and those it was raised from, or the finding that a ChatTSError carries."""
    chain = trace.chain()
    for item in reversed(chain):
        if item.kind.endswith("ChatTSError"):
            return _advised(item) or _passed_on(item.text.removeprefix(f"{item.kind}: "), trace_line(item))

    found = (
        (item, cause, match)
        for cause in ALL
        for item in reversed(chain)
        if (match := cause.match(item.text, item.frame, phase))
    )
    return next(found, None)


def _advised(trace: Trace) -> tuple[Trace, Cause, re.Match[str]] | None:
    """Return the rule for what a ChatTSError was raised from, where it judges both texts, one below the other."""
    for cause in ALL:
        for item in trace.chain() if cause.advised else ():
            if cause.match(item.text, item.frame):
                text = item.text if item is trace else f"{item.text}\n{trace.text}"
                return item, cause, cause.pattern.search(text)

    return None


def _passed_on(text: str, shown: Line) -> Diagnosis:
    """Split the text of a ChatTSError, ``where: what. fix.``, into cause and fix.

    One that lists several mistakes has them on lines of their own: the first is named, all stand in the fix.
    """
    head, *rest = (" ".join(line.split()) for line in text.split("\n"))
    rest = [line for line in rest if line]
    what, _, fix = head.partition(". ")
    cause = what.rstrip(".")
    if rest:
        cause = f"{cause}: {rest[0].partition('. ')[0]}"
        shown = Line(shown.number + 1, rest[0], shown.rank)

    fix = " ".join([fix, *rest]).strip()
    return Diagnosis(shorten(cause, 400), quote(shown), fix or "The message says what to change")


def _diagnosis(cause: Cause, match, line: Line) -> Diagnosis:
    rank = f"rank {line.rank}: " if line.rank is not None else ""
    shown = quote(line, line.text.find(match[0]))
    return Diagnosis(rank + fill(cause.cause, match), shown, fill(cause.fix, match), cause.certainty)


def _by_code(reading: Reading, code: int | None) -> Diagnosis | None:
    """Judge exit codes that shells and `timeout` give."""
    if code not in _EXITS:
        return None

    said = [line for line in reading.tail if "not found" in line.text or "denied" in line.text]
    shown = said[-1] if said and code != 124 else reading.facts.code[0] if reading.facts.code else None
    return Diagnosis(_EXITS[code][0], quote(shown) if shown else f"exit code {code}", _EXITS[code][1])


def _without_end(reading: Reading) -> list[Diagnosis]:
    """Judge a log that shows neither an exit code nor an error."""
    facts = reading.facts
    special = [line for line, cause in reading.hits.values() if not (cause.benign or cause.peer)]
    if not facts.finished and any(line.number > facts.stepped for line in special):
        return [_by_rule(reading, [])]

    if not facts.finished and (found := _by_complaint(reading, [], None)) is not None:
        return [found]

    if facts.oom is not None and not facts.finished:
        return [out_of_host_memory(facts)]

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
