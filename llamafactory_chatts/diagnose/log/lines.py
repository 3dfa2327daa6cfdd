"""A log file as a stream of lines: memory stays flat, however long the file and its lines are.

Progress bars write thousands of states into one line, separated by carriage returns; each state is a piece of its own
here, under the number of the line that editors show. What launchers put in front (time, rank) is taken off.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


CHUNK = 1 << 20
LONGEST = 1 << 16
"""Bytes of a piece that are kept; a longer one is cut into several."""

_BAR_ENDS = (b"it/s]", b"s/it]", b"examples/s]", b"B/s]", b"?it/s]")
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_TIME = re.compile(
    r"^(?:\[?\d{4}[-/]\d\d[-/]\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?(?: \||:)? |"
    r"\[?\d\d:\d\d:\d\d(?:[.,]\d+)?\]? )"
)
_WHO = re.compile(
    r"^(?:\((?:[\w.:<>-]+ )?pid=\d+(?:, ip=[\d.]+)?\) |\[\d+,\d+\]<std(?:err|out)>: ?|std(?:err|out): |"
    r"(?:\d{1,4}|\d+\.\d+\.\d+\.\d+|(?:[A-Za-z][\w.]*[-_.])?(?:worker|master|node|host|rank|gpu|trainer|"
    r"pod)[\w.-]*\d+|"
    r"\[(?:pod|worker|node)\S*\])(?: +\|(?= )|:) |(?:ERROR|WARNING|INFO) \d\d-\d\d \d\d:\d\d:\d\d \[[\w./]+:\d+\] ?)"
)  # Ray, mpirun, a launcher's pipe, srun -l and pdsh, containers, vLLM
_RANK = re.compile(r"^\[(?:rank|default)[ _]?(\d+)\]: ?", re.IGNORECASE)
_BAR_NAME = re.compile(rb"([A-Z][\w ]+?)(?: \([^)]*\))?:\s+\d+%\|")
_BAR = re.compile(r"^.{0,200}?\d+%\|[^|]*\|\s*[\d.]+\w*/[\d.]+\w* \[[^\]]*\]\s*")


class Line(NamedTuple):
    """A piece of a log.

    Attributes:
        number: line number, from 1.
        text: without time, rank, colours and the progress bar in front.
        rank: of the process that wrote it, where the log says so.
    """

    number: int
    text: str
    rank: int | None = None


def clean(raw: bytes) -> tuple[str, int | None]:
    """Return the text of a piece and its rank, without what launchers put in front of it."""
    text = raw.decode("utf-8", errors="replace").rstrip()
    if "\x1b" in text:
        text = _COLOUR.sub("", text)

    rank = None
    for _ in range(4):  # the launcher's prefixes, and those of what runs below or above it
        if "%|" in text:
            text = _BAR.sub("", text, count=1)

        if found := _RANK.match(text):
            rank = int(found[1])
        else:
            found = _TIME.match(text) or _WHO.match(text)

        if not found:
            break

        text = text[found.end() :]

    return text, rank


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the pieces of a log that are more than the state of a progress bar, and each bar's name once."""
    bar = b""
    for number, raw in _pieces(path):
        if raw.endswith(_BAR_ENDS) and b"%|" in raw:
            name = _BAR_NAME.search(raw)
            if name is None or name[1] == bar:
                continue

            bar = raw = name[1]

        text, rank = clean(raw)
        yield Line(number, text, rank)


def _pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    number, rest = 1, b""
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            for line in lines:
                for piece in line.split(b"\r") if b"\r" in line else (line,):
                    yield from _cut(number, piece)

                number += 1

            if b"\r" in rest or len(rest) > LONGEST:
                *done, rest = rest.split(b"\r")
                for piece in done:
                    yield from _cut(number, piece)

                if len(rest) > LONGEST:
                    yield from _cut(number, rest)
                    rest = b""

    for piece in rest.split(b"\r"):
        yield from _cut(number, piece)


def _cut(number: int, piece: bytes) -> Iterator[tuple[int, bytes]]:
    if len(piece) <= LONGEST:
        yield number, piece
        return

    for start in range(0, len(piece), LONGEST):
        yield number, piece[start : start + LONGEST]
