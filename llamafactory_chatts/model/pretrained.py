"""From a checkpoint folder to a model and back."""

from typing import Any

from transformers import BitsAndBytesConfig

from ..core.errors import ChatTSError
from .checkpoint_files import copy_published_files


class ChatTSFiles:
    """How both kinds are read from a checkpoint folder and written to one."""

    @classmethod
    def from_pretrained(cls, name_or_path: Any, *args: Any, **kwargs: Any):
        """Load a checkpoint; the encoder is left unquantised and must be present.

        Raises:
            ChatTSError: the checkpoint has no encoder weights (it would train on random ones).
        """
        quantization = kwargs.get("quantization_config")
        if isinstance(quantization, dict) and (quantization.get("load_in_4bit") or quantization.get("load_in_8bit")):
            quantization = kwargs["quantization_config"] = BitsAndBytesConfig.from_dict(quantization)

        if isinstance(quantization, BitsAndBytesConfig):
            skipped = quantization.llm_int8_skip_modules or ["lm_head"]
            quantization.llm_int8_skip_modules = sorted({*skipped, "ts_encoder"})

        want_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(name_or_path, *args, output_loading_info=True, **kwargs)
        missing = sorted(key for key in info["missing_keys"] if key.startswith("ts_encoder."))
        if missing:
            raise ChatTSError(
                f"the checkpoint has no weights for {', '.join(missing[:3])}"
                + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
                where=str(name_or_path),
                fix="Use a complete ChatTS checkpoint, or build a base: lmf-chatts init-base QWEN_DIR OUT",
            )

        return (model, info) if want_info else model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            copy_published_files(self.config, save_directory)
