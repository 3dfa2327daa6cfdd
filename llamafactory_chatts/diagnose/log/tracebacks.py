"""Python tracebacks of a log, per process: the exception, the innermost frame, and what it was raised from."""

import re
from collections import deque
from dataclasses import dataclass, field

from . import frames as log_frames
from .frames import Frame
from .lines import Line


KEPT = 60
"""Tracebacks kept from the beginning of a log, and as many from its end."""

_RECORD = re.compile(
    r"^(?:\[(?:INFO|WARN|ERROR|20\d\d|rank|\w+\|)|[WEIF]\d{4} |exit code|Traceback|\S+:\d+: \w*Warning|\s*\d+%\||"
    r"={8,}|"
    r"\*{5}|[╭╰]─)"
)
_MESSAGE_LINES, _MESSAGE_LENGTH, _LINE_LENGTH = 40, 8000, 1000
_PATIENCE = 20
"""Lines of other processes that may stand between the lines of a traceback."""

_FRAMES_KEPT = 40


@dataclass
class Trace:
    """One traceback.

    Attributes:
        start: line number of its first line. number: line number of the exception, 0 while it is not known.
        kind: name of the exception class. message: its text, several lines, cut when it is long.
        frames: the outermost and the innermost ones, in their order. cause: the traceback it was raised from.
        prefix: what stands in front of its head, and maybe of its other lines.
    """

    start: int
    rank: int | None
    number: int = 0
    kind: str = ""
    message: str = ""
    frames: list[Frame] = field(default_factory=list)
    cause: "Trace | None" = None
    prefix: str = ""
    strangers: int = 0
    half: str = ""  # of a path that rich broke at the side of its box

    @property
    def text(self) -> str:
        message = self.message.rstrip('\n "')
        return f"{self.kind}: {message}" if message else self.kind

    @property
    def frame(self) -> str:
        """``file:line in function`` of the innermost frame."""
        return str(self.frames[-1]) if self.frames else ""

    def chain(self) -> list["Trace"]:
        """Return the tracebacks from the first one raised to this one."""
        found: list[Trace] = []
        trace: Trace | None = self
        while trace is not None and len(found) < 20:
            found.insert(0, trace)
            trace = trace.cause

        return found


@dataclass
class Tracebacks:
    """Collects the tracebacks while the lines pass by; ``alone`` are exceptions that no frames precede."""

    first: list[Trace] = field(default_factory=list)
    later: deque[Trace] = field(default_factory=lambda: deque(maxlen=KEPT))
    alone: deque[Trace] = field(default_factory=lambda: deque(maxlen=KEPT))
    _open: dict[int | None, Trace] = field(default_factory=dict)
    _speaking: dict[int | None, Trace] = field(default_factory=dict)
    _chained: dict[int | None, Trace] = field(default_factory=dict)

    def all(self) -> list[Trace]:
        """Return the outermost tracebacks in the order of the log: those that no later one was raised from."""
        known = [*self.first, *self.later]
        causes = {id(trace.cause) for trace in known}
        return [trace for trace in known if id(trace) not in causes]

    def add(self, line: Line) -> bool:
        """Take a line; return whether it belongs to a traceback."""
        text, rank = line.text, line.rank
        if "Traceback (" in text and log_frames.starts(text):
            around = self._speaking.get(rank) if "Original Traceback" in text else None
            self._begin(line, log_frames.announced(text)[0])
            self._open[rank].cause = around or self._open[rank].cause  # a worker's own, told by who met it
            return True

        if rank in self._open:
            return self._inside(self._open[rank], line)

        if log_frames.chains(text):
            self._speaking.pop(rank, None)
            last = next((trace for trace in reversed([*self.first, *self.later]) if trace.rank == rank), None)
            if last is not None:
                self._chained[rank] = last

            return True

        if log_frames.opens_without_head(text):
            self._begin(line)
            return self._inside(self._open[rank], line)

        speaking = self._speaking.get(rank)
        if speaking is not None and self._message(speaking, line):
            return False

        if alone := log_frames.lone_exception(text):
            trace = Trace(line.number, rank, line.number, alone[0], alone[1][:_LINE_LENGTH])
            self.alone.append(trace)
            self._speaking[rank] = trace

        return False

    def _begin(self, line: Line, prefix: str = "") -> None:
        rank = line.rank
        self._speaking.pop(rank, None)
        self._open[rank] = Trace(line.number, rank, cause=self._chained.pop(rank, None), prefix=prefix)

    def _inside(self, trace: Trace, line: Line) -> bool:
        text = log_frames.unboxed(line.text.removeprefix(trace.prefix))
        half, trace.half = trace.half, ""
        if frame := log_frames.frame_of(half + text):
            trace.frames.append(frame)
            if len(trace.frames) > _FRAMES_KEPT:
                del trace.frames[_FRAMES_KEPT // 2]

            return True

        if line.text[:1] in "│|╭╰" or log_frames.goes_on(text):
            trace.half = text if line.text[:1] in "│|" and text[:1] in "/~" and " " not in text else ""
            return True

        exception = log_frames.exception_of(text)
        if exception is None:
            trace.strangers += 1
            if trace.strangers > _PATIENCE:
                del self._open[trace.rank]

            return False

        trace.number, trace.kind, trace.message = line.number, exception[0], exception[1][:_LINE_LENGTH]
        del self._open[trace.rank]
        self._speaking[trace.rank] = trace
        (self.first if len(self.first) < KEPT else self.later).append(trace)
        return True

    def _message(self, trace: Trace, line: Line) -> bool:
        """Take a further line of an exception's text; return whether it was one."""
        long = len(trace.message) > _MESSAGE_LENGTH or trace.message.count("\n") >= _MESSAGE_LINES
        if long or _RECORD.match(line.text):
            del self._speaking[trace.rank]
            return False

        trace.message = f"{trace.message}\n{line.text.removeprefix(trace.prefix)[:_LINE_LENGTH]}"
        return True
