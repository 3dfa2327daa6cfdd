"""The weights of a model folder as its headers describe them, without reading a tensor."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ChatTSError


SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Weights:
    """What a folder holds.

    Attributes:
        folder: where the shards lie.
        shards: file name -> name of each tensor -> its header entry (``dtype``, ``shape``, ``data_offsets``).
        metadata: of the index file, empty without one.
    """

    folder: Path
    shards: dict[str, dict[str, dict[str, Any]]]
    metadata: dict[str, Any]

    def entry(self, key: str) -> dict[str, Any] | None:
        """Return the header entry of a tensor, or None."""
        return next((shard[key] for shard in self.shards.values() if key in shard), None)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; a :class:`ChatTSError` names the file when it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ChatTSError("the file is missing", where=str(path), fix="Download the folder again") from None
    except ValueError as error:
        raise ChatTSError(f"not valid JSON ({error})", where=str(path), fix="Download the file again") from None

    if not isinstance(content, dict):
        raise ChatTSError("not a JSON object", where=str(path), fix="Download the file again")

    return content


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Return the header entries of a safetensors file.

    Raises:
        ChatTSError: the file is cut short or is no safetensors file.
    """
    broken = ChatTSError("the file is cut short or damaged", where=str(path), fix="Download it again")
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(path.stat().st_size, 100_000_000):
            raise broken

        try:
            header = json.loads(stream.read(length))
        except ValueError:
            raise broken from None

    header.pop("__metadata__", None)
    if path.stat().st_size != 8 + length + max((item["data_offsets"][1] for item in header.values()), default=0):
        raise broken

    return header


def read_weights(folder: Path) -> Weights:
    """Read the headers of all shards: one file, or those that the index names.

    Raises:
        ChatTSError: no safetensors weights, missing or damaged shards, or tensors that a shard lacks.
    """
    if (folder / SINGLE).is_file():
        return Weights(folder, {SINGLE: read_header(folder / SINGLE)}, {})

    if not (folder / INDEX).is_file():
        raise ChatTSError(
            f"the folder holds neither {SINGLE} nor {INDEX}",
            where=str(folder),
            fix="Download the safetensors files of the model",
        )

    index = read_json(folder / INDEX)
    weight_map: dict[str, str] = index.get("weight_map") or {}
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise ChatTSError(
            f"{len(missing)} of {len(names)} shards are missing: {', '.join(missing[:3])}",
            where=str(folder / INDEX),
            fix="Download the missing files",
        )

    shards = {name: read_header(folder / name) for name in names}
    lost = [key for key, name in weight_map.items() if key not in shards[name]]
    if lost:
        raise ChatTSError(
            f"{len(lost)} tensors are not in the shards that the index names, first {lost[0]}",
            where=str(folder / INDEX),
            fix="Download the folder again",
        )

    return Weights(folder, shards, dict(index.get("metadata") or {}))
