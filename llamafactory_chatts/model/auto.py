"""Finding the right class for a checkpoint, and the registration with transformers' Auto classes."""

from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from ..core.contract import TS_END, TS_START
from ..core.errors import ChatTSError
from .configuration_chatts import HUB_SETTINGS, Qwen2TSConfig, Qwen3TSConfig, load_config
from .modeling_chatts import Qwen2TSForCausalLM, Qwen3TSForCausalLM
from .processing_chatts import Qwen2TSProcessor, Qwen3TSProcessor, TimeSeriesProcessor


KINDS = {
    Qwen2TSConfig: (Qwen2TSForCausalLM, Qwen2TSProcessor),
    Qwen3TSConfig: (Qwen3TSForCausalLM, Qwen3TSProcessor),
}


def register_auto_classes() -> None:
    """Register both kinds with AutoConfig, AutoModelForCausalLM and AutoProcessor; safe to repeat."""
    for config, (model, processor) in KINDS.items():
        if config.model_type not in CONFIG_MAPPING._extra_content:
            AutoConfig.register(config.model_type, config, exist_ok=True)

        if config not in MODEL_FOR_CAUSAL_LM_MAPPING:
            AutoModelForCausalLM.register(config, model)

        if config not in PROCESSOR_MAPPING:
            AutoProcessor.register(config, processor)


def _require_config(name_or_path: str, **kwargs: Any):
    config = load_config(name_or_path, **kwargs)
    if config is None:
        raise ChatTSError(
            "this is no ChatTS checkpoint: its config.json has no `ts` block with `ts_token_start_index`",
            where=str(name_or_path),
            fix="Use a ChatTS checkpoint, or turn a Qwen folder into a base: lmf-chatts init-base QWEN_DIR OUT",
        )
    return config


def check_tokens(tokenizer: PreTrainedTokenizerBase, config: Any, where: str) -> None:
    """Raise a :class:`ChatTSError` unless the tokenizer has ``<ts>`` and ``<ts/>`` at the ids of the config."""
    for token, index in ((TS_START, config.ts_token_start_index), (TS_END, config.ts_token_end_index)):
        ids = tokenizer.encode(token, add_special_tokens=False)
        if ids != [index]:
            raise ChatTSError(
                f"the tokenizer writes {token} as {ids}, the config says {index}",
                where=where,
                fix="Use the tokenizer files of the ChatTS checkpoint, or build a base with lmf-chatts init-base",
            )


def processor_for(config: Any, tokenizer: PreTrainedTokenizerBase) -> TimeSeriesProcessor:
    """Return the processor that fits a config, on a tokenizer that is already loaded."""
    check_tokens(tokenizer, config, getattr(config, "_name_or_path", "") or "tokenizer")
    ts = config.time_series
    return KINDS[type(config)][1](
        tokenizer=tokenizer, patch_size=ts["patch_size"], max_sequence_length=ts["max_sequence_length"]
    )


def load_processor(name_or_path: str, **kwargs: Any) -> TimeSeriesProcessor:
    """Load the processor of any ChatTS folder or hub name; no code from the checkpoint is run.

    Raises:
        ChatTSError: no ChatTS checkpoint, or its tokenizer lacks the time-series tokens.
    """
    kwargs.pop("trust_remote_code", None)
    config = _require_config(name_or_path, **kwargs)
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, config=config, trust_remote_code=False, **kwargs)
    return processor_for(config, tokenizer)


def from_pretrained(name_or_path: str, **kwargs: Any):
    """Load a model from any ChatTS folder or hub name, recognised by its ``ts`` block.

    Args:
        name_or_path: folder or hub name; ``model_type`` may say ``chatts``, ``qwen3ts``, ``qwen2`` or ``qwen3``.
        kwargs: as for :meth:`transformers.PreTrainedModel.from_pretrained` (``dtype``, ``device_map``,
            ``quantization_config``, ...). With bitsandbytes the encoder stays unquantised.
            ``trust_remote_code`` has no effect.

    Raises:
        ChatTSError: no ChatTS checkpoint, an unknown backbone, or missing encoder weights.
    """
    kwargs.pop("trust_remote_code", None)
    hub = {key: kwargs[key] for key in HUB_SETTINGS if key in kwargs}
    config = kwargs.pop("config", None) or _require_config(name_or_path, **hub)
    if type(config) not in KINDS:
        raise ChatTSError(
            f"a {type(config).__name__} has no time-series encoder",
            where="config",
            fix="Leave config=... out, or pass the result of llamafactory_chatts.model.load_config",
        )

    return KINDS[type(config)][0].from_pretrained(name_or_path, config=config, **kwargs)
