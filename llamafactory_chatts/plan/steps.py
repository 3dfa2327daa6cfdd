"""Optimizer steps of a run: the arithmetic of transformers 5.5 and accelerate 1.11, number for number."""

import math
from dataclasses import dataclass

from ..core.errors import ChatTSError
from ..recipe.reading import Recipe


@dataclass(frozen=True)
class Steps:
    """How a run counts.

    Attributes:
        rows: rows the trainer sees (packed rows with packing).
        batch, accumulation, world: rows of a pass, passes of a step, processes.
        batches: passes of each process in an epoch.
        per_epoch: optimizer steps of an epoch.
        total: optimizer steps of the run.
        by_max_steps: ``max_steps`` decided, not the epochs.
        last: rows of the last step of an epoch, over all processes (accelerate repeats first rows, so that every
            process has as many passes; they are counted here).
    """

    rows: int
    batch: int
    accumulation: int
    world: int
    batches: int
    per_epoch: int
    total: int
    by_max_steps: bool
    last: int

    @property
    def global_batch(self) -> int:
        """Rows of an optimizer step over all processes."""
        return self.batch * self.accumulation * self.world

    @property
    def epochs(self) -> float:
        """Times that the run goes over the rows."""
        return self.total / self.per_epoch


def count_steps(
    rows: int,
    batch: int,
    accumulation: int = 1,
    world: int = 1,
    epochs: float = 3.0,
    max_steps: int = -1,
    drop_last: bool = False,
) -> Steps:
    """Count the optimizer steps of a run.

    Args:
        rows: rows the trainer sees.
        batch: ``per_device_train_batch_size``.
        accumulation: ``gradient_accumulation_steps``.
        world: processes.
        epochs: ``num_train_epochs``, may be a fraction.
        max_steps: wins over epochs when above 0.
        drop_last: ``dataloader_drop_last``.

    Raises:
        ChatTSError: not one batch is left.
    """
    whole = rows // batch if drop_last else -(-rows // batch)
    batches = whole // world  # BatchSamplerShard
    if whole % world and not drop_last:
        batches += 1

    if batches == 0:
        raise ChatTSError(
            f"{rows} rows make no batch of {batch} on {world} processes",
            where="dataloader_drop_last" if rows else "dataset",
            fix="Use smaller batches, or dataloader_drop_last: false" if rows else "Add rows",
        )

    per_epoch = max(batches // accumulation + (batches % accumulation > 0), 1)
    total = max_steps if max_steps > 0 else math.ceil(epochs * per_epoch)
    passes = batches % accumulation or accumulation
    full = passes * batch * world
    ragged = batch - rows % batch if world == 1 and rows % batch and not drop_last else 0
    return Steps(rows, batch, accumulation, world, batches, per_epoch, total, max_steps > 0, full - ragged)


def plan_steps(recipe: Recipe, rows: int, world: int) -> Steps:
    """Count the optimizer steps of a recipe; ``tokens_per_batch`` changes how a step is worked through, not its rows.

    Raises:
        ChatTSError: not one batch is left.
    """
    return count_steps(
        rows,
        recipe["per_device_train_batch_size"],
        recipe["gradient_accumulation_steps"],
        world,
        recipe["num_train_epochs"],
        recipe["max_steps"],
        recipe["dataloader_drop_last"],
    )
