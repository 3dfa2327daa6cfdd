"""Python tracebacks of a log, per process, in the ways in which Python, IPython, rich and their users write them."""

import re
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from .lines import Line


KEPT = 60
"""Tracebacks kept from the beginning of a log, and as many from its end."""

_HEAD = re.compile(r"Traceback \(most recent call last\)")
_HEAD_OF_IPYTHON = re.compile(r"^[A-Za-z_][\w.]*\s+Traceback \(most recent call last\)")
_CHAIN = ("The above exception was the direct cause", "During handling of the above exception")
_FRAMES = (
    re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>\S+))?'),
    re.compile(r"^\s*File (?P<file>[^\s\"][^\"]*?):(?P<line>\d+), in (?P<function>[\w.<>]+)"),
    re.compile(r"^\s*(?P<file>Cell In ?\[\d+\]), line (?P<line>\d+)(?:, in (?P<function>[\w.<>]+))?"),
    re.compile(
        r"^(?P<file><ipython-input-[\w-]+>|(?:[~/]|[A-Za-z]:\\)[^\"]*?\.py)(?P<line>) in (?P<function>[\w.<>]+)"
    ),
    re.compile(r"^(?P<file>\S*\.py|in):(?P<line>\d+) in (?P<function>[\w.<>]+)$"),
)
_WITHOUT_HEAD = re.compile(r'^\s*File "[^"]+", line \d+, in \S|^\s*Cell In ?\[\d+\], line \d+')
_EXCEPTION = re.compile(
    r"^((?:[A-Za-z_]\w*\.)*[A-Z_]\w*|(?:[A-Za-z_]\w*\.)+\w*(?:error|timeout|exception))(?:: ?(.*))?$"
)
_ALONE = re.compile(
    r"^(?:[EC]\s+|\W{0,4}(?:ERROR|CRITICAL|FATAL)\W{1,4})?"
    r"((?:[A-Za-z_]\w*\.)*(?:[A-Z]\w*(?:Error|Exception|Interrupt|Failed|Failure)|ArrowInvalid|OutOfMemory))(?:: "
    r"(.*))?$"
)
_TERMINATED = re.compile(r"^terminate called after throwing an instance of '([\w:]+)'")
_INSIDE = re.compile(r"^(?:\s|-{2,}>|\d+ |[│|]|~+$|\.{3,}|…|\[\.{3}\]|\[\d+ (?:lines|frames) |$)")
_BOX = re.compile(r"^[│|]\s?(.*?)\s*[│|]?$")
_RECORD = re.compile(
    r"^(?:\[(?:INFO|WARN|ERROR|20\d\d|rank|\w+\|)|[WEIF]\d{4} |exit code|Traceback|\S+:\d+: \w*Warning|\s*\d+%\||"
    r"={8,}|"
    r"\*{5}|[╭╰]─)"
)
_MESSAGE_LINES, _MESSAGE_LENGTH, _LINE_LENGTH = 40, 8000, 1000
_PATIENCE = 20
"""Lines of other processes that may stand between the lines of a traceback."""

_FRAMES_KEPT = 40


class Frame(NamedTuple):
    """Where a line of a traceback points to; ``line`` is "" where it is not told."""

    file: str
    line: str
    function: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place} in {self.function}" if self.function else place


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
        """``Class: message``."""
        message = self.message.rstrip('\n "')
        return f"{self.kind}: {message}" if message else self.kind

    @property
    def frame(self) -> str:
        """``file:line in function`` of the innermost frame."""
        return str(self.frames[-1]) if self.frames else ""

    def line(self, match: re.Match[str] | None = None) -> Line:
        """Return the line of the text in which a pattern begins to fit, the first one without a pattern."""
        before = self.text[: match.start()].count("\n") if match else 0
        return Line(self.number + before, self.text.split("\n")[before], self.rank)

    def chain(self) -> list["Trace"]:
        """Return the tracebacks from this one to the first one raised."""
        found = [self]
        while (cause := found[-1].cause) is not None and len(found) < 20:
            found.append(cause)

        return found


@dataclass
class Traces:
    """Collects the tracebacks while the lines pass by; ``alone`` are exceptions that no frames precede.

    By rank: the traceback that is being read, the one whose exception's text may go on, and the one that the next is
    raised from.
    """

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
        if (head := _HEAD.search(text)) is not None:
            around = self._speaking.get(rank) if "Original Traceback" in text else None
            trace = self._begin(line, "" if _HEAD_OF_IPYTHON.match(text) else text[: head.start()])
            trace.cause = around or trace.cause  # a worker's own, told by who met it
            return True

        if rank in self._open:
            return self._inside(self._open[rank], line)

        if text.strip("│| ").startswith(_CHAIN):
            self._speaking.pop(rank, None)
            last = next((trace for trace in reversed([*self.first, *self.later]) if trace.rank == rank), None)
            if last is not None:
                self._chained[rank] = last

            return True

        if _WITHOUT_HEAD.match(text) and ", in " in text:
            return self._inside(self._begin(line), line)

        speaking = self._speaking.get(rank)
        if speaking is None or not self._message(speaking, line):
            self._exception_alone(line)

        return False

    def _begin(self, line: Line, prefix: str = "") -> Trace:
        self._speaking.pop(line.rank, None)
        self._open[line.rank] = Trace(line.number, line.rank, cause=self._chained.pop(line.rank, None), prefix=prefix)
        return self._open[line.rank]

    def _inside(self, trace: Trace, line: Line) -> bool:
        text, boxed = line.text.removeprefix(trace.prefix), line.text[:1] in "│|" and line.text != ""
        if text[:1] in ("│", "|") and (box := _BOX.match(text)):
            text = box[1].removeprefix("❱ ")

        half, trace.half = trace.half, ""
        if found := next(filter(None, (pattern.match(half + text) for pattern in _FRAMES)), None):
            trace.frames.append(Frame(found["file"], found["line"], (found["function"] or "").rstrip(",")))
            if len(trace.frames) > _FRAMES_KEPT:
                del trace.frames[_FRAMES_KEPT // 2]

            return True

        if boxed or line.text[:1] in ("╭", "╰") or _INSIDE.match(text):
            trace.half = text if boxed and text[:1] in ("/", "~") and " " not in text else ""
            return True

        exception = _EXCEPTION.match(text)
        if exception is None:
            trace.strangers += 1
            if trace.strangers > _PATIENCE:
                del self._open[trace.rank]

            return False

        trace.number, trace.kind, trace.message = line.number, exception[1], (exception[2] or "")[:_LINE_LENGTH]
        self._speaking[trace.rank] = self._open.pop(trace.rank)
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

    def _exception_alone(self, line: Line) -> None:
        found = _ALONE.match(line.text)
        if found is None or not (found[2] or "." in found[1]):
            found = _TERMINATED.match(line.text)

        if found:
            message = (found[2] or "")[:_LINE_LENGTH] if found.re is _ALONE else ""
            trace = Trace(line.number, line.rank, line.number, found[1], message)
            self.alone.append(trace)
            self._speaking[line.rank] = trace
