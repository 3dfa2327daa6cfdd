"""What is measured: model shapes, the table of settings, and the recipe that a setting changes."""

from pathlib import Path


SHAPES = {
    "8b": {"kind": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936},
    "14b": {"kind": "qwen2", "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40,
            "num_key_value_heads": 8, "intermediate_size": 13824, "vocab_size": 152064},
    "1b": {"kind": "qwen3", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16,
           "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 6144, "vocab_size": 151936},
    "tiny": {"kind": "qwen3", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128, "vocab_size": 4096},
}  # fmt: skip
"""Published shapes of ChatTS-8B and ChatTS-14B, a small one, and a tiny one for a machine without a GPU."""


def _batch(rows: int, accumulated: int, **changes) -> dict:
    return {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulated, **changes}


def _ours(tokens: int, **changes) -> dict:
    """Passes filled to ``tokens`` tokens and Liger's kernels; 16 samples per optimizer step as everywhere."""
    return _batch(1, 16, tokens_per_batch=tokens, enable_liger_kernel=True, **changes)


_FREE = {"disable_gradient_checkpointing": True}
_QLORA = {"quantization_bit": 4}
_FULL = {"finetuning_type": "full", "pure_bf16": True, "optim": "adamw_torch", "learning_rate": 1.0e-5}

SETTINGS = {
    # the recipe used in the field, and plain batches
    "lora 1x16": _batch(1, 16),
    "lora 8x2": _batch(8, 2),
    "lora 16x1": _batch(16, 1),
    "lora 16x1 no checkpointing": _batch(16, 1, **_FREE),
    "qlora 1x16": _batch(1, 16, **_QLORA),
    "qlora 4x4": _batch(4, 4, **_QLORA),
    "qlora 16x1": _batch(16, 1, **_QLORA),
    "full 1x16": _batch(1, 16, **_FULL),
    # ours; the name says the card
    "lora 24gib": _ours(1600, **_FREE),
    "lora free": _ours(6144, **_FREE),
    "qlora 11gib": _ours(6144, **_QLORA),
    "qlora 24gib": _ours(1600, **_QLORA, **_FREE),
    "qlora 24gib checkpointing": _ours(6144, **_QLORA),
    "qlora 2048": _ours(2048, **_QLORA),
    "qlora 10gib": _ours(2048, **_QLORA, lm_head_8bit=True, use_unsloth_gc=True),
    "qlora 8.6gib": _ours(2048, **_QLORA, lm_head_8bit=True, use_unsloth_gc=True, offload_embedding=True),
    "full": _ours(6144, **_FULL),
}
"""Name -> what it changes in :func:`recipe_for`. All take 16 samples per optimizer step."""

ONLY_FOR = {
    "full": ("8b", "tiny"),
    "full 1x16": ("8b", "tiny"),
    "qlora 11gib": ("8b", "tiny"),
    "qlora 2048": ("14b", "tiny"),
    "qlora 10gib": ("14b", "tiny"),
    "qlora 8.6gib": ("14b", "tiny"),
    "lora 24gib": ("8b", "tiny"),
    "lora free": ("8b", "tiny"),
    "qlora 24gib checkpointing": ("14b",),
}
"""Shapes that a setting is run on unless ``--only`` names it: 14B in 16 bit or in full has cards of its own."""

NEEDS_CUDA = {
    "use_unsloth_gc": "the host moves its checkpoints to and from a CUDA device",
    "pure_bf16": "the host accepts it on a CUDA device only",
}
"""Key -> why a setting with it is skipped without a CUDA device."""

SWEEP = _batch(1, 2, enable_liger_kernel=True)
"""The sweeps' setting: 2 samples per optimizer step, LoRA, gradient checkpointing."""

FIXED_IN_SWEEPS = ("per_device_train_batch_size", "gradient_accumulation_steps", "tokens_per_batch", "packing")

_OURS_NOT_THE_RECIPES = (
    "model_name_or_path", "dataset", "dataset_dir", "output_dir", "save_steps", "plot_loss", "num_train_epochs",
    "max_steps", "report_to", "resume_from_checkpoint", "save_strategy", "tokenized_path", "disable_tqdm", "do_train",
    "eval_dataset", "val_size", "do_eval", "eval_strategy", "eval_steps", "load_best_model_at_end",
)  # fmt: skip


def recipe_settings(path: Path) -> dict:
    """Return what a recipe says about the method and the batch; model, data and output are the benchmark's."""
    import yaml

    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {key: value for key, value in recipe.items() if key not in _OURS_NOT_THE_RECIPES}


def parse_changes(pairs: list[str]) -> dict:
    """Return ``key=value`` pairs as a dict, each value read as YAML.

    Raises:
        ValueError: a pair has no ``=``.
    """
    import yaml

    changes = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {pair}: write key=value")

        changes[key] = yaml.safe_load(value)

    return changes


def choose(shape: str, only: list[str] | None, recipes: list[Path]) -> dict[str, dict]:
    """Return the settings to run, in the order of the table.

    Args:
        shape: key of :data:`SHAPES`.
        only: names; None for all that are meant for the shape.
        recipes: recipe files, which are measured instead of the table.

    Raises:
        ValueError: an unknown name.
    """
    table = {path.name: recipe_settings(path) for path in recipes} or SETTINGS
    if only is None:
        return {name: changes for name, changes in table.items() if shape in ONLY_FOR.get(name, SHAPES)}

    unknown = [name for name in only if name not in table]
    if unknown:
        raise ValueError(f"--only {unknown[0]!r} is not in the table. Choose from: {', '.join(table)}")

    return {name: changes for name, changes in table.items() if name in only}


def recipe_for(base: Path, data: Path, out: Path, changes: dict, steps: int, cutoff_len: int, cuda: bool) -> dict:
    """Return the field recipe (LoRA rank 8 on q, k, v, gradient checkpointing, sdpa, cosine) with ``changes``."""
    recipe = {
        "model_name_or_path": str(base), "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_rank": 8,
        "lora_target": "q_proj,k_proj,v_proj", "template": "chatts", "dataset_dir": str(data), "dataset": "bench",
        "cutoff_len": cutoff_len, "output_dir": str(out), "overwrite_output_dir": True, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine", "max_steps": steps, "flash_attn": "sdpa",
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, **changes,
    }  # fmt: skip
    recipe["bf16"] = cuda and not recipe.get("pure_bf16", False) and not recipe.get("fp16", False)
    if recipe["finetuning_type"] != "lora":
        recipe = {key: value for key, value in recipe.items() if not key.startswith("lora_")}

    return recipe


def fit_to_cpu(changes: dict) -> tuple[dict, str | None, str | None]:
    """Return ``changes`` as they can be run without a CUDA device, a note on what was left out, and why not at all."""
    for key, why in NEEDS_CUDA.items():
        if changes.get(key):
            return changes, None, f"{key} needs CUDA: {why}"

    if not changes.get("enable_liger_kernel"):
        return changes, None, None

    left = {key: value for key, value in changes.items() if key != "enable_liger_kernel"}
    return left, "without enable_liger_kernel: its kernels need CUDA", None
