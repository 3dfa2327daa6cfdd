"""What the rows of other people's datasets mean: each known format, recognised by its keys, becomes a LabelRow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np

from ...core.contract import COLUMN, PLACEHOLDER
from ...core.errors import shorten
from ...rows.cells import items_of


ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
PICTURE = "<image>"


Row = Mapping[str, Any]
"""A row as its file has it: each reader looks at what it takes."""


class Message(TypedDict):
    """A turn; an answer has the type that it has in the file."""

    role: str
    content: object


class Parts(TypedDict, total=False):
    """What a row means; see :class:`LabelRow`."""

    name: str | None
    prompt: str | None
    answer: object
    series: list[object] | None
    messages: list[Message] | None


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
    answer: object = None
    series: list[object] | None = None
    messages: list[Message] | None = None
    extra: dict[str, object] = field(default_factory=dict)
    problem: str | None = None


class NotThisFormat(Exception):
    """Why a row cannot be read in its format."""


def _text(row: Row, key: str, default: str | None = None) -> str:
    value = row.get(key, default)
    value = default if value is None else value
    if not isinstance(value, str):
        missing = f"{key!r} is missing" if value is None else f"{key!r} is {type(value).__name__}, not text"
        raise NotThisFormat(missing)

    return value


def _series(value: object, key: str) -> Parts:
    """Return the series of a cell, or the name of a file; a single flat list is one series."""
    if isinstance(value, str):
        return {"name": value}

    if value is None or len(_listed(value, key)) == 0:
        return {"series": []}

    items = items_of(value)
    files = [item for item in items if isinstance(item, str)]
    if len(files) < len(items) and not all(isinstance(item, (list, tuple, np.ndarray)) for item in items):
        raise NotThisFormat(f"{key!r} mixes series and single values ({shorten(value, 40)})")

    if not files:
        return {"series": items}

    if len(items) == 1:
        return {"name": files[0]}

    raise NotThisFormat(f"{key!r} names {len(files)} files; one file per row is read, with a column per series")


def _listed(value: object, key: str) -> Sequence[Any] | np.ndarray:
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise NotThisFormat(f"{key!r} is {type(value).__name__}, not a list ({shorten(value, 40)})")

    return value


def _turns(row: Row, key: str, role_key: str, text_key: str, picture: bool = False) -> Parts:
    """Return prompt and answer of a conversation, or its messages where it has more than these two."""
    messages: list[Message] = []
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

    if _system(row):
        messages.insert(0, {"role": "system", "content": _system(row)})

    return _one_turn_or_more(messages, key)


def _one_turn_or_more(messages: list[Message], key: str) -> Parts:
    roles = [message["role"] for message in messages]
    talk = roles[1:] if roles[:1] == ["system"] else roles
    if not talk or len(talk) % 2 or talk != ["user", "assistant"] * (len(talk) // 2):
        raise NotThisFormat(f"the turns of {key!r} do not go user, assistant, ... ({shorten(', '.join(roles), 40)})")

    if len(messages) == 2:
        return {"prompt": str(messages[0]["content"]), "answer": messages[1]["content"]}

    return {"messages": messages}


def _sharegpt_image(row: Row) -> Parts:
    pictures = row.get("image", row.get("images"))
    pictures = pictures if isinstance(pictures, (list, tuple)) else [pictures]
    if len(pictures) != 1:
        raise NotThisFormat(f"the row names {len(pictures)} pictures; one per row is read")

    picture = pictures[0]
    name = picture.get("path") if isinstance(picture, dict) else picture  # the form of Hugging Face datasets
    if not isinstance(name, str) or not name.strip():
        raise NotThisFormat("the row names no picture ('image' is empty)")

    return {"name": name, **_turns(row, "conversations", "from", "value", picture=True)}


def _chatts(row: Row) -> Parts:
    return _in_turns(row, {"prompt": _text(row, "input"), "answer": row.get("output"), **_series(row[COLUMN], COLUMN)})


def _in_turns(row: Row, parts: Parts, before: Sequence[Message] = ()) -> Parts:
    """Return a label as messages where it has a system prompt, or turns before its question; else as it is."""
    system: list[Message] = [{"role": "system", "content": text}] if (text := _system(row)) else []
    if not system and not before:
        return parts

    asked: Message = {"role": "user", "content": parts.pop("prompt")}
    answered: Message = {"role": "assistant", "content": parts.pop("answer")}
    return {**parts, "messages": [*system, *before, asked, answered]}


def _system(row: Row) -> str:
    system = row.get("system")
    return system if isinstance(system, str) else ""


def _chatts_eval(row: Row) -> Parts:
    question, cols, found = _text(row, "question"), row.get("cols"), _series(row[COLUMN], COLUMN)
    count = 1 if found.get("name") else len(found.get("series") or [])
    if PLACEHOLDER not in question and count:  # the series are named beside the question, not in it
        names = list(cols) if isinstance(cols, (list, tuple)) and len(cols) == count else [""] * count
        lines = [f"{name}: {PLACEHOLDER}" if name else PLACEHOLDER for name in names]
        question = "\n".join([*lines, question])

    return {"prompt": question, "answer": row.get("answer"), **found}


def _opentslm(row: Row) -> Parts:
    found = _series(row.get("time_series"), "time_series")
    if "series" not in found:
        raise NotThisFormat("'time_series' names a file, not numbers")

    texts = row.get("time_series_text")
    texts = (
        [texts] if isinstance(texts, str) else list(_listed(texts if texts is not None else [], "time_series_text"))
    )
    count = len(found["series"] or [])
    if len(texts) != count or not all(isinstance(text, str) for text in texts):
        raise NotThisFormat(f"{len(texts)} texts in 'time_series_text' for {count} series")

    lines = [f"{text.rstrip()} {PLACEHOLDER}".lstrip() for text in texts]
    before, behind = _text(row, "pre_prompt", "").strip(), _text(row, "post_prompt", "").strip()
    return {
        "prompt": "\n".join(part for part in (before, *lines, behind) if part),
        "answer": row.get("answer"),
        **found,
    }


def _alpaca(row: Row) -> Parts:
    asked, more = _text(row, "instruction"), _text(row, "input", "")
    parts: Parts = {"prompt": "\n".join(part for part in (asked, more) if part), "answer": row.get("output")}
    if COLUMN in row:
        parts |= _series(row[COLUMN], COLUMN)

    before: list[Message] = []
    for pair in _listed(row.get("history") or [], "history"):
        if len(_listed(pair, "history")) != 2:
            raise NotThisFormat("'history' is no list of [question, answer]")

        before += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]

    return _in_turns(row, parts, before)


def _talk(key: str, role_key: str, text_key: str) -> Callable[[Row], Parts]:
    def read(row: Row) -> Parts:
        parts = _turns(row, key, role_key, text_key)
        return parts | (_series(row[COLUMN], COLUMN) if COLUMN in row else {})

    return read


@dataclass(frozen=True)
class Format:
    """A format: the keys a row must have, those it may have besides, and its reader."""

    needs: tuple[str, ...]
    reader: Callable[[Row], Parts]
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


def _missing(form: Format, row: Row) -> list[str]:
    return [key for key in form.needs if not any(row.get(name) is not None for name in key.split("|"))]


def recognise(row: Row) -> str | None:
    """Return the name of the format whose keys a row has, None if there is none."""
    for name, form in FORMATS.items():
        if not _missing(form, row) or name == "chatts" and {"input", "output", COLUMN} <= row.keys():
            return name

    return None


def read_row(row: object, form: str, file: str, number: int) -> LabelRow:
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
        problem = f"the keys {keys} belong to no known format; set format to one of {', '.join(FORMATS)}"
        return LabelRow(file, number, problem=problem)

    chosen = FORMATS[name]
    missing = [key.replace("|", "' or '") for key in _missing(chosen, row) if key != COLUMN or COLUMN not in row]
    if missing:
        problem = f"{name} rows need '{missing[0]}', this one has {shorten(list(row), 60)}"
        return LabelRow(file, number, problem=problem)

    try:
        parts = chosen.reader(row)
    except NotThisFormat as error:
        return LabelRow(file, number, problem=str(error))

    used = {key for need in (*chosen.needs, *chosen.knows) for key in need.split("|")}
    return LabelRow(file, number, extra={key: row[key] for key in row.keys() - used}, **parts)
