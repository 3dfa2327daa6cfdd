"""Precision, launchers, DeepSpeed, processes."""

from .refusal import Refusal


MACHINE: tuple[Refusal, ...] = (
    ("fp16", lambda c: c.on("fp16") and c.on("bf16"), "fp16 and bf16 are both on", "Keep one of them"),
    ("fp16", lambda c: c.on("fp16") and c.on("pure_bf16"), "fp16 and pure_bf16 are both on", "Keep one of them"),
    (
        "pure_bf16",
        lambda c: c.on("pure_bf16") and c.zero_stage == 3,
        "it does not work with DeepSpeed ZeRO-3",
        "Write bf16: true instead",
    ),
    (
        "fp16",
        lambda c: c.on("fp16") and c.on("use_cpu"),
        "the CPU has no fp16 training",
        "Remove it",
    ),
    ("pure_bf16", lambda c: c.on("pure_bf16") and c.on("use_cpu"), "it is for GPUs", "Remove it"),
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
        lambda c: c.zero_stage == -1,
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
)
