"""One plan: what is known about a run before it starts. Rows are counted once, settings may then be changed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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

Setting = str | int | float | bool | None
"""What a plan may set in a recipe; None: not set."""

COUNTED = (
    "tokens_per_batch",
    "quantization_bit",
    "quantization_method",
    "offload_embedding",
    "lm_head_8bit",
    "fp16",
    "max_steps",
)
"""Settings that memory and steps are counted by: where a training refuses them, there is nothing to count."""

ERROR = 0.10
"""How far an estimate of memory was off at most (docs/benchmarks.md): closer than that to the limit is ``tight``."""


@dataclass(frozen=True)
class Room:
    """Memory of a card or a node: what a run needs of it, and what is there; bytes."""

    needed: float
    there: float

    @property
    def left(self) -> float:
        """Bytes that are left; below 0 the run does not fit."""
        return self.there - self.needed

    @property
    def word(self) -> str:
        """``fits``, ``tight`` (the estimate's own error decides, either way) or ``does not fit``."""
        if abs(self.left) < ERROR * self.needed:
            return "tight"

        return "fits" if self.left > 0 else "does not fit"


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
    def room(self) -> Room | None:
        """A card's memory at the peak; None: no card given."""
        return Room(self.gpu.needed, self.machine.card.gib * GIB) if self.machine.card else None

    @property
    def host_room(self) -> Room | None:
        """Host memory of a node while loading and training; None: not known."""
        return None if self.machine.ram is None else Room(self.host.total, self.machine.ram * GIB)

    @property
    def verdict(self) -> str | None:
        """The worse of the words for a card and the host; None: no card given."""
        words = [room.word for room in (self.room, self.host_room) if room]
        return max(words, key=("fits", "tight", "does not fit").index) if self.room else None

    @property
    def wrong_precision(self) -> bool:
        """Whether the recipe asks for bf16 on a card that has none."""
        card = self.machine.card
        return bool(card and card.bf16 is False and (self.recipe["bf16"] or self.recipe["pure_bf16"]))

    @property
    def fits(self) -> bool | None:
        """Whether the run works on this machine as far as the estimate goes; None: no card given."""
        enough = all(room.left >= 0 for room in (self.room, self.host_room) if room)
        return enough and not self.wrong_precision if self.room else None

    def changed(self, changes: Mapping[str, Setting]) -> "Plan":
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
    return Counted(base, count_datasets(recipe, base.ts.patch_size, counter, exact, seen))


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
    refuse(Context(recipe, elsewhere=True, fsdp=strategy.fsdp, processes=machine.world), keys=COUNTED)
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
