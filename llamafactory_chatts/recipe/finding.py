"""One finding of a check: how bad it is, what was looked at, what is wrong, where, and what to change."""

from dataclasses import asdict, dataclass
from typing import Literal

from ..core.errors import ChatTSError


Level = Literal["error", "warning", "note", "ok"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note", "ok")
"""``error``: would fail or do something else than was meant. ``warning``: works, at a cost or only by luck.
``note``: good to know. ``ok``: looked at and fine."""


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        level: one of ``LEVELS``.
        subject: what was looked at: the name of a check of the environment, or a key of a recipe.
        what: what was found, one line without a final full stop.
        where: ``file:line`` or a path; "" where there is none.
        fix: the command or the change that mends it; "" where nothing is to be done.
    """

    level: Level
    subject: str
    what: str
    where: str = ""
    fix: str = ""

    def line(self) -> str:
        """Return one line: where, subject, what, fix."""
        head = f"{self.where}: {self.subject}" if self.where else self.subject
        return str(ChatTSError(self.what, head, self.fix or None))

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Return the findings, errors first, otherwise in their order."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def has_errors(findings: list[Finding]) -> bool:
    return any(finding.level == "error" for finding in findings)
