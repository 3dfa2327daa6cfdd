"""What the user means by a dataset: a file, a folder, a name in dataset_info.json, or all parts of a split."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import ChatTSError
from ...rows import dataset_info as info
from ...rows.entries import ELSEWHERE, FILE
from ...rows.layout import Layout
from ...rows.reading import SUFFIXES


PARTS = ("train", "validation", "test")
_PART = re.compile(rf"(.+)_({'|'.join(PARTS)})$")


@dataclass(frozen=True)
class Part:
    """One dataset to read.

    Attributes:
        name: how the user calls it.
        files: its files, in the order of reading.
        layout: columns as an entry names them; None when the first row has to tell.
        media_dir: folder that paths to series are below.
        skipped: files of a folder that are no dataset.
    """

    name: str
    files: tuple[Path, ...]
    layout: Layout | None
    media_dir: str
    skipped: tuple[Path, ...] = ()


def resolve(
    dataset: str | os.PathLike, dataset_info: str | os.PathLike | None = None
) -> tuple[list[Part], list[Part]]:
    """Find what a dataset consists of.

    Args:
        dataset: a file, a folder, or a name in dataset_info.json. ``x.jsonl`` or ``x``, where only ``x_train``,
            ``x_validation`` and ``x_test`` exist, means these parts.
        dataset_info: a dataset_info.json, or its folder; ``dataset_info/`` if None.

    Returns:
        the parts that were named, and the other parts of the same split.

    Raises:
        ChatTSError: there is no such file and no such name.
    """
    given = os.fspath(dataset)
    info_file = _info_file(dataset_info)
    looks_like_file = Path(given).suffix.lower() in SUFFIXES or os.sep in given or os.path.isfile(given)
    if not looks_like_file and os.path.isdir(given):  # raw data often lies in a folder of the dataset's name
        looks_like_file = not _is_entry(given, info_file)

    if looks_like_file:
        found = _by_name(
            Path(given).stem, lambda stem: _of_file(Path(given).with_name(stem + Path(given).suffix), info_file)
        )
    else:
        entries = info.read(info_file)
        found = _by_name(given, lambda name: _of_entry(name, entries, info_file))

    if not found[0]:
        if looks_like_file:
            raise ChatTSError("the file does not exist", where=given, fix="Correct the path")

        names = ", ".join(info.read(info_file)) or "none"
        raise ChatTSError(
            f"no file and no entry of {info_file} is called {given!r}",
            where="DATASET",
            fix=f"Entries: {names}. Name one of them or a file, or another dataset_info with --dataset-info",
        )

    return found


def _by_name(name: str, find) -> tuple[list[Part], list[Part]]:
    """Return the dataset called ``name`` and its siblings; or, if there is none, the parts of that name."""
    itself = find(name)
    if itself is None:
        return [part for part in (find(f"{name}_{suffix}") for suffix in PARTS) if part], []

    split = _PART.match(name)
    others = [f"{split[1]}_{suffix}" for suffix in PARTS if suffix != split[2]] if split else []
    return [itself], [part for part in map(find, others) if part]


def _is_entry(name: str, info_file: Path) -> bool:
    """Whether dataset_info.json has an entry of this name, or the parts of one."""
    if not info_file.is_file():
        return False

    entries = info.read(info_file)
    return any(entry in entries for entry in (name, *(f"{name}_{suffix}" for suffix in PARTS)))


def _info_file(given: str | os.PathLike | None) -> Path:
    path = Path(given if given is not None else "dataset_info")
    return path if path.suffix == ".json" else path / FILE


def _files(path: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    if not path.is_dir():
        return (path,), ()

    files = sorted(item for item in path.iterdir() if item.is_file() and not item.name.startswith("."))
    return tuple(f for f in files if f.suffix.lower() in SUFFIXES), tuple(
        f for f in files if f.suffix.lower() not in SUFFIXES
    )


def _part(name: str, path: Path, layout: Layout | None, media_dir: Path) -> Part:
    files, skipped = _files(path)
    if not files:
        raise ChatTSError("no dataset file in this folder", where=str(path), fix=f"Use one of: {', '.join(SUFFIXES)}")

    return Part(name, files, layout, str(media_dir), skipped)


def _of_entry(name: str, entries: dict, info_file: Path) -> Part | None:
    entry = entries.get(name)
    if entry is None:
        return None

    where = f"{info_file}: {name}"
    wrong = [problem for problem in info.find_problems(info_file) if f"{problem.where}.".startswith(where + ".")]
    if wrong:
        raise ChatTSError(wrong[0].what, wrong[0].where, wrong[0].fix)

    if "file_name" not in entry or set(ELSEWHERE) & entry.keys():
        raise ChatTSError("the dataset is not a local file", where=where, fix="Download it and name the file")

    return _part(name, info_file.parent / entry["file_name"], Layout.of_entry(entry), info_file.parent)


def _of_file(path: Path, info_file: Path) -> Part | None:
    """Return a file as a part; its columns are those of an entry that names it, where there is one."""
    if not path.exists():
        return None

    for file in (path.parent / FILE, info_file):
        if not file.is_file():
            continue

        for entry in info.read(file).values():
            if not isinstance(entry, dict) or set(ELSEWHERE) & entry.keys():
                continue

            named = file.parent / str(entry.get("file_name", ""))
            if named.exists() and path.exists() and os.path.samefile(named, path):
                return _part(str(path), path, Layout.of_entry(entry), file.parent)

    return _part(str(path), path, None, path.parent)
