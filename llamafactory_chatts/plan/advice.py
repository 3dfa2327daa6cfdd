"""What to change in a recipe, in order: what stops it, method, precision, batch, tokens per pass, then the data."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..core.memory import GIB
from .memory.estimate import Plan, Setting
from .memory.fit import LIGER_FROM, precision_changes, sibling


FEW, SOME, MANY = 200, 1000, 10_000
"""Rows below which a dataset is small, and above which it is large."""


@dataclass(frozen=True)
class Advice:
    """One piece of advice.

    Attributes:
        level: ``error`` (the run fails), ``change`` (better so), ``note``.
        topic: method, precision, batch, tokens, checkpointing, memory, data, run.
        text: what and why, in one line.
        changes: as they stand in a recipe.
    """

    level: str
    topic: str
    text: str
    changes: dict[str, Setting] = field(default_factory=dict)

    def __str__(self) -> str:
        settings = ", ".join(f"{key}: {word(value)}" for key, value in self.changes.items())
        return f"{self.text}. Set {settings}" if settings else self.text


def word(value: Setting) -> str:
    """Return a value as it stands in YAML."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def advise(plan: Plan) -> list[Advice]:
    """Return the advice for a plan, most important first."""
    found = [*_errors(plan), *_method(plan), *_batch(plan), *_smaller(plan), *_data(plan), *_run(plan)]
    order = {"error": 0, "change": 1, "note": 2}
    return sorted(found, key=lambda item: order[item.level])


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _errors(plan: Plan) -> Iterator[Advice]:
    rows, recipe = plan.rows, plan.recipe
    if plan.wrong_precision:
        text = f"{plan.machine.card.name} has no bf16"
        yield Advice("error", "precision", text, precision_changes(plan))

    if plan.room and plan.room.left < 0:
        text = f"the peak needs {plan.gpu.needed / GIB:.2f} of {plan.machine.card.gib:.2f} GiB: see --fix"
        yield Advice("error", "memory", text)

    if plan.host_room and plan.host_room.left < 0:
        text = f"host memory: {_gib(plan.host.total)} of {plan.machine.ram:.0f} GiB a node with {plan.host.launcher}"
        changes = sibling(recipe, "_unpinned") if plan.strategy.pinned else {}
        if changes:
            text += f"; unpinned weights need {_gib(plan.changed(changes).host.total)} and are slower"
        elif plan.strategy.offload_optimizer or plan.strategy.offload_param:
            text += "; fewer things offloaded, or fewer trained parameters, need less"

        yield Advice("error", "memory", text, changes)

    if rows.stops and not recipe["drop_overlong"]:
        spare = recipe["cutoff_len"] - recipe.limit
        text = f"{rows.overlong} of {rows.overlong + len(rows.samples)} rows are longer than cutoff_len: a run stops"
        yield Advice("error", "data", text, {"cutoff_len": rows.longest_overlong + spare})

    if rows.rows.unusable_total:
        names = " ".join(recipe.names("dataset"))
        text = f"{rows.rows.unusable_total} rows cannot be used, a run stops at them: lmf-chatts check {names}"
        yield Advice("error", "data", text)


def _method(plan: Plan) -> Iterator[Advice]:
    recipe, card = plan.recipe, plan.machine.card
    if card is None:
        return

    if recipe["quantization_bit"] and plan.fits and plan.strategy.stage == 0:
        wide = plan.changed({"quantization_bit": None, "offload_embedding": False, "lm_head_8bit": False})
        if wide.fits:
            text = f"16-bit weights fit as well ({_gib(wide.gpu.needed)}): faster, and nothing is rounded"
            yield Advice("note", "method", f"{text}. Remove quantization_bit")

    if card.bf16 and recipe["fp16"]:
        changes = {"bf16": True, "fp16": False}
        yield Advice("change", "precision", f"{card.name} has bf16, which needs no loss scaling", changes)

    if not any(recipe[key] for key in ("bf16", "fp16", "pure_bf16")):
        changes = {"bf16": True} if card.bf16 is not False else {"fp16": True}
        yield Advice("change", "precision", "no 16-bit training is set: slower, and more memory", changes)

    if not recipe["enable_liger_kernel"] and (card.capability or LIGER_FROM) >= LIGER_FROM:
        after = plan.changed({"enable_liger_kernel": True})
        text = f"Liger's kernels are about a quarter faster and take {_gib(plan.gpu.peak - after.gpu.peak)} less"
        yield Advice("change", "method", text, {"enable_liger_kernel": True})


def _batch(plan: Plan) -> Iterator[Advice]:
    recipe = plan.recipe
    batch, accumulation = recipe["per_device_train_batch_size"], recipe["gradient_accumulation_steps"]
    if plan.room is None or plan.room.left < 0 or recipe.packing:
        return

    if recipe["tokens_per_batch"] is None and recipe["stage"] == "sft" and accumulation > 1:
        budget = _largest_budget(plan)
        if budget and budget > plan.largest.tokens:
            text = (
                f"the card has room for passes of {budget} tokens instead of {plan.largest.tokens}: fewer, faster ones"
            )
            yield Advice("change", "tokens", text, {"tokens_per_batch": budget})

    if not recipe["disable_gradient_checkpointing"] and plan.passes:
        free = {"disable_gradient_checkpointing": True, "use_unsloth_gc": False}
        after = plan.changed(free)
        if after.fits:
            text = f"everything fits without checkpointing ({_gib(after.gpu.needed)}): about a quarter faster"
            yield Advice("change", "checkpointing", text, {"disable_gradient_checkpointing": True})

    if batch * accumulation * plan.machine.world > max(64, len(plan.rows) // 4):
        text = f"{plan.steps.global_batch} rows per optimizer step leave {plan.steps.per_epoch} steps an epoch"
        yield Advice("note", "batch", f"{text}; 8 to 32 rows are usual for small data")


def _largest_budget(plan: Plan) -> int | None:
    """Return the largest token budget that fits, at most a whole step's rows, as a round number."""
    step = plan.recipe["per_device_train_batch_size"] * plan.recipe["gradient_accumulation_steps"]
    tokens = sorted(plan.rows.samples.tokens, reverse=True)[:step]
    budget = min(int(sum(tokens)), 8192) // 256 * 256
    while budget > max(int(tokens[0]), plan.largest.tokens):
        if plan.changed({"tokens_per_batch": budget}).fits:
            return budget

        budget = budget * 3 // 4 // 256 * 256

    return None


def _smaller(plan: Plan) -> Iterator[Advice]:
    less = "less than the estimate may be off"
    for room, text in (
        (plan.room, f"left on a card is {less}; a desktop on it needs some too. --fix makes room"),
        (plan.host_room, f"of host memory left is {less}"),
    ):
        if room and room.left >= 0 and room.word == "tight":
            yield Advice("note", "memory", f"{_gib(room.left)} {text}")


def _data(plan: Plan) -> Iterator[Advice]:
    recipe, rows, epochs = plan.recipe, len(plan.rows.samples), plan.steps.epochs
    rank, dropout = recipe["lora_rank"], recipe["lora_dropout"]
    if recipe.adapter and rows < SOME:
        if rank > 16:
            yield Advice("change", "data", f"{rows} rows: rank {rank} learns them by heart", {"lora_rank": 16})

        if dropout == 0:
            changes = {"lora_dropout": 0.1 if rows < FEW else 0.05}
            yield Advice("note", "data", f"{rows} rows: some dropout helps against overfitting", changes)

    if rows < SOME and epochs > 3.5:
        yield Advice("change", "data", f"{epochs:.0f} epochs over {rows} rows overfit; 2 to 3 are usual")

    if recipe.adapter and rows >= MANY and rank < 16:
        changes = {"lora_rank": 32, "lora_target": "all"}
        yield Advice("note", "data", f"{rows} rows carry a larger adapter", changes)

    if rows >= MANY and epochs > 2.5 and not plan.steps.by_max_steps:
        yield Advice("note", "data", f"{rows} rows: 1 to 2 epochs are usually enough", {"num_train_epochs": 2.0})

    if not recipe.adapter and rows < MANY:
        text = f"{rows} rows are few for {recipe['finetuning_type']} tuning: an adapter forgets less"
        yield Advice("note", "data", text, {"finetuning_type": "lora"})

    if rows >= FEW and recipe["val_size"] == 0 and not recipe.names("eval_dataset"):
        yield Advice("note", "data", "no rows are kept for evaluation, so overfitting is not seen", {"val_size": 0.1})


def _run(plan: Plan) -> Iterator[Advice]:
    recipe, steps = plan.recipe, plan.steps
    if steps.total < 30:
        text = f"{steps.total} optimizer steps are few: smaller batches or more rows give more"
        yield Advice("note", "run", text)

    if steps.by_max_steps and "num_train_epochs" in recipe.values:
        yield Advice("note", "run", f"max_steps wins: {steps.epochs:.2f} epochs, num_train_epochs is ignored")

    if recipe["save_strategy"] == "steps" and recipe["save_steps"] >= steps.total:
        yield Advice("note", "run", f"save_steps {recipe['save_steps']:g} is never reached: only the end is saved")

    if plan.machine.world > 1 and steps.last < steps.global_batch:
        yield Advice("note", "run", f"the last step of an epoch has {steps.last} of {steps.global_batch} rows")
