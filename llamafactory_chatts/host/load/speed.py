"""What makes training fast and asks nobody: rows without padding, Liger's kernels, no needless casts."""

import importlib.util
from typing import Any

import torch

from ...core.installs import install
from ..compat import patch
from .recognising import chatts_config, is_chatts_model


WITHOUT_LIGER = "so PyTorch's own operations are used: about a quarter slower, more memory for activations."


def use_fast_paths(model: Any, model_args: Any, logger: Any) -> None:
    """Switch on padding-free passes and take the adapters' needless casts out of a loaded training model.

    Packed rows then keep their numbered mask: ``block_diag_attn`` would make the host's collator build a
    ``length x length`` mask for each of them.
    """
    from ...model.modeling_chatts import TimeSeriesForCausalLM

    base = next(module for module in model.modules() if isinstance(module, TimeSeriesForCausalLM))
    if base.enable_padding_free():
        model_args.block_diag_attn = False
        device, dtype = base.lm_head.weight.device, model_args.compute_dtype
        logger.info_rank0(f"ChatTS: padding-free training, attention by {describe_attention(base, device, dtype)}.")

    for module in model.modules():
        if hasattr(module, "_cast_input_dtype"):
            module._cast_input_dtype = _keep_under_autocast(module._cast_input_dtype)


def describe_attention(base: Any, device: torch.device, dtype: torch.dtype) -> str:
    """Return one phrase: which attention runs, and what it costs when it is not the best one."""
    from ...model.padding_free import VARLEN, has_varlen_kernel

    if base.config._attn_implementation != VARLEN:
        return base.config._attn_implementation

    if device.type != "cuda" or has_varlen_kernel(device, dtype):
        return "PyTorch's variable-length FlashAttention" if device.type == "cuda" else "SDPA sample by sample"

    return (
        "SDPA sample by sample (the variable-length kernel needs 16 bits and compute capability 8.0; "
        "same results; a quarter slower with samples of 370 tokens, less with longer ones)"
    )


def _keep_under_autocast(cast: Any) -> Any:
    """Autocast brings input and adapter weights to 16 bits itself; a copy in float32 before that only costs."""

    def _cast_input_dtype(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return x if torch.is_autocast_enabled(x.device.type) else cast(x, dtype)

    return _cast_input_dtype


def apply_liger(loader: Any, name: str) -> None:
    """``enable_liger_kernel`` works for both kinds: norm, rotary embedding and MLP; or one line says why not."""

    def build(original: Any) -> Any:
        def apply_liger_kernel(config: Any, model_args: Any, is_trainable: bool, require_logits: bool) -> None:
            if not is_chatts_model(config):
                return original(config, model_args, is_trainable, require_logits)

            if not is_trainable or not model_args.enable_liger_kernel:
                return None

            if not torch.cuda.is_available():
                loader.logger.warning_rank0(f"enable_liger_kernel: no CUDA device, {WITHOUT_LIGER}")
                return None

            from liger_kernel.transformers import apply_liger_kernel_to_qwen2, apply_liger_kernel_to_qwen3

            from ...core.contract import QWEN2_TYPE

            apply = apply_liger_kernel_to_qwen2 if config.model_type == QWEN2_TYPE else apply_liger_kernel_to_qwen3
            apply(rope=True, rms_norm=True, swiglu=True, cross_entropy=False, fused_linear_cross_entropy=False)
            loader.logger.info_rank0("ChatTS: Liger kernels for norm, rotary embedding and MLP.")
            return None

        return apply_liger_kernel

    patch(loader, name, build)


def go_on_without_liger(parser: Any, name: str) -> None:
    """The host stops when liger-kernel is missing; a ChatTS training says what that costs and goes on."""

    def build(original: Any) -> Any:
        def _check_extra_dependencies(model_args: Any, *args: Any, **kwargs: Any) -> None:
            if model_args.enable_liger_kernel and importlib.util.find_spec("liger_kernel") is None:
                from llamafactory.model import loader

                if chatts_config(loader, model_args) is not None:
                    model_args.enable_liger_kernel = False
                    parser.logger.warning_rank0(
                        f"enable_liger_kernel: liger-kernel is not installed, {WITHOUT_LIGER} "
                        f"To mend it: {install('liger-kernel')}"
                    )

            original(model_args, *args, **kwargs)

        return _check_extra_dependencies

    patch(parser, name, build)
