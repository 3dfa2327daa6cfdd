"""One finding about a failed run: what happened, what shows it, what to change."""

from dataclasses import dataclass
from typing import Literal


Certainty = Literal["certain", "likely"]


@dataclass(frozen=True)
class Diagnosis:
    """One finding.

    Attributes:
        cause: what went wrong, in one line.
        evidence: the line that shows it, with its number (``line 120: ...``), or what is known from outside the log.
        fix: the command to run or the change to make.
        certainty: ``certain`` when the evidence names the cause itself, ``likely`` when it only points to it.
    """

    cause: str
    evidence: str
    fix: str
    certainty: Certainty = "certain"
