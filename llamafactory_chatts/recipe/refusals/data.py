"""Rows: where they come from, which are held out, packing."""

from pathlib import Path

from ..context import Context
from .refusal import Refusal


def _probabilities(context: Context) -> list[str]:
    return context.words("interleave_probs")


def _no_number(words: list[str]) -> bool:
    try:
        return any(float(word) < 0 for word in words)
    except ValueError:
        return True


DATA: tuple[Refusal, ...] = (
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
    (
        "val_size",
        lambda c: (c.number("val_size", 0.0) or 0.0) > 1e-6 and c.words("eval_dataset"),
        "val_size and eval_dataset are both set",
        "Remove one of the two",
    ),
    (
        "val_size",
        lambda c: (c.number("val_size", 0.0) or 0.0) > 1e-6 and not c.words("dataset"),
        "there is no dataset to take rows from",
        "Name a dataset",
    ),
    (
        "max_steps",
        lambda c: c.on("streaming") and (c.number("max_steps", -1) or -1) < 0,
        "streaming has no length, so the number of steps must be told",
        "Add max_steps: 1000",
    ),
    ("max_samples", lambda c: c.on("streaming") and c.get("max_samples"), "it needs streaming: false", "Remove it"),
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
    (
        "mask_history",
        lambda c: c.on("mask_history") and c.on("train_on_prompt"),
        "mask_history and train_on_prompt contradict each other",
        "Remove one of the two",
    ),
    ("neat_packing", lambda c: c.on("neat_packing") and c.stage != "sft", "it is for stage sft", "Remove it"),
    *(
        (key, lambda c, key=key: c.on(key) and c.stage != "sft", "it is for stage sft", f"Remove {key}")
        for key in ("train_on_prompt", "mask_history")
    ),
)
