"""LLaMA-Factory's dataset_info.json: the entries shipped here, and what is wrong with an entry."""

import json
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from ..core.contract import COLUMN
from ..core.errors import ChatTSError, Problem, shorten
from . import info_text
from .atomic import write_text
from .demo import SHIPPED
from .locking import locked


FILE, SCHEMA_FILE = "dataset_info.json", "dataset_info.schema.json"
ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
"""Keys that LLaMA-Factory prefers to ``file_name``."""


def shipped_entries() -> dict[str, dict[str, Any]]:
    """Return the entries of the demo data."""
    columns = {"prompt": "input", "response": "output", COLUMN: COLUMN}
    return {name: {"file_name": f"{name}.jsonl", "columns": dict(columns)} for name in SHIPPED}


def schema_text() -> str:
    """Return the JSON schema (draft 2020-12) of dataset_info.json, as text."""
    return resources.files(__package__).joinpath("schema", SCHEMA_FILE).read_text(encoding="utf-8")


def _parse(path: str | os.PathLike) -> tuple[str, dict[str, Any]]:
    try:
        text = Path(path).read_bytes().decode("utf-8")  # with the line ends that it has
        content = json.loads(text)
    except FileNotFoundError:
        raise ChatTSError(
            "the file is missing", where=str(path), fix="Name its folder with --dir, or run dataset-info generate"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ChatTSError(f"not readable as JSON ({error})", where=str(path), fix="Correct the file") from None

    if not isinstance(content, dict):
        raise ChatTSError("not a JSON object", where=str(path), fix='Write {"NAME": {"file_name": ...}}')

    return text, content


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Return the content of a dataset_info.json.

    Raises:
        ChatTSError: it is missing or not a JSON object.
    """
    return _parse(path)[1]


def write(path: str | os.PathLike, entries: dict[str, Any], *, replace: bool = True) -> dict[str, Any]:
    """Add or replace entries in a dataset_info.json, atomically; all others stay as they are, to the byte.

    Several processes may write at the same time: none loses the entry of another.

    Args:
        replace: when False, an entry that is there already is an error.

    Returns:
        the new content.

    Raises:
        ChatTSError: the file that is there is no JSON object, it cannot be written, or another process holds it.
    """
    target = os.path.realpath(path)  # a link stays a link
    with locked(target):
        text = _parse(path)[0] if os.path.exists(target) else "{}\n"
        content = json.loads(text)
        there = [name for name in entries if name in content]
        if there and not replace:
            raise ChatTSError("the name is taken", where=f"{path}: {there[0]}", fix="Take another, or add --replace")

        for name, entry in entries.items():
            if name not in content or content[name] != entry:
                text = info_text.put(text, name, entry)

        write_text(target, text)

    return json.loads(text)


def remove(path: str | os.PathLike, name: str) -> dict[str, Any]:
    """Remove an entry, as carefully as :func:`write` adds one; its data file stays. Returns the new content.

    Raises:
        ChatTSError: there is no such entry, or the file cannot be read or written.
    """
    target = os.path.realpath(path)
    if not os.path.exists(target):
        read(path)  # says what is wrong

    with locked(target):
        text, content = _parse(path)
        if name not in content:
            names = ", ".join(map(shorten, content)) or "none"
            raise ChatTSError("there is no such entry", where=f"{path}: {name}", fix=f"Entries: {names}")

        text = info_text.remove(text, name)
        write_text(target, text)

    return json.loads(text)


def generate(folder: str | os.PathLike) -> list[str]:
    """Write the shipped entries and the schema into a folder; returns the names of data files it lacks."""
    write(Path(folder, FILE), shipped_entries())
    write_text(Path(folder, SCHEMA_FILE), schema_text())
    files = [entry["file_name"] for entry in shipped_entries().values()]
    return [name for name in files if not Path(folder, name).exists()]


def _explain(error: Any) -> tuple[str, str]:
    """Return what is wrong and what to change for an error of jsonschema."""
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        unknown = [key for key in error.instance if key not in known]
        return f"unknown key {', '.join(map(repr, unknown))}", f"Use: {', '.join(known)}"

    if error.validator == "enum":
        return f"{shorten(repr(error.instance))} is not known", f"Use one of: {', '.join(error.validator_value)}"

    if error.validator == "anyOf":
        return "something is missing", error.schema["description"]

    if error.validator == "required":
        absent = [key for key in error.validator_value if key not in error.instance]
        return f"{', '.join(absent)} is missing", "Add it"

    if error.validator == "type":
        wanted = error.validator_value if isinstance(error.validator_value, str) else error.validator_value[0]
        return f"{shorten(repr(error.instance))} is no {wanted}", f"Write a JSON {wanted}"

    return shorten(error.message), "Correct the value"


def find_problems(path: str | os.PathLike, content: dict[str, Any] | None = None) -> Iterator[Problem]:
    """Yield what is wrong with a dataset_info.json, each with file and key.

    Entries are held against the schema, and their local files must exist.

    Args:
        path: the file.
        content: what to take for its content; None for what it holds.

    Raises:
        ChatTSError: the file cannot be read at all.
    """
    from jsonschema import Draft202012Validator  # not needed to write files

    content = read(path) if content is None else content
    errors = Draft202012Validator(json.loads(schema_text())).iter_errors(content)
    for error in sorted(errors, key=lambda item: [str(part) for part in item.absolute_path]):
        where = ".".join(str(part) for part in error.absolute_path)
        yield Problem(f"{path}: {where}", *_explain(error))

    for name, entry in content.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str) or set(ELSEWHERE) & entry.keys():
            continue

        file = Path(path).parent / entry["file_name"]
        if not file.exists():
            where = f"{path}: {name}.file_name"
            yield Problem(where, f"{file} does not exist", "Correct the name or put the file there")


def validate(path: str | os.PathLike) -> int:
    """Check a dataset_info.json; see :func:`find_problems`.

    Returns:
        the number of entries.

    Raises:
        ChatTSError: one or more mistakes, all of them named.
    """
    problems = list(find_problems(path))
    if len(problems) == 1:
        raise ChatTSError(problems[0].what, problems[0].where, problems[0].fix)

    if problems:
        lines = [str(ChatTSError(item.what, item.where, item.fix)) for item in problems]
        text = "\n  ".join([f"{len(problems)} mistakes", *lines])
        raise ChatTSError(text.removesuffix("."), where=str(path))

    return len(read(path))
