"""A recipe for ``llamafactory-cli export``: quantised weights do not come out of it."""

from collections.abc import Iterator

from ..context import Context
from ..finding import Finding


def export_fault(loaded: object, written: object, stored: bool, adapters: bool) -> tuple[str, str, str] | None:
    """Return key, what and fix of an export of a ChatTS model that cannot come out right; None if it can.

    Args:
        loaded: ``quantization_bit``, None for none.
        written: ``export_quantization_bit``, None for none.
        stored: the base is stored quantised.
        adapters: there are adapters to merge.
    """
    if written is not None:
        return (
            "export_quantization_bit",
            "GPTQ would quantise the series encoder, too, and is calibrated on text without series",
            "Remove it; export in 16 bits, and load the export with quantization_bit: 4",
        )

    if loaded is not None:
        what = "an adapter cannot be merged into quantised weights" if adapters else "the export would stay quantised"
        return "quantization_bit", what, "Remove quantization_bit; what was trained with QLoRA merges into 16 bits"

    if stored:
        what = "it is stored quantised: " + ("nothing can be merged into it" if adapters else "it cannot be exported")
        return "model_name_or_path", what, "Name the 16-bit base"

    return None


def quantised_export(context: Context) -> Iterator[Finding]:
    """An export that the host stops after loading, or writes in a form that nothing reads rightly."""
    if not context.is_chatts or context.trains or not context.get("export_dir"):
        return

    stored = isinstance(context.base_config.get("quantization_config"), dict)
    adapters = bool(context.words("adapter_name_or_path"))
    fault = export_fault(context.get("quantization_bit"), context.get("export_quantization_bit"), stored, adapters)
    if fault is not None:
        key, what, fix = fault
        yield Finding("error", key, what, context.recipe.where(key), fix)
