"""``tokens_per_batch: N``: the rows of an optimizer step go through the model in passes of at most N tokens.

The recipe's numbers stay what they are: the data loader gives ``gradient_accumulation_steps`` batches of
``per_device_train_batch_size`` rows for each optimizer step, and the trainer counts them. Only the work is arranged
anew: the trainer's loop hands over the batches one by one, nothing is computed until the last of them is there, and
then all their rows are taken in few, well filled passes. The gradients are summed before the optimizer steps, as
the host's own accumulation does it, so rows per step, order, resuming and the last, smaller step of an epoch are the
recipe's without a rule of their own.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import DistributedType
from transformers import TrainerCallback

from ...core.errors import ChatTSError
from ...core.passes import Pass, count_passes, fill_passes, split_passes
from .step_rows import StepRows


KEY = "tokens_per_batch"
_BUDGET = "_chatts_token_budget"
Step = Callable[..., torch.Tensor]


def read_budget(value: Any) -> int | None:
    """Return the value of ``tokens_per_batch`` as a whole number; raise a :class:`ChatTSError` if it is none."""
    if value is None:
        return None

    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if not isinstance(value, bool) and int(value) == float(value) and int(value) >= 1:
            return int(value)

    raise ChatTSError(f"{value!r} is no number of tokens", where=KEY, fix="Write a whole number above 0, as 2048")


def set_token_budget(
    raw_args: dict[str, Any], model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any
) -> None:
    """Hand the number to the trainer with its arguments: it is not given those of the data."""
    training_args.tokens_per_batch = getattr(data_args, KEY, None)


class TokenBudget(TrainerCallback):
    """The batches of the optimizer step that is under way, and the rules for its passes.

    Args:
        budget: tokens of a pass.
        base: the ChatTS model inside the trainer's model.
        pad_id: token id for padding.
        weigh_batches: give each of the recipe's batches the same weight, as the host does.
    """

    def __init__(self, budget: int, base: Any, pad_id: int, weigh_batches: bool) -> None:
        self.budget, self.base, self.pad_id, self.weigh_batches = budget, base, pad_id, weigh_batches
        self.waiting: list[Any] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Forget batches of a step that was left before its end."""
        self.waiting = []

    def read_rows(self) -> StepRows:
        """Return the rows of the waiting batches.

        Raises:
            ChatTSError: a row is longer than the budget (streaming; otherwise found before the first step).
        """
        rows = StepRows(self.waiting, self.base, self.pad_id)
        self.waiting = []
        if max(rows.lengths) > self.budget:
            raise too_long(self.budget, max(rows.lengths), "a row of this step")

        if self.weigh_batches:
            rows.weigh_batches_alike()

        return rows

    def plan(self, rows: StepRows, accelerator: Any) -> list[Pass]:
        """Return the passes; every process gets the same number of them, since sharded weights need all at once."""
        passes = fill_passes(rows.lengths, self.budget, self.base.padding_free)
        if accelerator.num_processes > 1:
            own = torch.tensor([len(passes)], device=accelerator.device)
            most = int(accelerator.gather(own).max())
            passes = split_passes(passes, rows.lengths, most, self.base.padding_free)

        return passes


def too_long(budget: int, length: int, which: str) -> ChatTSError:
    """Return the error for a row that no pass can hold."""
    return ChatTSError(
        f"{which} has {length} tokens",
        where=f"{KEY}: {budget}",
        fix=f"Set {KEY} to {length} or more, or cutoff_len to {budget} to train without such rows",
    )


def read_lengths(dataset: Any) -> list[int]:
    """Return the tokens of each row of a tokenised dataset."""
    import pyarrow.compute as pc

    if not hasattr(dataset, "with_format"):
        return [len(row["input_ids"]) for row in dataset]

    tables = dataset.select_columns("input_ids").with_format("arrow").iter(batch_size=1000)
    return [length for table in tables for length in pc.list_value_length(table["input_ids"]).to_pylist()]


def start_token_budget(trainer: Any, logger: Any) -> None:
    """Check the training set against the budget, say what to expect, and make the trainer work in passes.

    Raises:
        ChatTSError: a row is longer than the budget.
    """
    budget = getattr(trainer.args, KEY, None)
    if budget is None or trainer.train_dataset is None:
        return

    base = next(module for module in trainer.model.modules() if hasattr(module, "full_logits_in_training"))
    pad_id = getattr(trainer.processing_class, "pad_token_id", None) or 0
    plan = TokenBudget(budget, base, pad_id, weigh_batches=not trainer.model_accepts_loss_kwargs)
    rows = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    said = f"{KEY} {budget}: {rows} rows per optimizer step"
    said += " and process" if trainer.args.world_size > 1 else ""
    if hasattr(trainer.train_dataset, "__len__"):
        lengths = read_lengths(trainer.train_dataset)
        longest = max(lengths, default=0)
        if longest > budget:
            above = sum(length > budget for length in lengths)
            which = f"row {lengths.index(longest)} of the tokenised training set ({above} of {len(lengths)} too long)"
            raise too_long(budget, longest, which)

        about = count_passes(lengths, rows, budget, base.padding_free) if lengths else 0
        said += f" in about {about:.0f} pass{'es' if round(about) != 1 else ''} (longest row {longest} tokens)"
    else:
        said += "; the data are streamed, so lengths are checked step by step"

    logger.info_rank0(f"{said}.")
    setattr(trainer, _BUDGET, plan)
    trainer.add_callback(plan)


def take_step(trainer: Any, step: Step, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
    """Do what the trainer's loop asks of ``training_step`` for one of the recipe's batches.

    Args:
        step: the host's ``training_step`` (forward, backward) as a function of model, batch and the labelled tokens
            of the whole optimizer step.

    Returns:
        the loss to be added to that of the optimizer step; with a token budget 0 until its last batch.
    """
    plan = getattr(trainer, _BUDGET, None)
    if plan is None:
        return step(model, inputs, num_items_in_batch)

    plan.waiting.append(inputs)
    if len(plan.waiting) < trainer.current_gradient_accumulation_steps:
        return torch.zeros((), device=trainer.args.device)

    rows = plan.read_rows()
    passes = plan.plan(rows, trainer.accelerator)
    losses = []
    for number, chosen in enumerate(passes, start=1):
        last = number == len(passes)
        with contextlib.nullcontext() if last else without_synchronisation(trainer.accelerator, model):
            losses.append(step(model, rows.take(chosen), num_items_in_batch))

    return torch.stack(losses).sum()


@contextlib.contextmanager
def without_synchronisation(accelerator: Any, model: Any) -> Iterator[None]:
    """Accumulate gradients, as transformers' own loop does for all but the last batch of a step.

    DeepSpeed steps inside ``backward`` unless the state says that gradients are not synchronised yet.
    """
    state = accelerator.gradient_state
    before = state.sync_gradients
    state._set_sync_gradients(False)
    each = state.plugin_kwargs.get("sync_each_batch", False)
    if each or accelerator.distributed_type == DistributedType.DEEPSPEED:
        context = contextlib.nullcontext()
    else:
        context = accelerator.no_sync(model=model)

    try:
        with context:
            yield
    finally:
        state._set_sync_gradients(before)
