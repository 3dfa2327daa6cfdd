"""LLaMA-Factory's loader: a ChatTS checkpoint is recognised by what it has and loaded without its own code."""

from typing import Any

from ..compat import patch
from .base_fingerprint import compare_base
from .recognising import chatts_config
from .speed import use_fast_paths


def recognise_config(loader: Any, name: str) -> None:
    """``load_config`` returns our config class for any ChatTS checkpoint."""

    def build(original: Any) -> Any:
        def load_config(model_args: Any) -> Any:
            return chatts_config(loader, model_args) or original(model_args)

        return load_config

    patch(loader, name, build)


def load_native_processor(loader: Any, name: str) -> None:
    """``load_tokenizer`` gives a ChatTS checkpoint our processor and checks its tokens."""

    def build(original: Any) -> Any:
        def load_tokenizer(model_args: Any) -> Any:
            config = chatts_config(loader, model_args)
            if config is None:
                return original(model_args)

            from transformers import AutoTokenizer

            from ...model.auto import processor_for

            if model_args.trust_remote_code:
                loader.logger.info_rank0(
                    "ChatTS: trust_remote_code has no effect; no code from the checkpoint is run."
                )

            init_kwargs = loader._get_init_kwargs(model_args)
            init_kwargs["trust_remote_code"] = False
            tokenizer = AutoTokenizer.from_pretrained(
                model_args.model_name_or_path,
                config=config,
                use_fast=model_args.use_fast_tokenizer,
                split_special_tokens=model_args.split_special_tokens,
                padding_side="right",
                **init_kwargs,
            )
            processor = processor_for(config, tokenizer)
            loader.patch_tokenizer(tokenizer, model_args)
            return {"tokenizer": tokenizer, "processor": processor}

        return load_tokenizer

    patch(loader, name, build)


def prepare_model(loader: Any, name: str) -> None:
    """``load_model`` compares base and adapters, and asks for the logits that a stage needs."""

    def build(original: Any) -> Any:
        def load_model(
            tokenizer: Any,
            model_args: Any,
            finetuning_args: Any,
            is_trainable: bool = False,
            add_valuehead: bool = False,
        ) -> Any:
            config = chatts_config(loader, model_args)
            if config is None:
                return original(tokenizer, model_args, finetuning_args, is_trainable, add_valuehead)

            compare_base(model_args, finetuning_args, config, loader.logger)
            model_args.trust_remote_code = False
            model = original(tokenizer, model_args, finetuning_args, is_trainable, add_valuehead)
            if is_trainable:
                use_fast_paths(model, model_args, loader.logger)

            if finetuning_args.stage in ("pt", "sft"):  # a loss function of the host's own is called without labels
                return model

            for module in model.modules():
                if getattr(module, "ts_encoder", None) is not None and hasattr(module, "full_logits_in_training"):
                    module.full_logits_in_training = True

            return model

        return load_model

    patch(loader, name, build)
