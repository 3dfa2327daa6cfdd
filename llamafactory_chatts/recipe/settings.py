"""The keys that a plan looks at: their values when a recipe does not set them, and their types."""

from typing import Any

from ..core.errors import ChatTSError, shorten


DEFAULTS: dict[str, Any] = {
    # model
    "model_name_or_path": None,
    "cache_dir": None,
    "adapter_name_or_path": None,
    "quantization_bit": None,
    "quantization_method": "bnb",
    "double_quantization": True,
    "disable_gradient_checkpointing": False,
    "use_unsloth_gc": False,
    "enable_liger_kernel": False,
    "flash_attn": "auto",
    "offload_embedding": False,
    "lm_head_8bit": False,
    "use_fast_tokenizer": True,
    "split_special_tokens": False,
    "add_tokens": None,
    "add_special_tokens": None,
    "new_special_tokens_config": None,
    # method
    "stage": "sft",
    "do_train": False,
    "finetuning_type": "lora",
    "lora_rank": 8,
    "lora_target": "all",
    "lora_dropout": 0.0,
    "additional_target": None,
    "timeseries_tuning": None,
    "train_timeseries_modules": True,
    "freeze_language_model": False,
    "freeze_trainable_layers": 2,
    "pure_bf16": False,
    "ref_model": None,
    # dataset
    "template": None,
    "dataset": None,
    "eval_dataset": None,
    "dataset_dir": "data",
    "media_dir": None,
    "cutoff_len": 2048,
    "train_on_prompt": False,
    "mask_history": False,
    "streaming": False,
    "mix_strategy": "concat",
    "interleave_probs": None,
    "max_samples": None,
    "val_size": 0.0,
    "packing": None,
    "neat_packing": False,
    "tokens_per_batch": None,
    "drop_overlong": False,
    "tokenized_path": None,
    "preprocessing_batch_size": 1000,
    "preprocessing_num_workers": None,
    "default_system": None,
    "tool_format": None,
    # train
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 3.0,
    "max_steps": -1,
    "learning_rate": 5e-5,
    "dataloader_drop_last": False,
    "dataloader_num_workers": 0,
    "bf16": False,
    "fp16": False,
    "optim": "adamw_torch_fused",
    "deepspeed": None,
    "seed": 42,
    "eval_strategy": "no",
    "do_eval": False,
    "save_steps": 500.0,
    "save_strategy": "steps",
    "warmup_ratio": None,
}
"""Keys that a plan looks at, with the values of llamafactory 0.9.5, transformers 5.5 and this plug-in."""

NUMBERS = {
    "quantization_bit": int,
    "max_samples": int,
    "tokens_per_batch": int,
    "preprocessing_num_workers": int,
    "warmup_ratio": float,
}
"""Types of the numbers whose default is None."""

CHOICES = {
    "stage": ("pt", "sft", "rm", "ppo", "dpo", "kto"),
    "finetuning_type": ("lora", "oft", "freeze", "full"),
    "quantization_bit": (4, 8, None),
}

AT_LEAST_ONE = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "cutoff_len",
    "preprocessing_batch_size",
    "lora_rank",
    "tokens_per_batch",
)


def typed(key: str, value: Any, where: str) -> Any:
    """Return a value as the host's parser would hold it (``1e-5`` is text to a YAML reader).

    Raises:
        ChatTSError: it is of another kind, or none of the choices.
    """
    if key not in DEFAULTS or value is None:
        return value

    default, written, wrong = DEFAULTS[key], value, None
    kind = NUMBERS.get(key, type(default))
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        value = words.get(str(value).lower())
        wrong = "true or false" if value is None else None
    elif kind in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
            value = int(number) if kind is int else number
            wrong = "a whole number" if value != number else None
        except (TypeError, ValueError, OverflowError):
            wrong = "a whole number" if kind is int else "a number"
    elif kind in (int, float):
        wrong = "a number"

    if wrong is None and key in AT_LEAST_ONE and value < 1:
        wrong = "at least 1"

    if wrong is None and key in CHOICES and value not in CHOICES[key]:
        wrong = "one of: " + ", ".join(str(item) for item in CHOICES[key] if item is not None)

    if wrong is not None:
        raise ChatTSError(
            f"{shorten(written, 40)!r} cannot be used",
            where=where,
            fix=f"Write {wrong}",
        )

    return value
