"""What a ChatTS training would tune, and with which reference: settings that would be overruled or come to nothing."""

import os
from collections.abc import Iterator

from ..context import Context
from ..finding import Finding
from .method import Refusal, adapters, quantised, refusals


CUSTOM_OPTIMIZERS = ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon", "loraplus_lr_ratio")
LAYER_PARTS = ("all", "self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
OTHER_PARTS = ("embed_tokens", "norm", "lm_head")
_FROZEN_BY = "train_timeseries_modules: false or timeseries_tuning: freeze"


def encoder_frozen(context: Context) -> bool:
    return not context.on("train_timeseries_modules", True) or context.get("timeseries_tuning") == "freeze"


def compares(context: Context) -> bool:
    """The stage has a reference model."""
    simple = context.get("pref_loss") in ("orpo", "simpo")
    return context.stage == "kto" or (context.stage == "dpo" and not simple)


def goes_on(context: Context) -> bool:
    """The last adapter that is loaded is trained on."""
    return adapters(context) and bool(context.words("adapter_name_or_path")) and not context.on("create_new_adapter")


def _sharded(context: Context) -> bool:
    return context.zero_stage == 3 or context.fsdp


def _stored_quantised(context: Context) -> bool:
    return isinstance(context.base_config.get("quantization_config"), dict)


def _named(context: Context, key: str) -> bool:
    """A person wrote the key: LlamaBoard writes its boxes for vision models into every recipe."""
    return context.recipe.get(key) is not None and "LLAMABOARD_ENABLED" not in os.environ


def _nothing_trained(context: Context) -> bool:
    if not encoder_frozen(context) or goes_on(context):
        return False

    if adapters(context):
        return context.on("freeze_language_model") and not context.words("additional_target")

    return context.on("freeze_language_model")


def _no_layers(context: Context) -> bool:
    none = context.method == "freeze" and context.number("freeze_trainable_layers", 2) == 0
    return none and encoder_frozen(context) and not context.words("freeze_extra_modules")


def _uneven_blocks(context: Context) -> bool:
    layers, wanted = context.base_config.get("num_hidden_layers"), context.number("freeze_trainable_layers", 2)
    return context.on("use_llama_pro") and (not wanted or (isinstance(layers, int) and layers % wanted != 0))


def _unknown(context: Context, key: str, known: tuple[str, ...]) -> bool:
    return context.method == "freeze" and any(word not in known for word in context.words(key))


REFUSED_TUNING: tuple[Refusal, ...] = (
    # what is trained
    (
        "freeze_multi_modal_projector",
        lambda c: (
            _named(c, "freeze_multi_modal_projector")
            and c.on("freeze_multi_modal_projector")
            and not encoder_frozen(c)
        ),
        "the series encoder stands in the projector's place, and it would be trained",
        "Write train_timeseries_modules: false to freeze the encoder, or remove freeze_multi_modal_projector",
    ),
    (
        "freeze_multi_modal_projector",
        lambda c: (
            _named(c, "freeze_multi_modal_projector")
            and not c.on("freeze_multi_modal_projector")
            and encoder_frozen(c)
        ),
        f"the series encoder stands in the projector's place, and {_FROZEN_BY} freezes it",
        "Remove one of the two",
    ),
    (
        "freeze_language_model",
        _nothing_trained,
        f"nothing is trained: {_FROZEN_BY} freezes the encoder, too",
        "Remove freeze_language_model, or train the encoder",
    ),
    (
        "freeze_trainable_layers",
        _no_layers,
        f"nothing is trained: 0 layers, and {_FROZEN_BY} freezes the encoder",
        "Write freeze_trainable_layers: 2, or train the encoder",
    ),
    (
        "freeze_trainable_layers",
        _uneven_blocks,
        "use_llama_pro needs a number that divides the layers of the base",
        "Write such a number, or remove use_llama_pro",
    ),
    (
        "freeze_trainable_modules",
        lambda c: _unknown(c, "freeze_trainable_modules", LAYER_PARTS),
        "a layer has no part of this name",
        f"Use some of {', '.join(LAYER_PARTS)}",
    ),
    (
        "freeze_extra_modules",
        lambda c: _unknown(c, "freeze_extra_modules", OTHER_PARTS),
        "there is no module of this name outside the layers",
        f"Use some of {', '.join(OTHER_PARTS)}; the encoder has train_timeseries_modules",
    ),
    # the encoder's learning rate
    *(
        (
            "timeseries_sft_lr",
            lambda c, key=key: c.get("timeseries_sft_lr") is not None and c.on(key),
            f"{key} builds its own parameter groups, which would ignore it",
            f"Remove timeseries_sft_lr or {key}",
        )
        for key in CUSTOM_OPTIMIZERS
    ),
    # adapters that are made
    (
        "use_dora",
        lambda c: c.on("use_dora") and c.number("quantization_bit") == 8 and c.on("use_cpu"),
        "bitsandbytes quantises to 8 bits on a GPU only, and DoRA needs the quantised weights from the start",
        "Write quantization_bit: 4, or remove use_cpu",
    ),
    # adapters that are loaded
    (
        "create_new_adapter",
        lambda c: (
            c.on("create_new_adapter")
            and c.words("adapter_name_or_path")
            and (quantised(c) or _stored_quantised(c) or _sharded(c))
        ),
        "the loaded adapter would have to be merged, which quantised weights and ZeRO-3 do not allow",
        "Merge it first (llamafactory-cli export), or remove create_new_adapter to train it on",
    ),
    (
        "adapter_name_or_path",
        lambda c: len(c.words("adapter_name_or_path")) > 1 and (quantised(c) or _stored_quantised(c) or _sharded(c)),
        "quantised weights and ZeRO-3 take a single adapter",
        "Merge them first (llamafactory-cli export)",
    ),
    (
        "additional_target",
        lambda c: (
            adapters(c)
            and c.zero_stage == 3
            and any(word.split(".")[-1] == "lm_head" for word in c.words("additional_target"))
        ),
        "the copy of lm_head that is trained stops at the first step with DeepSpeed ZeRO-3",
        "Take lm_head out of additional_target, or use ZeRO-2 or no DeepSpeed",
    ),
    # PiSSA
    (
        "pissa_init",
        lambda c: c.on("pissa_init") and (compares(c) or c.stage == "ppo"),
        "PiSSA changes the base, which is the reference of this stage",
        "Remove pissa_init",
    ),
    (
        "pissa_init",
        lambda c: c.on("pissa_init") and (_sharded(c) or _stored_quantised(c)),
        "PiSSA needs the whole 16-bit weights",
        "Train without ZeRO-3 and FSDP on a 16-bit base, or remove pissa_init",
    ),
    (
        "pissa_init",
        lambda c: c.on("pissa_init") and goes_on(c),
        "the loaded adapter is trained on, it has begun already",
        "Add create_new_adapter: true, or remove pissa_init",
    ),
    (
        "pissa_convert",
        lambda c: c.on("pissa_convert") and not c.on("pissa_init"),
        "no PiSSA adapter is made that could be converted",
        "Add pissa_init: true, or remove pissa_convert",
    ),
    # the reference of DPO and KTO
    *(
        (
            key,
            lambda c, key=key: c.get(key) is not None and not c.get("ref_model") and compares(c),
            "it belongs to ref_model, without which it is ignored",
            f"Add ref_model: (the base), or remove {key}",
        )
        for key in ("ref_model_adapters", "ref_model_quantization_bit")
    ),
    (
        "adapter_name_or_path",
        lambda c: compares(c) and goes_on(c) and c.method == "lora" and not c.get("ref_model") and _sharded(c),
        "the reference is the model with this adapter, which ZeRO-3 and FSDP cannot keep beside the trained one",
        "Name it in ref_model (the base) and ref_model_adapters (the adapter), or use ZeRO-2 or no DeepSpeed",
    ),
    *(
        (
            key,
            lambda c, key=key: c.on(key) and compares(c) and (c.get("ref_model") or c.method != "lora"),
            "the reference is a second model, which is not trained and cannot be loaded so",
            f"Remove {key}, or write finetuning_type: lora without ref_model",
        )
        for key in ("offload_embedding", "lm_head_8bit")
    ),
)
"""Refused with a ChatTS base: key, condition, what, fix."""


def tuning_contradictions(context: Context) -> Iterator[Finding]:
    """Settings of the method that would be overruled, ignored, or leave nothing to train."""
    yield from refusals(context, REFUSED_TUNING if context.is_chatts and context.on("do_train") else ())


def vision_settings(context: Context) -> Iterator[Finding]:
    """``freeze_vision_tower`` stands in recipes of vision models; here there is nothing that it freezes."""
    key = "freeze_vision_tower"
    if context.is_chatts and context.on("do_train") and _named(context, key) and not encoder_frozen(context):
        what = "there is no vision tower, it has no effect: the series encoder is trained"
        yield Finding("warning", key, what, context.recipe.where(key), "Remove it, or train_timeseries_modules: false")
