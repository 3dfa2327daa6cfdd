"""The reference of DPO and KTO is the model that the training starts from, adapter included."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def compares_with_start(finetuning_args: Any) -> bool:
    """Tell whether the stage compares with a reference that is the trained model itself, its adapter switched off."""
    stage = finetuning_args.stage == "kto" or finetuning_args.use_ref_model
    return stage and finetuning_args.ref_model is None and finetuning_args.finetuning_type == "lora"


def keep_start(model: Any, logger: Any) -> None:
    """Make the model as it is now the reference of a preference training.

    The host switches the adapter off for the reference. Where the adapter is one of an earlier training, that would be
    the base, not the model that people mean. So a copy of all trained parameters is kept, and takes their place
    wherever the host would switch the adapter off.

    Args:
        model: the model with its adapter, before the first step (a checkpoint that is resumed is loaded later).
        logger: of the host.
    """
    import torch

    start = {name: param.detach().clone() for name, param in model.named_parameters() if param.requires_grad}

    @contextmanager
    def disable_adapter() -> Iterator[None]:
        trained = {}
        for name, param in model.named_parameters():
            if name in start:
                start[name] = start[name].to(param.device, param.dtype)
                trained[name], param.data = param.data, start[name]

        torch.clear_autocast_cache()
        try:
            yield
        finally:
            for name, param in model.named_parameters():
                if name in trained:
                    param.data = trained[name]

            torch.clear_autocast_cache()

    model.disable_adapter = disable_adapter
    size = sum(value.numel() * value.element_size() for value in start.values()) / 2**20
    logger.info_rank0(
        f"ChatTS: the reference is the model with the loaded adapter, as it is now (a copy of {size:.1f} MiB)."
    )
