"""Python tracebacks of a log, per process: the exception, the innermost frame, and what it was raised from."""

import re
from collections import deque
from dataclasses import dataclass, field

from .log_lines import Line


START = "Traceback (most recent call last):"
KEPT = 60
"""Tracebacks kept from the beginning of a log, and as many from its end."""

_CHAIN = ("The above exception was the direct cause", "During handling of the above exception")
_EXCEPTION = re.compile(r"^((?:[A-Za-z_]\w*\.)*[A-Z_]\w*)(?:: ?(.*))?$")
_FRAME = re.compile(r'^\s+File "([^"]+)", line (\d+)(?:, in (\S+))?')
_RECORD = re.compile(r"^(?:\[|[WEIF]\d{4} |exit code|Traceback|\S+:\d+: \w*Warning|\s*\d+%\||={8,}|\*{5})")
_MESSAGE_LINES, _MESSAGE_LENGTH, _LINE_LENGTH = 40, 8000, 1000
_PATIENCE = 20
"""Lines of other processes that may stand between the lines of a traceback."""


@dataclass
class Trace:
    """One traceback.

    Attributes:
        start: line number of its first line. number: line number of the exception, 0 while it is not known.
        kind: name of the exception class. message: its text, several lines, cut when it is long.
        frame: ``file:line in function`` of the innermost frame. cause: the traceback it was raised from.
    """

    start: int
    rank: int | None
    number: int = 0
    kind: str = ""
    message: str = ""
    frame: str = ""
    cause: "Trace | None" = None
    strangers: int = 0

    @property
    def text(self) -> str:
        message = self.message.rstrip('\n "')
        return f"{self.kind}: {message}" if message else self.kind

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
    """Collects the tracebacks while the lines pass by."""

    first: list[Trace] = field(default_factory=list)
    later: deque[Trace] = field(default_factory=lambda: deque(maxlen=KEPT))
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
        at = text.find(START)
        if at >= 0:
            self._speaking.pop(rank, None)
            self._open[rank] = Trace(line.number, rank, cause=self._chained.pop(rank, None))
            return True

        if rank in self._open:
            return self._inside(self._open[rank], line)

        if text.startswith(_CHAIN):
            self._speaking.pop(rank, None)
            last = next((trace for trace in reversed([*self.first, *self.later]) if trace.rank == rank), None)
            if last is not None:
                self._chained[rank] = last

            return True

        if rank in self._speaking:
            self._message(self._speaking[rank], line)

        return False

    def _inside(self, trace: Trace, line: Line) -> bool:
        text = line.text
        frame = _FRAME.match(text)
        if frame:
            trace.frame = f"{frame[1]}:{frame[2]}" + (f" in {frame[3]}" if frame[3] else "")
            return True

        if not text or text[0].isspace():
            return True

        exception = _EXCEPTION.match(text)
        if exception is None:
            trace.strangers += 1
            if trace.strangers > _PATIENCE:
                del self._open[trace.rank]

            return False

        trace.number, trace.kind, trace.message = line.number, exception[1], (exception[2] or "")[:_LINE_LENGTH]
        del self._open[trace.rank]
        self._speaking[trace.rank] = trace
        (self.first if len(self.first) < KEPT else self.later).append(trace)
        return True

    def _message(self, trace: Trace, line: Line) -> None:
        """Take the further lines of an exception's text."""
        long = len(trace.message) > _MESSAGE_LENGTH or trace.message.count("\n") >= _MESSAGE_LINES
        if long or _RECORD.match(line.text):
            del self._speaking[trace.rank]
        else:
            trace.message = f"{trace.message}\n{line.text[:_LINE_LENGTH]}"
