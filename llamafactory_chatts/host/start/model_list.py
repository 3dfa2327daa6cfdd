"""ChatTS in LLaMA-Factory's list of models."""

from typing import Any

from ...core.contract import TEMPLATE


MODELS = {
    "ChatTS-8B": ("bytedance-research/ChatTS-8B", "bytedance-research/ChatTS-8B"),
    "ChatTS-14B": ("bytedance-research/ChatTS-14B", "bytedance-research/ChatTS-14B"),
}
"""Name in LlamaBoard -> repository on the Hugging Face hub and on ModelScope."""


def add_models(constants: Any, name: str) -> None:
    """Add both models with template ``chatts``."""
    sources = constants.DownloadSource
    constants.register_model_group(
        models={
            model: {sources.DEFAULT: default, sources.MODELSCOPE: modelscope}
            for model, (default, modelscope) in MODELS.items()
        },
        template=TEMPLATE,
        multimodal=True,
    )
