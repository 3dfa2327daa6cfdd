"""Each checkpoint keeps the settings that must not change when it is continued; ``diagnose`` compares them."""

import dataclasses
import json
from enum import Enum
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ...recipe.checkpoints import KEPT, RECORD


class KeepSettings(TrainerCallback):
    """Writes :data:`RECORD` into each checkpoint.

    Args:
        finetuning_args: the host's; the trainer knows only its own arguments.
    """

    def __init__(self, finetuning_args: Any) -> None:
        self.finetuning_args = finetuning_args

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        if state.is_world_process_zero and folder.is_dir():
            text = json.dumps(describe(args, self.finetuning_args), indent=2)
            (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def keep_settings(trainer: Any) -> None:
    """Add :class:`KeepSettings` to a trainer, once."""
    if not any(isinstance(callback, KeepSettings) for callback in trainer.callback_handler.callbacks):
        trainer.add_callback(KeepSettings(trainer.finetuning_args))


def describe(training_args: Any, finetuning_args: Any) -> dict[str, Any]:
    """Return what :data:`RECORD` holds: ``values``, ``defaults``, ``rows_per_step`` and ``processes``."""
    values, defaults = {}, {}
    for source in (training_args, finetuning_args):
        for field in dataclasses.fields(source):
            if field.name in KEPT:
                values[field.name] = _plain(getattr(source, field.name))
                made = field.default_factory
                defaults[field.name] = _plain(field.default if made is dataclasses.MISSING else made())

    rows = training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps
    processes = training_args.world_size
    return {"values": values, "defaults": defaults, "rows_per_step": rows * processes, "processes": processes}


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value
