"""Changing one entry of a JSON object in its text: every other byte stays as it is."""

import json
import re
from typing import Any, NamedTuple


_SPACE = re.compile(r"[ \t\r\n]*")
INDENT = "  "


class Span(NamedTuple):
    """Where an entry stands: its key, its value (both first character and behind the last one)."""

    key: str
    start: int
    value: int
    end: int


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def spans(text: str) -> list[Span]:
    """Return the entries of a text that holds one JSON object, in order."""
    decode = json.JSONDecoder().raw_decode
    found = []
    at = _skip(text, _skip(text, 0) + 1)
    while text[at] != "}":
        start = at
        key, at = decode(text, at)
        value = _skip(text, _skip(text, at) + 1)
        _, end = decode(text, value)
        found.append(Span(key, start, value, end))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)

    return found


def _layout(text: str, found: list[Span]) -> tuple[str, str]:
    """Return the newline and the indentation of entries; both empty for an object on one line."""
    if not found:
        return ("\r\n" if "\r\n" in text else "\n"), INDENT

    before = text[text.index("{") + 1 : found[0].start]
    newline = "\r\n" if "\r\n" in before else "\n" if "\n" in before else ""
    return newline, before.rpartition("\n")[2] if newline else ""


def _dump(value: Any, newline: str, indent: str) -> str:
    if not newline:
        return json.dumps(value, ensure_ascii=False)

    return json.dumps(value, ensure_ascii=False, indent=indent or None).replace("\n", newline + indent)


def put(text: str, key: str, value: Any) -> str:
    """Return the text with an entry added at the end, or with its value replaced."""
    found = spans(text)
    newline, indent = _layout(text, found)
    dumped = _dump(value, newline, indent)
    there = [span for span in found if span.key == key]
    if there:  # of a key that occurs twice, readers take the last one
        return text[: there[-1].value] + dumped + text[there[-1].end :]

    entry = f"{json.dumps(key, ensure_ascii=False)}: {dumped}"
    if found:
        at = found[-1].end
        return f"{text[:at]},{newline or ' '}{indent}{entry}{text[at:]}"

    at = text.index("{") + 1
    return f"{text[:at]}{newline}{indent}{entry}{newline}{text[_skip(text, at) :]}"


def remove(text: str, key: str) -> str:
    """Return the text without an entry, and without its comma."""
    while there := [index for index, span in enumerate(spans(text)) if span.key == key]:
        found, index = spans(text), there[0]
        if index + 1 < len(found):
            text = text[: found[index].start] + text[found[index + 1].start :]
        elif index:
            text = text[: found[index - 1].end] + text[found[index].end :]
        else:
            text = text[: text.index("{") + 1] + text[text.rindex("}") :]

    return text
