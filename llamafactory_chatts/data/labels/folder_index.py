"""The series files below a folder, found by name whatever its case, its Unicode form and its ending."""

import os
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ...core.errors import ChatTSError
from ...files.column_files import SUFFIXES
from ...files.csv_text import unreadable


PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".svg", ".tif", ".tiff", ".webp")
"""Endings of a label's name that stand for a series file of the same stem."""


def fold(name: str) -> str:
    """Return the form of a name in which equal names are equal: NFC, without case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def base_name(name: str) -> str:
    """Return the file name of a path as Windows or any other system writes it."""
    return re.split(r"[/\\]", name.strip())[-1]


def without_suffix(name: str, suffixes: Iterable[str]) -> str | None:
    """Return the folded name without the longest of the suffixes it ends with, None if it has none."""
    fitting = [suffix for suffix in suffixes if name.endswith(suffix) and len(name) > len(suffix)]
    return name[: -len(max(fitting, key=len))] if fitting else None


def core_of(name: str, prefixes: Iterable[str], suffixes: Iterable[str]) -> str:
    """Return what is left of a name without known endings, known prefixes and separators, folded.

    Between two digits a separator stays: 1_11 and 11_1 are not alike.
    """
    core = fold(name)
    while (shorter := without_suffix(core, (*SUFFIXES, *PICTURES, *suffixes))) is not None:
        core = shorter

    longest_first = sorted(prefixes, key=len, reverse=True)
    while prefix := next((p for p in longest_first if core.startswith(p) and len(core) > len(p)), ""):
        core = core[len(prefix) :]

    return re.sub(r"(?<=\d)[_\-\s]+(?=\d)", "_", re.sub(r"(?<!\d)[_\-\s]+|[_\-\s]+(?!\d)", "", core))


class Cores:
    """Files by the cores of their names.

    Args:
        paths: the files.
        prefixes, suffixes: folded; those to leave out besides the known endings.
    """

    def __init__(self, paths: list[str], prefixes: tuple[str, ...], suffixes: tuple[str, ...]) -> None:
        self.prefixes, self.suffixes = prefixes, suffixes
        self._paths: dict[str, list[str]] = {}
        for path in paths:
            self._paths.setdefault(core_of(os.path.basename(path), prefixes, suffixes), []).append(path)

        self._cores = list(self._paths)
        self._text = "\n".join(self._cores)  # one text: a search costs microseconds, not one test per file
        self._starts = [0]
        for core in self._cores:
            self._starts.append(self._starts[-1] + len(core) + 1)

    def find(self, name: str) -> tuple[list[str], bool]:
        """Return the files whose core is that of the name, otherwise those that contain it, and whether it is so.

        A number is never cut: ``x1`` is not contained in ``x11``.
        """
        core = core_of(name, self.prefixes, self.suffixes)
        if not core:
            return [], False

        if core in self._paths:
            return self._paths[core], False

        before = r"(?<!\d)" if core[0].isdigit() else ""
        after = r"(?!\d)" if core[-1].isdigit() else ""
        hits = dict.fromkeys(
            self._cores[bisect_right(self._starts, hit.start()) - 1]
            for hit in re.finditer(before + re.escape(core) + after, self._text)
        )
        return [path for hit in hits for path in self._paths[hit]], True


@dataclass
class FolderIndex:
    """The series files below a folder, by name; built once.

    Folders are entered through links, each once, so that links that lead in a circle end. Files that begin with a
    dot or ``~$`` (left by tools) are no series.

    Attributes:
        folder: where to look.
        paths: all files, sorted, as texts.
        unread: folders that could not be listed, as texts.

    Raises:
        ChatTSError: the folder is missing or is no folder.
    """

    folder: str | os.PathLike
    paths: list[str] = field(init=False, default_factory=list)
    unread: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        if not os.path.isdir(self.folder):
            what = "is no folder" if os.path.exists(self.folder) else "does not exist"
            raise ChatTSError(f"the folder of series {what}", where=str(self.folder), fix="Correct `series`")

        try:
            os.listdir(self.folder)
        except OSError as error:
            raise unreadable(self.folder, error) from None

        seen = set()
        skipped = lambda error: self.unread.append(str(error.filename))  # noqa: E731
        for folder, inner, files in os.walk(os.fspath(self.folder), followlinks=True, onerror=skipped):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                inner.clear()
                continue

            seen.add((status.st_dev, status.st_ino))
            inner.sort()
            for name in files:
                if not name.startswith((".", "~$")) and name.lower().endswith(SUFFIXES):
                    self.paths.append(os.path.join(folder, name))

        self.paths.sort()

    @cached_property
    def _names(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        names: dict[str, list[str]] = {}
        stems: dict[str, list[str]] = {}
        for path in self.paths:
            name = fold(os.path.basename(path))
            names.setdefault(name, []).append(path)
            stems.setdefault(without_suffix(name, SUFFIXES) or name, []).append(path)

        return names, stems

    def find(self, name: str, whole: bool = False) -> list[str]:
        """Return the files of a name: of that very name, otherwise (unless ``whole``) of its stem.

        Of files whose names differ in case only, the one written as ``name`` is taken.
        """
        names, stems = self._names
        key = fold(name)
        hits = names.get(key, [])
        if not hits and not whole:
            hits = stems.get(key) or stems.get(without_suffix(key, (*SUFFIXES, *PICTURES)) or key, [])

        if len(hits) > 1:
            wanted = unicodedata.normalize("NFC", name)
            same = [path for path in hits if unicodedata.normalize("NFC", os.path.basename(path)) == wanted]
            return same if len(same) == 1 else hits

        return hits

    def cores(self, prefixes: tuple[str, ...], suffixes: tuple[str, ...]) -> "Cores":
        """Return the files by the core of their names; see :func:`core_of`."""
        cache = self.__dict__.setdefault("_cores", {})
        if (prefixes, suffixes) not in cache:
            cache[prefixes, suffixes] = Cores(self.paths, prefixes, suffixes)

        return cache[prefixes, suffixes]

    def relative(self, path: str) -> str:
        """Return a path as it is shown: below the folder, with forward slashes."""
        return Path(os.path.relpath(path, self.folder)).as_posix()
