"""How the encoder is tuned: rows in LLaMA-Factory's table of composite models, and what adapters do with it."""

from typing import Any

from ...core.contract import QWEN2_TYPE, QWEN3_TYPE, TIMESERIES_TUNING
from ...core.errors import ChatTSError
from ..compat import patch
from .adapter_kinds import quantised_as_the_host_spells_it
from .base_fingerprint import compare_base, goes_on, remember_base
from .pissa import start_alike
from .recognising import is_chatts_model
from .reference import compares_with_start, keep_start


ENCODER = "ts_encoder"
ADAPTED = (".lora_", ".oft_")
"""What is in the names of an adapter's own parameters."""


def add_composite_models(visual: Any, name: str) -> None:
    """Tell the host which part is the encoder and which the language model, for both kinds.

    The encoder stands in the projector column: there it is left out of ``lora_target: all``, its output is
    cast under quantisation, and one flag decides whether it is trained.
    """
    for model_type in (QWEN2_TYPE, QWEN3_TYPE):
        if model_type not in visual.COMPOSITE_MODELS:
            visual._register_composite_model(
                model_type=model_type, projector_keys=[ENCODER], language_model_keys=["model", "lm_head"]
            )


def tuning_mode(finetuning_args: Any) -> str:
    """Return ``lora``, ``full`` or ``freeze`` for an adapter method."""
    if not finetuning_args.train_timeseries_modules:
        return "freeze"

    default = "full" if ENCODER in (finetuning_args.additional_target or []) else TIMESERIES_TUNING[0]
    return finetuning_args.timeseries_tuning or default


def encoder_layers(model: Any) -> list[str]:
    """Return the full names of the linear layers of the encoder's MLP."""
    return [
        name
        for name, module in model.named_modules()
        if name.startswith(f"{ENCODER}.mlp.") and "Linear" in type(module).__name__
    ]


def _check_targets(model: Any, wanted: list[str]) -> None:
    """Raise a :class:`ChatTSError` for each wanted name that no layer of the language model has."""
    layers = [name for name, _ in model.named_modules() if not name.startswith(ENCODER)]
    absent = [item for item in wanted if not any(item in layer for layer in layers)]
    if absent:
        raise ChatTSError(
            f"no layer is called {', '.join(absent)}",
            where="lora_target",
            fix="Use all, or names such as q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
        )


def target_encoder(adapter: Any, name: str) -> None:
    """Add the encoder's MLP to the adapter's targets, by full name, when ``timeseries_tuning`` is ``lora``."""

    def build(original: Any) -> Any:
        def patch_target_modules(model: Any, finetuning_args: Any, target_modules: list[str]) -> list[str]:
            targets = original(model, finetuning_args, target_modules)
            if not is_chatts_model(model.config):
                return targets

            targets = [target for target in targets if not target.startswith(ENCODER)]
            if not finetuning_args.freeze_language_model:
                _check_targets(model, target_modules)

            targets += encoder_layers(model) if tuning_mode(finetuning_args) == "lora" else []
            if not targets:
                raise ChatTSError(
                    "no layer is left for the adapter",
                    where="freeze_language_model",
                    fix="Remove it, or use finetuning_type: full to train the encoder alone",
                )

            return targets

        return patch_target_modules

    patch(adapter, name, build)


def _check_loaded_adapter(model: Any, finetuning_args: Any) -> None:
    """A resumed adapter fixes how the encoder is tuned; say so when the recipe asks for something else."""
    asked = finetuning_args.timeseries_tuning if finetuning_args.train_timeseries_modules else "freeze"
    if asked is None:
        return

    # peft shortens its list of targets, so the names of the parameters tell
    names = [name for name, _ in model.named_parameters() if f"{ENCODER}." in name]
    saved = any(".modules_to_save." in name for name in names)
    adapted = any(mark in name for name in names for mark in ADAPTED)
    found = "full" if saved else "lora" if adapted else "freeze"
    if found != asked:
        raise ChatTSError(
            f"the loaded adapter was made with {found}, the recipe asks for {asked}",
            where="timeseries_tuning",
            fix=f"Set timeseries_tuning: {found}, or create_new_adapter: true",
        )


def describe_encoder(model: Any) -> str:
    """Return one line: what of the encoder is trained, whatever the host's own lines say."""

    def count(params: Any) -> int:
        return sum(getattr(param, "ds_numel", param.numel()) for param in params)  # ZeRO-3 leaves them empty

    named = [(name, param) for name, param in model.named_parameters() if f"{ENCODER}." in name]
    trained = [(name, param) for name, param in named if param.requires_grad]
    if not trained:
        return f"ChatTS: the series encoder ({ENCODER}) is frozen."

    adapted = any(mark in name for name, _ in trained for mark in ADAPTED)
    how = "by adapters on its MLP" if adapted else "as a whole"
    beside = ", saved beside the adapter" if any(".modules_to_save." in name for name, _ in trained) else ""
    size = count(param for _, param in trained)
    return f"ChatTS: the series encoder ({ENCODER}) is trained {how}: {size:,} parameters{beside}."


def tune_encoder(adapter: Any, name: str) -> None:
    """Train the encoder as ``train_timeseries_modules`` and ``timeseries_tuning`` say, and say so, or stop."""

    def build(original: Any) -> Any:
        def init_adapter(config: Any, model: Any, model_args: Any, finetuning_args: Any, is_trainable: bool) -> Any:
            if not is_chatts_model(config):
                if is_trainable and finetuning_args.timeseries_sft_lr is not None:
                    raise ChatTSError("this model has no series encoder", where="timeseries_sft_lr", fix="Remove it")

                return original(config, model, model_args, finetuning_args, is_trainable)

            with_adapter = finetuning_args.finetuning_type in ("lora", "oft")
            # the encoder is the projector in the host's table; there is no vision tower to say anything about
            finetuning_args.freeze_multi_modal_projector = not finetuning_args.train_timeseries_modules
            finetuning_args.freeze_vision_tower = False
            if is_trainable and with_adapter and tuning_mode(finetuning_args) == "full":
                extra = list(finetuning_args.additional_target or [])
                finetuning_args.additional_target = extra + [ENCODER] * (ENCODER not in extra)

            compare_base(model_args, finetuning_args, config, adapter.logger)
            start_alike()
            with quantised_as_the_host_spells_it(adapter, model):
                model = original(config, model, model_args, finetuning_args, is_trainable)

            if is_trainable:
                _after_adapter(model, model_args, finetuning_args, adapter.logger)

            return model

        return init_adapter

    patch(adapter, name, build)


def _after_adapter(model: Any, model_args: Any, finetuning_args: Any, logger: Any) -> None:
    """Check and say what is trained; keep what later saves and the stage's reference need."""
    resumed = model_args.adapter_name_or_path is not None
    if resumed and finetuning_args.finetuning_type in ("lora", "oft"):
        _check_loaded_adapter(model, finetuning_args)

    if not any(param.requires_grad for param in model.parameters()):
        raise ChatTSError(
            "nothing is trained: encoder and language model are frozen",
            where=f"finetuning_type: {finetuning_args.finetuning_type}",
            fix="Remove freeze_language_model, or write train_timeseries_modules: true",
        )

    logger.info_rank0(describe_encoder(model))
    if finetuning_args.timeseries_sft_lr is not None:
        if not any(param.requires_grad for name, param in model.named_parameters() if ENCODER in name):
            raise ChatTSError("no parameter of the encoder is trained", where="timeseries_sft_lr", fix="Remove it")

    remember_base(model, model_args, finetuning_args)
    if compares_with_start(finetuning_args) and goes_on(model_args, finetuning_args, model.config, True):
        keep_start(model, logger)
