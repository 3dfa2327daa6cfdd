"""Names of layers, and settings of the field that do nothing with a ChatTS base."""

from collections.abc import Iterator

from ..context import Context
from ..finding import Finding
from ..refusals.series import named_by_hand


LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LAYER_NAMES = "model.layers.self_attn.mlp.lm_head.embed_tokens." + ".".join(LINEAR_LAYERS)


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


def vision_settings(context: Context) -> Iterator[Finding]:
    """``freeze_vision_tower`` stands in recipes of vision models; here there is nothing that it freezes."""
    key = "freeze_vision_tower"
    if context.is_chatts and context.on("do_train") and named_by_hand(context, key) and not context.encoder_frozen:
        what = "there is no vision tower, it has no effect: the series encoder is trained"
        yield Finding("warning", key, what, context.recipe.where(key), "Remove it, or train_timeseries_modules: false")
