"""Changes that make a recipe fit a machine, least harm first; the rows of an optimizer step stay."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import ChatTSError
from ...core.memory import GIB
from ...recipe.reading import Recipe
from .estimate import Plan, Setting


LEAST = 0.03
"""Share of a card that a recipe made to fit leaves free at least, where nothing leaves more than the estimate errs."""

LIGER_FROM = 8.0
"""Compute capability from which the recipes use Liger's kernels."""


@dataclass(frozen=True)
class Fit:
    """A recipe that fits: the changes, and the plan with them."""

    changes: dict[str, Setting]
    plan: Plan


def precision_changes(plan: Plan) -> dict[str, Setting]:
    """Return fp16 in the place of bf16 where the card has no bf16."""
    if not plan.wrong_precision:
        return {}

    changes: dict[str, Setting] = {"bf16": False} if plan.recipe["bf16"] else {}
    return {**changes, **({"pure_bf16": False} if plan.recipe["pure_bf16"] else {}), "fp16": True}


def sibling(recipe: Recipe, ending: str) -> dict[str, Setting]:
    """Return the DeepSpeed file beside the recipe's whose name has ``ending`` more; {} where there is none.

    As shipped: ``ds_z3.json``, ``ds_z3_offload.json``, ``ds_z3_offload_unpinned.json``.
    """
    named = recipe["deepspeed"]
    if not isinstance(named, str):
        return {}

    path = Path(named)
    other = path.with_name(path.stem + ending + path.suffix)
    return {"deepspeed": str(other)} if other.is_file() else {}


def _levels(plan: Plan) -> Iterator[dict[str, Setting]]:
    """Yield the settings that are added one after the other, while smaller passes alone do not fit."""
    recipe, card = plan.recipe, plan.machine.card
    bf16 = card.bf16 is not False
    yield {}
    if not recipe["enable_liger_kernel"] and (card.capability or LIGER_FROM) >= LIGER_FROM:
        yield {"enable_liger_kernel": True}

    if recipe["disable_gradient_checkpointing"]:
        yield {"disable_gradient_checkpointing": False}

    if not recipe.adapter:
        if bf16 and not recipe["pure_bf16"] and not plan.strategy.stage:
            yield {"pure_bf16": True, "bf16": False} if recipe["bf16"] else {"pure_bf16": True}

        return

    if plan.strategy.stage == 3:
        if not plan.strategy.offload_param and sibling(recipe, "_offload"):
            yield sibling(recipe, "_offload")
            yield sibling(recipe, "_offload_unpinned")
        elif plan.strategy.pinned:
            yield sibling(recipe, "_unpinned")

        return

    if plan.strategy.fsdp:
        return

    if recipe["quantization_bit"] != 4:
        yield {"quantization_bit": 4}

    if recipe["stage"] == "sft" and not recipe.names("additional_target") and not plan.base.tied:
        for key in ("offload_embedding", "lm_head_8bit"):
            if not recipe[key]:
                yield {key: True}

    if not recipe["use_unsloth_gc"]:
        yield {"use_unsloth_gc": True}


def _splits(plan: Plan) -> Iterator[dict[str, Setting]]:
    """Yield the ways to take the same rows in smaller passes, largest first."""
    recipe = plan.recipe
    budget = recipe["tokens_per_batch"]
    if budget is not None:
        longest = int(plan.rows.items()[0].max())
        while budget > longest:
            yield {"tokens_per_batch": budget}
            budget = max(longest, budget // 2)

        yield {"tokens_per_batch": max(budget, longest)}
        return

    batch, accumulation = recipe["per_device_train_batch_size"], recipe["gradient_accumulation_steps"]
    rows = batch * accumulation
    for size in range(batch, 0, -1):
        if rows % size == 0:
            yield {"per_device_train_batch_size": size, "gradient_accumulation_steps": rows // size}


def find_fit(plan: Plan) -> Fit:
    """Return the first change that fits: smaller passes, then one more saving after the other.

    Where nothing leaves more room than the estimate may be off, it is the first that leaves a little.

    Raises:
        ChatTSError: no card is given, or nothing fits.
    """
    if plan.machine.card is None:
        raise ChatTSError(
            "there is no card to fit to", where="--fix", fix='Add --gpu "RTX 3090", or --vram 24 --ram 64'
        )

    changes = precision_changes(plan)
    tightest: Plan | None = None
    tight: Fit | None = None
    for level in _levels(plan):
        changes = {**changes, **level}
        for split in _splits(plan):
            tried = plan.changed({**changes, **split})
            if tried.fits and tried.room.left >= LEAST * tried.room.there:
                found = Fit(_real_changes(plan, {**changes, **split}), tried)
                if tried.verdict == "fits":
                    return found

                tight = tight or found

            tightest = tried if tightest is None or tried.gpu.needed < tightest.gpu.needed else tightest

    if tight is not None:
        return tight

    needs = f"{tightest.gpu.needed / GIB:.2f} GiB of {plan.machine.card.gib:.2f} on a card"
    if tightest.host_room and tightest.host_room.left < 0:
        needs += f" and {tightest.host.total / GIB:.1f} GiB of {plan.machine.ram:.1f} on the host"

    raise ChatTSError(f"the smallest way found needs {needs}", where=f"--fix: {plan.machine}", fix=_way_out(plan))


def _real_changes(plan: Plan, changes: dict[str, Setting]) -> dict[str, Setting]:
    return {key: value for key, value in changes.items() if plan.recipe[key] != value}


def _way_out(plan: Plan) -> str:
    if not plan.recipe.adapter:
        return "Use finetuning_type: lora, or ZeRO-3 on several cards (deepspeed: examples/deepspeed/ds_z3.json)"

    longest = int(plan.rows.samples.tokens.max())
    return f"Use a smaller base, a larger card, or a cutoff_len below {longest} (the longest row)"


def rebalance(plan: Plan, factor: float) -> dict[str, Setting]:
    """Return per-device batch times ``factor`` and accumulation by ``factor``: the same rows per optimizer step.

    Raises:
        ChatTSError: no whole numbers come out.
    """
    batch, accumulation = plan.recipe["per_device_train_batch_size"], plan.recipe["gradient_accumulation_steps"]
    rows, size = batch * accumulation, batch * factor
    if factor <= 0 or size != int(size) or size < 1 or rows % int(size):
        possible = [value for value in range(1, rows + 1) if rows % value == 0 and value != batch]
        factors = ", ".join(f"{value / batch:g}" for value in possible)
        raise ChatTSError(
            f"{batch} x {accumulation} rows times {factor:g} make no whole numbers",
            where=f"--rebalance {factor:g}",
            fix=f"Use one of: {factors}" if factors else "There is one row per optimizer step: nothing to trade",
        )

    return {"per_device_train_batch_size": int(size), "gradient_accumulation_steps": rows // int(size)}
