"""ChatTS for transformers. Importing this registers both kinds with the Auto classes; no llamafactory here."""

from .auto import from_pretrained, load_processor, register_auto_classes
from .configuration_chatts import Qwen2TSConfig, Qwen3TSConfig, is_chatts, load_config
from .encoder import TimeSeriesEncoder
from .modeling_chatts import Qwen2TSForCausalLM, Qwen3TSForCausalLM
from .processing_chatts import Qwen2TSProcessor, Qwen3TSProcessor


register_auto_classes()

__all__ = [
    "Qwen2TSConfig",
    "Qwen2TSForCausalLM",
    "Qwen2TSProcessor",
    "Qwen3TSConfig",
    "Qwen3TSForCausalLM",
    "Qwen3TSProcessor",
    "TimeSeriesEncoder",
    "from_pretrained",
    "is_chatts",
    "load_config",
    "load_processor",
    "register_auto_classes",
]
