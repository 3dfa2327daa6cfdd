"""Taken without a word and without effect."""

from .refusal import Refusal


IGNORED: tuple[Refusal, ...] = (
    (
        "max_length",
        lambda c: "max_length" in c.recipe.values and not c.on("predict_with_generate"),
        "it limits generated text, not rows",
        "Write cutoff_len",
    ),
    ("export_dir", lambda c: c.get("export_dir"), "a training exports nothing", "Use it with llamafactory-cli export"),
    (
        "warmup_steps",
        lambda c: c.get("warmup_steps") and c.get("warmup_ratio") is not None,
        "warmup_ratio wins",
        "Remove one of the two",
    ),
    (
        "warmup_steps",
        lambda c: (c.number("warmup_steps", 0) or 0) >= (c.number("max_steps") or float("inf")) > 0,
        "the run ends before the warm-up does",
        "Write a tenth of max_steps",
    ),
    (
        "compute_accuracy",
        lambda c: c.on("compute_accuracy") and c.stage not in ("sft", "pt"),
        "it is for stage sft and pt",
        "Remove it",
    ),
    ("shift_attn", lambda c: c.on("shift_attn"), "Qwen has no shifted attention, so nothing is shifted", "Remove it"),
    ("buffer_size", lambda c: c.get("buffer_size") and not c.on("streaming"), "it is for streaming", "Remove it"),
)
