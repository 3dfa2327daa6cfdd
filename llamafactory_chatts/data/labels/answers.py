"""Answers as the prompt demands them: a JSON list of intervals. What cannot be converted is refused, never guessed."""

import ast
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import ChatTSError, shorten


if TYPE_CHECKING:
    from jsonschema import Draft202012Validator


SCHEMA_FILE = "answers.schema.json"
LONGEST = 100_000
"""Characters of the longest text that is parsed; Python's own parser is not made for more."""

Interval = tuple[int, int]


@cache
def validator(path: str | None = None) -> "Draft202012Validator":
    """Return the jsonschema validator of a schema file; of the shipped one (intervals and types) if None.

    Raises:
        ChatTSError: the file is no JSON schema.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    file = resources.files(__package__).joinpath("schema", SCHEMA_FILE) if path is None else Path(path)
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
        Draft202012Validator.check_schema(schema)
    except (OSError, ValueError, SchemaError) as error:
        raise ChatTSError(f"not a JSON schema ({shorten(error, 60)})", path, "Correct answer_schema") from None

    return Draft202012Validator(schema)


def parse(answer: object) -> object:
    """Return the value that an answer is: JSON, or a literal of Python (nothing is executed).

    Raises:
        ChatTSError: prose, or anything else that is neither.
    """
    if not isinstance(answer, str):
        return answer

    text = answer.strip()
    if len(text) > LONGEST:
        raise ChatTSError(f"an answer of {len(text)} characters is not parsed", fix="Use answers: keep")

    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass

    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ChatTSError(
            f"neither JSON nor a Python literal ({shorten(answer, 60)})",
            fix='Write [{"interval": [start, end], "type": "..."}], or use answers: keep',
        ) from None


def normalise(answer: object, schema: "Draft202012Validator | None" = None) -> Any:
    """Return an answer as the list that the prompt asks for; a single object becomes a list of one.

    What else the schema allows is returned as it is.

    Args:
        answer: a text with JSON or a Python literal, or the value itself.
        schema: validator to hold it against; the shipped one if None.

    Raises:
        ChatTSError: it cannot be parsed, or does not match the schema.
    """
    value = _plain(parse(answer))
    value = [value] if isinstance(value, dict) else value
    errors = sorted((schema or validator()).iter_errors(value), key=lambda item: list(map(str, item.absolute_path)))
    for error in errors[:1]:
        place = "".join(f"[{part!r}]" for part in error.absolute_path)
        raise ChatTSError(
            f"does not match the schema{' at ' + place if place else ''}: {shorten(error.message)}",
            fix='Write [{"interval": [start, end], "type": "..."}]',
        )

    return value


def _plain(value: object) -> object:
    """Return a value as JSON knows it: tuples as lists, whole floats as integers.

    Raises:
        ChatTSError: a set, bytes, a complex number, NaN and the like.
    """
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}

    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]

    if isinstance(value, float) and value.is_integer():
        return int(value)

    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and value - value == 0):
        return value

    raise ChatTSError(f"JSON has no {type(value).__name__} ({shorten(value, 40)})", fix="Use lists, numbers and texts")


def dumps(value: object) -> str:
    """Return the text of an answer."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def intervals(value: object) -> list[Interval] | None:
    """Return the intervals of a normalised answer; None unless every item is an object with one."""
    found = []
    for item in value if isinstance(value, list) else [value]:
        interval = item.get("interval") if isinstance(item, dict) else None
        if not isinstance(interval, list) or len(interval) != 2 or not all(type(end) is int for end in interval):
            return None

        found.append((interval[0], interval[1]))

    return found


def check_intervals(found: list[Interval], points: int) -> None:
    """Refuse intervals that are reversed or outside a series of ``points`` points.

    Raises:
        ChatTSError: naming the first such interval.
    """
    for start, end in found:
        if start > end:
            raise ChatTSError(f"the interval [{start}, {end}] is reversed", fix="Write the smaller index first")

        if start < 0 or end >= points:
            raise ChatTSError(
                f"the interval [{start}, {end}] is outside the series of {points} points",
                fix=f"Indices run from 0 to {points - 1}",
            )
