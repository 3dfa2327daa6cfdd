"""Which base an adapter belongs to: a fingerprint of weights, a small file beside them, and what may be combined.

The file ``chatts_base.json`` stands in the folder of an adapter (the base it was trained on, the adapters merged into
that base before, the adapters it goes on from) and in the folder of an export (what was merged into which base).
"""

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import ChatTSError, shorten
from .safetensors_folder import INDEX, SINGLE, read_header


RECORD = "chatts_base.json"
ADAPTER_FILE = "adapter_model.safetensors"
FORMAT = 1
WINDOWS, WINDOW = 4, 1024
"""Places that are read of each tensor, and bytes at each: 4 MB of the weights of a model of 14 billion."""


def fingerprint(folder: str | os.PathLike) -> str | None:
    """Return a digest of the weights in a folder (a model's or an adapter's); None where they cannot be read.

    It is made of name, data type, shape and sampled bytes of every tensor. So it is the same wherever the folder lies,
    whatever its shards and its config.json, and another one after any training, merge or change of the data type.
    Weights in ``.bin`` files are sampled file by file.
    """
    files = _weight_files(Path(folder))
    try:
        states = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        return _digest(states) if states else None
    except (OSError, ChatTSError, KeyError, TypeError, ValueError):
        return None  # whoever loads them says what is wrong


def _weight_files(folder: Path) -> list[Path]:
    for name in (SINGLE, ADAPTER_FILE):
        if (folder / name).is_file():
            return [folder / name]

    try:
        shards = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        return sorted({folder / str(name) for name in shards})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return sorted(
            file for file in folder.glob("*.bin") if file.stem.startswith(("pytorch_model", "adapter_model"))
        )


@functools.lru_cache(maxsize=16)
def _digest(states: tuple[tuple[str, int, int], ...]) -> str:
    """Return the digest of files given as (path, bytes, time of change): a file that changed is read again."""
    parts: list[bytes] = []
    for name, size, _ in states:
        with open(name, "rb") as stream:
            if not name.endswith(".safetensors"):
                parts.append(b"%d " % size + _sample(stream, 0, size))
                continue

            start = 8 + int.from_bytes(stream.read(8), "little")
            for key, entry in read_header(Path(name)).items():
                first, last = entry["data_offsets"]
                about = json.dumps([key, entry["dtype"], entry["shape"]]).encode()
                parts.append(about + _sample(stream, start + first, start + last))

    return hashlib.sha256(b"\n".join(sorted(parts))).hexdigest()[:32]


def _sample(stream: Any, first: int, last: int) -> bytes:
    """Return the digest of bytes read at even distances between two places, the very first and last ones included."""
    digest = hashlib.sha256()
    if last - first <= WINDOWS * WINDOW:
        places, size = [first], last - first
    else:
        places, size = [first + (last - first - WINDOW) * i // (WINDOWS - 1) for i in range(WINDOWS)], WINDOW

    for place in places:
        stream.seek(place)
        digest.update(stream.read(size))

    return digest.digest()


def read_record(folder: str | os.PathLike) -> dict[str, Any] | None:
    """Return the content of a folder's ``chatts_base.json``; None where there is none that can be read."""
    try:
        record = json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))
        return record if isinstance(record["base"]["fingerprint"], str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(folder: str | os.PathLike, record: dict[str, Any]) -> None:
    """Write a folder's ``chatts_base.json``, whole or not at all."""
    target = Path(folder) / RECORD
    draft = target.with_suffix(".tmp")
    draft.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    draft.replace(target)


def part(folder: str | os.PathLike, name: str) -> dict[str, Any]:
    """Return how a record names a base or an adapter: fingerprint and a name without the path of this machine."""
    return {"fingerprint": fingerprint(folder), "name": Path(name).name if Path(name).is_dir() else str(name)}


def lineage(base: str | os.PathLike, adapters: Sequence[str | os.PathLike], goes_on: bool) -> dict[str, Any]:
    """Return the record of an adapter that is trained on a base with adapters.

    Args:
        base: the base's folder.
        adapters: folders of the adapters that are loaded, in order.
        goes_on: the last of them is trained on; otherwise all of them are merged into the base.
    """
    named = [part(adapter, str(adapter)) for adapter in adapters]
    contained = [named[-1], *(read_record(adapters[-1]) or {}).get("contains", [])] if named and goes_on else []
    merged = named[:-1] if goes_on else named
    return {"format": FORMAT, "base": part(base, str(base)), "merged": merged, "contains": contained}


def merged_lineage(base: str | os.PathLike, adapters: Sequence[str | os.PathLike]) -> dict[str, Any]:
    """Return the record of a folder into which a base and adapters were merged, with what the base held already."""
    earlier = read_record(base) or {"base": part(base, str(base)), "merged": []}
    merged = [*earlier.get("merged", [])]
    for adapter in adapters:
        merged += [part(adapter, str(adapter)), *(read_record(adapter) or {}).get("contains", [])]

    return {"format": FORMAT, "base": earlier["base"], "merged": merged}


def check_adapters(base: str | os.PathLike, adapters: Sequence[str | os.PathLike]) -> list[str]:
    """Compare adapters with the base they are to be put on.

    Args:
        base: the base's folder.
        adapters: folders of the adapters, in the order in which they are applied.

    Returns:
        a line for each that cannot be compared or was trained beside the others.

    Raises:
        ChatTSError: an adapter belongs to another base, or its part would be counted twice.
    """
    own = fingerprint(base)
    before = read_record(base) or {}
    inside = _ids(before.get("merged"))  # merged into the base's files
    applied: list[str] = []
    notes = []
    for adapter in adapters:
        where, identity, record = f"adapter_name_or_path: {adapter}", fingerprint(adapter), read_record(adapter)
        twice = {identity, *_ids((record or {}).get("contains"))} - {None}
        if twice & set(inside):
            raise ChatTSError(
                f"{shorten(base)} already holds it: it was merged into it",
                where=where,
                fix="Remove it, or name the base it was trained on in model_name_or_path",
            )

        if twice & set(applied):
            raise ChatTSError(
                "it stands there twice, or goes on from another that is named: its part would be counted twice",
                where=where,
                fix="Name each adapter once, of those that go on from each other the last one only",
            )

        if record is None or own is None:
            notes.append(f"{adapter}: it is not known which base it was trained on, so the base is not compared.")
        elif (fault := _fault(record, own, before, applied, base)) is not None:
            raise ChatTSError(fault[0], where=where, fix=fault[1])
        elif len(applied) > len(_ids(record.get("merged"))):
            notes.append(f"{adapter}: it was trained without the adapters before it; all of them are applied.")

        if identity is not None:
            applied.append(identity)

    return notes


def _fault(
    record: dict[str, Any], own: str, before: dict[str, Any], applied: list[str], base: Any
) -> tuple[str, str] | None:
    """Return what is wrong between an adapter's record and what it is put on, and what to do; None if nothing is."""
    wanted, merged = record["base"]["fingerprint"], _ids(record.get("merged"))
    if before and wanted == before["base"]["fingerprint"] and merged == [*_ids(before.get("merged")), *applied]:
        return None  # the base is an export of exactly what it was trained on

    if wanted != own:
        return (
            f"it was trained on another base ({record['base'].get('name')}) than {shorten(base)}",
            f"Name that base in model_name_or_path; if this is the same model stored in another way, remove {RECORD} "
            "from the adapter's folder",
        )

    absent = [item for item in record.get("merged") or [] if item.get("fingerprint") not in applied]
    if absent:
        names = ", ".join(str(item.get("name")) for item in absent)
        return f"it was trained on this base with {names} merged into it", f"Name {names} before it"

    return None


def _ids(parts: Any) -> list[str]:
    return [str(item.get("fingerprint")) for item in parts or [] if isinstance(item, dict)]
