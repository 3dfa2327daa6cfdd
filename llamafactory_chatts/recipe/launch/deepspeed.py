"""A DeepSpeed file with an optimizer or a schedule of its own: settings of the recipe that it would replace."""

from collections.abc import Iterator
from typing import Any

from ..context import Context
from ..finding import Finding


REPLACED = ("timeseries_sft_lr", "loraplus_lr_ratio", "use_badam", "use_adam_mini", "use_muon")
"""They make parameter groups or an optimizer of their own; DeepSpeed's is made without them."""

RATES = ("timeseries_sft_lr", "loraplus_lr_ratio")
"""They give groups rates of their own; DeepSpeed's schedules set one rate for all groups."""

SCHEDULES = {"WarmupLR": "constant_with_warmup", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
"""DeepSpeed's schedules and what the trainer calls the same."""


def own_optimizer(context: Context) -> Iterator[Finding]:
    """Settings that an ``optimizer`` or a ``scheduler`` inside the DeepSpeed file would replace without a word."""
    config = context.deepspeed or {}
    if not context.on("do_train"):
        return

    lost: dict[str, list[str]] = {"optimizer": [], "scheduler": []}
    if "optimizer" in config:
        lost["optimizer"] += [key for key in REPLACED if context.on(key)]
        if (
            not str(context.get("optim", "adamw")).startswith("adamw")
            or "adam" not in _kind(config["optimizer"]).lower()
        ):
            lost["optimizer"] += ["optim"] if "optim" in context.recipe.values else []

    if "scheduler" in config:
        lost["scheduler"] += [key for key in RATES if context.on(key)]
        named = context.get("lr_scheduler_type")
        if named is not None and SCHEDULES.get(_kind(config["scheduler"])) != named:
            lost["scheduler"].append("lr_scheduler_type")

    for part, keys in lost.items():
        for key in keys:
            what = f"the DeepSpeed file has `{part}`, which takes its place: this setting would be lost"
            fix = f"Take `{part}` out of the DeepSpeed file, or remove {key}"
            yield Finding("error", key, what, context.recipe.where(key), fix)


def _kind(part: Any) -> str:
    return str(part.get("type", "")) if isinstance(part, dict) else ""
