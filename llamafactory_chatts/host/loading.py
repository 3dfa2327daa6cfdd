"""LLaMA-Factory's loader: a ChatTS checkpoint is recognised by what it has and loaded without its own code."""

import copy
from typing import Any

from ..core.contract import QWEN2_TYPE, QWEN3_TYPE, TEMPLATE
from ..core.errors import ChatTSError, shorten
from .base_fingerprint import compare_base, goes_on
from .compat import patch
from .deepspeed_gather import gather_in_order
from .deepspeed_steps import mend_zero_steps
from .reference import check_reference, compares_with_start


_READ = "_chatts_read"
_WANTED = "_chatts_wanted"


def want_chatts(model_args: Any, template: str | None) -> None:
    """Remember whether a run's template needs a ChatTS base; the loader is not given the template."""
    setattr(model_args, _WANTED, template == TEMPLATE)


def no_chatts_base(name: Any) -> ChatTSError:
    """Return the error for template ``chatts`` with another model."""
    return ChatTSError(
        f"template {TEMPLATE} needs a ChatTS base: there is no `ts` block in its config.json",
        where=str(name),
        fix="Name a ChatTS checkpoint, or make one of a Qwen folder: lmf-chatts init-base QWEN_DIR OUT",
    )


def chatts_config(loader: Any, model_args: Any) -> Any:
    """Return the ChatTS config of ``model_name_or_path``, a new one each time, or None for any other model.

    The file is read once for the same ``model_args``. Where it cannot be read, the host's own loading reports it,
    unless it would run code of the checkpoint or the template says that it must be ChatTS.

    Raises:
        ChatTSError: it cannot be read, or template ``chatts`` with another model.
    """
    from ..model.configuration_chatts import build_config, is_chatts, read_config

    init_kwargs = loader._get_init_kwargs(model_args)  # also replaces the name by the folder of another hub
    init_kwargs.pop("trust_remote_code")
    name, wanted = model_args.model_name_or_path, getattr(model_args, _WANTED, False)
    key, content = getattr(model_args, _READ, (None, None))
    if key != (name, init_kwargs["revision"]):
        try:
            content = read_config(name, **init_kwargs)
            if not content[0]:
                raise FileNotFoundError("there is no such file")

            is_chatts(content[0])
        except Exception as err:  # a hub's library raises what its own HTTP client does
            if wanted or model_args.trust_remote_code:
                raise unreadable_config(name, err) from err

            if isinstance(err, (OSError, ValueError)):
                return None

            raise

        setattr(model_args, _READ, ((name, init_kwargs["revision"]), content))

    config_dict, kwargs = copy.deepcopy(content)
    if is_chatts(config_dict):
        return build_config(config_dict, name, **kwargs)

    if wanted:
        raise no_chatts_base(name)

    return None


def unreadable_config(name: Any, err: Exception) -> ChatTSError:
    """Return the error for a ``config.json`` that cannot be read: what the model is, is then not known."""
    return ChatTSError(
        f"its config.json could not be read ({type(err).__name__}: {shorten(err, 200)}), so it is not known whether "
        "this is a ChatTS checkpoint. Nothing was loaded and no code of the checkpoint was run",
        where=str(name),
        fix="Check the name, the file and its permissions or the connection to the hub, then start again",
    )


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

            from ..model.auto import processor_for

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
    """``load_model`` refuses what would replace the ChatTS classes, and asks for the logits that a stage needs."""

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

            for key in ("use_unsloth", "mixture_of_depths"):
                if getattr(model_args, key):
                    raise ChatTSError(
                        "it replaces the model classes and would lose the encoder", where=key, fix=f"Remove {key}"
                    )

            if finetuning_args.use_asft_loss:
                raise ChatTSError(
                    "its reference model is not given the series", where="use_asft_loss", fix="Remove use_asft_loss"
                )

            compare_base(model_args, finetuning_args, config, loader.logger)
            if (
                is_trainable
                and compares_with_start(finetuning_args)
                and goes_on(model_args, finetuning_args, config, True)
            ):
                check_reference(finetuning_args)

            model_args.trust_remote_code = False
            gather_in_order()
            mend_zero_steps()
            model = original(tokenizer, model_args, finetuning_args, is_trainable, add_valuehead)
            if is_trainable:
                from .speed import use_fast_paths

                use_fast_paths(model, model_args, loader.logger)

            if finetuning_args.stage in ("pt", "sft"):  # a loss function of the host's own is called without labels
                return model

            for module in model.modules():
                if getattr(module, "ts_encoder", None) is not None and hasattr(module, "full_logits_in_training"):
                    module.full_logits_in_training = True

            return model

        return load_model

    patch(loader, name, build)


def is_chatts_model(config: Any) -> bool:
    """Tell whether a loaded model's config is one of ours."""
    return getattr(config, "model_type", None) in (QWEN2_TYPE, QWEN3_TYPE) and getattr(config, "ts", None) is not None
