"""What an adapter's own file says about how it may be loaded; no torch, so that a recipe's check can ask it, too."""

import json
import os
from pathlib import Path
from typing import Any

from .base_record import read_record


CONFIG = "adapter_config.json"
SAME_START = "same_start"
"""Mark in an adapter's record: PiSSA started from factors that are computed alike whenever it is loaded."""


def read_adapter(folder: str | os.PathLike) -> dict[str, Any]:
    """Return the content of a folder's ``adapter_config.json``; {} where there is none that can be read."""
    try:
        content = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}

    return content if isinstance(content, dict) else {}


def loading_fault(folder: str | os.PathLike, method: str, quantised: bool, goes_on: bool) -> tuple[str, str] | None:
    """Return why an adapter cannot be loaded as it was trained, and what to do; None if it can.

    Args:
        folder: of the adapter.
        method: ``finetuning_type`` of the recipe.
        quantised: the base is loaded in 4 or 8 bits.
        goes_on: it is trained on or used as it is, not merged before a new one is made.
    """
    config = read_adapter(folder)
    kind, start = str(config.get("peft_type") or "").lower(), str(config.get("init_lora_weights")).lower()
    if method == "oft" and goes_on and kind not in ("", "oft"):
        return f"it is an adapter of the kind {kind}, finetuning_type is oft", f"Write finetuning_type: {kind}"

    if not start.startswith("pissa"):
        return None

    if quantised:
        return "it was made with PiSSA, which needs the 16-bit weights", "Remove quantization_bit"

    if "_niter_" in start and not (read_record(folder) or {}).get(SAME_START):
        return (
            f"it was made with PiSSA ({start}) from a random start that was not kept: what it would be put on is not "
            "what it was trained on",
            "Load its pissa_converted folder, or train it again",
        )

    return None
