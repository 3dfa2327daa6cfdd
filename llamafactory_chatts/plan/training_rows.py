"""From the rows of a dataset to the rows that the trainer sees: sampled, split, without long ones, packed."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.contract import MAX_OVERLONG_SHARE
from ..core.errors import ChatTSError
from ..recipe.reading import Recipe
from ..rows.val_size import check_val_size
from .lengths import Lengths


@dataclass
class TrainingRows:
    """The training set of a run.

    Attributes:
        rows: all rows of the recipe's datasets that can be used.
        samples: those that are trained on, before packing.
        overlong: rows left out because they are longer than ``cutoff_len`` allows.
        longest_overlong: tokens of the longest of them, 0 without any.
        validation: rows kept for evaluation.
        packs: without packing None; with it the samples of each packed row, as indices into ``samples``.
    """

    rows: Lengths
    samples: Lengths
    overlong: int
    longest_overlong: int
    validation: int
    packs: list[list[int]] | None = None

    def __len__(self) -> int:
        return len(self.samples) if self.packs is None else len(self.packs)

    @property
    def stops(self) -> bool:
        """Whether a training refuses so many long rows (unless ``drop_overlong`` is set)."""
        total = len(self.samples) + self.overlong
        return self.overlong == total or self.overlong / total > MAX_OVERLONG_SHARE

    def items(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return tokens, labelled tokens, patches and the longest sample of each row the trainer sees."""
        one = self.samples
        if self.packs is None:
            return one.tokens, one.labelled, one.patches, one.tokens

        columns = (one.tokens, one.labelled, one.patches)
        sums = [np.array([values[pack].sum() for pack in self.packs]) for values in columns]
        return (*sums, np.array([one.tokens[pack].max() for pack in self.packs]))


def greedy_knapsack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put lengths into knapsacks as the host's packing does: the largest that still fits, again and again.

    Returns:
        the lengths in each knapsack.
    """
    numbers = sorted(lengths)
    knapsacks = []
    while numbers:
        knapsack, space = [], capacity
        while (index := bisect.bisect(numbers, space)) > 0:
            space -= numbers[index - 1]
            knapsack.append(numbers.pop(index - 1))

        knapsacks.append(knapsack)

    return knapsacks


def pack(lengths: np.ndarray, capacity: int, batch_size: int, workers: int | None) -> list[list[int]]:
    """Pack rows as the host does: worker by worker, in groups of ``preprocessing_batch_size`` rows.

    Args:
        lengths: tokens of each row, -1 for a row that is left out (it still counts for the groups).
        capacity: tokens of a packed row.
        batch_size: rows that are looked at together.
        workers: ``preprocessing_num_workers``; each gets a contiguous part.

    Returns:
        the rows of each packed row, as indices into ``lengths``.
    """
    total, workers = len(lengths), max(1, min(workers or 1, len(lengths)))
    packs, start = [], 0
    for worker in range(workers):
        end = start + total // workers + (worker < total % workers)
        for first in range(start, end, batch_size):
            group = range(first, min(first + batch_size, end))
            by_length: dict[int, list[int]] = {}
            for row in group:
                if lengths[row] >= 0:
                    by_length.setdefault(int(lengths[row]), []).append(row)

            sizes = [length for length, rows in by_length.items() for _ in rows]
            packs += [[by_length[size].pop() for size in knapsack] for knapsack in greedy_knapsack(sizes, capacity)]

        start = end

    return packs


def _merge(parts: list[Lengths], recipe: Recipe) -> Lengths:
    """Return the rows of all datasets in the order of training data, sampled where an entry or the recipe says so."""
    random = np.random.RandomState(recipe["seed"])  # what transformers.set_seed gives to numpy
    chosen = []
    for part in parts:
        wanted = next(iter(part.parts.values()))
        if wanted != len(part):
            rows = random.permutation(len(part))[:wanted]
            if len(rows) < wanted:
                rows = np.concatenate([rows, random.choice(len(part), wanted - len(rows))])

            part = part.pick(rows)

        if recipe["max_samples"] is not None:
            part = part.pick(np.arange(min(recipe["max_samples"], len(part))))

        chosen.append(part)

    merged = Lengths.joined(chosen)
    if len(chosen) == 1 or recipe["mix_strategy"] == "concat":
        return merged

    return merged.pick(_interleaved([len(part) for part in chosen], recipe))


def _interleaved(sizes: list[int], recipe: Recipe) -> np.ndarray:
    """Return the order that ``datasets`` gives to mixed rows: it is asked itself, with the indices alone."""
    from datasets import Dataset, interleave_datasets

    strategies = {
        "interleave_under": "first_exhausted",
        "interleave_over": "all_exhausted",
        "interleave_once": "all_exhausted_without_replacement",
    }
    strategy = strategies.get(recipe["mix_strategy"])
    if strategy is None:
        raise ChatTSError(
            f"there is no {recipe['mix_strategy']!r}",
            where=f"{recipe.path}: mix_strategy",
            fix=f"Use one of: concat, {', '.join(strategies)}",
        )

    starts = np.cumsum([0, *sizes])
    parts = [Dataset.from_dict({"row": list(range(a, b))}) for a, b in zip(starts, starts[1:])]
    weights = [float(item) for item in recipe.names("interleave_probs")] or None
    mixed = interleave_datasets(parts, probabilities=weights, seed=recipe["seed"], stopping_strategy=strategy)
    return np.array(mixed["row"])


def _split(total: int, recipe: Recipe) -> tuple[np.ndarray, int]:
    """Return the rows of the training part in their order, and the number of the others."""
    size = recipe["val_size"]
    check_val_size(size, total)
    if size <= 1e-6:
        return np.arange(total), 0

    held = int(size) if size > 1 else math.ceil(size * total)
    order = np.random.default_rng(recipe["seed"]).permutation(total)  # as datasets.train_test_split
    return order[held:total], held


def select_rows(parts: list[Lengths], recipe: Recipe) -> TrainingRows:
    """Return the training set that the host makes of the recipe's datasets."""
    check_tokenized_path(recipe)
    merged = _merge(parts, recipe)
    order, held = _split(len(merged), recipe)
    kept = merged.pick(order)
    fits = kept.tokens <= recipe.limit
    lost = kept.tokens[~fits]
    rows = TrainingRows(merged, kept.pick(np.flatnonzero(fits)), len(lost), int(lost.max(initial=0)), held)
    rows.rows.unusable = [text for part in parts for text in part.unusable]
    rows.rows.unusable_total = sum(part.unusable_total for part in parts)
    if recipe.packing and len(rows.samples):
        sizes = np.where(fits, kept.tokens, -1)
        packs = pack(sizes, recipe.limit, recipe["preprocessing_batch_size"], recipe["preprocessing_num_workers"])
        place = np.cumsum(fits) - 1
        rows.packs = [[int(place[row]) for row in rows_of_pack] for rows_of_pack in packs]

    return rows


def check_tokenized_path(recipe: Recipe) -> None:
    """Raise a :class:`ChatTSError` where the host would load tokens from disk and ignore the dataset."""
    path = recipe["tokenized_path"]
    if path and Path(str(path)).is_dir() and any(Path(str(path)).iterdir()):
        raise ChatTSError(
            "a training loads the tokens of this folder and ignores `dataset`, so a plan would count other rows",
            where=f"tokenized_path: {path}",
            fix="Plan without it: add tokenized_path= behind the recipe",
        )
