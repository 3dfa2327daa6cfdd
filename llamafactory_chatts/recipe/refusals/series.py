"""Settings of this package, and what a ChatTS base cannot do."""

import os
from collections.abc import Callable, Iterator

from ..context import Context
from .refusal import Refusal


OWN_OPTIMIZERS = ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon", "loraplus_lr_ratio")
"""They make parameter groups of their own."""

LAYER_PARTS = ("all", "self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
OTHER_PARTS = ("embed_tokens", "norm", "lm_head")
SAVINGS = {"offload_embedding": "embed_tokens", "lm_head_8bit": "lm_head"}
"""Setting that saves GPU memory -> the module that it replaces."""

ENGINES = {
    "use_mca": "Megatron (mcore_adapter)",
    "use_hyper_parallel": "HyperParallel",
    "use_kt": "KTransformers",
}
"""Keys that start another engine of the host."""

_FROZEN_BY = "train_timeseries_modules: false or timeseries_tuning: freeze"
LOST = "which loads and trains without this package: the series would be lost"


def named_by_hand(context: Context, key: str) -> bool:
    """A person wrote the key: LlamaBoard writes its boxes for vision models into every recipe."""
    return context.recipe.get(key) is not None and "LLAMABOARD_ENABLED" not in os.environ


def _in_passes(context: Context) -> bool:
    """A training takes its rows in passes of so many tokens; the same recipe may also predict."""
    return bool(context.get("tokens_per_batch")) and context.on("do_train")


def _nothing_trained(context: Context) -> bool:
    if not context.encoder_frozen or context.goes_on:
        return False

    if context.adapters:
        return context.on("freeze_language_model") and not context.words("additional_target")

    return context.on("freeze_language_model")


def _no_layers(context: Context) -> bool:
    none = context.method == "freeze" and context.number("freeze_trainable_layers", 2) == 0
    return none and context.encoder_frozen and not context.words("freeze_extra_modules")


def _uneven_blocks(context: Context) -> bool:
    layers, wanted = context.base_config.get("num_hidden_layers"), context.number("freeze_trainable_layers", 2)
    return context.on("use_llama_pro") and (not wanted or (isinstance(layers, int) and layers % wanted != 0))


def _unknown(context: Context, key: str, known: tuple[str, ...]) -> bool:
    return context.method == "freeze" and any(word not in known for word in context.words(key))


def _both(first: str, second: str) -> Callable[[Context], bool]:
    return lambda context: context.on(first) and context.on(second)


def _trained(key: str, module: str, targets: str) -> Callable[[Context], bool]:
    return lambda context: context.on(key) and module in (word.split(".")[-1] for word in context.words(targets))


def _saving(key: str, module: str) -> Iterator[Refusal]:
    """Yield what does not go with a setting that replaces ``module`` while adapters are trained in 4 or 8 bits."""
    yield (key, lambda c: c.on(key) and not c.adapters, "it is for adapter methods", f"Remove {key}")
    yield (
        key,
        lambda c: c.on(key) and c.adapters and not (c.quantised and str(c.get("quantization_method", "bnb")) == "bnb"),
        "the model is not quantised with bitsandbytes",
        f"Add quantization_bit: 4, or remove {key}",
    )
    yield (
        key,
        lambda c: c.on(key) and c.sharded,
        "ZeRO-3 and FSDP spread the weights themselves",
        f"Remove {key}, or use ZeRO-2",
    )
    yield (
        key,
        lambda c: c.on(key) and c.compares and (c.get("ref_model") or c.method != "lora"),
        "the reference is a second model, which is not trained and cannot be loaded so",
        f"Remove {key}, or write finetuning_type: lora without ref_model",
    )
    for targets in ("additional_target", "lora_target"):
        yield (
            targets,
            _trained(key, module, targets),
            f"it trains {module}, which {key} freezes",
            f"Take {module} out of {targets}, or remove {key}",
        )

    for setting, why in {
        "resize_vocab": "it changes the embeddings",
        "add_tokens": "it changes the embeddings",
        "add_special_tokens": "it changes the embeddings",
        "train_from_scratch": "it makes random weights, there is no file to read",
        **({"upcast_lmhead_output": "it works on the 16-bit layer only"} if key == "lm_head_8bit" else {}),
    }.items():
        yield (
            setting,
            _both(key, setting),
            f"{why}, which does not go with {key}",
            f"Remove {setting} or {key}",
        )


SERIES_AS_TEXT: Refusal = (
    "stage",
    lambda c: c.stage == "pt" and c.series_entries,
    "stage pt trains on plain text and would leave the series out",
    "Write stage: sft",
)

OWN: tuple[Refusal, ...] = (
    *(
        (key, lambda c, key=key: c.on(key), "it replaces the model classes and would lose the encoder", "Remove it")
        for key in ("use_unsloth", "mixture_of_depths")
    ),
    ("use_asft_loss", lambda c: c.on("use_asft_loss"), "its reference model is not given the series", "Remove it"),
    (
        "label_smoothing_factor",
        lambda c: c.number("label_smoothing_factor", 0.0),
        "the host smooths unshifted labels for models it does not know",
        "Remove it",
    ),
    SERIES_AS_TEXT,
    (
        "packing",
        lambda c: c.on("packing") and c.trains and c.stage != "sft",
        "with template chatts it means neat_packing, which is for stage sft",
        "Remove packing",
    ),
    (
        "timeseries_tuning",
        lambda c: c.get("timeseries_tuning") and not c.adapters,
        "it is for adapter methods",
        "Remove it; train_timeseries_modules says whether the encoder is trained",
    ),
    (
        "timeseries_tuning",
        lambda c: c.get("timeseries_tuning") in ("lora", "full") and not c.on("train_timeseries_modules", True),
        "it contradicts train_timeseries_modules: false",
        "Remove one of the two",
    ),
    (
        "timeseries_sft_lr",
        lambda c: c.get("timeseries_sft_lr") is not None and c.encoder_frozen,
        "the encoder is not trained, so it has no learning rate",
        "Remove it, or train the encoder",
    ),
    (
        "timeseries_sft_lr",
        lambda c: (c.number("timeseries_sft_lr", 1.0) or 0.0) <= 0,
        "it must be above 0",
        "Write timeseries_tuning: freeze to stop the encoder",
    ),
    *(
        (
            "timeseries_sft_lr",
            lambda c, key=key: c.get("timeseries_sft_lr") is not None and c.on(key),
            f"{key} builds its own parameter groups, which would ignore it",
            f"Remove timeseries_sft_lr or {key}",
        )
        for key in OWN_OPTIMIZERS
    ),
    (
        "tokens_per_batch",
        lambda c: _in_passes(c) and c.packs,
        "tokens_per_batch fills passes already",
        "Remove packing and neat_packing",
    ),
    (
        "tokens_per_batch",
        lambda c: _in_passes(c) and c.stage != "sft",
        "it is for stage sft",
        "Remove it",
    ),
    (
        "tokens_per_batch",
        lambda c: _in_passes(c) and c.on("auto_find_batch_size"),
        "auto_find_batch_size changes the rows of a step, not the tokens of a pass",
        "Remove one of the two",
    ),
    *(
        (
            "tokens_per_batch",
            lambda c, key=key: _in_passes(c) and c.on(key),
            f"{key} has a loss of its own",
            f"Remove tokens_per_batch or {key}",
        )
        for key in ("use_dft_loss", "use_eaft_loss")
    ),
    *(
        (
            "tokens_per_batch",
            lambda c, key=key: _in_passes(c) and c.on(f"use_{key}") and c.on(f"{key}_layerwise"),
            f"{key}_layerwise updates the weights in every backward pass",
            f"Remove tokens_per_batch or {key}_layerwise",
        )
        for key in ("galore", "apollo")
    ),
    (
        "tokens_per_batch",
        lambda c: _in_passes(c) and any(name in str(c.get("optim")) for name in ("lomo", "layerwise")),
        "this optim updates the weights in every backward pass",
        "Remove tokens_per_batch or optim",
    ),
    *(row for key, module in SAVINGS.items() for row in _saving(key, module)),
    (
        "loss_normalization",
        lambda c: c.get("loss_normalization") == "batch" and c.stage not in ("sft", "pt"),
        "this stage has a loss of its own",
        "Remove it",
    ),
    (
        "additional_target",
        lambda c: (
            c.adapters
            and "ts_encoder" in c.words("additional_target")
            and (c.encoder_frozen or c.get("timeseries_tuning") == "lora")
        ),
        "ts_encoder contradicts timeseries_tuning or train_timeseries_modules",
        "Take it out; timeseries_tuning: full trains and saves all of the encoder",
    ),
    (
        "adapter_name_or_path",
        lambda c: c.compares and c.goes_on and c.method == "lora" and not c.get("ref_model") and c.sharded,
        "the reference is the model with this adapter, which ZeRO-3 and FSDP cannot keep beside the trained one",
        "Name it in ref_model (the base) and ref_model_adapters (the adapter), or use ZeRO-2 or no DeepSpeed",
    ),
    *(
        (key, lambda c, key=key: c.on(key), f"it starts {engine}, {LOST}", f"Remove {key}")
        for key, engine in ENGINES.items()
    ),
    (
        "stage",
        lambda c: c.stage == "ppo",
        "PPO is not supported: its trainer lets the model answer prompts without their series",
        "Write stage: dpo or kto, which learn from preferences with series",
    ),
)
"""Refused with a ChatTS base or template, also where LLAMAFACTORY_CHATTS_PREFLIGHT=0 leaves the rest to the host."""

NOT_OURS: tuple[Refusal, ...] = (("tokens_per_batch", _in_passes, "it is for template chatts", "Remove it"),)
"""Our settings that do nothing for other models."""

ENCODER: tuple[Refusal, ...] = (
    (
        "freeze_multi_modal_projector",
        lambda c: (
            named_by_hand(c, "freeze_multi_modal_projector")
            and c.on("freeze_multi_modal_projector")
            and not c.encoder_frozen
        ),
        "the series encoder stands in the projector's place, and it would be trained",
        "Write train_timeseries_modules: false to freeze the encoder, or remove freeze_multi_modal_projector",
    ),
    (
        "freeze_multi_modal_projector",
        lambda c: (
            named_by_hand(c, "freeze_multi_modal_projector")
            and not c.on("freeze_multi_modal_projector")
            and c.encoder_frozen
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
)
"""What would train something else than is meant, or nothing; with a ChatTS base."""
