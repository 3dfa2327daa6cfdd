"""What the rows of other people's datasets mean: each known format, recognised by its keys, becomes a LabelRow."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...core.contract import COLUMN, PLACEHOLDER
from ...core.errors import shorten


ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
PICTURE = "<image>"


@dataclass
class LabelRow:
    """One label: what is asked and answered, and the series or the name of their file.

    Attributes:
        file: the label file, as the recipe names it.
        row: place in the file from 1; in JSON Lines the number of the line.
        name: file of the series as the label calls it, to be matched; None if the series are in the label.
        prompt, answer: of a label with one turn; the answer is as it stands in the file, whatever its type.
        series: the label's own series, numbers or None (a gap) in lists or vectors; None without.
        messages: turns as ``{"role": "system" | "user" | "assistant", "content": ...}``; None for one turn.
        extra: keys of the row that have no place above.
        problem: why the row cannot be read; everything else is then empty.
    """

    file: str
    row: int
    name: str | None = None
    prompt: str | None = None
    answer: Any = None
    series: list[list[float]] | None = None
    messages: list[dict[str, Any]] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


class NotThisFormat(Exception):
    """Why a row cannot be read in its format."""


Parts = dict[str, Any]


def _text(row: dict[str, Any], key: str, default: str | None = None) -> str:
    value = row.get(key, default)
    value = default if value is None else value
    if not isinstance(value, str):
        missing = f"{key!r} is missing" if value is None else f"{key!r} is {type(value).__name__}, not text"
        raise NotThisFormat(missing)

    return value


def _series(value: Any, key: str) -> Parts:
    """Return the series of a cell, or the name of a file; a single flat list is one series."""
    if isinstance(value, str):
        return {"name": value}

    if value is None or len(_listed(value, key)) == 0:
        return {"series": []}

    kinds = {isinstance(item, (list, tuple, np.ndarray)) for item in value}
    if kinds == {True}:
        return {"series": [item if isinstance(item, np.ndarray) else list(item) for item in value]}

    if {type(item) for item in value} == {str}:
        if len(value) == 1:
            return {"name": value[0]}

        raise NotThisFormat(f"{key!r} names {len(value)} files; one file per row is read, with a column per series")

    if kinds == {False}:
        return {"series": [value if isinstance(value, np.ndarray) else list(value)]}

    raise NotThisFormat(f"{key!r} mixes series and single values ({shorten(value, 40)})")


def _listed(value: Any, key: str) -> Any:
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise NotThisFormat(f"{key!r} is {type(value).__name__}, not a list ({shorten(value, 40)})")

    return value


def _turns(row: dict[str, Any], key: str, role_key: str, text_key: str, picture: bool = False) -> Parts:
    """Return prompt and answer of a conversation, or its messages where it has more than these two."""
    messages = []
    for number, turn in enumerate(_listed(row.get(key), key), start=1):
        if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
            raise NotThisFormat(f"turn {number} of {key!r} has no {role_key!r} and {text_key!r}")

        role, content = ROLES.get(str(turn[role_key])), turn[text_key]
        if role is None:
            raise NotThisFormat(
                f"turn {number} has the role {shorten(turn[role_key], 40)!r}, known: {', '.join(ROLES)}"
            )

        if role != "assistant" and not isinstance(content, str):
            raise NotThisFormat(f"turn {number} of {key!r} is {type(content).__name__}, not text")

        if role == "user" and PICTURE in content:
            if not picture:
                raise NotThisFormat(f"turn {number} shows an {PICTURE}, but the row names no picture")

            content = content.replace(PICTURE, PLACEHOLDER)

        messages.append({"role": role, "content": content})

    if isinstance(row.get("system"), str) and row["system"]:
        messages.insert(0, {"role": "system", "content": row["system"]})

    return _one_turn_or_more(messages, key)


def _one_turn_or_more(messages: list[dict[str, Any]], key: str) -> Parts:
    roles = [message["role"] for message in messages]
    talk = roles[1:] if roles[:1] == ["system"] else roles
    if not talk or len(talk) % 2 or talk != ["user", "assistant"] * (len(talk) // 2):
        raise NotThisFormat(f"the turns of {key!r} do not go user, assistant, ... ({shorten(', '.join(roles), 40)})")

    if len(messages) == 2:
        return {"prompt": messages[0]["content"], "answer": messages[1]["content"]}

    return {"messages": messages}


def _sharegpt_image(row: dict[str, Any]) -> Parts:
    pictures = row.get("image", row.get("images"))
    pictures = pictures if isinstance(pictures, (list, tuple)) else [pictures]
    if len(pictures) != 1:
        raise NotThisFormat(f"the row names {len(pictures)} pictures; one per row is read")

    picture = pictures[0]
    name = picture.get("path") if isinstance(picture, dict) else picture  # the form of Hugging Face datasets
    if not isinstance(name, str) or not name.strip():
        raise NotThisFormat("the row names no picture ('image' is empty)")

    return {"name": name, **_turns(row, "conversations", "from", "value", picture=True)}


def _chatts(row: dict[str, Any]) -> Parts:
    parts = {"prompt": _text(row, "input"), "answer": row.get("output"), **_series(row[COLUMN], COLUMN)}
    if isinstance(row.get("system"), str) and row["system"]:
        return _with_system(row["system"], parts)

    return parts


def _with_system(system: str, parts: Parts) -> Parts:
    asked = {"role": "user", "content": parts.pop("prompt")}
    answered = {"role": "assistant", "content": parts.pop("answer")}
    return {**parts, "messages": [{"role": "system", "content": system}, asked, answered]}


def _chatts_eval(row: dict[str, Any]) -> Parts:
    question, cols, found = _text(row, "question"), row.get("cols"), _series(row[COLUMN], COLUMN)
    count = len(found.get("series", [0]))
    if PLACEHOLDER not in question and count:  # the series are named beside the question, not in it
        names = list(cols) if isinstance(cols, (list, tuple)) and len(cols) == count else [""] * count
        lines = [f"{name}: {PLACEHOLDER}" if name else PLACEHOLDER for name in names]
        question = "\n".join([*lines, question])

    return {"prompt": question, "answer": row.get("answer"), **found}


def _opentslm(row: dict[str, Any]) -> Parts:
    found = _series(row.get("time_series"), "time_series")
    if "series" not in found:
        raise NotThisFormat("'time_series' names a file, not numbers")

    texts = row.get("time_series_text")
    texts = (
        [texts] if isinstance(texts, str) else list(_listed(texts if texts is not None else [], "time_series_text"))
    )
    if len(texts) != len(found["series"]) or not all(isinstance(text, str) for text in texts):
        raise NotThisFormat(f"{len(texts)} texts in 'time_series_text' for {len(found['series'])} series")

    lines = [f"{text.rstrip()} {PLACEHOLDER}".lstrip() for text in texts]
    before, behind = _text(row, "pre_prompt", "").strip(), _text(row, "post_prompt", "").strip()
    return {
        "prompt": "\n".join(part for part in (before, *lines, behind) if part),
        "answer": row.get("answer"),
        **found,
    }


def _alpaca(row: dict[str, Any]) -> Parts:
    asked, more = _text(row, "instruction"), _text(row, "input", "")
    parts: Parts = {"prompt": "\n".join(part for part in (asked, more) if part), "answer": row.get("output")}
    if COLUMN in row:
        parts |= _series(row[COLUMN], COLUMN)

    system, messages = row.get("system"), []
    for pair in _listed(row.get("history") or [], "history"):
        if len(_listed(pair, "history")) != 2:
            raise NotThisFormat("'history' is no list of [question, answer]")

        messages += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), pair)]

    if not messages:
        return _with_system(system, parts) if isinstance(system, str) and system else parts

    parts = _with_system(system or "", parts)
    first, *last = parts["messages"]
    return {**parts, "messages": [*([first] if system else []), *messages, *last]}


def _talk(key: str, role_key: str, text_key: str) -> Callable[[dict[str, Any]], Parts]:
    def read(row: dict[str, Any]) -> Parts:
        parts = _turns(row, key, role_key, text_key)
        return parts | (_series(row[COLUMN], COLUMN) if COLUMN in row else {})

    return read


@dataclass(frozen=True)
class Format:
    """A format: the keys a row must have, those it may have besides, and its reader."""

    needs: tuple[str, ...]
    reader: Callable[[dict[str, Any]], Parts]
    knows: tuple[str, ...] = ()


FORMATS = {
    "opentslm": Format(("time_series", "answer"), _opentslm, ("pre_prompt", "time_series_text", "post_prompt")),
    "chatts_eval": Format(("question", COLUMN), _chatts_eval, ("answer",)),
    "sharegpt_image": Format(("conversations", "image|images"), _sharegpt_image, ("system",)),
    "sharegpt": Format(("conversations",), _talk("conversations", "from", "value"), ("system", COLUMN)),
    "openai": Format(("messages",), _talk("messages", "role", "content"), ("system", COLUMN)),
    "alpaca": Format(("instruction",), _alpaca, ("input", "output", "system", "history", COLUMN)),
    "chatts": Format(("input", COLUMN), _chatts, ("output", "system")),
}
"""In the order in which a row is held against them."""


def _missing(form: Format, row: dict[str, Any]) -> list[str]:
    return [key for key in form.needs if not any(row.get(name) is not None for name in key.split("|"))]


def recognise(row: dict[str, Any]) -> str | None:
    """Return the name of the format whose keys a row has, None if there is none."""
    for name, form in FORMATS.items():
        if not _missing(form, row) or name == "chatts" and {"input", "output", COLUMN} <= row.keys():
            return name

    return None


def read_row(row: Any, form: str, file: str, number: int) -> LabelRow:
    """Return the label in a row; what cannot be read becomes its ``problem``.

    Args:
        row: the row as JSON or Parquet gives it.
        form: a key of :data:`FORMATS`, or ``auto``.
        file, number: where it stands.
    """
    if not isinstance(row, dict):
        return LabelRow(file, number, problem=f"a row must be an object with keys, this is {type(row).__name__}")

    name = recognise(row) if form == "auto" else form
    if name is None:
        keys = shorten(", ".join(map(repr, row)), 60)
        known = ", ".join(FORMATS)
        return LabelRow(
            file, number, problem=f"the keys {keys} belong to no known format; set format to one of {known}"
        )

    chosen = FORMATS[name]
    missing = [key.replace("|", "' or '") for key in _missing(chosen, row) if key != COLUMN or COLUMN not in row]
    if missing:
        return LabelRow(
            file, number, problem=f"{name} rows need '{missing[0]}', this one has {shorten(list(row), 60)}"
        )

    try:
        parts = chosen.reader(row)
    except NotThisFormat as error:
        return LabelRow(file, number, problem=str(error))

    used = {key for need in (*chosen.needs, *chosen.knows) for key in need.split("|")}
    return LabelRow(file, number, extra={key: row[key] for key in row.keys() - used}, **parts)
