"""Settings that contradict each other or the method; some would stop the host only after minutes of loading."""

from collections.abc import Callable, Iterator
from typing import Any

from ..context import Context
from ..finding import Finding


Refusal = tuple[str, Callable[[Context], Any], str, str]

ADAPTERS = ("lora", "oft")
EXCLUSIVE_OPTIMIZERS = ("use_galore", "use_apollo", "use_badam")


def quantised(context: Context) -> bool:
    return context.number("quantization_bit") is not None


def _stored_quantised(context: Context) -> bool:
    stored = context.base_config.get("quantization_config")
    return isinstance(stored, dict) and stored.get("quant_method") not in (
        "mxfp4",
        "fp8",
    )  # the host unpacks these two


def adapters(context: Context) -> bool:
    return context.method in ADAPTERS


def packs(context: Context) -> bool:
    return context.on("packing") or context.on("neat_packing")


def evaluates(context: Context) -> bool:
    return context.on("do_eval") or str(context.get("eval_strategy", "no")) in ("steps", "epoch")


def _asks_for_eval_data(context: Context) -> str:
    """Return the key that needs data to evaluate on, or ""."""
    if str(context.get("eval_strategy", "no")) in ("steps", "epoch"):
        return "eval_strategy"

    return next((key for key in ("do_eval", "do_predict", "predict_with_generate") if context.on(key)), "")


def _keeps_a_metric(context: Context) -> bool:
    plateau = context.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy")
    return plateau or context.on("load_best_model_at_end") or bool(context.get("metric_for_best_model"))


def _eval_data(context: Context) -> bool:
    return bool(context.words("eval_dataset")) or (context.number("val_size", 0.0) or 0.0) > 1e-6


def _saves_another_way(context: Context) -> bool:
    save, evaluate = str(context.get("save_strategy", "steps")), str(context.get("eval_strategy", "no"))
    return save != "best" and save != evaluate


def _saves_between_evaluations(context: Context) -> bool:
    save = context.number("save_steps", 500)
    evaluate = context.number("eval_steps") or context.number("logging_steps", 500)
    steps = context.get("eval_strategy") == "steps" and context.get("save_strategy", "steps") == "steps"
    return steps and save >= 1 and evaluate >= 1 and save % evaluate != 0


REFUSED: tuple[Refusal, ...] = (
    # precision
    ("fp16", lambda c: c.on("fp16") and c.on("bf16"), "fp16 and bf16 are both on", "Keep one of them"),
    ("fp16", lambda c: c.on("fp16") and c.on("pure_bf16"), "fp16 and pure_bf16 are both on", "Keep one of them"),
    (
        "pure_bf16",
        lambda c: c.on("pure_bf16") and c.zero_stage == 3,
        "it does not work with DeepSpeed ZeRO-3",
        "Write bf16: true instead",
    ),
    # quantisation
    (
        "quantization_bit",
        lambda c: quantised(c) and not adapters(c),
        "a quantised model can only be trained with adapters",
        "Write finetuning_type: lora, or remove quantization_bit",
    ),
    (
        "quantization_bit",
        lambda c: (
            quantised(c)
            and str(c.get("quantization_method", "bnb")) == "bnb"
            and c.number("quantization_bit") not in (4, 8)
        ),
        "bitsandbytes knows 4 and 8 bits",
        "Write 4 or 8",
    ),
    (
        "quantization_bit",
        lambda c: quantised(c) and c.number("quantization_bit") != 4 and (c.zero_stage == 3 or c.fsdp),
        "ZeRO-3 and FSDP can hold 4-bit weights only",
        "Write quantization_bit: 4, or train without ZeRO-3 and FSDP",
    ),
    (
        "quantization_method",
        lambda c: quantised(c) and c.get("quantization_method") in ("hqq", "eetq") and (c.zero_stage == 3 or c.fsdp),
        "hqq and eetq do not work with ZeRO-3 and FSDP",
        "Write quantization_method: bnb and quantization_bit: 4",
    ),
    (
        "quantization_bit",
        lambda c: quantised(c) and c.get("quantization_method") in ("gptq", "awq", "aqlm", "quanto", "mxfp4", "fp8"),
        "quantization_method names a kind that is never made while loading, so nothing would be quantised",
        "Write quantization_method: bnb",
    ),
    (
        "model_name_or_path",
        lambda c: _stored_quantised(c) and (c.zero_stage == 3 or c.fsdp),
        "weights that are stored quantised do not work with ZeRO-3 and FSDP",
        "Name the 16-bit base, or train without ZeRO-3 and FSDP",
    ),
    (
        "pissa_init",
        lambda c: c.on("pissa_init") and quantised(c),
        "PiSSA needs the 16-bit weights",
        "Remove pissa_init or quantization_bit",
    ),
    (
        "resize_vocab",
        lambda c: c.on("resize_vocab") and quantised(c),
        "the embeddings of a quantised model cannot be resized",
        "Remove one of the two",
    ),
    (
        "quantization_device_map",
        lambda c: c.get("quantization_device_map") == "auto" and c.on("do_train"),
        "it is for inference",
        "Remove it",
    ),
    # methods
    *(
        (
            key,
            lambda c, key=key: c.on(key) and c.method != "lora",
            "it belongs to finetuning_type: lora",
            f"Write finetuning_type: lora, or remove {key}",
        )
        for key in ("use_dora", "use_rslora", "pissa_init", "loraplus_lr_ratio")
    ),
    (
        "adapter_name_or_path",
        lambda c: c.get("adapter_name_or_path") and not adapters(c),
        "it belongs to finetuning_type: lora or oft",
        "Write finetuning_type: lora, or remove it",
    ),
    *(
        (
            key,
            lambda c, key=key: c.on(key) and c.method == "lora",
            "it does not work with LoRA",
            f"Write finetuning_type: full, or remove {key}",
        )
        for key in EXCLUSIVE_OPTIMIZERS
    ),
    # evaluation
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
        "val_size",
        lambda c: (c.number("val_size", 0.0) or 0.0) > 1e-6 and c.words("eval_dataset"),
        "val_size and eval_dataset are both set",
        "Remove one of the two",
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
        lambda c: c.number("early_stopping_steps") is not None and not evaluates(c),
        "nothing is evaluated during the training",
        "Add eval_strategy: steps and eval_steps: 100",
    ),
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
    # data
    (
        "max_steps",
        lambda c: c.on("streaming") and (c.number("max_steps", -1) or -1) < 0,
        "streaming has no length, so the number of steps must be told",
        "Add max_steps: 1000",
    ),
    ("max_samples", lambda c: c.on("streaming") and c.get("max_samples"), "it needs streaming: false", "Remove it"),
    (
        "mask_history",
        lambda c: c.on("mask_history") and c.on("train_on_prompt"),
        "mask_history and train_on_prompt contradict each other",
        "Remove one of the two",
    ),
    ("neat_packing", lambda c: c.on("neat_packing") and c.stage != "sft", "it is for stage sft", "Remove it"),
    (
        "dataset",
        lambda c: c.on("do_train") and not c.words("dataset"),
        "no data to train on",
        "Name one: dataset: NAME",
    ),
    (
        "infer_backend",
        lambda c: str(c.get("infer_backend", "huggingface")) != "huggingface",
        "training and prediction run on huggingface only",
        "Remove infer_backend",
    ),
)
"""Refused by the host for any model: key, condition, what, fix. The order is that of a recipe."""


def contradictions(context: Context) -> Iterator[Finding]:
    """Combinations that stop a training of any model."""
    yield from refusals(context, REFUSED if context.trains else ())


def refusals(context: Context, table: tuple[Refusal, ...]) -> Iterator[Finding]:
    """Return an error for each row of a table whose condition holds."""
    for key, wrong, what, fix in table:
        if wrong(context):
            yield Finding("error", key, what, context.recipe.where(key), fix)
