"""Weights that DeepSpeed keeps in host memory, against the memory that is free: otherwise the kernel ends the run."""

import contextlib
import os
from collections.abc import Iterator
from math import prod
from pathlib import Path

from ...core.errors import ChatTSError
from ...core.memory import GIB, count_shares
from ...core.safetensors_folder import read_header
from ..context import Context
from ..finding import Finding
from ..machine.host_limits import host_memory


UNPINNED = "ds_z3_offload_unpinned.json"


def tensor_sizes(folder: Path) -> list[int]:
    """Return the number of values of each tensor of a checkpoint, from the headers of its safetensors files.

    An unreadable file counts for nothing; another rule names it.
    """
    sizes = []
    for path in sorted(folder.glob("*.safetensors")):
        with contextlib.suppress(ChatTSError, OSError):
            sizes += [prod(entry["shape"]) for entry in read_header(path).values()]

    return sizes


def offloaded_weights(context: Context) -> Iterator[Finding]:
    """ZeRO-3 with weights in host memory needs that memory on the node.

    More than the machine or its control group has is an error. More than is free now is a warning: what is free is an
    estimate, and it changes.
    """
    zero = (context.deepspeed or {}).get("zero_optimization")
    offload = zero.get("offload_param") if isinstance(zero, dict) else None
    if context.zero_stage != 3 or not isinstance(offload, dict) or offload.get("device") != "cpu":
        return

    sizes, memory = tensor_sizes(Path(context.base)) if context.base else [], host_memory()
    if not sizes or not context.trains or context.elsewhere:
        return

    world = context.processes
    count = int(os.environ.get("LOCAL_WORLD_SIZE", world)) if context.at_start else world
    element = 2 if context.on("bf16") or context.on("fp16") else 4
    pinned = offload.get("pin_memory") is True and bool(context.cards)
    needed = count * count_shares(sizes, world, element, pinned) / GIB
    swap = 0.0 if pinned else memory.swap
    free, most = memory.available + swap, memory.largest + swap
    if needed <= free:
        return

    kept = f"DeepSpeed keeps {needed:.1f} GiB of weights in host memory"
    if needed > most:
        what = f"{kept}, there are {most:.1f} GiB: the kernel would end it"
    else:
        what = f"{kept}, {free:.1f} GiB are free now"

    loose = count * count_shares(sizes, world, element, False) / GIB
    if pinned and loose <= memory.available:
        fix = f"Write deepspeed: examples/deepspeed/{UNPINNED}, which takes {loose:.1f} GiB and is slower"
    else:
        fix = (
            "Use a machine with more memory, 4-bit weights without DeepSpeed (quantization_bit: 4), or a smaller base"
        )

    yield Finding("error" if needed > most else "warning", "deepspeed", what, context.recipe.where("deepspeed"), fix)
