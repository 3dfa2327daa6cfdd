"""How long a run takes: from a measured speed, or estimated from the operations it needs and the card's data sheet."""

import math
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ChatTSError
from ..recipe.context import read_json
from ..recipe.machine.planned import Machine
from ..recipe.reading import Recipe
from .memory.base_model import BaseModel
from .memory.trained import count_trained
from .steps import Steps
from .strategy import Strategy


EFFICIENCY, WITHOUT_KERNELS = 0.50, 0.40
"""Share of the data sheet's matrix rate that a long pass reaches, with Liger's kernels and without (H200, 8B)."""

LAUNCH = 0.00105
"""Seconds to start the kernels of one decoder layer once in Python; a pass does it forward, twice backward, and once
more with checkpointing. Short passes are bound by it (H200: 0.16 s for a pass of 367 tokens, 8B)."""

LAUNCH_QUANTISED = 1.5
"""How much longer that takes where each layer is dequantised first."""

GATHER = 0.025
"""Seconds a decoder layer and pass that ZeRO-3 and FSDP take to gather weights, beside moving them (two H200s: 0.43 s
a pass for 1B, 1.08 s for 8B)."""

LINKS, FAST_LINKS, FAST_CARD = (12e9, 5e9, 10e9), (50e9, 12e9, 200e9), 1500
"""Bytes a second from pinned host memory, from other host memory, and from card to card: PCIe 3 x16, and PCIe 5 with
NVLink for cards from so many GB/s of memory on (H200: 1.3 s a pass pinned, 2.6 s not)."""


@dataclass(frozen=True)
class RunTime:
    """Seconds of a run, and where the figure comes from."""

    seconds: float
    samples_per_second: float
    source: str


def read_speed(text: str) -> float:
    """Return a measured speed in samples a second: a number, or the folder of a finished run.

    Raises:
        ChatTSError: neither.
    """
    try:
        speed = float(text)
    except ValueError:
        speed = _speed_of_run(Path(text))

    if not 0 < speed < math.inf:
        raise ChatTSError(f"{text} is no speed", where="--speed", fix="Give samples a second, or the folder of a run")

    return speed


def _speed_of_run(folder: Path) -> float:
    for name in ("train_results.json", "all_results.json"):
        speed = (read_json(folder / name) or {}).get("train_samples_per_second")
        if isinstance(speed, (int, float)):
            return speed

    raise ChatTSError(
        "there is no train_results.json with a speed", where=f"--speed {folder}", fix="Give samples a second instead"
    )


def count_operations(recipe: Recipe, base: BaseModel, tokens: float, labelled: float, longest: float) -> float:
    """Return the operations of a pass, recomputation included.

    A weight costs 2 operations a token forward and 2 for the gradient of its input; 2 more where it is trained, and 2
    more where checkpointing computes it again. Attention costs ``4 x length x width`` a token and layer forward.
    """
    again = 0 if recipe["disable_gradient_checkpointing"] else 2
    factor = (4 if recipe.adapter else 6) + again
    shape = base.shape
    width = shape.num_attention_heads * shape.head_dim
    attention = shape.num_hidden_layers * width * longest / 2 * (6 + again)
    return tokens * (factor * base.layers + attention) + labelled * (factor - again) * base.embedding


def _gathering(base: BaseModel, machine: Machine, strategy: Strategy) -> float:
    """Return the seconds of a pass that bring shared out weights to a card, forward and backward."""
    if not strategy.sharded:
        return 0.0

    moved, share = 2 * base.total * 2.0, 1 / machine.world
    pinned, loose, between = FAST_LINKS if (machine.card.gbps or 0) >= FAST_CARD else LINKS
    seconds = base.shape.num_hidden_layers * GATHER + moved * (1 - share) / between
    if strategy.offload_param:
        seconds += moved * share / (pinned if strategy.pinned else loose)

    return seconds


def estimate_time(
    recipe: Recipe,
    base: BaseModel,
    machine: Machine,
    steps: Steps,
    passes: float,
    tokens: float,
    labelled: float,
    speed: float | None = None,
    strategy: Strategy | None = None,
) -> RunTime | None:
    """Return the time of a run; None where neither a speed nor the card's rate is known.

    Args:
        recipe, base, machine, steps: of the run.
        passes: of an optimizer step and process.
        tokens, labelled: of a row, on average.
        speed: measured, in samples a second.
        strategy: how weights are shared out; None: not.
    """
    samples = steps.total * steps.global_batch
    if speed is not None:
        return RunTime(samples / speed, speed, "measured speed given with --speed")

    if machine.card is None or machine.card.tflops is None:
        return None

    rows = steps.batch * steps.accumulation
    own = rows / passes  # rows of a pass
    operations = count_operations(recipe, base, own * tokens, own * labelled, tokens)
    efficiency = EFFICIENCY if recipe["enable_liger_kernel"] else WITHOUT_KERNELS
    computing = operations / (machine.card.tflops * 1e12 * efficiency)
    rounds = 3 if recipe["disable_gradient_checkpointing"] else 4
    launching = LAUNCH * rounds * base.shape.num_hidden_layers
    if recipe["quantization_bit"]:
        launching *= LAUNCH_QUANTISED
        computing += rounds * base.layers * 2.5 / ((machine.card.gbps or 500) * 1e9)  # half a byte read, two written

    seconds = passes * (math.hypot(computing, launching) + _gathering(base, machine, strategy or Strategy()))
    trained = count_trained(recipe, base).total
    seconds += trained * 28.0 / ((machine.card.gbps or 500) * 1e9)  # AdamW reads and writes weight, gradient, moments
    speed = steps.global_batch / seconds
    return RunTime(steps.total * seconds, speed, f"estimated from the data sheet of {machine.card.name}")
