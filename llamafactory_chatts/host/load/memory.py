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


def accept_adapters(parser: Any, name: str) -> None:
    """``_verify_model_args`` takes OFT adapters, and the template says that a ChatTS base is meant."""

    def build(original: Any) -> Any:
        def _verify_model_args(model_args: Any, data_args: Any, finetuning_args: Any) -> None:
            with oft_counts_as_lora(finetuning_args):
                original(model_args, data_args, finetuning_args)

            want_chatts(model_args, data_args.template)

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
