"""Settings that the host refuses, or fails at after loading: what the rules of method and launch do not name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..context import Context
from ..finding import Finding
from ..launch.machine import REFUSED_MACHINE
from .method import Refusal, evaluates, quantised, refusals


COMPARING = ("dpo", "kto", "rm", "ppo")
OPTIMIZERS = ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon")
"""Switches that replace the optimizer; the host takes the first that is on and forgets the others."""


def _optimizers(context: Context) -> list[str]:
    return [key for key in OPTIMIZERS if context.on(key)]


def _probabilities(context: Context) -> list[str]:
    return context.words("interleave_probs")


def _no_number(words: list[str]) -> bool:
    try:
        return any(float(word) < 0 for word in words)
    except ValueError:
        return True


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
    return bool(named and known) and named not in known and evaluates(context)


REFUSED_TOO: tuple[Refusal, ...] = (
    *(
        (key, lambda c, key=key: c.on(key) and c.stage != "sft", "it is for stage sft", f"Remove {key}")
        for key in ("train_on_prompt", "mask_history")
    ),
    (
        "predict_with_generate",
        lambda c: c.on("predict_with_generate") and c.stage != "sft",
        "it is for stage sft",
        "Remove it",
    ),
    (
        "load_best_model_at_end",
        lambda c: c.on("load_best_model_at_end") and c.stage in ("rm", "ppo"),
        "stages rm and ppo do not know it",
        "Remove it",
    ),
    (
        "load_best_model_at_end",
        lambda c: c.on("load_best_model_at_end") and not evaluates(c),
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
        lambda c: c.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy") and not evaluates(c),
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
    # data
    (
        "compute_accuracy",
        lambda c: c.on("compute_accuracy") and c.on("predict_with_generate"),
        "it needs the logits of the labels, predict_with_generate writes answers of its own",
        "Remove one of the two",
    ),
    (
        "val_size",
        lambda c: (c.number("val_size", 0.0) or 0.0) > 1e-6 and not c.words("dataset"),
        "there is no dataset to take rows from",
        "Name a dataset",
    ),
    (
        "tokenized_path",
        lambda c: c.on("streaming") and c.get("tokenized_path") and not Path(str(c.get("tokenized_path"))).is_dir(),
        "streamed rows cannot be stored",
        "Remove streaming or tokenized_path",
    ),
    (
        "interleave_probs",
        lambda c: _probabilities(c) and str(c.get("mix_strategy", "concat")) == "concat",
        "mix_strategy concat takes every row once",
        "Add mix_strategy: interleave_under, or remove it",
    ),
    (
        "interleave_probs",
        lambda c: _probabilities(c) and _no_number(_probabilities(c)),
        "these are no probabilities",
        "Write a number for each dataset, as in 0.7,0.3",
    ),
    (
        "interleave_probs",
        lambda c: (
            _probabilities(c)
            and not _no_number(_probabilities(c))
            and abs(sum(map(float, _probabilities(c))) - 1) > 1e-3
        ),
        "the probabilities do not add up to 1",
        "Write numbers that do, as in 0.7,0.3",
    ),
    *(
        (
            "interleave_probs",
            lambda c, key=key: _probabilities(c) and c.words(key) and len(c.words(key)) != len(_probabilities(c)),
            f"there are more or fewer of them than names in {key}",
            "Write a number for each dataset",
        )
        for key in ("dataset", "eval_dataset")
    ),
    # methods
    (
        "dpo_label_smoothing",
        lambda c: (
            c.stage == "dpo"
            and (c.number("dpo_label_smoothing", 0.0) or 0.0) > 1e-6
            and str(c.get("pref_loss", "sigmoid")) != "sigmoid"
        ),
        "it belongs to pref_loss: sigmoid",
        "Remove it, or write pref_loss: sigmoid",
    ),
    (
        "pissa_init",
        lambda c: (
            c.on("pissa_init")
            and (c.stage in ("kto", "ppo") or (c.stage == "dpo" and c.get("pref_loss") not in ("orpo", "simpo")))
        ),
        "this stage compares with the base, which PiSSA changes",
        "Remove pissa_init",
    ),
    (
        "pissa_init",
        lambda c: c.on("pissa_init") and c.zero_stage == 3,
        "PiSSA takes the weights apart, ZeRO-3 has them in pieces",
        "Remove pissa_init, or use ZeRO-2",
    ),
    (
        "use_llama_pro",
        lambda c: c.on("use_llama_pro") and c.method == "full",
        "it belongs to finetuning_type: freeze or lora",
        "Write finetuning_type: freeze",
    ),
    *(
        (
            key,
            lambda c, key=key: _optimizers(c)[1:] and key in _optimizers(c)[1:],
            "two switches for the optimizer are on",
            "Keep one of them",
        )
        for key in OPTIMIZERS
    ),
    *(
        (
            key,
            lambda c, key=key: c.on(key) and c.deepspeed is not None,
            "it does not work with DeepSpeed",
            f"Remove {key} or deepspeed",
        )
        for key in ("use_galore", "use_apollo")
    ),
    *(
        (
            f"{key}_layerwise",
            lambda c, key=key: (
                c.on(f"use_{key}")
                and c.on(f"{key}_layerwise")
                and (c.processes > 1 or (c.number("gradient_accumulation_steps", 1) or 1) > 1)
            ),
            "layer by layer it takes one process, and no accumulation",
            "Write gradient_accumulation_steps: 1, use one process, or remove it",
        )
        for key in ("galore", "apollo")
    ),
    (
        "use_badam",
        lambda c: (
            c.on("use_badam") and c.processes > 1 and (c.get("badam_mode", "layer") == "ratio" or c.zero_stage != 3)
        ),
        "with several processes BAdam needs badam_mode: layer and ZeRO-3",
        "Use one process, or both",
    ),
    (
        "fp8",
        lambda c: c.on("fp8") and quantised(c),
        "fp8 training does not go with quantised weights",
        "Remove one of the two",
    ),
    (
        "create_new_adapter",
        lambda c: c.on("create_new_adapter") and quantised(c) and c.words("adapter_name_or_path"),
        "a quantised model takes no second adapter",
        "Merge the first one with llamafactory-cli export, or train without quantization_bit",
    ),
    (
        "adapter_name_or_path",
        lambda c: quantised(c) and len(c.words("adapter_name_or_path")) > 1,
        "a quantised model takes one adapter",
        "Merge them first with llamafactory-cli export",
    ),
    *(
        (
            key,
            lambda c, key=key: c.number(key) is not None and c.number(key) not in (4, 8),
            "bitsandbytes knows 4 and 8 bits",
            "Write 4 or 8",
        )
        for key in ("ref_model_quantization_bit", "reward_model_quantization_bit")
    ),
    (
        "oft_rank",
        lambda c: c.method == "oft" and (c.number("oft_rank", 0) != 0) == (c.number("oft_block_size", 32) != 0),
        "one of oft_rank and oft_block_size is given by the other, so one of them must be 0",
        "Write oft_block_size: 32 and oft_rank: 0",
    ),
)
"""Refused, whatever the model: key, condition, what, fix."""


def more_refusals(context: Context) -> Iterator[Finding]:
    """Combinations that stop a training, some after loading."""
    yield from refusals(context, (*REFUSED_TOO, *REFUSED_MACHINE) if context.trains else ())
