"""A training recipe as LLaMA-Factory reads it: YAML or JSON, ``key=value`` behind it, defaults for the rest."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

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


@dataclass(frozen=True)
class Recipe:
    """What a recipe says.

    Attributes:
        path: of the file.
        given: keys that the file or the command line sets.
    """

    path: Path
    given: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        return self.given.get(key, DEFAULTS[key])

    def changed(self, changes: Mapping[str, Any]) -> "Recipe":
        """Return the recipe with other values."""
        return Recipe(self.path, {**self.given, **changes})

    def names(self, key: str) -> list[str]:
        """Return a value that holds names, written as a list or with commas between them."""
        value = self[key]
        if value is None:
            return []

        items = value if isinstance(value, (list, tuple)) else str(value).split(",")
        return [str(item).strip() for item in items if str(item).strip()]

    @property
    def packing(self) -> bool:
        """Whether rows are packed; on by default in stage ``pt``."""
        own = self["packing"]
        return bool(self["neat_packing"] or (self["stage"] == "pt" if own is None else own))

    @property
    def limit(self) -> int:
        """Tokens that a row may have: ``cutoff_len``, one less where the host takes it off for packing."""
        return self["cutoff_len"] - int(bool(self["packing"] or self["neat_packing"]))

    @property
    def adapter(self) -> bool:
        return self["finetuning_type"] in ("lora", "oft")

    @property
    def encoder_mode(self) -> str:
        """How the series encoder is tuned: ``lora``, ``full`` or ``freeze``; the rules of the host room."""
        if not self["train_timeseries_modules"]:
            return "freeze"

        if not self.adapter:
            return "full"

        default = "full" if "ts_encoder" in self.names("additional_target") else "lora"
        return self["timeseries_tuning"] or default


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and the ``key=value`` words behind it.

    Raises:
        ChatTSError: no file, no mapping of keys, or a value of the wrong kind.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ChatTSError(
            f"the recipe cannot be read ({error.strerror})", where=str(path), fix="Name a recipe (.yaml or .json)"
        ) from None

    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ChatTSError(
            f"this is no {'JSON' if path.suffix == '.json' else 'YAML'} ({shorten(error)})",
            where=str(path),
            fix="Write one `key: value` on each line",
        ) from None

    if not isinstance(content, dict):
        raise ChatTSError("the file holds no keys", where=str(path), fix="Write one `key: value` on each line")

    given = {**content, **parse_overrides(overrides)}
    return Recipe(path, {key: _typed(key, value, path) for key, value in given.items()})


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Return ``key=value`` words as a dict, values read as YAML.

    Raises:
        ChatTSError: a word without ``=``.
    """
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ChatTSError(f"{word!r} is no setting", where="arguments", fix="Write key=value behind the recipe")

        found[key.lstrip("-")] = yaml.safe_load(value)

    return found


def _typed(key: str, value: Any, path: Path) -> Any:
    """Return a value as the host's parser would hold it (``1e-5`` is text to a YAML reader)."""
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
            where=f"{path}: {key}",
            fix=f"Write {wrong}",
        )

    return value
