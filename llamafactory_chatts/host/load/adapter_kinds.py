"""Kinds of adapters that the host or peft stop at: DoRA on a quantised model, OFT that is loaded again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quantised_as_the_host_spells_it(adapter: Any, model: Any) -> Iterator[None]:
    """While the adapter is made, call bitsandbytes "bnb": the host compares its own word with transformers' one.

    Without this it takes any quantised model for one that DoRA does not work with, after it was loaded.

    Args:
        adapter: the host's module ``model.adapter``.
        model: that was loaded.
    """
    method = getattr(model, "quantization_method", None)
    if getattr(method, "value", method) != "bitsandbytes":
        yield
        return

    model.quantization_method = adapter.QuantizationMethod.BNB
    try:
        yield
    finally:
        model.quantization_method = method


def merge_whole_modules(original: Any) -> Any:
    """Let peft merge an OFT adapter that saved whole modules beside it, as ``timeseries_tuning: full`` does.

    Reaches every OFT model; those without such modules go through the original.
    """

    def _replace_module(self: Any, parent: Any, child_name: str, new_module: Any, child: Any) -> None:
        from peft.utils.other import ModulesToSaveWrapper

        if isinstance(child, ModulesToSaveWrapper):  # the original takes it for one linear layer
            setattr(parent, child_name, new_module)
        else:
            original(self, parent, child_name, new_module, child)

    return _replace_module


@contextmanager
def oft_counts_as_lora(finetuning_args: Any) -> Iterator[None]:
    """While the host checks the arguments: it takes adapters with ``finetuning_type: lora`` only, and loads any."""
    method = finetuning_args.finetuning_type
    finetuning_args.finetuning_type = "lora" if method == "oft" else method
    try:
        yield
    finally:
        finetuning_args.finetuning_type = method
