"""Writing a changed recipe: lines are edited in place, comments and order stay."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import ChatTSError
from .reading import Recipe


BESIDE = {
    "fp16": "bf16",
    "bf16": "fp16",
    "gradient_accumulation_steps": "per_device_train_batch_size",
    "per_device_train_batch_size": "gradient_accumulation_steps",
    "quantization_bit": "model_name_or_path",
    "quantization_method": "quantization_bit",
    "offload_embedding": "quantization_bit",
    "lm_head_8bit": "quantization_bit",
    "tokens_per_batch": "cutoff_len",
    "enable_liger_kernel": "model_name_or_path",
    "use_unsloth_gc": "finetuning_type",
}
"""Key that a recipe does not have yet -> the key behind which it is put."""

MARK = "# lmf-chatts plan"
_KEY = re.compile(r"^(?P<key>[A-Za-z_][\w-]*)(?P<colon>\s*:[ \t]*)(?P<rest>.*)$")
_SPLIT = re.compile(r"""^(?P<value>"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|.*?)(?P<tail>\s*|\s+\#.*)$""")


def edit_text(text: str, changes: Mapping[str, Any]) -> str:
    """Return a recipe's YAML with other values.

    A key that is there keeps its line and its comment; the value before the change is added to the comment. A new key
    gets a line behind the one it belongs to, or at the end.
    """
    lines = text.splitlines()
    for key, value in changes.items():
        places = {found["key"]: index for index, line in enumerate(lines) if (found := _KEY.match(line))}
        written = _scalar(value)
        if key in places:
            index = places[key]
            lines[index : _end(lines, index)] = [_changed(lines[index], written)]
        else:
            anchor = BESIDE.get(key)
            while anchor is not None and anchor not in places:
                anchor = BESIDE.get(anchor) if BESIDE.get(anchor) != key else None

            index = _end(lines, places[anchor]) if anchor else len(lines)
            lines.insert(index, f"{key}: {written}  {MARK}: added")

    return "\n".join(lines) + "\n"


def _end(lines: list[str], start: int) -> int:
    """Return the line behind the value that starts at a key (a list or a text may go on in indented lines)."""
    index = start + 1
    while index < len(lines) and (lines[index].startswith((" ", "\t", "- ")) and lines[index].strip()):
        index += 1

    return index


def _scalar(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.strip().removesuffix("...").strip()


def _changed(line: str, written: str) -> str:
    found = _KEY.match(line)
    parts = _SPLIT.match(found["rest"])
    comment = parts["tail"].strip()
    before = parts["value"].strip() or "another value"
    note = f"{MARK}: was {before}"
    comment = f"{comment}; {note[2:]}" if comment else note
    colon = found["colon"] if found["colon"].endswith((" ", "\t")) else found["colon"] + " "
    return f"{found['key']}{colon}{written}  {comment}"


def write_recipe(recipe: Recipe, changes: Mapping[str, Any], out: str | Path) -> Path:
    """Write a recipe with the command line's settings and a plan's changes in it.

    Args:
        recipe: as it was read, with the settings of the command line.
        changes: of the plan; they win.
        out: new file.

    Raises:
        ChatTSError: the file is there already, cannot be written, or the recipe's form cannot be edited.
    """
    out = Path(out)
    if out.exists():
        raise ChatTSError("the file is there already", where=f"--fix {out}", fix="Name a new file, or remove this one")

    named = {word.partition(".")[0] for word in recipe.overridden}
    wanted = {**{key: recipe.values[key] for key in recipe.values if key in named}, **changes}
    text = recipe.path.read_text(encoding="utf-8")
    if recipe.path.suffix == ".json":
        text = json.dumps({**json.loads(text), **wanted}, indent=2, ensure_ascii=False) + "\n"
        found = json.loads(text)
    else:
        text = edit_text(text, {key: value for key, value in wanted.items() if _differs(text, key, value)})
        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError:  # keys that do not stand at the beginning of a line
            found = {}

    wrong = [key for key, value in wanted.items() if found.get(key) != value]
    if wrong:
        raise ChatTSError(
            f"{wrong[0]} is written in a form that cannot be edited",
            where=str(recipe.path),
            fix=f"Write `{wrong[0]}: ...` on a line of its own, or set by hand: {wrong[0]}: {wanted[wrong[0]]}",
        )

    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ChatTSError(
            f"it cannot be written ({error.strerror})", where=f"--fix {out}", fix="Name a file in a folder of yours"
        ) from None

    return out


def _differs(text: str, key: str, value: Any) -> bool:
    content = yaml.safe_load(text)
    return key not in content or content[key] != value
