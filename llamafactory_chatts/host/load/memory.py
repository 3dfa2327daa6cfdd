"""Settings that save GPU memory of a quantised model: its embedding in host memory, its ``lm_head`` in 8 bits."""

from dataclasses import dataclass, field
from typing import Any

from ...core.errors import ChatTSError
from ..compat import patch
from .adapter_kinds import oft_counts_as_lora
from .recognising import is_chatts_model, want_chatts


MODULES = {"offload_embedding": "embed_tokens", "lm_head_8bit": "lm_head"}
"""Setting -> the module that it replaces."""


def extend_model_arguments(module: Any, name: str) -> None:
    """Add ``offload_embedding`` and ``lm_head_8bit``."""

    def build(original: type) -> type:
        @dataclass
        class ModelArguments(original):
            offload_embedding: bool = field(
                default=False,
                metadata={
                    "help": (
                        "ChatTS, 4-bit and 8-bit training of adapters: keep the input embedding in host memory. "
                        "Same results; saves 1.16 GiB of GPU memory for 8B, 1.45 GiB for 14B."
                    )
                },
            )
            lm_head_8bit: bool = field(
                default=False,
                metadata={
                    "help": (
                        "ChatTS, 4-bit and 8-bit training of adapters: keep lm_head in 8 bits, one scale per row. "
                        "Saves 0.58 GiB of GPU memory for 8B, 0.72 GiB for 14B."
                    )
                },
            )

        return ModelArguments

    patch(module, name, build)


def wanted_savings(model_args: Any) -> list[str]:
    """Return the names of the settings that are on."""
    return [key for key in MODULES if getattr(model_args, key, False)]


def check_savings(model_args: Any, finetuning_args: Any) -> None:
    """Raise a :class:`ChatTSError` for settings under which the replaced modules could not do their work."""
    for key in wanted_savings(model_args):
        reason = _conflict(key, model_args, finetuning_args)
        if reason is not None:
            raise ChatTSError(reason[0], where=key, fix=reason[1])


def _conflict(key: str, model_args: Any, finetuning_args: Any) -> tuple[str, str] | None:
    """Return what stands against a setting and what to do, or None."""
    from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_enabled

    if finetuning_args.finetuning_type not in ("lora", "oft"):
        return f"it is for adapter methods, finetuning_type is {finetuning_args.finetuning_type}", f"Remove {key}"

    if model_args.quantization_bit not in (4, 8) or model_args.quantization_method != "bnb":
        return "the model is not quantised with bitsandbytes", f"Set quantization_bit: 4 or 8, or remove {key}"

    if is_deepspeed_zero3_enabled() or is_fsdp_enabled():
        return "ZeRO-3 and FSDP spread the weights themselves", f"Use ZeRO-2 or no DeepSpeed, or remove {key}"

    module = MODULES[key]
    for setting in ("additional_target", "lora_target"):
        if any(str(item).split(".")[-1] == module for item in getattr(finetuning_args, setting) or []):
            return f"{setting} trains {module}, which it freezes", f"Take {module} out of {setting}, or remove {key}"

    for setting in ("resize_vocab", "add_tokens", "add_special_tokens"):
        if getattr(model_args, setting):
            return f"{setting} changes the embeddings, which it freezes", f"Remove {setting} or {key}"

    if model_args.train_from_scratch:
        return "train_from_scratch makes random weights, there is no file to read", f"Remove {key}"

    if key == "lm_head_8bit" and model_args.upcast_lmhead_output:
        return "upcast_lmhead_output works on the 16-bit layer only", "Remove upcast_lmhead_output or lm_head_8bit"

    return None


def verify_savings(parser: Any, name: str) -> None:
    """``_verify_model_args`` also looks at our settings, before any data is read, and takes OFT adapters."""

    def build(original: Any) -> Any:
        def _verify_model_args(model_args: Any, data_args: Any, finetuning_args: Any) -> None:
            with oft_counts_as_lora(finetuning_args):
                original(model_args, data_args, finetuning_args)

            want_chatts(model_args, data_args.template)
            check_savings(model_args, finetuning_args)

        return _verify_model_args

    patch(parser, name, build)


def _check_adapter(key: str, model_args: Any) -> None:
    """Raise a :class:`ChatTSError` when the adapter that is loaded trains the module; its own file says so."""
    from peft import PeftConfig

    for path in model_args.adapter_name_or_path or []:
        try:
            config = PeftConfig.from_pretrained(path, subfolder=model_args.adapter_folder)
        except (OSError, ValueError):
            return  # the host's own loading reports it

        trained = [*(getattr(config, "modules_to_save", None) or []), *(getattr(config, "target_modules", None) or [])]
        if any(item.split(".")[-1] == MODULES[key] for item in trained):
            raise ChatTSError(
                f"the adapter {path} trains {MODULES[key]}, which it freezes",
                where=key,
                fix=f"Remove {key}, or start from another adapter",
            )


def ask_for_savings(loader: Any, name: str) -> None:
    """``patch_config`` hands the settings on to our ``from_pretrained``, or says why they cannot be had."""

    def build(original: Any) -> Any:
        def patch_config(
            config: Any, tokenizer: Any, model_args: Any, init_kwargs: dict[str, Any], is_trainable: bool
        ) -> None:
            original(config, tokenizer, model_args, init_kwargs, is_trainable)
            for key in wanted_savings(model_args):
                if not is_chatts_model(config):
                    raise ChatTSError("this is no ChatTS model", where=key, fix=f"Remove {key}")

                if not is_trainable:
                    raise ChatTSError(
                        "it is for training, and this model is not trained (chat, prediction, export, ref_model)",
                        where=key,
                        fix=f"Remove {key}",
                    )

                _check_adapter(key, model_args)
                init_kwargs[key] = True

        return patch_config

    patch(loader, name, build)
