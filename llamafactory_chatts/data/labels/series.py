"""The series and the texts of a label."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...core.contract import PLACEHOLDER
from ...core.errors import ChatTSError, shorten
from ...core.placeholders import READERS
from ...core.series import as_series
from ...files import tables
from ..prepare.config import Source
from . import matching
from .folder_index import FolderIndex
from .formats import LabelRow, Message


class Rejected(Exception):
    """A label that cannot be used: a reason of few words that can be counted, and what exactly is wrong."""

    def __init__(self, reason: str, detail: object) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, str(detail)


@dataclass
class Found:
    """The series of a label.

    Attributes:
        names: of the series, "" where they have none.
        values: float64 vectors, NaN is a gap.
        path: the file, "" for series that stand in the label itself.
    """

    names: list[str] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    path: str = ""

    def group(self) -> bytes:
        """Return the identity of where the series come from: rows that share it must be in one part of a split.

        That is the content of the whole file, so that its columns and slices stay together, and copies of it, too;
        for series that stand in labels it is their values. Empty without series.
        """
        if self.path:
            with open(self.path, "rb") as stream:
                return hashlib.file_digest(stream, "sha256").digest()

        digest = hashlib.sha256()
        for values in self.values:
            digest.update(len(values).to_bytes(8, "big") + values.tobytes())

        return digest.digest() if self.values else b""


def find_file(label: LabelRow, index: FolderIndex | None, rules: list[matching.Rule]) -> matching.Match | None:
    """Return the file that a label means, None for a label that holds its series or has none."""
    if label.series is not None or label.name is None:
        return None

    if index is None:
        raise Rejected("no file", f"{shorten(label.name)}: the source has no folder. Give it `series: FOLDER`.")

    try:
        return matching.match(label.name, index, rules)
    except matching.NoMatch as error:
        raise Rejected(error.reason, error) from None


def read_series(label: LabelRow, source: Source, file: matching.Match | None) -> Found:
    """Return the series of a label, from its file or from the label itself; nothing for a row of text only."""
    if file is None:
        return Found() if label.series is None else _inline(label.series)

    path = str(file.path)
    try:
        table = tables.read_table(path, source.columns, source.time_column, source.decimal)
    except ChatTSError as error:
        raise Rejected("series file", error) from None

    bad, cells = table.bad_cells, sum(map(len, table.values))
    if bad and (source.gaps == "error" or 2 * bad > cells):  # mostly text is no series with gaps
        detail = f"{Path(path).name}: {bad} of {cells} cells hold text instead of numbers ({table.bad_example})"
        raise Rejected("series file", f"{detail}. {'Correct the file' if 2 * bad > cells else 'Set gaps'}.")

    return Found(list(table.names), list(table.values), path)


def _inline(series: list[object]) -> Found:
    """Return the series of a row that holds them itself; null is a gap."""
    values = []
    for item in series:
        try:
            array = np.asarray(item)
            gaps = np.array(
                [value is None for value in array] if array.dtype == object and array.ndim == 1 else [False]
            )
            if gaps.any():
                array = as_series([0.0 if value is None else value for value in array]).copy()
                array[gaps] = np.nan
            elif array.dtype.kind != "f" or array.ndim != 1 or not len(array):
                array = as_series(item)
        except ChatTSError as error:
            raise Rejected("series", error) from None
        except ValueError as error:
            raise Rejected("series", f"a series must be one flat list of numbers ({shorten(error, 60)})") from None

        values.append(array.astype(np.float64))

    return Found([""] * len(values), values)


def texts_of(label: LabelRow, source: Source, found: Found) -> list[Message]:
    """Return the turns of a label as role and content, with one placeholder per series of its file."""
    asked: Message = {"role": "user", "content": label.prompt}
    answered: Message = {"role": "assistant", "content": label.answer}
    texts = [text.copy() for text in label.messages or (asked, answered)]
    if source.prompt is not None:
        first = next((text for text in texts if text["role"] == "user"), None)
        if first is not None:
            first["content"] = source.prompt

    for text in texts:
        if text["content"] is None or text["content"] == "":
            raise Rejected("no text", f"the {text['role']} text is missing")

    readers = [text for text in texts if text["role"] in READERS and isinstance(text["content"], str)]
    count, names = len(found.values), found.names
    if found.path and count > 1 and sum(str(text["content"]).count(PLACEHOLDER) for text in readers) == 1:
        # the label was made for one picture, the file holds several series
        many = ", ".join(f"{name}: {PLACEHOLDER}" if name else PLACEHOLDER for name in names)
        for text in readers:
            text["content"] = str(text["content"]).replace(PLACEHOLDER, many)

    return texts
