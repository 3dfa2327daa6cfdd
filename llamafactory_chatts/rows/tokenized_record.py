"""What tokenised data were made from: a small file beside them, compared when a recipe names the folder again."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import ChatTSError, shorten


RECORD = "chatts_tokenized.json"
SETTINGS = (
    *("template", "cutoff_len", "train_on_prompt", "mask_history", "default_system", "enable_thinking", "tool_format"),
    *("packing", "mix_strategy", "interleave_probs", "max_samples", "val_size", "drop_overlong"),
    *("predict_with_generate", "eval_on_each_dataset"),
)
"""Settings that decide which rows there are and what they hold."""

NAMES = ("dataset", "eval_dataset")

Record = Mapping[str, Any]
"""Settings by name; ``files`` (name of a dataset -> digest) and ``tokenizer`` (digest)."""


def digest_of(path: str | os.PathLike) -> str:
    """Return a digest of a file's content, or of the files of a folder; "" where there is none."""
    path = Path(path)
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    if not path.exists():
        return ""

    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())

    return digest.hexdigest()


def write_record(folder: str | os.PathLike, record: Record) -> None:
    """Write the record into the folder of tokenised data; replaced as a whole."""
    target = Path(folder, RECORD)
    part = target.with_suffix(".part")
    part.write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8")
    part.replace(target)


def read_record(folder: str | os.PathLike) -> Record | None:
    """Return the record of a folder of tokenised data; None where it has none that can be read."""
    try:
        content = json.loads(Path(folder, RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

    return content if isinstance(content, dict) else None


def as_names(value: object) -> list[str]:
    """Return dataset names given as a list or as text with commas."""
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, Iterable) else []
    return [str(item).strip() for item in items]


def differences(record: Record, named: Record) -> list[str]:
    """Return in words what a recipe names otherwise than the record does.

    Args:
        record: see :func:`read_record`.
        named: what the recipe names: ``dataset``, ``eval_dataset``, ``stage``, settings of ``SETTINGS``; ``files``
            (name -> digest, "" for a file that is not there any more) and ``tokenizer`` (digest) where they are known.
    """
    found = []
    for key in NAMES:
        made = as_names(record.get(key))
        if named.get(key) and as_names(named[key]) != made:
            found.append(
                f"{key} is {', '.join(as_names(named[key]))}, the data were made of {', '.join(made) or 'none'}"
            )

    for key in ("stage", *SETTINGS):
        if key in named and key in record and not _equal(named[key], record[key]):
            found.append(f"{key} is {shorten(named[key], 40)}, it was {shorten(record[key], 40)}")

    for name, digest in (named.get("files") or {}).items():
        known = (record.get("files") or {}).get(name)
        if digest and known and digest != known:
            found.append(f"the file of {name} has changed")

    if named.get("tokenizer") and record.get("tokenizer") and named["tokenizer"] != record["tokenizer"]:
        found.append("the base has another tokenizer, or other settings of series")

    return found


def _equal(one: object, other: object) -> bool:
    return one == other or (one or None) == (other or None) or str(one).lower() == str(other).lower()


def refuse_differences(folder: str | os.PathLike, found: list[str]) -> None:
    """Raise a :class:`ChatTSError` where tokenised data are not those that the recipe names."""
    if found:
        raise ChatTSError(
            "these tokenised data were made otherwise: " + "; ".join(found),
            where=f"tokenized_path: {folder}",
            fix="Name another tokenized_path (it is made anew), or write the recipe as it was",
        )
