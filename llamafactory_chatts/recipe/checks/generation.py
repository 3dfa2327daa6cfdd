"""Settings that do not go together with answers that are generated while a training evaluates."""

from collections.abc import Iterator

from ..context import Context
from ..finding import Finding
from .method import Refusal, refusals


SCORES = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")
"""What the host measures on generated answers; it measures no loss then."""


def _best_by(context: Context) -> str:
    """Return the measure that the host would look for after each evaluation, or ""."""
    compares = context.on("load_best_model_at_end") or context.get("save_strategy") == "best"
    plateau = context.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy")
    return str(context.get("metric_for_best_model", "loss" if compares or plateau else ""))


REFUSED_GENERATION: tuple[Refusal, ...] = (
    (
        "compute_accuracy",
        lambda c: c.on("compute_accuracy"),
        "it needs the logits of the labels, predict_with_generate writes answers of its own",
        "Remove one of the two",
    ),
    (
        "predict_with_generate",
        lambda c: c.stage != "sft",
        "it is for stage sft",
        "Remove it",
    ),
    (
        "prediction_loss_only",
        lambda c: c.on("prediction_loss_only"),
        "with predict_with_generate no loss is computed, so nothing would be measured",
        "Remove one of the two",
    ),
    (
        "metric_for_best_model",
        lambda c: _best_by(c) and not _best_by(c).endswith(SCORES),
        "generated answers are scored, no loss is computed, so the best checkpoint cannot be found by this",
        "Write metric_for_best_model: rouge-l, or remove predict_with_generate",
    ),
    (
        "eval_on_each_dataset",
        lambda c: c.on("eval_on_each_dataset") and c.on("do_predict"),
        "do_predict takes one dataset only",
        "Remove it, or predict in a run of its own",
    ),
)
"""Refused together with ``predict_with_generate``."""


def generated_answers(context: Context) -> Iterator[Finding]:
    """Combinations that stop a run with ``predict_with_generate``, some only at its first evaluation."""
    if context.trains and context.on("predict_with_generate"):
        yield from refusals(context, REFUSED_GENERATION)
