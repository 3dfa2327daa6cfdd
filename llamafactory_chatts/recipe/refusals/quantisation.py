"""Weights in 4 and 8 bits."""

from ..context import Context
from .refusal import Refusal


def _unpacked(context: Context) -> bool:
    """The host unpacks weights of these two kinds while it loads them."""
    return context.base_config["quantization_config"].get("quant_method") in ("mxfp4", "fp8")


QUANTISATION: tuple[Refusal, ...] = (
    (
        "quantization_bit",
        lambda c: c.quantised and not c.adapters,
        "a quantised model can only be trained with adapters",
        "Write finetuning_type: lora, or remove quantization_bit",
    ),
    (
        "quantization_bit",
        lambda c: (
            c.quantised
            and str(c.get("quantization_method", "bnb")) == "bnb"
            and c.number("quantization_bit") not in (4, 8)
        ),
        "bitsandbytes knows 4 and 8 bits",
        "Write 4 or 8",
    ),
    (
        "quantization_bit",
        lambda c: c.quantised and c.number("quantization_bit") != 4 and c.sharded,
        "ZeRO-3 and FSDP can hold 4-bit weights only",
        "Write quantization_bit: 4, or train without ZeRO-3 and FSDP",
    ),
    (
        "quantization_method",
        lambda c: c.quantised and c.get("quantization_method") in ("hqq", "eetq") and c.sharded,
        "hqq and eetq do not work with ZeRO-3 and FSDP",
        "Write quantization_method: bnb and quantization_bit: 4",
    ),
    (
        "quantization_bit",
        lambda c: c.quantised and c.get("quantization_method") in ("gptq", "awq", "aqlm", "quanto", "mxfp4", "fp8"),
        "quantization_method names a kind that is never made while loading, so nothing would be quantised",
        "Write quantization_method: bnb",
    ),
    (
        "model_name_or_path",
        lambda c: c.stored_quantised and c.sharded and not _unpacked(c),
        "weights that are stored quantised do not work with ZeRO-3 and FSDP",
        "Name the 16-bit base, or train without ZeRO-3 and FSDP",
    ),
    (
        "resize_vocab",
        lambda c: c.on("resize_vocab") and c.quantised,
        "the embeddings of a quantised model cannot be resized",
        "Remove one of the two",
    ),
    (
        "quantization_device_map",
        lambda c: c.get("quantization_device_map") == "auto" and c.on("do_train"),
        "it is for inference",
        "Remove it",
    ),
    (
        "fp8",
        lambda c: c.on("fp8") and c.quantised,
        "fp8 training does not go with quantised weights",
        "Remove one of the two",
    ),
    *(
        (
            key,
            lambda c, key=key: c.number(key) is not None and c.number(key) not in (4, 8),
            "bitsandbytes knows 4 and 8 bits",
            "Write 4 or 8",
        )
        for key in ("ref_model_quantization_bit", "reward_model_quantization_bit")
    ),
    (
        "create_new_adapter",
        lambda c: (
            c.on("create_new_adapter")
            and c.words("adapter_name_or_path")
            and (c.quantised or c.stored_quantised or c.sharded)
        ),
        "the loaded adapter would have to be merged, which quantised weights and ZeRO-3 do not allow",
        "Merge it first (llamafactory-cli export), or remove create_new_adapter to train it on",
    ),
    (
        "adapter_name_or_path",
        lambda c: len(c.words("adapter_name_or_path")) > 1 and (c.quantised or c.stored_quantised or c.sharded),
        "quantised weights and ZeRO-3 take a single adapter",
        "Merge them first (llamafactory-cli export)",
    ),
)
