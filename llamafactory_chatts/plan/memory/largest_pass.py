"""The largest forward and backward pass that a run may meet: memory is decided by it."""

from collections.abc import Iterator

import numpy as np

from ...core.errors import ChatTSError
from ...core.passes import count_tokens, fill_passes
from ...recipe.reading import Recipe
from ..training_rows import TrainingRows
from .activations import EAGER, Pass


MULTIPLE = 8
"""The host pads a batch to a multiple of this."""

STEPS = 128
"""Steps of an epoch that are tried with ``tokens_per_batch``."""


def is_padding_free(recipe: Recipe) -> bool:
    """Tell whether passes run over real tokens only, as the host package switches it on."""
    return str(recipe["flash_attn"]).lower() not in EAGER


def find_largest(recipe: Recipe, rows: TrainingRows) -> Pass:
    """Return the largest pass: the longest rows together, since shuffling may bring them together.

    With ``tokens_per_batch`` it is the largest that comes up when the rows of an epoch are shuffled and taken step by
    step: passes are filled, but rarely to the last token.

    Raises:
        ChatTSError: a row is longer than ``tokens_per_batch``.
    """
    tokens, labelled, patches, samples = rows.items()
    batch, accumulation = recipe["per_device_train_batch_size"], recipe["gradient_accumulation_steps"]
    budget, free = recipe["tokens_per_batch"], is_padding_free(recipe)
    longest = int(samples.max())
    if budget is not None:
        return _largest_filled(recipe, rows, budget, free)

    size = min(batch, len(tokens))
    longest_rows, most_labelled, most_patches = (np.sort(v)[::-1][:size] for v in (tokens, labelled, patches))
    width = int(longest_rows[0]) if rows.packs is None else recipe["cutoff_len"]
    total = int(longest_rows.sum()) if free else size * -(-width // MULTIPLE) * MULTIPLE
    return Pass(size, total, longest, int(most_labelled.sum()), int(most_patches.sum()), accumulation > 1)


def _shuffled_steps(recipe: Recipe, rows: TrainingRows) -> Iterator[np.ndarray]:
    """Yield the rows of some steps of a shuffled epoch, and the step that holds the longest rows."""
    tokens = rows.items()[0]
    step = recipe["per_device_train_batch_size"] * recipe["gradient_accumulation_steps"]
    order = np.random.default_rng(recipe["seed"]).permutation(len(tokens))
    yield np.argsort(tokens)[::-1][:step]
    for start in range(0, min(len(order), STEPS * step), step):
        yield order[start : start + step]


def _largest_filled(recipe: Recipe, rows: TrainingRows, budget: int, free: bool) -> Pass:
    tokens, labelled, patches, samples = rows.items()
    longest = int(tokens.max())
    if longest > budget:
        raise ChatTSError(
            f"the longest row has {longest} tokens",
            where=f"tokens_per_batch: {budget}",
            fix=f"Set tokens_per_batch to {longest} or more, or cutoff_len to {budget}",
        )

    largest, several = (0, 0, 0, 0), False
    for step in _shuffled_steps(recipe, rows):
        passes = fill_passes(tokens[step].tolist(), budget, free)
        several |= len(passes) > 1
        for rows_of_pass in passes:
            own = step[rows_of_pass]
            cost = count_tokens(range(len(own)), tokens[own].tolist(), free)
            largest = max(largest, (cost, len(own), int(labelled[own].sum()), int(patches[own].sum())))

    cost, size, most_labelled, most_patches = largest
    return Pass(size, cost, int(samples.max()), most_labelled, most_patches, several)


def count_step_passes(recipe: Recipe, rows: TrainingRows) -> float:
    """Return the passes of an optimizer step and process, on average where ``tokens_per_batch`` fills them."""
    budget = recipe["tokens_per_batch"]
    if budget is None:
        return float(recipe["gradient_accumulation_steps"])

    tokens, free = rows.items()[0], is_padding_free(recipe)
    steps = list(_shuffled_steps(recipe, rows))[1:]
    return float(np.mean([len(fill_passes(tokens[step].tolist(), budget, free)) for step in steps]))
