"""Settings that no machine, or not this one, trains with: processors, launchers, DeepSpeed, generation."""

from typing import Any

from ..checks.method import Refusal
from ..context import Context


def _stage(context: Context) -> Any:
    zero = (context.deepspeed or {}).get("zero_optimization")
    return zero.get("stage", 0) if isinstance(zero, dict) else 0


REFUSED_MACHINE: tuple[Refusal, ...] = (
    (
        "fp16",
        lambda c: c.on("fp16") and c.on("use_cpu"),
        "the CPU has no fp16 training",
        "Remove it",
    ),
    (
        "tf32",
        lambda c: c.on("tf32") and c.on("use_cpu"),
        "the CPU has no tf32",
        "Remove it",
    ),
    ("fp8", lambda c: c.on("fp8") and c.on("use_cpu"), "the CPU has no fp8", "Remove it"),
    (
        "fsdp",
        lambda c: c.get("fsdp") and c.deepspeed is not None,
        "FSDP and DeepSpeed exclude each other",
        "Remove one of the two",
    ),
    (
        "fsdp",
        lambda c: c.get("fsdp") and c.processes == 1 and (c.at_start or c.on("use_cpu")),
        "FSDP needs several processes",
        "Remove it, or start with torchrun or accelerate launch",
    ),
    (
        "deepspeed",
        lambda c: _stage(c) not in (0, 1, 2, 3),
        "its zero_optimization.stage is none of 0, 1, 2, 3",
        "Write one of them into it",
    ),
    (
        "dataloader_prefetch_factor",
        lambda c: c.get("dataloader_prefetch_factor") is not None and c.number("dataloader_num_workers", 0) == 0,
        "it is for worker processes, and dataloader_num_workers is not set",
        "Add dataloader_num_workers: 2",
    ),
    (
        "dataloader_persistent_workers",
        lambda c: c.on("dataloader_persistent_workers") and c.number("dataloader_num_workers") == 0,
        "there are no workers to keep",
        "Add dataloader_num_workers: 2",
    ),
    (
        "do_sample",
        lambda c: (
            c.on("predict_with_generate") and c.on("do_sample", True) and (c.number("temperature", 0.95) or 0.0) <= 0
        ),
        "a temperature of 0 cannot be sampled with",
        "Write do_sample: false",
    ),
)
"""Refused, whatever the model: key, condition, what, fix."""
