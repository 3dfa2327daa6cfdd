"""Evaluating, keeping the best checkpoint, the schedule that follows it, and generated answers."""

from typing import Any

from ..context import Context
from .refusal import Refusal


SCORES = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")
"""What the host measures on generated answers; it measures no loss then."""

PLATEAU = ("reduce_lr_on_plateau", "greedy")
"""Schedules that follow the evaluations."""


def _asks_for_eval_data(context: Context) -> str:
    """Return the key that needs data to evaluate on, or ""."""
    if str(context.get("eval_strategy", "no")) in ("steps", "epoch"):
        return "eval_strategy"

    return next((key for key in ("do_eval", "do_predict", "predict_with_generate") if context.on(key)), "")


def _keeps_a_metric(context: Context) -> bool:
    plateau = context.get("lr_scheduler_type") in PLATEAU
    return plateau or context.on("load_best_model_at_end") or bool(context.get("metric_for_best_model"))


def _eval_data(context: Context) -> bool:
    return bool(context.words("eval_dataset")) or (context.number("val_size", 0.0) or 0.0) > 1e-6


def _saves_another_way(context: Context) -> bool:
    save, evaluate = str(context.get("save_strategy", "steps")), str(context.get("eval_strategy", "no"))
    return save != "best" and save != evaluate


def _saves_between_evaluations(context: Context) -> bool:
    save = context.number("save_steps", 500) or 0
    evaluate = context.number("eval_steps") or context.number("logging_steps", 500) or 0
    steps = context.get("eval_strategy") == "steps" and context.get("save_strategy", "steps") == "steps"
    return steps and save >= 1 and evaluate >= 1 and save % evaluate != 0


def _scheduler(context: Context) -> dict[str, Any]:
    given = context.get("lr_scheduler_kwargs", {})
    return given if isinstance(given, dict) else {}


def _measured(context: Context) -> tuple[str, ...]:
    """Return what an evaluation measures, () where that is not known here."""
    if context.stage not in ("sft", "pt") or context.on("predict_with_generate"):
        return ()

    if len(context.words("eval_dataset")) > 1 and context.on("eval_on_each_dataset"):
        return ()

    return ("loss", *(("accuracy",) if context.on("compute_accuracy") else ()))


def _unmeasured(context: Context) -> bool:
    named, known = str(context.get("metric_for_best_model", "")).removeprefix("eval_"), _measured(context)
    return bool(named and known) and named not in known and context.evaluates


def _best_by(context: Context) -> str:
    """Return the measure that the host would look for after each evaluation, or ""."""
    compares = context.on("load_best_model_at_end") or context.get("save_strategy") == "best"
    plateau = context.get("lr_scheduler_type") in PLATEAU
    return str(context.get("metric_for_best_model", "loss" if compares or plateau else ""))


EVALUATION: tuple[Refusal, ...] = (
    *(
        (
            key,
            lambda c, key=key: _asks_for_eval_data(c) == key and not _eval_data(c),
            "there is nothing to evaluate on",
            "Name an eval_dataset, or write val_size: 0.05",
        )
        for key in ("eval_strategy", "do_eval", "do_predict", "predict_with_generate")
    ),
    (
        "load_best_model_at_end",
        lambda c: c.on("load_best_model_at_end") and _saves_another_way(c),
        "save_strategy and eval_strategy differ",
        "Write the same into both, as eval_strategy: steps and save_strategy: steps",
    ),
    (
        "load_best_model_at_end",
        lambda c: c.on("load_best_model_at_end") and _saves_between_evaluations(c),
        "save_steps is no multiple of eval_steps",
        "Make it one, as eval_steps: 100 and save_steps: 200",
    ),
    (
        "early_stopping_steps",
        lambda c: c.number("early_stopping_steps") is not None and not _keeps_a_metric(c),
        "without load_best_model_at_end there is nothing to compare",
        "Add load_best_model_at_end: true",
    ),
    (
        "early_stopping_steps",
        lambda c: c.number("early_stopping_steps") is not None and not c.evaluates,
        "nothing is evaluated during the training",
        "Add eval_strategy: steps and eval_steps: 100",
    ),
    (
        "load_best_model_at_end",
        lambda c: c.on("load_best_model_at_end") and c.stage in ("rm", "ppo"),
        "stages rm and ppo do not know it",
        "Remove it",
    ),
    (
        "load_best_model_at_end",
        lambda c: c.on("load_best_model_at_end") and not c.evaluates,
        "nothing is evaluated, so no checkpoint is the best",
        "Add eval_strategy: steps and eval_steps: 100, or remove it",
    ),
    (
        "save_strategy",
        lambda c: c.get("save_strategy") == "best" and not c.get("metric_for_best_model"),
        "the best by what is not said",
        "Add metric_for_best_model: loss",
    ),
    (
        "metric_for_best_model",
        _unmeasured,
        "no evaluation measures this, the run stops at the first",
        "Write metric_for_best_model: loss (accuracy needs compute_accuracy: true)",
    ),
    (
        "lr_scheduler_type",
        lambda c: c.get("lr_scheduler_type") in PLATEAU and not c.evaluates,
        "it follows the evaluations, and there are none",
        "Write lr_scheduler_type: cosine, or add eval_strategy: steps",
    ),
    (
        "lr_scheduler_type",
        lambda c: (
            str(c.get("lr_scheduler_type", "")).startswith("cosine_")
            and "min_lr" in str(c.get("lr_scheduler_type"))
            and not {"min_lr", "min_lr_rate"} & set(_scheduler(c))
            and not isinstance(c.get("lr_scheduler_kwargs"), str)
        ),
        "it needs the lowest rate",
        "Add lr_scheduler_kwargs: {min_lr_rate: 0.1}",
    ),
    (
        "lr_scheduler_kwargs",
        lambda c: isinstance(c.get("lr_scheduler_kwargs"), str) and "{" not in str(c.get("lr_scheduler_kwargs")),
        "it takes keys and values",
        "Write it as {min_lr_rate: 0.1}",
    ),
    (
        "lr_scheduler_kwargs",
        lambda c: c.get("lr_scheduler_type", "linear") in ("linear", "cosine") and set(_scheduler(c)) - {"num_cycles"},
        "linear and cosine do not take them",
        "Write lr_scheduler_type: cosine_with_min_lr, or remove it",
    ),
)

GENERATION: tuple[Refusal, ...] = (
    (
        "predict_with_generate",
        lambda c: c.on("predict_with_generate") and c.zero_stage == 3,
        "it does not work with DeepSpeed ZeRO-3",
        "Predict in a run of its own, without deepspeed",
    ),
    (
        "do_predict",
        lambda c: c.on("do_predict") and c.stage == "sft" and not c.on("predict_with_generate"),
        "nothing would be written",
        "Add predict_with_generate: true",
    ),
    (
        "predict_with_generate",
        lambda c: c.on("predict_with_generate") and c.stage != "sft",
        "it is for stage sft",
        "Remove it",
    ),
    (
        "compute_accuracy",
        lambda c: c.on("predict_with_generate") and c.on("compute_accuracy"),
        "it needs the logits of the labels, predict_with_generate writes answers of its own",
        "Remove one of the two",
    ),
    (
        "prediction_loss_only",
        lambda c: c.on("predict_with_generate") and c.on("prediction_loss_only"),
        "with predict_with_generate no loss is computed, so nothing would be measured",
        "Remove one of the two",
    ),
    (
        "metric_for_best_model",
        lambda c: c.on("predict_with_generate") and _best_by(c) and not _best_by(c).endswith(SCORES),
        "generated answers are scored, no loss is computed, so the best checkpoint cannot be found by this",
        "Write metric_for_best_model: rouge-l, or remove predict_with_generate",
    ),
    (
        "eval_on_each_dataset",
        lambda c: c.on("predict_with_generate") and c.on("eval_on_each_dataset") and c.on("do_predict"),
        "do_predict takes one dataset only",
        "Remove it, or predict in a run of its own",
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
