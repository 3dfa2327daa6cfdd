"""One line of a traceback: the ways in which Python, IPython, rich and their users write it."""

import re
from typing import NamedTuple


_START = re.compile(r"Traceback \(most recent call last\)")
_KIND_OF_IPYTHON = re.compile(r"^([A-Za-z_][\w.]*)\s+Traceback \(most recent call last\)")
_CHAIN = ("The above exception was the direct cause", "During handling of the above exception")

_FRAMES = (
    re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>\S+))?'),
    re.compile(r"^\s*File (?P<file>[^\s\"][^\"]*?):(?P<line>\d+), in (?P<function>[\w.<>]+)"),
    re.compile(r"^\s*(?P<file>Cell In ?\[\d+\]), line (?P<line>\d+)(?:, in (?P<function>[\w.<>]+))?"),
    re.compile(r"^(?P<file><ipython-input-[\w-]+>|(?:[~/]|[A-Za-z]:\\)[^\"]*?\.py) in (?P<function>[\w.<>]+)"),
    re.compile(r"^(?P<file>\S*\.py|in):(?P<line>\d+) in (?P<function>[\w.<>]+)$"),
)
_HEADLESS = re.compile(r'^\s*File "[^"]+", line \d+, in \S|^\s*Cell In ?\[\d+\], line \d+')
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


class Frame(NamedTuple):
    """Where a line of a traceback points to; ``line`` is "" where it is not told."""

    file: str
    line: str
    function: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place} in {self.function}" if self.function else place


def starts(text: str) -> bool:
    """Tell whether a line is a traceback's head."""
    return _START.search(text) is not None


def announced(text: str) -> tuple[str, int]:
    """Return what stands in front of a traceback's head (a prefix that its lines may share), and the head's place."""
    found = _START.search(text)
    return ("", 0) if found is None or _KIND_OF_IPYTHON.match(text) else (text[: found.start()], found.start())


def chains(text: str) -> bool:
    return text.strip("│| ").startswith(_CHAIN)


def unboxed(text: str) -> str:
    """Return a line without the sides of the box that rich draws around tracebacks."""
    found = _BOX.match(text) if text[:1] in "│|" else None
    return found[1].removeprefix("❱ ") if found else text


def frame_of(text: str) -> Frame | None:
    """Return the frame that a line names."""
    for pattern in _FRAMES:
        if found := pattern.match(text):
            groups = found.groupdict()
            return Frame(groups["file"], groups.get("line") or "", (groups.get("function") or "").rstrip(","))

    return None


def opens_without_head(text: str) -> bool:
    """Tell whether a line is a frame that begins a traceback whose head was not copied."""
    return ", in " in text and _HEADLESS.match(text) is not None


def goes_on(text: str) -> bool:
    """Tell whether a line inside a traceback is source text, marks or an omission."""
    return _INSIDE.match(text) is not None


def exception_of(text: str) -> tuple[str, str] | None:
    """Return class and message when a line behind frames is an exception."""
    found = _EXCEPTION.match(text)
    return (found[1], found[2] or "") if found else None


def lone_exception(text: str) -> tuple[str, str] | None:
    """Return class and message when a line that no frames precede is an exception all the same."""
    found = _ALONE.match(text)
    if found and (found[2] or "." in found[1]):
        return found[1], found[2] or ""

    return (found[1], "") if (found := _TERMINATED.match(text)) else None
