"""Entries of LLaMA-Factory's dataset_info.json: what may stand in them, and what is wrong with one."""

import codecs
import difflib
import json
import os
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import ChatTSError, Problem, shorten
from ..files.text_files import read_text


if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError


Entries = dict[str, Any]
"""Name -> entry; an entry may be anything until it was held against the schema."""

FILE, SCHEMA_FILE = "dataset_info.json", "dataset_info.schema.json"
ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
"""Keys that LLaMA-Factory prefers to ``file_name``."""


def schema_text() -> str:
    """Return the JSON schema (draft 2020-12) of dataset_info.json, as text."""
    return resources.files(__package__).joinpath("schema", SCHEMA_FILE).read_text(encoding="utf-8")


def read_entries(path: str | os.PathLike) -> tuple[str, Entries]:
    """Return the text (line ends as they are) and the content of a dataset_info.json.

    Raises:
        ChatTSError: it is missing, not UTF-8 (with the encoding that fits), or not a JSON object.
    """
    if Path(path).is_file() and Path(path).read_bytes().startswith(codecs.BOM_UTF8):
        raise ChatTSError(
            "it begins with a byte order mark, which LLaMA-Factory does not read",
            where=str(path),
            fix="Save it as UTF-8 without byte order mark (BOM)",
        )

    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ChatTSError(f"not readable as JSON ({error})", where=str(path), fix="Correct the file") from None

    if not isinstance(content, dict):
        raise ChatTSError("not a JSON object", where=str(path), fix='Write {"NAME": {"file_name": ...}}')

    return text, content


def find_mistakes(entries: Entries, file: str | os.PathLike = FILE) -> Iterator[Problem]:
    """Yield what is wrong with entries: unknown words and keys, missing ones, values of the wrong type.

    Args:
        entries: name -> entry.
        file: named in front of each key.
    """
    from jsonschema import Draft202012Validator  # not needed where nothing is checked

    errors = Draft202012Validator(json.loads(schema_text())).iter_errors(entries)
    known = ((".".join(map(str, error.absolute_path)), error) for error in errors)
    first = ("enum", "additionalProperties")  # an unknown word brings other errors with it
    ordered = sorted(known, key=lambda item: (item[1].validator not in first, item[0]))
    yield from dict.fromkeys(Problem(f"{file}: {path}", *_explain(error)) for path, error in ordered)


def raise_mistakes(problems: list[Problem], where: str) -> None:
    """Raise a :class:`ChatTSError` that names all problems; one alone as it is. Nothing without any."""
    if len(problems) == 1:
        raise ChatTSError(problems[0].what, problems[0].where, problems[0].fix)

    if problems:
        lines = [str(ChatTSError(item.what, item.where, item.fix)) for item in problems]
        raise ChatTSError("\n  ".join([f"{len(problems)} mistakes", *lines]).removesuffix("."), where)


def check_entries(names: list[str], entries: Entries, file: str | os.PathLike) -> None:
    """Raise a :class:`ChatTSError` for the first mistake in the named entries; names without an entry are left out."""
    for problem in find_mistakes({name: entries[name] for name in names if name in entries}, file):
        raise ChatTSError(problem.what, problem.where, problem.fix)


def _nearest(word: object, known: list[str]) -> str:
    folded = {name.lower(): name for name in known}
    found = difflib.get_close_matches(str(word).lower(), folded, n=1, cutoff=0.5)
    return f"Write {folded[found[0]]!r}; known are: " if found else "Use: "


def _explain(error: "ValidationError") -> tuple[str, str]:
    """Return what is wrong and what to change for an error of jsonschema."""
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        unknown = [key for key in error.instance if key not in known]
        return f"unknown key {', '.join(map(repr, unknown))}", _nearest(unknown[0], known) + ", ".join(known)

    if error.validator == "enum":
        known = list(error.validator_value)
        return f"{shorten(repr(error.instance))} is not known", _nearest(error.instance, known) + ", ".join(known)

    if error.validator in ("anyOf", "not"):
        return error.schema.get("title", "something is missing"), error.schema["description"]

    if error.validator == "required":
        absent = [key for key in error.validator_value if key not in error.instance]
        return f"{', '.join(absent)} is missing", error.schema.get("$comment", "Add it")

    if error.validator == "type":
        wanted = error.validator_value if isinstance(error.validator_value, str) else error.validator_value[0]
        return f"{shorten(repr(error.instance))} is not a JSON {wanted}", f"Write a JSON {wanted}"

    return shorten(error.message), "Correct the value"


def local_file(entry: Mapping[str, object], folder: str | os.PathLike) -> Path | None:
    """Return the file or folder that an entry names; None where the data is elsewhere or no name is given."""
    name = entry.get("file_name")
    return None if set(ELSEWHERE) & entry.keys() or not isinstance(name, str) else Path(folder, name)
