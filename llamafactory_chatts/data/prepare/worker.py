"""What is done with a label: find its series, cut and fill them, move its answer along, or say why it is unusable.

Runs in the worker processes of :mod:`.prepare`; a chunk of labels comes in, finished rows go out.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ...core.errors import ChatTSError, shorten
from ...core.placeholders import check_placeholders
from ...core.series import as_series
from ..labels import answers, matching
from ..labels.folder_index import FolderIndex
from ..labels.formats import LabelRow, Message
from ..labels.series import Found, Rejected, find_file, read_series, texts_of
from ..sketch import hashed
from . import dedupe, gaps, resample, windows
from .config import Recipe, Source
from .row_writing import Row, payload_of
from .split import part_of


@dataclass
class Done:
    """A finished chunk.

    Attributes:
        source: number of its source.
        read: labels read.
        payload: its rows as bytes.
        rows: per row: number of its label in the chunk, the part it would be in, its key for :mod:`.dedupe` (None
            where nothing is compared).
        sizes: bytes of each row (JSONL).
        rejects: number of the label in the chunk -> its line for the rejects file.
        labels: per label of the chunk what identifies it in the rejects file.
        tally: what was done, for the provenance (``rule: exact``, ``gaps filled``, ...).
        files: 64-bit hashes of the series files that labels mean.
    """

    source: int
    read: int = 0
    payload: bytes = b""
    rows: list[tuple[int, str, dedupe.Key | None]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    rejects: dict[int, dict[str, object]] = field(default_factory=dict)
    labels: list[dict[str, object]] = field(default_factory=list)
    tally: Counter = field(default_factory=Counter)
    files: list[int] = field(default_factory=list)


class Worker:
    """Turns chunks of labels into rows.

    Args:
        recipe: what to do.
        messages: whether rows are written as messages (several turns) instead of input and output.
        indexes: per source its :class:`.matching.FolderIndex`, None where it names no folder.
    """

    def __init__(self, recipe: Recipe, messages: bool, indexes: list[FolderIndex | None]) -> None:
        self.recipe, self.messages, self.indexes = recipe, messages, indexes

    @cached_property
    def _rules(self) -> list[list[matching.Rule]]:
        return [matching.parse_rules(list(source.match)) for source in self.recipe.sources]

    def __call__(self, number: int, labels: list[LabelRow]) -> Done:
        """Return the chunk ``labels`` (:class:`.sources.LabelRow`) of source ``number``, finished."""
        done, rows = Done(number, len(labels)), list[Row]()
        source = self.recipe.sources[number]
        for position, label in enumerate(labels):
            name = {"source": source.name, "file": label.file, "row": label.row, "name": label.name}
            done.labels.append(name)
            try:
                made = self._rows(label, number, done)
            except Rejected as error:
                done.rejects[position] = {**name, "reason": error.reason, "detail": shorten(error.detail, 300)}
            except Exception as error:  # a mistake of ours must not lose the other rows, nor this one in silence
                detail = shorten(f"{type(error).__name__}: {error}", 300)
                done.rejects[position] = {**name, "reason": "unexpected error", "detail": detail}
            else:
                rows += [row for row, _, _ in made]
                done.rows += [(position, part, key) for _, part, key in made]

        done.payload, done.sizes = payload_of(rows, self.recipe.parquet, self.messages)
        return done

    def _rows(self, label: LabelRow, number: int, done: Done) -> list[tuple[Row, str, dedupe.Key | None]]:
        source = self.recipe.sources[number]
        if label.problem:
            raise Rejected("unreadable row", label.problem)

        file = find_file(label, self.indexes[number], self._rules[number])
        if file is not None:
            done.tally[f"rule: {file.rule}"] += 1
            done.files.append(hashed(os.fsencode(file.path)))

        found = read_series(label, source, file)
        texts = texts_of(label, source, found)
        tally: Counter = Counter()
        group = found.group() if self.recipe.split else b""
        made = [self._finish(row, group) for row in _variants(texts, found, source, tally)]
        done.tally.update(tally)
        return made

    def _finish(self, row: Row, group: bytes) -> tuple[Row, str, dedupe.Key | None]:
        try:
            check_placeholders(row.texts, len(row.series))
        except ChatTSError as error:
            raise Rejected("placeholders", error) from None

        if not self.messages and [text["role"] for text in row.texts] != ["user", "assistant"]:
            raise Rejected("several turns", "this row has a system text or several turns. Set rows: messages.")

        if self.recipe.parquet and any(np.abs(values).max() > 3e38 for values in row.series):
            raise Rejected("series", "values above 3e38 do not fit Parquet's float32. Rescale them or write JSONL.")

        split, text = self.recipe.split, "\0".join(f"{item['role']}\0{item['content']}" for item in row.texts)
        part = part_of(group or text.encode(), self.recipe.seed, split) if split else ""
        key = None
        if self.recipe.deduplicate != "off" or split and group:
            kind = np.float32 if self.recipe.parquet else np.float64
            series = [values.astype(kind).astype(np.float64) for values in row.series]
            key = dedupe.key_of(text, series, self.recipe.deduplicate, hashed(group) if split and group else None)

        return row, part, key


def _variants(texts: list[Message], found: Found, source: Source, tally: Counter) -> list[Row]:
    """Return the rows of a label: one, or one per window."""
    if not found.values:
        return [Row([{**text, "content": _as_text(text["content"])} for text in texts], [])]

    parsed = _answers(texts, source, max(map(len, found.values)))
    empty = parsed is not None and not any(value for value in parsed.values())
    missing = gaps.count(found.values)
    tally[f"gaps {source.gaps}"] += missing
    try:
        if not source.moves:
            closed = [gaps.close(windows.whole([values]), source.gaps).values[0] for values in found.values]
            return [_row(texts, parsed, closed, None)]

        piece = windows.whole(found.values)
        if source.slice is not None:
            piece = piece.cut(*windows.bounds(len(piece), source.slice))
            if not len(piece):
                raise Rejected("empty slice", f"slice {source.slice} of {len(found.values[0])} points holds none")

        closed = gaps.close(piece, source.gaps)
    except ChatTSError as error:
        raise Rejected("gaps" if missing else "series", error) from None

    _check_kept(parsed, piece, closed, "gaps: drop removed all points")
    parts = [closed] if source.window is None else windows.windows(closed, source.window, source.stride)
    rows, lost = [], None
    for part in parts:
        if source.window is not None and not source.keep_empty and parsed is not None and not _inside(parsed, part):
            tally["windows without an anomaly left out"] += 1
            continue

        small = part if source.points is None else resample.resample(part, source.points, source.method)
        try:
            _check_kept(parsed, part, small, "no point chosen by lttb is left")
        except Rejected as error:
            tally["windows left out, their label was lost"] += 1
            lost = error
            continue

        tally["resampled"] += small is not part
        rows.append(_row(texts, parsed, list(small.values), small))

    if not rows:
        why = "the series is labelled as normal" if empty else "no window holds an anomaly"
        raise lost or Rejected("no window", f"{why}. Set window.keep_empty: true to keep such windows.")

    return rows


def _answers(texts: list[Message], source: Source, points: int) -> dict[int, list[Any]] | None:
    """Return turn -> its parsed answer, None where the answers stay as they are."""
    if source.answers == "keep" and not source.moves:
        return None

    parsed: dict[int, list[Any]] = {}
    for number, text in enumerate(texts):
        if text["role"] != "assistant":
            continue

        try:
            value = answers.normalise(text["content"], answers.validator(source.answer_schema))
        except ChatTSError as error:
            raise Rejected("answer", error) from None

        found = answers.intervals(value)
        if found is None and source.moves:
            raise Rejected("answer", "without an interval in every item it cannot be moved with the points")

        try:
            answers.check_intervals(found or [], points)
        except ChatTSError as error:
            raise Rejected("interval", error) from None

        parsed[number] = value

    return parsed


def _spans(parsed: dict[int, list[Any]] | None) -> list[answers.Interval]:
    return [tuple(item["interval"]) for value in (parsed or {}).values() for item in value]


def _inside(parsed: dict[int, list[Any]], piece: windows.Piece) -> bool:
    return any(piece.move(*span) is not None for span in _spans(parsed))


def _check_kept(parsed: dict[int, list[Any]] | None, before: windows.Piece, after: windows.Piece, why: str) -> None:
    """Refuse a change after which a label has no point any more, although it lies within the piece."""
    if after is before:
        return

    for start, end in _spans(parsed):
        if before.spans(start, end) and before.move(start, end) is not None and after.move(start, end) is None:
            raise Rejected("label lost", f"{why} of the interval [{start}, {end}]")


def _row(
    texts: list[Message], parsed: dict[int, list[Any]] | None, series: list[np.ndarray], piece: windows.Piece | None
) -> Row:
    try:
        series = [as_series(values) for values in series]
    except ChatTSError as error:
        raise Rejected("series", error) from None

    written = []
    for number, text in enumerate(texts):
        content = text["content"]
        if parsed is not None and number in parsed:
            content = parsed[number]
            if piece is not None:
                moved = [(item, piece.move(*item["interval"])) for item in content]
                content = [{**item, "interval": list(place)} for item, place in moved if place is not None]

            content = answers.dumps(content)

        written.append({"role": text["role"], "content": _as_text(content)})

    return Row(written, series)


def _as_text(content: object) -> str:
    """Return an answer as text; a list or number of the label file as JSON."""
    return content if isinstance(content, str) else answers.dumps(content)
