"""A log file as a stream of lines: memory stays flat, however long the file and its lines are.

Progress bars write thousands of states into one line, separated by carriage returns; each state is a piece of its own
here, under the number of the line that editors show. What launchers put in front (time, rank) is taken off.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


LONGEST = 1 << 16
"""Characters of a piece that are kept; a longer one is cut into several."""

_BAR_ENDS = ("it/s]", "s/it]", "examples/s]", "B/s]")
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
_BAR_NAME = re.compile(r"([A-Z][\w ]+?)(?: \([^)]*\))?:\s+\d+%\|", re.ASCII)
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


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the pieces of a log that are more than the state of a progress bar, and each bar's name once."""
    number, bar = 1, ""
    with open(path, encoding="utf-8", errors="replace", newline="") as file:  # it ends pieces at \r, \n and \r\n
        while piece := file.readline(LONGEST):
            text = piece.rstrip("\r\n")
            if text.endswith(_BAR_ENDS) and "%|" in text:
                name = _BAR_NAME.search(text)
                text = name[1] if name and name[1] != bar else ""
                bar = text or bar
                if text:
                    yield Line(number, text)
            else:
                yield Line(number, *clean(text))

            number += piece.endswith("\n")


def clean(text: str) -> tuple[str, int | None]:
    """Return the text of a piece and its rank, without what launchers put in front of it."""
    text, rank = text.rstrip(), None
    if "\x1b" in text:
        text = _COLOUR.sub("", text)

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
