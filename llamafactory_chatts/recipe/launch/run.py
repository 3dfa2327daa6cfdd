"""What the run comes to: its steps, what is saved on the way, a second model in memory."""

import math
from collections.abc import Iterator
from pathlib import Path

from ..context import Context
from ..finding import Finding


LARGEST_COUNTED = 2**29
"""Bytes of a data file up to which its rows are counted."""


def nothing_to_do(context: Context) -> Iterator[Finding]:
    """Without one of the three switches the host loads everything and ends."""
    if context.trains and not any(context.on(key) for key in ("do_train", "do_eval", "do_predict")):
        what = "nothing would be trained: neither do_train nor do_eval nor do_predict is on"
        yield Finding("error", "do_train", what, context.recipe.where("do_train"), "Write do_train: true")


def reference_model(context: Context) -> Iterator[Finding]:
    """DPO and KTO compare with a frozen model; with adapters that is the base itself, otherwise a second copy."""
    if context.stage not in ("dpo", "kto") or not context.on("do_train"):
        return

    if context.stage == "dpo" and context.get("pref_loss") in ("orpo", "simpo"):
        return

    size = sum(file.stat().st_size for file in Path(context.base).glob("*.safetensors")) if context.base else 0
    memory = f", {size / 2**30:.1f} GiB more" if size >= 2**28 else ""
    fix = (
        "Write finetuning_type: lora" if context.stage == "kto" else "Write finetuning_type: lora, or pref_loss: simpo"
    )
    if context.get("ref_model"):
        if context.method == "lora":
            what = "it is loaded beside the base, which LoRA could use as reference without more memory"
            yield Finding("warning", "ref_model", what, context.recipe.where("ref_model"), "Remove ref_model")
    elif context.method != "lora":
        what = f"stage {context.stage} with {context.method} loads the base twice, the second as reference{memory}"
        yield Finding("warning", "stage", what, context.recipe.where("stage"), fix)


def count_rows(context: Context) -> int | None:
    """Return the rows that are trained on, without those held out; None where they are not known."""
    total = count_all_rows(context)
    if total is None:
        return None

    held_out = context.number("val_size", 0.0) or 0.0
    total -= int(held_out) if held_out >= 1 else int(total * held_out)
    return max(total, 0) or None


def count_all_rows(context: Context) -> int | None:
    """Return the rows of the datasets; None where they are not known from JSON lines and Parquet files."""
    total = 0
    for name in context.words("dataset"):
        entry = context.entries.get(name, {})
        path = context.dataset_dir / str(entry.get("file_name", ""))
        if not path.is_file() or path.stat().st_size > LARGEST_COUNTED:
            return None

        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            rows = pq.ParquetFile(path).metadata.num_rows
        elif path.suffix == ".jsonl":
            with path.open("rb") as file:
                rows = sum(bool(line.strip()) for line in file)
        else:
            return None

        limits = [entry.get("num_samples"), context.number("max_samples")]
        total += int(min([rows, *(limit for limit in limits if isinstance(limit, (int, float)))]))

    return total or None


def count_steps(context: Context) -> int | None:
    """Return the optimizer steps of the run, None where they cannot be told from the recipe."""
    steps = context.number("max_steps", -1) or -1
    if steps > 0:
        return int(steps)

    packs = context.on("packing") or context.on("neat_packing") or context.stage == "pt"
    rows = None if packs or context.on("streaming") or context.get("tokenized_path") else count_rows(context)
    if rows is None:
        return None

    size = int(context.number("per_device_train_batch_size", 8) or 8)
    accumulated = int(context.number("gradient_accumulation_steps", 1) or 1)
    batches = math.ceil(math.ceil(rows / context.processes) / size)
    return math.ceil(math.ceil(batches / accumulated) * (context.number("num_train_epochs", 3.0) or 3.0))


def steps_and_saves(context: Context) -> Iterator[Finding]:
    """Intervals longer than the run, and two ways to say how long it is."""
    if not context.on("do_train"):
        return

    if (context.number("max_steps", -1) or -1) > 0 and "num_train_epochs" in context.recipe.values:
        what = "max_steps wins, num_train_epochs is ignored"
        yield Finding("note", "max_steps", what, context.recipe.where("max_steps"), "Remove one of the two")

    watched = {
        "save_steps": (str(context.get("save_strategy", "steps")), "nothing is saved before the end"),
        "eval_steps": (str(context.get("eval_strategy", "no")), "nothing is evaluated on the way"),
        "logging_steps": (str(context.get("logging_strategy", "steps")), "nothing is logged"),
    }
    named = [key for key, (strategy, _) in watched.items() if strategy == "steps" and key in context.recipe.values]
    total = count_steps(context) if named else None
    for key in named if total else []:
        interval = context.number(key)
        if interval is not None and interval > total:
            what = f"{interval:g} steps, but the run has {total}: {watched[key][1]}"
            yield Finding("warning", key, what, context.recipe.where(key), f"Write {max(1, total // 3)}")
