"""Settings that this package refuses with a ChatTS base or template, said before anything is loaded."""

from collections.abc import Iterator

from ..context import Context
from ..finding import Finding
from .method import Refusal, adapters, packs, quantised, refusals
from .tuning import encoder_frozen


OWN_LOSSES = ("use_dft_loss", "use_eaft_loss")
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LAYER_NAMES = "model.layers.self_attn.mlp.lm_head.embed_tokens." + ".".join(LINEAR_LAYERS)


REFUSED_CHATTS: tuple[Refusal, ...] = (
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
    (
        "stage",
        lambda c: c.stage == "pt" and c.series_entries,
        "stage pt trains on plain text and would leave the series out",
        "Write stage: sft",
    ),
    (
        "packing",
        lambda c: c.on("packing") and c.trains and c.stage != "sft",
        "with template chatts it means neat_packing, which is for stage sft",
        "Remove packing",
    ),
    (
        "timeseries_tuning",
        lambda c: c.get("timeseries_tuning") and not adapters(c),
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
        lambda c: c.get("timeseries_sft_lr") is not None and encoder_frozen(c),
        "the encoder is not trained, so it has no learning rate",
        "Remove it, or train the encoder",
    ),
    (
        "timeseries_sft_lr",
        lambda c: (c.number("timeseries_sft_lr", 1.0) or 0.0) <= 0,
        "it must be above 0",
        "Write timeseries_tuning: freeze to stop the encoder",
    ),
    (
        "tokens_per_batch",
        lambda c: c.get("tokens_per_batch") and packs(c),
        "tokens_per_batch fills passes already",
        "Remove packing and neat_packing",
    ),
    (
        "tokens_per_batch",
        lambda c: c.get("tokens_per_batch") and c.stage != "sft",
        "it is for stage sft",
        "Remove it",
    ),
    (
        "tokens_per_batch",
        lambda c: c.get("tokens_per_batch") and c.on("auto_find_batch_size"),
        "auto_find_batch_size changes the rows of a step, not the tokens of a pass",
        "Remove one of the two",
    ),
    (
        "tokens_per_batch",
        lambda c: c.get("tokens_per_batch") and any(c.on(key) for key in OWN_LOSSES),
        "use_dft_loss and use_eaft_loss have a loss of their own",
        "Remove one of the two",
    ),
    *(
        (
            key,
            lambda c, key=key: c.on(key) and not (adapters(c) and quantised(c)),
            "it is for training adapters on a quantised model",
            f"Add quantization_bit: 4, or remove {key}",
        )
        for key in ("offload_embedding", "lm_head_8bit")
    ),
    *(
        (
            key,
            lambda c, key=key: c.on(key) and (c.zero_stage == 3 or c.fsdp),
            "ZeRO-3 and FSDP spread the weights themselves",
            f"Remove {key}, or use ZeRO-2",
        )
        for key in ("offload_embedding", "lm_head_8bit")
    ),
    (
        "loss_normalization",
        lambda c: c.get("loss_normalization") == "batch" and c.stage not in ("sft", "pt"),
        "this stage has a loss of its own",
        "Remove it",
    ),
)
"""Refused by this package, with a ChatTS base or template."""


def chatts_contradictions(context: Context) -> Iterator[Finding]:
    """Combinations that stop a ChatTS training."""
    yield from refusals(context, REFUSED_CHATTS if context.is_chatts else ())


def unknown_layers(context: Context) -> Iterator[Finding]:
    """Names in ``lora_target`` and ``additional_target`` that no layer of a ChatTS model has."""
    targets = context.words("lora_target")
    if not context.is_chatts or context.method != "lora" or targets == ["all"] or context.on("freeze_language_model"):
        return

    if "lora_target" in context.recipe.values and not targets:
        where = context.recipe.where("lora_target")
        yield Finding("error", "lora_target", "it names no layer", where, "Write all, or remove it")

    known = f"{_LAYER_NAMES}.ts_encoder.norm"
    unknown = [name for name in context.words("additional_target") if not any(sign in name for sign in ".*[(^$|")]
    unknown = [name for name in unknown if name not in known]
    if unknown:
        where, fix = (
            context.recipe.where("additional_target"),
            "Write embed_tokens, lm_head or ts_encoder, or remove it",
        )
        yield Finding("error", "additional_target", f"no module is called {', '.join(unknown)}", where, fix)

    plain = [target for target in targets if "." not in target and not any(sign in target for sign in "*[(^$")]
    absent = [target for target in plain if target not in _LAYER_NAMES]
    if absent:
        yield Finding(
            "error",
            "lora_target",
            f"no layer is called {', '.join(absent)}",
            context.recipe.where("lora_target"),
            f"Write all, or some of {','.join(LINEAR_LAYERS)}",
        )


def remote_code(context: Context) -> Iterator[Finding]:
    """``trust_remote_code`` stands in many recipes of the field; here it does nothing."""
    if context.is_chatts and context.on("trust_remote_code"):
        where = context.recipe.where("trust_remote_code")
        what = "it has no effect: no code from a checkpoint is run"
        yield Finding("note", "trust_remote_code", what, where, "Remove it")
