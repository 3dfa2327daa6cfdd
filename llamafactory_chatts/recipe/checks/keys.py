"""Keys nobody knows, and values of another type or kind than the host expects."""

import difflib
import os
import re
from collections.abc import Iterator
from typing import Any

from ...core.errors import shorten
from ..context import Context
from ..finding import Finding
from ..schema import Field, schema


RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu: true",
    "group_by_length": "train_sampling_strategy: group_by_length",
    "save_safetensors": "",
    "fp16_backend": "fp16",
    "half_precision_backend": "fp16",
    "push_to_hub_token": "hub_token",
    "include_tokens_per_second": "include_num_input_tokens_seen",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "lr": "learning_rate",
    "ts_lr": "timeseries_sft_lr",
    "encoder_lr": "timeseries_sft_lr",
    "max_length": "cutoff_len",
    "max_len": "cutoff_len",
    "max_seq_length": "cutoff_len",
    "max_seq_len": "cutoff_len",
    "model_max_length": "cutoff_len",
    "cutoff_length": "cutoff_len",
    "lora_r": "lora_rank",
    "r": "lora_rank",
    "rank": "lora_rank",
    "target_modules": "lora_target",
    "lora_target_modules": "lora_target",
    "modules_to_save": "additional_target",
    "load_in_4bit": "quantization_bit: 4",
    "load_in_8bit": "quantization_bit: 8",
    "bits": "quantization_bit",
    "quant_bit": "quantization_bit",
    "bnb_4bit_quant_type": "quantization_type",
    "use_double_quant": "double_quantization",
    "attn_implementation": "flash_attn",
    "use_flash_attn": "flash_attn",
    "use_flash_attention_2": "flash_attn: fa2",
    "model": "model_name_or_path",
    "model_path": "model_name_or_path",
    "base_model": "model_name_or_path",
    "adapter_path": "adapter_name_or_path",
    "train_dataset": "dataset",
    "val_dataset": "eval_dataset",
    "output": "output_dir",
    "method": "finetuning_type",
    "dora": "use_dora: true",
    "gradient_accumulation": "gradient_accumulation_steps",
    "accumulation_steps": "gradient_accumulation_steps",
    "warmup": "warmup_ratio",
    "max_new_token": "max_new_tokens",
    "deepspeed_config": "deepspeed",
    "tokens_per_device": "tokens_per_batch",
}
"""Names from other tools and older versions -> what it is called here; "" where it has no successor."""

LISTS = (
    "dataset",
    "eval_dataset",
    "interleave_probs",
    "lora_target",
    "oft_target",
    "additional_target",
    "galore_target",
    "apollo_target",
    "freeze_trainable_modules",
    "freeze_extra_modules",
)
"""Text with commas that may be a YAML list as well."""

TYPOGRAPHIC = ("“", "”", "‘", "’", "„", "«")
PATHS = ("_dir", "_path")

NUMBER_TEXT = ("timeseries_sft_lr", "tokens_per_batch")
"""Ours, which read numbers from text themselves."""

METHODS = {
    "dora": "finetuning_type: lora and use_dora: true",
    "qlora": "finetuning_type: lora and quantization_bit: 4",
    "qdora": "finetuning_type: lora, use_dora: true and quantization_bit: 4",
    "rslora": "finetuning_type: lora and use_rslora: true",
    "pissa": "finetuning_type: lora and pissa_init: true",
    "loraplus": "finetuning_type: lora and loraplus_lr_ratio: 16.0",
    "galore": "finetuning_type: full and use_galore: true",
    "full_parameter": "finetuning_type: full",
    "fft": "finetuning_type: full",
}
SYNONYMS = {
    ("flash_attn", "false"): "disabled (PyTorch's plain attention), sdpa or fa2",
    ("flash_attn", "no"): "disabled, sdpa or fa2",
    ("flash_attn", "true"): "auto, sdpa or fa2",
    ("flash_attn", "eager"): "disabled",
    ("flash_attn", "none"): "disabled",
    ("flash_attn", "flash_attention_2"): "fa2",
    ("flash_attn", "flash_attn_2"): "fa2",
    ("quantization_method", "bitsandbytes"): "bnb",
    ("infer_backend", "hf"): "huggingface",
    ("stage", "pretrain"): "pt",
    ("stage", "sft_lora"): "sft",
    ("stage", "reward"): "rm",
}


def unknown_keys(context: Context) -> Iterator[Finding]:
    """Keys that no argument class has, each with the nearest valid one."""
    fields = schema()
    if not fields or os.environ.get("USE_MCA", "0").lower() in ("true", "y", "1"):
        return

    allowed = os.environ.get("ALLOW_EXTRA_ARGS", "0").lower() in ("true", "y", "1")
    for key in context.recipe.values:
        if key in fields:
            continue

        yield Finding(
            "warning" if allowed else "error",
            key,
            "no setting has this name" + (", so it is ignored" if allowed else ", LLaMA-Factory refuses it"),
            context.recipe.where(key),
            _instead(key, fields, context.recipe.get(key)),
        )


def _instead(key: str, fields: dict[str, Field], value: Any = None) -> str:
    split = re.match(r"(\w+)\s*[：:=\xa0]", key)
    if split and value is None:
        return f"Write {split[1]}: VALUE, with a plain colon and a space behind it"

    plain = key.strip("-").replace("-", "_").strip().lower()
    if plain in fields:
        return f"Write {plain}"

    if isinstance(value, dict):
        return "A recipe has no sections: write the keys below it without indentation"

    if plain in RENAMED:
        return f"Write {RENAMED[plain]}" if RENAMED[plain] else "Remove it"

    near = difflib.get_close_matches(plain, fields, n=1, cutoff=0.7)
    return f"Write {near[0]}, or remove it" if near else "Remove it"


def wrong_values(context: Context) -> Iterator[Finding]:
    """Values that the host refuses, or takes for something else: ``parse_dict`` converts nothing."""
    fields = schema()
    for key, value in context.recipe.values.items():
        if key in fields:
            found = _judge(key, value, fields[key], context.recipe.as_flags)
            if found is not None:
                level, what, fix = found
                yield Finding(level, key, what, context.recipe.where(key), fix)


def _judge(key: str, value: Any, field: Field, as_flags: bool) -> tuple[str, str, str] | None:
    """Return level, what and fix of a wrong value, or None."""
    if value is None:
        if field.optional or field.types == {"bool"} or not field.types:
            return None

        return "error", "it has no value", f"Write one, or remove {key}"

    if field.choices is not None:
        return _judge_choice(key, value, field.choices)

    if isinstance(value, dict) and field.types and "dict" not in field.types:
        return "error", "keys and values, where one value is read", "Write one value (text with braces in quotes)"

    if as_flags:
        return None  # the host converts them, and says what cannot be converted

    if isinstance(value, str):
        return _judge_text(key, value, field)

    types = field.types
    if isinstance(value, bool):
        if types and not types & {"bool"} and (types & {"int", "float"} or "list" not in types and types != {"str"}):
            return "error", f"{str(value).lower()} is no number", f"Write a number, or remove {key}"

        return None

    if isinstance(value, list) and types == {"str"} and key not in LISTS:
        return "error", "a list, where text with commas is read", f"Write {key}: {','.join(map(str, value))}"

    if isinstance(value, (int, float)) and types == {"bool"} and value not in (0, 1):
        return "error", f"{value} is neither true nor false", "Write true or false"

    if isinstance(value, float) and types == {"int"}:
        if value != int(value):
            return "error", f"{value} is no whole number", "Write a whole number"

        return "warning", f"{value} is no whole number to the host", f"Write {int(value)}"

    if isinstance(value, (int, float)) and types == {"str"}:
        return "warning", f"the number {value}, where text is read", f"Put it into quotes: '{value}'"

    return None


def _judge_text(key: str, value: str, field: Field) -> tuple[str, str, str] | None:
    types, plain = field.types, value.strip().lower()
    if value[:1] in TYPOGRAPHIC and key != "default_system":
        return "error", f"it begins with the sign {value[0]}", 'Write plain quotes, "..."'

    if key.endswith(PATHS) and "$" in value:
        return "error", f"variables as in {shorten(value)!r} are not replaced", "Write the path itself"

    if types == {"list"} and not value.lstrip().startswith("["):
        return "error", f"the text {shorten(value)!r}, where a list is read", f"Write {key}: [{shorten(value)}]"

    if key in (*LISTS, "adapter_name_or_path") and "," in value and not all(item.strip() for item in value.split(",")):
        return "error", "a comma without a name beside it", "Remove the comma"

    if not types or "dict" in types or "list" in types:
        return None

    if plain == "none" and field.optional and key != "report_to":
        return "error", f"the text {value!r} is not null", f"Write {key}: null, or remove it"

    if "str" in types:
        return None

    if types == {"bool"}:
        if plain in ("true", "yes", "1", "on"):
            return "warning", f"the text {value!r}, not a truth value", "Write true without quotes"

        if plain in ("false", "no", "0", "off", ""):
            return "error", f"the text {value!r} counts as true, as any text does", "Write false without quotes"

        return "error", f"{shorten(value)!r} is neither true nor false", "Write true or false, without quotes"

    try:
        number = float(plain)
    except ValueError:
        return "error", f"{shorten(value)!r} is no number", "Write a number"

    if key in NUMBER_TEXT:
        return None

    shown = int(number) if number == int(number) and "int" in types else number
    return "error", f"the text {value!r}, not a number", f"Write {shown} without quotes"


def _judge_choice(key: str, value: Any, choices: tuple[str, ...]) -> tuple[str, str, str] | None:
    if isinstance(value, str) and value in choices:
        return None

    plain = str(value).strip().lower()
    listed = ", ".join(choices) if len(choices) <= 12 else ""
    if value is False and "no" in choices:
        return "error", "YAML reads no as false", f'Write {key}: "no", in quotes'

    if key == "finetuning_type" and plain in METHODS:
        return "error", f"{plain} is no finetuning_type of its own", f"Write {METHODS[plain]}"

    if (key, plain) in SYNONYMS:
        shown = plain if isinstance(value, bool) else repr(value)
        return "error", f"it takes no {shown}", f"Write {SYNONYMS[key, plain]}"

    near = difflib.get_close_matches(plain, choices, n=1, cutoff=0.6)
    advice = f"Write {near[0]}" if near else "Use another"
    return "error", f"there is no {shorten(value)!r}", advice + (f" (there are: {listed})" if listed else "")
