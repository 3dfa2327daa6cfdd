"""Every private name of LLaMA-Factory that is touched, and how a symbol is patched."""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from ..core.contract import SWITCH


PRIVATE_NAMES: dict[str, tuple[str, ...]] = {
    "llamafactory.chat.chat_model:run_chat": (),
    "llamafactory.api.chat:create_stream_chat_completion_response": ("request", "chat_model"),
    "llamafactory.api.chat:_process_request": ("request",),
    "llamafactory.data.collator:SFTDataCollatorWith4DAttentionMask.__call__": ("self", "features"),
    "llamafactory.chat.hf_engine:HuggingfaceEngine.stream_chat": (
        "self",
        "messages",
        "system",
        "tools",
        "images",
        "videos",
        "audios",
        "input_kwargs",
    ),
    "llamafactory.api.chat:create_chat_completion_response": ("request", "chat_model"),
    "llamafactory.chat.hf_engine:HuggingfaceEngine.chat": (
        "self",
        "messages",
        "system",
        "tools",
        "images",
        "videos",
        "audios",
        "input_kwargs",
    ),
    "llamafactory.data.parser:DatasetAttr.join": ("self", "attr"),
    "llamafactory.data.loader:_load_single_dataset": ("dataset_attr", "model_args", "data_args", "training_args"),
    "llamafactory.data.loader:align_dataset": ("dataset", "dataset_attr", "data_args", "training_args"),
    "llamafactory.data.loader:_get_dataset_processor": (
        "data_args",
        "stage",
        "template",
        "tokenizer",
        "processor",
        "do_generate",
    ),
    "llamafactory.data.loader:_get_preprocessed_dataset": (
        "dataset",
        "data_args",
        "training_args",
        "stage",
        "template",
        "tokenizer",
        "processor",
        "is_eval",
    ),
    "llamafactory.data.loader:get_dataset": (
        "template",
        "model_args",
        "data_args",
        "training_args",
        "stage",
        "tokenizer",
        "processor",
    ),
    "llamafactory.data.loader:split_dataset": ("dataset", "eval_dataset", "data_args", "seed"),
    "llamafactory.data.loader:get_dataset_list": ("dataset_names", "dataset_dir"),
    "llamafactory.data.converter:DatasetConverter.__init__": ("self", "dataset_attr", "data_args"),
    "llamafactory.data.mm_plugin:BasePlugin.process_messages": (
        "self",
        "messages",
        "images",
        "videos",
        "audios",
        "processor",
    ),
    "llamafactory.data.mm_plugin:BasePlugin.get_mm_inputs": (
        "self",
        "images",
        "videos",
        "audios",
        "imglens",
        "vidlens",
        "audlens",
        "batch_ids",
        "processor",
    ),
    "llamafactory.data.processor.supervised:SupervisedDatasetProcessor._encode_data_example": (
        "self",
        "prompt",
        "response",
        "system",
        "tools",
        "images",
        "videos",
        "audios",
    ),
    "llamafactory.model.loader:_get_init_kwargs": ("model_args",),
    "llamafactory.hparams.parser:_check_extra_dependencies": ("model_args", "finetuning_args", "training_args"),
    "llamafactory.hparams.parser:get_train_args": ("args",),
    "llamafactory.hparams.parser:get_infer_args": ("args",),
    "llamafactory.hparams.parser:read_args": ("args",),
    "llamafactory.model.loader:apply_liger_kernel": ("config", "model_args", "is_trainable", "require_logits"),
    "llamafactory.hparams.parser:_verify_model_args": ("model_args", "data_args", "finetuning_args"),
    "llamafactory.model.loader:patch_config": ("config", "tokenizer", "model_args", "init_kwargs", "is_trainable"),
    "transformers.modeling_utils:PreTrainedModel._load_pretrained_model": (
        "model",
        "state_dict",
        "checkpoint_files",
        "load_config",
        "expected_keys",
    ),
    "llamafactory.model.loader:load_config": ("model_args",),
    "llamafactory.model.loader:load_tokenizer": ("model_args",),
    "llamafactory.model.loader:load_model": (
        "tokenizer",
        "model_args",
        "finetuning_args",
        "is_trainable",
        "add_valuehead",
    ),
    "llamafactory.model.loader:patch_tokenizer": ("tokenizer", "model_args"),
    "llamafactory.model.adapter:init_adapter": (
        "config",
        "model",
        "model_args",
        "finetuning_args",
        "is_trainable",
    ),
    "llamafactory.model.adapter:patch_target_modules": ("model", "finetuning_args", "target_modules"),
    "llamafactory.model.model_utils.visual:_register_composite_model": (
        "model_type",
        "projector_keys",
        "vision_model_keys",
        "language_model_keys",
        "lora_conflict_keys",
    ),
    "llamafactory.extras.constants:register_model_group": ("models", "template", "multimodal"),
    "llamafactory.train.sft.trainer:CustomSeq2SeqTrainer.training_step": (
        "self",
        "model",
        "inputs",
        "num_items_in_batch",
    ),
    **{
        f"llamafactory.train.tuner:run_{stage}": (
            *("model_args", "data_args", "training_args", "finetuning_args"),
            *(("generating_args",) if stage == "sft" else ()),
            "callbacks",
        )
        for stage in ("sft", "pt", "rm", "dpo", "kto")
    },
    "transformers.generation.utils:GenerationMixin._prefill": (
        *("self", "input_ids", "generation_config", "model_kwargs"),
        "is_first_iteration",
    ),
    "accelerate.state:GradientState._set_sync_gradients": ("self", "sync_gradients"),
    "llamafactory.train.tuner:_training_function": ("config",),
    "llamafactory.train.tuner:_ray_training_function": ("ray_args", "config"),
    "llamafactory.launcher:launch": (),
    "llamafactory.v1.config.arg_parser:get_args": ("args",),
    "llamafactory.train.kto.trainer:CustomKTOTrainer.forward": ("self", "model", "batch", "prefix"),
}
"""Names we rely on with their parameters; a canary test compares them with the tested host, ``gate.py`` with
others."""

_ORIGINAL = "__chatts_original__"
_INHERITED = "__chatts_inherited__"


def resolve(owner: Any, dotted: str) -> tuple[Any, str]:
    """Return the object that holds the last part of ``dotted`` below ``owner``, and that part.

    Raises:
        ImportError: a part is missing, named with its full path.
    """
    parts = dotted.split(".")
    holder = owner
    for index, part in enumerate(parts):
        if not hasattr(holder, part):
            path = ".".join([getattr(owner, "__name__", str(owner)), *parts[: index + 1]])
            package = path.partition(".")[0]
            package = "LLaMA-Factory" if package == "llamafactory" else package
            raise ImportError(
                f"llamafactory-chatts relies on {path}, which this {package} does not have. "
                f"Install a supported version, or set {SWITCH}=0 to run without ChatTS."
            )

        if index + 1 < len(parts):
            holder = getattr(holder, part)

    return holder, parts[-1]


def is_patched(owner: Any, dotted: str) -> bool:
    """Tell whether ``dotted`` below ``owner`` is one of our replacements."""
    holder, name = resolve(owner, dotted)
    return _ORIGINAL in getattr(getattr(holder, name), "__dict__", {})


def patch(owner: Any, dotted: str, build: Callable[[Any], Any]) -> None:
    """Replace a symbol by ``build(original)``, once; the original is kept for :func:`unpatch`.

    Args:
        owner: host module.
        dotted: symbol, ``function`` or ``Class.method``.
        build: makes the replacement from the original.

    Raises:
        ImportError: the symbol is missing.
    """
    holder, name = resolve(owner, dotted)
    original = getattr(holder, name)
    if _ORIGINAL in getattr(original, "__dict__", {}):
        return

    replacement = build(original)
    if inspect.isclass(replacement):
        for key in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(replacement, key, getattr(original, key))
    else:
        functools.update_wrapper(replacement, original)

    setattr(replacement, _ORIGINAL, original)
    if inspect.isclass(holder) and name not in vars(holder):
        setattr(replacement, _INHERITED, True)

    setattr(holder, name, replacement)


def unpatch(owner: Any, dotted: str) -> None:
    """Put the original back; does nothing when the symbol is not patched."""
    holder, name = resolve(owner, dotted)
    replacement = getattr(holder, name)
    if _ORIGINAL not in getattr(replacement, "__dict__", {}):
        return

    if getattr(replacement, _INHERITED, False):
        delattr(holder, name)
    else:
        setattr(holder, name, vars(replacement)[_ORIGINAL])


def private_signature(path: str) -> tuple[str, ...]:
    """Return the parameter names of ``module:dotted`` in the installed host, seen through our patches."""
    module, dotted = path.split(":")
    holder, name = resolve(importlib.import_module(module), dotted)
    function = getattr(holder, name)
    while _ORIGINAL in getattr(function, "__dict__", {}):
        function = vars(function)[_ORIGINAL]

    return tuple(inspect.signature(function).parameters)
