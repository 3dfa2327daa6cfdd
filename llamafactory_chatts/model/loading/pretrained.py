"""From a checkpoint folder to a model and back."""

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import BitsAndBytesConfig
from transformers.core_model_loading import WeightConverter
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_enabled

from ...core.errors import ChatTSError
from ...core.safetensors_folder import read_header
from .checkpoint_files import copy_published_files
from .host_embedding import HostEmbedding
from .int8_head import Int8Head
from .weight_files import HAS_PREADV, FileTensor, open_weights


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Savings:
    """What a model shall do without on the GPU; names as of the settings."""

    offload_embedding: bool = False
    lm_head_8bit: bool = False

    def names(self) -> list[str]:
        return [name for name, wanted in vars(self).items() if wanted]


_NOTHING = Savings()
_WANTED: ContextVar[Savings] = ContextVar("savings", default=_NOTHING)
"""From ``from_pretrained`` to ``_load_pretrained_model``: transformers hands nothing of ours on between the two."""


if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Backbone
else:
    _Backbone = object


class ChatTSFiles(_Backbone):
    """How both kinds are read from a checkpoint folder and written to one."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: Any,
        *args: Any,
        offload_embedding: bool = False,
        lm_head_8bit: bool = False,
        **kwargs: Any,
    ):
        """Load a checkpoint; the encoder is left unquantised and must be present.

        Args:
            name_or_path: folder or hub name.
            offload_embedding: keep the input embedding in host memory, see :class:`.HostEmbedding`.
            lm_head_8bit: keep the output layer in 8 bits, see :class:`.Int8Head`. Both need bitsandbytes quantisation,
                safetensors files, untied embeddings and one device.
            args: as for :meth:`transformers.PreTrainedModel.from_pretrained`.
            kwargs: the same.

        Raises:
            ChatTSError: the checkpoint has no encoder weights (it would train on random ones), a file of it is
                damaged, or ``offload_embedding`` or ``lm_head_8bit`` cannot be had.
        """
        quantization = kwargs.get("quantization_config")
        if isinstance(quantization, dict) and (quantization.get("load_in_4bit") or quantization.get("load_in_8bit")):
            quantization = kwargs["quantization_config"] = BitsAndBytesConfig.from_dict(quantization)

        if isinstance(quantization, BitsAndBytesConfig):
            skipped = quantization.llm_int8_skip_modules or ["lm_head"]
            quantization.llm_int8_skip_modules = sorted({*skipped, "ts_encoder"})

        want_info = kwargs.pop("output_loading_info", False)
        token = _WANTED.set(Savings(offload_embedding, lm_head_8bit))
        try:
            model, info = super().from_pretrained(name_or_path, *args, output_loading_info=True, **kwargs)
        finally:
            _WANTED.reset(token)

        missing = sorted(key for key in info["missing_keys"] if key.startswith("ts_encoder."))
        if missing:
            raise ChatTSError(
                f"the checkpoint has no weights for {', '.join(missing[:3])}"
                + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
                where=str(name_or_path),
                fix="Use a complete ChatTS checkpoint, or build a base: lmf-chatts init-base QWEN_DIR OUT",
            )

        return (model, info) if want_info else model

    @classmethod
    def _load_pretrained_model(
        cls,
        model: Any,
        state_dict: dict[str, Any] | None,
        checkpoint_files: list[str] | None,
        load_config: Any,
        expected_keys: list[str] | None = None,
    ) -> Any:
        """As in transformers, but files that are only read are not mapped into memory; see :mod:`.weight_files`.

        ZeRO-3 gets the same tensors: of its N processes only the first reads, one tensor at a time.

        Raises:
            ChatTSError: a file is damaged, or what ``from_pretrained`` was asked for cannot be had.
        """
        original, wanted = super()._load_pretrained_model, _WANTED.get()
        device = _only_device(load_config.device_map)
        if wanted.names():
            _check_possible(wanted, model, load_config, device)

        for file in checkpoint_files or []:
            if str(file).endswith(".safetensors"):
                read_header(Path(file))

        if not _is_ours(state_dict, checkpoint_files, load_config, expected_keys):
            _refuse(wanted, "this needs safetensors files", "Save the checkpoint as safetensors")
            return original(model, state_dict, checkpoint_files, load_config, expected_keys)

        straight = device if device is not None and device.type == "cuda" else None
        with open_weights(checkpoint_files or [], straight, load_config.dtype) as tensors:
            head = _replace_modules(model, tensors, load_config.dtype, wanted)
            result = original(model, tensors, checkpoint_files, load_config, expected_keys)
            if head is not None:  # last: until now it has nothing that transformers could find missing
                model.get_output_embeddings().fill(head, device, load_config.dtype)

        return result

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers, with the files of the checkpoint that an export carries along.

        Raises:
            ChatTSError: embedding or head are not what a checkpoint holds.
        """
        found = (self.get_input_embeddings(), self.get_output_embeddings())
        if isinstance(found[0], HostEmbedding) or isinstance(found[1], Int8Head):
            raise ChatTSError(
                "a model with offload_embedding or lm_head_8bit cannot be saved as a whole",
                where=str(save_directory),
                fix="Save the adapter, or load the model without them",
            )

        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            copy_published_files(self.config, save_directory)


def _is_ours(state_dict: Any, files: list[str] | None, load_config: Any, expected_keys: Any) -> bool:
    """Tell whether our tensors stand in for those of safetensors; anything rare is left to transformers.

    So are weights that stay on the CPU as they are in the file (and FSDP, which begins there): the mapped pages are
    the weights then, and processes share them.
    """
    quantizer, device_map = load_config.hf_quantizer, load_config.device_map or {}
    if quantizer is not None and not isinstance(quantizer.quantization_config, BitsAndBytesConfig):
        return False

    if quantizer is None and is_deepspeed_zero3_enabled():
        if any(isinstance(entry, WeightConverter) for entry in load_config.weight_mapping or []):
            return False
    elif quantizer is None and (is_fsdp_enabled() or set(map(str, device_map.values())) <= {"cpu"}):
        return False

    return (
        HAS_PREADV
        and state_dict is None
        and expected_keys is None
        and load_config.device_mesh is None
        and "disk" not in device_map.values()
        and bool(files)
        and all(str(file).endswith(".safetensors") for file in files or [])
    )


def _only_device(device_map: dict[str, Any] | None) -> torch.device | None:
    """Return the device of the whole model, None where there are several."""
    devices = set((device_map or {"": "cpu"}).values())
    return torch.device(devices.pop()) if len(devices) == 1 and "disk" not in devices else None


def _refuse(wanted: Savings, why: str, fix: str) -> None:
    """Raise a :class:`ChatTSError` if anything is wanted."""
    if wanted.names():
        raise ChatTSError(why, where=", ".join(wanted.names()), fix=fix)


def _check_possible(wanted: Savings, model: Any, load_config: Any, device: torch.device | None) -> None:
    """Raise a :class:`ChatTSError` unless the model is quantised, on one device, with untied embeddings."""
    quantizer = load_config.hf_quantizer
    if quantizer is None or not isinstance(quantizer.quantization_config, BitsAndBytesConfig):
        _refuse(wanted, "the model is not quantised with bitsandbytes", "Set quantization_bit: 4 or 8, or remove it")

    if device is None:
        _refuse(wanted, "the model is spread over several devices", "Load it to one")

    if model.config.tie_word_embeddings:
        _refuse(wanted, "embedding and lm_head of this model are one tensor (tie_word_embeddings)", "Remove it")


def _replace_modules(
    model: Any, tensors: dict[str, FileTensor], dtype: torch.dtype, wanted: Savings
) -> FileTensor | None:
    """Put ours in place of embedding and head and take out their tensors; return the head's for its ``fill``."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    chosen = [(EMBEDDING, embedding)] * wanted.offload_embedding + [(HEAD, head)] * wanted.lm_head_8bit
    taken: dict[str, FileTensor] = {}
    for name, module in chosen:
        found = tensors.pop(name, None)
        if found is None or found.shape != module.weight.shape or not found.dtype.is_floating_point:
            what = "is missing" if found is None else f"is {found.get_dtype()} of shape {tuple(found.shape)}"
            _refuse(wanted, f"{name} {what} in the checkpoint", "Use a complete ChatTS checkpoint")
        else:
            taken[name] = found

    if EMBEDDING in taken:
        model.set_input_embeddings(HostEmbedding(taken[EMBEDDING], dtype, embedding.padding_idx))

    if HEAD in taken:
        model.set_output_embeddings(Int8Head(head.out_features, head.in_features))

    return taken.get(HEAD)
