"""One error type (what, where, what to change) and a collector that reports many at once."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import NoReturn


def shorten(value: object, width: int = 80) -> str:
    """Return ``str(value)`` cut to ``width`` characters, for showing data inside a message."""
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= width else text[: width - 3] + "..."


class ChatTSError(ValueError):
    """An error a user can act on.

    Args:
        what: what is wrong, without a final full stop.
        where: ``file:row``, a key or a path; put in front of the message.
        fix: the change to make, as a sentence without a final full stop.
    """

    def __init__(self, what: str, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(self.__str__())

    def __str__(self) -> str:
        head = f"{self.where}: " if self.where else ""
        tail = f" {self.fix}." if self.fix else ""
        return f"{head}{self.what}.{tail}"

    def __reduce__(self):  # dataset workers hand errors back by pickle
        return type(self), (self.what, self.where, self.fix)


@dataclass(frozen=True)
class Problem:
    """One wrong row: where it is, what is wrong, what to change."""

    where: str
    what: str
    fix: str = ""


class Problems:
    """Collects problems, then raises them as one error with totals.

    The totals count equal messages with their numbers blanked, so that 400 rows with the same mistake
    are one line.
    """

    def __init__(self, shown: int = 10) -> None:
        self.shown = shown
        self.items: list[Problem] = []

    def add(self, where: str, what: str, fix: str = "") -> None:
        self.items.append(Problem(where, what, fix))

    def __len__(self) -> int:
        return len(self.items)

    def raise_if_any(self, subject: str, checked: int) -> None:
        """Raise a :class:`ChatTSError` that lists the first problems and the totals, if there are any."""
        if self.items:
            self._raise(subject, checked)

    def _raise(self, subject: str, checked: int) -> NoReturn:
        lines = [str(ChatTSError(p.what, p.where, p.fix or None)) for p in self.items[: self.shown]]
        if len(self.items) > self.shown:
            lines.append(f"... and {len(self.items) - self.shown} more")

        kinds = Counter(re.sub(r"\d+(\.\d+)?", "#", p.what) for p in self.items)
        totals = "; ".join(f"{count} x {shorten(kind)}" for kind, count in kinds.most_common(5))
        raise ChatTSError(
            f"{len(self.items)} of {checked} rows cannot be used\n  " + "\n  ".join(lines) + f"\n  totals: {totals}",
            where=subject,
            fix="Nothing was trained; correct or remove these rows",
        )
