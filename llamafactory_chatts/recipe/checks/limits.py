"""Numbers that no training survives, or that mean something else than they seem to."""

from collections.abc import Iterator
from math import inf

from ..context import Context
from ..finding import Finding
from ..machine.host_limits import processors


COUNTS = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "eval_accumulation_steps",
    "torch_empty_cache_steps",
    "cutoff_len",
    "lora_rank",
    "tokens_per_batch",
    "max_samples",
    "preprocessing_num_workers",
    "preprocessing_batch_size",
    "buffer_size",
    "max_new_tokens",
    "eval_num_beams",
    "ppo_epochs",
)
"""Whole numbers that must be 1 or more."""

RANGES: dict[str, tuple[float, float, str]] = {
    "lora_dropout": (0, 1, "0.05"),
    "module_dropout": (0, 1, "0.05"),
    "adam_beta1": (0, 1, "0.9"),
    "adam_beta2": (0, 1, "0.999"),
    "warmup_ratio": (0, 1, "0.03"),
    "label_smoothing_factor": (0, 1, "0.0"),
    "dpo_label_smoothing": (0, 0.5, "0.0"),
    "warmup_steps": (0, inf, "10"),
    "adam_epsilon": (0, inf, "1.0e-8"),
    "max_grad_norm": (0, inf, "1.0"),
    "weight_decay": (0, inf, "0.01"),
    "lora_alpha": (0, inf, "16"),
    "seed": (0, 2**32, "42"),
    "data_seed": (0, 2**32, "42"),
    "dataloader_num_workers": (0, inf, "2"),
    "ddp_timeout": (1, inf, "1800"),
    "neftune_noise_alpha": (0, inf, "5"),
    "repetition_penalty": (1e-9, inf, "1.0"),
    "learning_rate": (0, inf, "1.0e-4"),
    "timeseries_sft_lr": (0, inf, "1.0e-4"),
    "pref_beta": (0, inf, "0.1"),
}
"""Lowest value, first one that is too much, and one to write."""


def numbers_out_of_range(context: Context) -> Iterator[Finding]:
    """Counts below 1, shares above 1, and learning rates no training survives."""

    def found(level: str, key: str, what: str, fix: str) -> Finding:
        return Finding(level, key, what, context.recipe.where(key), fix)

    for key in COUNTS:
        value = context.number(key)
        if value is not None and value < 1:
            yield found("error", key, f"{value:g} is below 1", "Write 1 or more")

    for key, (low, high, usual) in RANGES.items():
        value = context.number(key)
        if value is not None and not low <= value < high:
            bound = f"below {low:g}" if value < low else f"{high:g} or more"
            yield found("error", key, f"{value:g} is {bound}", f"Write {usual}")

    epochs = context.number("num_train_epochs", 1.0)
    if epochs <= 0 and (context.number("max_steps", -1) or -1) < 0:
        yield found("error", "num_train_epochs", f"{epochs:g} epochs: nothing would be trained", "Write 3.0")

    yield from (found(*words) for words in _intervals(context))
    yield from (found(*words) for words in _surprises(context))
    held_out = context.number("val_size", 0.0)
    if held_out < 0 or held_out % 1 and held_out > 1:
        what = f"{held_out:g} is neither a share below 1 nor a number of rows"
        yield found("error", "val_size", what, "Write 0.1 for a tenth of the rows, or 100 for a hundred rows")


def _intervals(context: Context) -> Iterator[tuple[str, str, str, str]]:
    """Steps between logs, saves and evaluations: a share of the run below 1, a whole number above."""
    for key, strategy in (
        ("logging_steps", str(context.get("logging_strategy", "steps"))),
        ("save_steps", str(context.get("save_strategy", "steps"))),
        ("eval_steps", str(context.get("eval_strategy", "no"))),
    ):
        value = context.number(key)
        if value is None or strategy != "steps":
            continue

        if value > 1 and value % 1:
            yield "error", key, f"{value:g} is neither a share below 1 nor a whole number", f"Write {value:.0f}"
        elif value < 0 or (value == 0 and key != "save_steps"):
            yield "error", key, f"{value:g} steps are none", "Write 10, or 0.1 for every tenth of the run"
        elif value == 0:
            yield "warning", key, "with 0 nothing is saved before the end", 'Write 100, or save_strategy: "no"'


def _surprises(context: Context) -> Iterator[tuple[str, str, str, str]]:
    """Numbers that are taken, but for something else than was meant."""
    for key in ("learning_rate", "timeseries_sft_lr"):
        value = context.number(key)
        if value is not None and value > 0.01:
            what = f"{value:g} is far above what any of these methods survives"
            yield "warning", key, what, "Write 1.0e-4 for adapters, 1.0e-5 for full"
        elif key == "learning_rate" and value is not None and 0 <= value < 1e-8 and context.on("do_train"):
            yield "warning", key, f"{value:g} changes nothing", "Write 1.0e-4 for adapters, 1.0e-5 for full"

    if context.number("lora_alpha") == 0:
        yield "warning", "lora_alpha", "0 counts as not set: it is twice lora_rank then", "Remove it"

    if context.number("max_steps") == 0:
        yield "warning", "max_steps", "0 counts as not set: num_train_epochs decides", "Remove it, or write 1 or more"

    if (context.number("save_total_limit", 1.0) or 0.0) < 1:
        yield "warning", "save_total_limit", "below 1 it keeps every checkpoint", "Write 1 or more, or remove it"

    if (context.number("weight_decay", 0.0) or 0.0) > 1:
        yield "warning", "weight_decay", "above 1 it wipes the weights out", "Write 0.01"

    for key in ("preprocessing_num_workers", "dataloader_num_workers"):
        value = context.number(key, 0.0)
        if value > 4 * processors() and not context.elsewhere:
            what = f"{value:g} processes, there are {processors()} processors here: slower, and more memory"
            yield "warning", key, what, f"Write {processors()} or less"
