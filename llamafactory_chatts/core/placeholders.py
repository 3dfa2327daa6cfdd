"""One ``<ts><ts/>`` per series, in the right turns, and nothing that only looks like it."""

from .contract import PLACEHOLDER, TS_END, TS_START
from .errors import ChatTSError, shorten


READERS = ("user", "observation")
"""Roles whose text may hold series; an answer or a system prompt may not."""


def check_placeholders(messages: list[dict[str, str]], series: int, system: str = "") -> None:
    """Raise a :class:`ChatTSError` unless the messages hold one ``<ts><ts/>`` per series, and nothing like it else."""
    found = 0
    for message in [*messages, {"role": "system", "content": system or ""}]:
        content, role = message["content"], message["role"]
        pairs = content.count(PLACEHOLDER)
        if content.count(TS_START) != pairs or content.count(TS_END) != pairs:
            raise ChatTSError(
                f"a lone {TS_START} or {TS_END} in the {role} text ({shorten(content, 40)})",
                fix=f"Write {PLACEHOLDER} where a series belongs and remove any other {TS_START}",
            )

        if pairs and role not in READERS:
            raise ChatTSError(f"{PLACEHOLDER} in the {role} text", fix="Put series into a user turn")

        found += pairs

    if found != series:
        raise ChatTSError(f"{found} {PLACEHOLDER} but {series} series", fix="Add a series or remove a placeholder")
