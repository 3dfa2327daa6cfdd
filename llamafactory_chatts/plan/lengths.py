"""Tokens of each row of a recipe's dataset, as the training counts them: text, headers, one per patch of a series."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core.contract import PLACEHOLDER, TS_START
from ..core.errors import ChatTSError
from ..core.placeholders import check_placeholders
from ..core.series import as_series, encode, num_patches
from ..files.series_files import inside, read_series_file
from ..recipe.reading import Recipe
from ..rows.entries import FILE, local_file, read_entries
from ..rows.layout import Conversation, Layout
from ..rows.reading import SUFFIXES, UnreadableRow, read_rows
from .prompt_tokens import Counter, system_text, turn_text


TEXTS_AT_ONCE = 2048
"""Rows whose texts are tokenised together."""

SHOWN = 3
"""Rows that cannot be used which are named."""

COLUMNS = ("tokens", "labelled", "patches", "series")
Cell = str | Sequence[str | Sequence[float] | np.ndarray] | Sequence[float] | None
Texts = list[list[str]]
"""Of each way to read a row (with two answers: two), the texts that the host tokenises one by one."""


@dataclass
class Lengths:
    """What the rows of a dataset hold, one entry a row, in the order of the files.

    Attributes:
        tokens: of the whole row (with two answers: of the longer one).
        labelled: tokens that take part in the loss.
        patches: positions of the row that are series.
        series: number of series.
        parts: rows of each dataset of the recipe.
        exact: False where no tokenizer was at hand.
        unusable: rows at which a training would stop, the first few named.
        approximate: rows with tool calls in OpenAI's form, whose text the host writes anew.
    """

    tokens: np.ndarray
    labelled: np.ndarray
    patches: np.ndarray
    series: np.ndarray
    parts: dict[str, int] = field(default_factory=dict)
    exact: bool = True
    unusable: list[str] = field(default_factory=list)
    unusable_total: int = 0
    approximate: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def pick(self, rows: np.ndarray) -> "Lengths":
        """Return the rows of these indices."""
        picked = {key: getattr(self, key)[rows] for key in COLUMNS}
        return Lengths(**picked, parts=self.parts, exact=self.exact, approximate=self.approximate)

    @classmethod
    def joined(cls, items: Sequence["Lengths"]) -> "Lengths":
        """Return the rows of several datasets, one behind the other."""
        arrays = {name: np.concatenate([getattr(item, name) for item in items]) for name in COLUMNS}
        return cls(
            **arrays,
            parts={name: rows for item in items for name, rows in item.parts.items()},
            exact=all(item.exact for item in items),
            unusable=[text for item in items for text in item.unusable][:SHOWN],
            unusable_total=sum(item.unusable_total for item in items),
            approximate=sum(item.approximate for item in items),
        )


def read_entry(recipe: Recipe, name: str) -> tuple[dict[str, Any], list[Path]]:
    """Return the entry of a dataset in dataset_info.json, and the files it names.

    Raises:
        ChatTSError: no such file or entry, data that is not in a file of this machine, or of a kind that is not read.
    """
    folder = Path(str(recipe["dataset_dir"]))
    file = folder / FILE
    if not file.exists():
        raise ChatTSError("the file is missing", where=str(file), fix="Set dataset_dir to the folder that holds it")

    info = read_entries(file)[1]
    if name not in info:
        raise ChatTSError(
            f"there is no entry {name!r}",
            where=str(file),
            fix=f"Use one of: {', '.join(sorted(info)) or '(none)'}; or: lmf-chatts dataset-info add {name} FILE",
        )

    path = local_file(info[name], folder)
    if path is None:
        raise ChatTSError(
            "its data is not in a file here", where=f"{file}: {name}", fix="Download it and add it under file_name"
        )

    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for one in files:
        if not one.is_file():
            raise ChatTSError(
                "the file does not exist",
                where=str(one),
                fix=f"Put it there, or correct file_name of {name!r} in dataset_info.json",
            )

        if one.suffix.lower() not in SUFFIXES:
            raise ChatTSError(
                "files of this kind are not planned for", where=str(one), fix=f"Write it as {' or '.join(SUFFIXES)}"
            )

    return info[name], files


class _Row:
    """Reads the elements of one row: the texts that the host tokenises, and what its series take."""

    def __init__(self, recipe: Recipe, layout: Layout, patch_size: int) -> None:
        self.recipe, self.layout, self.patch_size = recipe, layout, patch_size
        self.media = str(recipe["media_dir"] or recipe["dataset_dir"])

    def read(self, row: dict[str, Any]) -> tuple[Texts, Texts, int, int]:
        """Return prompt and answer elements of each way to read the row, its patches and its series."""
        named = self.layout.columns
        row = {**{column: None for column in named.values()}, **row}
        talk = self.layout.read(row)
        series = self._series(talk.cell)
        check_placeholders(talk.turns, len(series), talk.system)
        if self.recipe["stage"] != "pt" and (not talk.answers or not any(talk.answers)):
            raise ChatTSError("there is no answer")

        tools = row.get(named.get("tools", ""), "") or ""
        tools = tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False)
        prompts, answers = self._elements(talk, tools, series)
        return prompts, answers, sum(num_patches(len(item), self.patch_size) for item in series), len(series)

    def _series(self, cell: Cell) -> list[np.ndarray]:
        if cell is None:
            return []

        if isinstance(cell, str) or (len(cell) and not isinstance(cell[0], (list, tuple, str, np.ndarray))):
            cell = [cell]  # one path, or one flat list, is one series

        series = []
        for item in cell:
            series += read_series_file(inside(self.media, item)) if isinstance(item, str) else [as_series(item)]

        return series

    def _elements(self, talk: Conversation, tools: str, series: list[np.ndarray]) -> tuple[Texts, Texts]:
        headers = iter([encode(item).header for item in series])
        system = system_text(talk.system, tools, self.recipe)
        shared, learned = [system] if system else [], []
        for turn in talk.turns:
            pieces = turn["content"].split(PLACEHOLDER)
            text = pieces[0] + "".join(next(headers) + TS_START + piece for piece in pieces[1:])
            (learned if turn["role"] in ("assistant", "function") else shared).append(turn_text(turn["role"], text))

        return [shared] * len(talk.answers), [[*learned, turn_text("assistant", one)] for one in talk.answers]


def count_file(
    file: Path, recipe: Recipe, layout: Layout, patch_size: int, counter: Counter, seen: Callable[[int], None]
) -> Lengths:
    """Count the rows of one file.

    Args:
        file: JSON Lines, a JSON array, or Parquet.
        recipe: for stage, system prompt and what is learned.
        layout: of the rows.
        patch_size: points of a patch.
        counter: counts tokens.
        seen: called with the number of rows so far, now and then.
    """
    reader = _Row(recipe, layout, patch_size)
    counted: list[tuple[int, int, int, int]] = []
    waiting: list[tuple[Texts, Texts, int, int]] = []
    unusable: list[str] = []
    bad = approximate = 0
    cache: dict[str, int] = {}  # the system prompt and other texts that stand in most rows

    def count() -> None:
        texts = {text for prompts, answers, *_ in waiting for way in (*prompts, *answers) for text in way}
        fresh = [text for text in texts if text not in cache]
        sizes = {**cache, **dict(zip(fresh, counter(fresh) if fresh else ()))}
        for prompts, answers, patches, series in waiting:
            ways = [(sum(sizes[text] for text in p), [sizes[text] for text in a]) for p, a in zip(prompts, answers)]
            prompt, answer = max(ways, key=lambda way: way[0] + sum(way[1]))
            labelled = sum(answer)
            if recipe["mask_history"]:
                labelled = answer[-1]
            elif recipe["train_on_prompt"]:
                labelled += prompt - series - 1  # all but the patches; the first is never predicted

            counted.append((prompt + sum(answer) + patches - series, labelled, patches, series))  # one <ts> a series

        if waiting and len(cache) < 1000:
            cache.update({text: sizes[text] for text in waiting[0][0][0][:1]})

        waiting.clear()

    for number, row in read_rows(file):
        try:
            if isinstance(row, UnreadableRow):
                raise ChatTSError(str(row))

            approximate += "tool_calls" in set(_keys(row, layout))
            waiting.append(reader.read(row))
        except (ChatTSError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            bad += 1
            if len(unusable) < SHOWN:
                what = error.what if isinstance(error, ChatTSError) else f"the row cannot be read ({error!r})"
                unusable.append(f"{file}:{number}: {what}")

        if len(waiting) >= TEXTS_AT_ONCE:
            count()
            seen(len(counted))

    count()
    columns = np.array(counted, dtype=np.int64).reshape(-1, 4).T
    return Lengths(*columns, unusable=unusable, unusable_total=bad, approximate=approximate)


def _keys(row: object, layout: Layout) -> Iterator[str]:
    """Yield the keys of a row's turns in OpenAI's form."""
    if layout.formatting == "openai" and isinstance(row, dict):
        for turn in row.get(layout.columns.get("messages", ""), []) or []:
            if isinstance(turn, dict):
                yield from turn


def count_datasets(
    recipe: Recipe, patch_size: int, counter: Counter, exact: bool, seen: Callable[[int], None] = lambda rows: None
) -> list[Lengths]:
    """Count each dataset of a recipe, in its order.

    Raises:
        ChatTSError: no dataset is named, one is not there, or it has no row that can be used.
    """
    names = recipe.names("dataset")
    if not names:
        raise ChatTSError("no dataset is named", where=f"{recipe.path}: dataset", fix="Add dataset: NAME")

    counted, before = [], 0
    for name in names:
        entry, files = read_entry(recipe, name)
        layout = Layout.of_entry(entry)
        parts = [
            count_file(file, recipe, layout, patch_size, counter, lambda rows, done=before: seen(done + rows))
            for file in files
        ]
        found = Lengths.joined(parts)
        if not len(found):
            why = f" ({found.unusable[0]})" if found.unusable else ""
            raise ChatTSError(
                f"no row can be used{why}", where=f"dataset: {name}", fix=f"Look at it: lmf-chatts check {name}"
            )

        found.exact, found.parts = exact, {name: len(found)}
        if entry.get("num_samples"):
            found.parts[name] = int(entry["num_samples"])

        counted.append(found)
        before += len(found)

    return counted
