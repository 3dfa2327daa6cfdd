"""One plan: what is known about a run before it starts. Rows are counted once, settings may then be changed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.errors import ChatTSError
from ...core.memory import GIB
from ...recipe.context import Context
from ...recipe.machine.planned import Machine
from ...recipe.reading import Recipe
from ...recipe.refusals.table import refuse
from ..lengths import Lengths, count_datasets
from ..prompt_tokens import load_counter
from ..run_time import RunTime, estimate_time
from ..steps import Steps, plan_steps
from ..strategy import Strategy, read_strategy
from ..training_rows import TrainingRows, select_rows
from .activations import Pass
from .base_model import BaseModel, read_base
from .gpu_memory import GpuMemory, estimate_gpu
from .host_memory import HostMemory, estimate_host
from .largest_pass import count_step_passes, find_largest


STAGES = ("sft", "dpo", "kto", "rm")

ERROR = 0.10
"""How far an estimate of memory was off at most (docs/benchmarks.md): closer than that to the limit is ``tight``."""


def judge(needed: float, there: float) -> str:
    """Return ``fits``, ``tight`` (the estimate's own error decides, either way) or ``does not fit``."""
    if abs(there - needed) < ERROR * needed:
        return "tight"

    return "fits" if there > needed else "does not fit"


@dataclass(frozen=True)
class Counted:
    """What was read from files: a change of settings does not read them again."""

    base: BaseModel
    parts: list[Lengths]


@dataclass(frozen=True)
class Plan:
    """A recipe on a machine.

    Attributes:
        recipe, machine, base, strategy: what was asked for.
        rows: that are trained on.
        steps: how the run counts.
        largest: the pass that decides about memory.
        passes: of an optimizer step and process.
        gpu, host: memory.
        time: None where no speed is known.
    """

    recipe: Recipe
    machine: Machine
    base: BaseModel
    strategy: Strategy
    rows: TrainingRows
    steps: Steps
    largest: Pass
    passes: float
    gpu: GpuMemory
    host: HostMemory
    time: RunTime | None
    counted: Counted
    speed: float | None = None

    @property
    def room(self) -> float | None:
        """Bytes that are left on a card at the peak; below 0 it does not fit. None: no card given."""
        return None if self.machine.card is None else self.machine.card.gib * GIB - self.gpu.needed

    @property
    def host_room(self) -> float | None:
        """Bytes of host memory that are left on a node while loading and training."""
        return None if self.machine.ram is None else self.machine.ram * GIB - self.host.total

    @property
    def verdict(self) -> str | None:
        """The worse of :func:`judge`'s words for a card and the host; None: no card given."""
        if self.machine.card is None:
            return None

        words = [judge(self.gpu.needed, self.machine.card.gib * GIB)]
        if self.machine.ram is not None:
            words.append(judge(self.host.total, self.machine.ram * GIB))

        return max(words, key=("fits", "tight", "does not fit").index)

    @property
    def wrong_precision(self) -> bool:
        """Whether the recipe asks for bf16 on a card that has none."""
        card = self.machine.card
        return bool(card and card.bf16 is False and (self.recipe["bf16"] or self.recipe["pure_bf16"]))

    @property
    def fits(self) -> bool | None:
        """Whether the run works on this machine as far as the estimate goes; None: no card given."""
        if self.room is None:
            return None

        return self.room >= 0 and (self.host_room is None or self.host_room >= 0) and not self.wrong_precision

    def changed(self, changes: Mapping[str, Any]) -> "Plan":
        """Return the plan with other settings."""
        return make_plan(self.recipe.changed(changes), self.machine, self.counted, self.speed)


def count(recipe: Recipe, seen: Callable[[int], None] = lambda rows: None) -> Counted:
    """Read the sizes of the base and count the rows of the dataset.

    Args:
        recipe: the settings.
        seen: called with the number of rows so far, now and then.

    Raises:
        ChatTSError: a stage, template, base or dataset that cannot be planned for.
    """
    if recipe["stage"] not in STAGES:
        raise ChatTSError(
            f"stage {recipe['stage']} is not planned for",
            where=f"{recipe.path}: stage",
            fix=f"Plan one of: {', '.join(STAGES)}",
        )

    if recipe["template"] != "chatts":
        raise ChatTSError(
            f"template {recipe['template']} is not planned for",
            where=f"{recipe.path}: template",
            fix="Set template: chatts",
        )

    base = read_base(recipe)
    counter, exact = load_counter(base.folder, recipe)
    return Counted(base, count_datasets(recipe, base.patch_size, counter, exact, seen))


def make_plan(recipe: Recipe, machine: Machine, counted: Counted, speed: float | None = None) -> Plan:
    """Plan a recipe for a machine.

    Args:
        recipe: the settings.
        machine: cards, their number, host memory.
        counted: what :func:`count` found.
        speed: measured, in samples a second over all processes.

    Raises:
        ChatTSError: a recipe that cannot run: no row left, settings that contradict each other.
    """
    base, strategy = counted.base, read_strategy(recipe, machine.fsdp)
    refuse(Context(recipe, elsewhere=True, fsdp=strategy.fsdp, processes=machine.world))
    rows = select_rows(counted.parts, recipe)
    if not len(rows.samples):
        raise ChatTSError(
            f"all {rows.overlong} rows are longer than {recipe['cutoff_len']} allows",
            where=f"{recipe.path}: cutoff_len",
            fix=f"Set cutoff_len: {rows.longest_overlong + recipe['cutoff_len'] - recipe.limit}",
        )

    steps = plan_steps(recipe, len(rows), machine.world)
    largest, passes = find_largest(recipe, rows), count_step_passes(recipe, rows)
    gpu = estimate_gpu(recipe, base, machine, strategy, largest)
    host = estimate_host(recipe, base, machine, strategy, largest)
    means = [float(np.mean(values)) for values in rows.items()[:2]]
    time = estimate_time(recipe, base, machine, steps, passes, *means, speed, strategy)
    return Plan(recipe, machine, base, strategy, rows, steps, largest, passes, gpu, host, time, counted, speed)
