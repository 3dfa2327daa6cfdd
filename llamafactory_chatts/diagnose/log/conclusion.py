"""What is concluded from a log: which of its exceptions and lines ended the run, and the row that explains it."""

import re
from collections.abc import Iterator
from dataclasses import replace

from ...core.errors import shorten
from .lines import Line
from .own_errors import own_error
from .reading import Reading
from .signals import FROM_OUTSIDE, ended_by_signal, explain_signal, interrupted, out_of_host_memory, quote
from .table import ALL, OUT_OF_MEMORY, Diagnosis, Match, Row
from .traces import Trace
from .unknown import unknown


_WRAPPERS = ("ChildFailedError", "SignalException")
_LAUNCHED = ("torchrun", "launcher", "deepspeed", "accelerate", "bin/python", "-m torch.distributed")
_NOTES = re.compile(r"^\[(?:INFO|WARNING)\b|\w+Warning: |^WARNING\b|^\s*\[WARNING\]")
_PEERS = [row for row in ALL if row.peer]
_EXITS = {
    124: ("`timeout` ended the run: its time was over", "Give `timeout` more time; then resume_from_checkpoint: true"),
    126: ("the command could not be executed", "Check its rights (chmod +x) and that it is no folder"),
    127: ("the command was not found", "Activate the environment (source VENV/bin/activate) or correct the name"),
}

Found = tuple[Trace, Row, Match]


def conclude(reading: Reading, exit_code: int | None) -> list[Diagnosis]:
    """Return the cause of a failure; empty where nothing failed.

    Args:
        reading: of a log, or made from what a run has recorded.
        exit_code: of the run, where it is known; else that which the log names.
    """
    facts = reading.facts
    code = exit_code if exit_code is not None else facts.code[1] if facts.code else None
    if code == 0:
        return []

    number = ended_by_signal(facts, code)[0]
    traces = _uncaught(reading, code is None)
    if code is None and not number and not traces and not facts.codes and not facts.root:
        return list(_without_end(reading))

    ctrl_c = next((trace for trace in traces if trace.kind.endswith("KeyboardInterrupt")), None)
    if ctrl_c is not None and number in (0, 2):
        return [interrupted(facts, ctrl_c.line())]

    said_nothing = number in FROM_OUTSIDE or (facts.finished and number)
    return [
        said_nothing
        and explain_signal(facts, code)
        or _by_row(reading, traces)
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
    finished = reading.facts.finished if only_after_success else 0
    last: dict[int | None, Trace] = {}
    for trace in reading.traces.all():
        if not _is_wrapper(trace) and trace.number >= finished:
            known = last.get(trace.rank)
            if known is None or not _is_peer(trace) or _is_peer(known):
                last[trace.rank] = trace

    alone = [trace for trace in reading.traces.alone if not _is_wrapper(trace) and trace.number > finished]
    first = reading.facts.first_rank
    return sorted(
        list(last.values()) or alone,
        key=lambda trace: (_is_peer(trace), first is not None and str(trace.rank) != first, trace.number),
    )


def _is_wrapper(trace: Trace) -> bool:
    """Tell whether an exception only passes on what another process said above it."""
    kind, said = trace.kind.rsplit(".", 1)[-1], trace.message.partition("\n")[0]
    launched = kind == "CalledProcessError" and any(word in trace.message for word in _LAUNCHED)
    return kind in _WRAPPERS or "See root cause above" in said or launched


def _is_peer(trace: Trace) -> bool:
    return any(row.match(trace.text, trace.frame) for row in _PEERS)


def _by_row(reading: Reading, traces: list[Trace]) -> Diagnosis | None:
    """Return the finding of the row that fits best.

    What explains an exception above it comes first; then special before general rows, exceptions before other lines.
    """
    facts = reading.facts
    if traces and str(traces[0].rank) == facts.first_rank:
        traces = traces[:1]  # torchrun has seen which rank failed first: what the others say follows from it

    matched: list[Found] = []
    for trace in traces:
        if (own := _own(trace)) is not None:
            return own

        matched += _match(trace, facts.phase)

    hits = [(line, row) for row, line in reading.hits.items() if row.match(line.text, phase=facts.phase)]
    hits.sort(key=lambda hit: hit[0].number)
    for line, row in hits if traces else ():
        if line.number < traces[0].number and row.is_explanation_of(traces[0].text):
            return _shown(line, row)

    for trace, row, match in matched:
        if not row.general and not row.peer and (trace is traces[0] or not trace.frames):
            return _diagnosis(row, match, trace.line(match))

    special = [hit for hit in hits if hit[1].special]
    if special:
        found = _shown(*special[0])
        return replace(found, certainty="likely") if traces and not matched else found

    for trace, row, match in matched:
        if not row.peer:
            return _diagnosis(row, match, trace.line(match))

    rest = [hit for hit in hits if hit[1].general] or [hit for hit in hits if hit[1].benign and not traces]
    return next((_shown(line, row) for line, row in rest if not row.peer), None)


def _own(trace: Trace) -> Diagnosis | None:
    """Return the finding that a ChatTSError of a chain carries.

    One about the GPU's memory is raised from PyTorch's: its row judges both texts, one below the other.
    """
    for item in trace.chain():
        if item.kind.endswith("ChatTSError"):
            for cause in reversed(item.chain()):
                if OUT_OF_MEMORY.match(cause.text, cause.frame):
                    text = item.text if cause is item else f"{cause.text}\n{item.text}"
                    match = OUT_OF_MEMORY.search(text)
                    return _diagnosis(OUT_OF_MEMORY, match, cause.line(match)) if match else None

            return _passed_on(item.text.removeprefix(f"{item.kind}: "), item.line())

    return None


def _match(trace: Trace, phase: str) -> list[Found]:
    """Return the row for a traceback and those it was raised from, as a list of one or none."""
    for row in ALL:
        for item in trace.chain():
            if match := row.match(item.text, item.frame, phase):
                return [(item, row, match)]

    return []


def _by_complaint(reading: Reading, traces: list[Trace], code: int | None) -> Diagnosis | None:
    """Return what a line says that shows no exception: an error of this package, else one that a row knows."""
    if any(trace.frames for trace in traces):
        return None

    lines = [line for line in reading.tail if not _NOTES.search(line.text)]
    if (own := own_error(lines, code)) is not None:
        return _passed_on(own[1], own[0])

    for line in [*reading.complaints, *reading.late]:
        if not _NOTES.search(line.text) and (code is not None or line.number >= reading.facts.stepped):
            for row in ALL:
                if row.special and (match := row.match(line.text, phase=reading.facts.phase)):
                    return _diagnosis(row, match, line)

    return None


def _by_peer(reading: Reading, traces: list[Trace]) -> Diagnosis | None:
    """Return that a peer was lost, where no process says more than that."""
    matched = _match(traces[0], reading.facts.phase) if traces and _is_peer(traces[0]) else []
    return next((_diagnosis(row, match, trace.line(match)) for trace, row, match in matched), None)


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


def _diagnosis(row: Row, match: Match, line: Line) -> Diagnosis:
    rank = f"rank {line.rank}: " if line.rank is not None else ""
    what, fix = row.say(match)
    return Diagnosis(rank + what, quote(line, line.text.find(match[0])), fix, row.certainty)


def _shown(line: Line, row: Row) -> Diagnosis:
    """Return the finding of a row that a line outside tracebacks shows."""
    match = row.search(line.text)
    assert match is not None, "kept because the pattern fits"
    return _diagnosis(row, match, line)


def _by_code(reading: Reading, code: int | None) -> Diagnosis | None:
    """Judge exit codes that shells and `timeout` give."""
    if code not in _EXITS:
        return None

    said = [line for line in reading.tail if "not found" in line.text or "denied" in line.text]
    shown = said[-1] if said and code != 124 else reading.facts.code[0] if reading.facts.code else None
    return Diagnosis(_EXITS[code][0], quote(shown) if shown else f"exit code {code}", _EXITS[code][1])


def _without_end(reading: Reading) -> Iterator[Diagnosis]:
    """Judge a log that shows neither an exit code nor an error."""
    facts = reading.facts
    if facts.finished:
        return

    told = any(line.number > facts.stepped and not (row.benign or row.peer) for row, line in reading.hits.items())
    found = _by_row(reading, []) if told else _by_complaint(reading, [], None)
    if found is not None:
        yield found
    elif facts.oom is not None:
        yield out_of_host_memory(facts)
    elif facts.started:
        yield Diagnosis(
            f"the log stops {facts.phase} without an error: the run still goes on, or was ended by a signal that "
            "leaves no trace (SIGKILL, or SIGHUP when the terminal closed)",
            quote(reading.tail[-1]),
            "`ps -ef | grep llamafactory` shows whether it runs; else look at `dmesg -T | grep -iE 'oom|killed "
            "process'` and give doctor the exit code",
            "likely",
        )
