"""One line per logged step: loss, both learning rates, tokens/s, rows/s, memory and the time that is left."""

import sys
import time
from datetime import timedelta
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback


LOG_KEY = "ts_encoder_learning_rate"
"""The encoder's learning rate in the trainer's logs."""


def count_tokens(trainer: Any, inputs: Any) -> None:
    """Add the real tokens of a batch to the trainer's count; stays on the device, so that no step waits for it."""
    mask, places = inputs.get("attention_mask"), inputs.get("places")
    if places is not None:
        tokens = places.samples.place.numel()
    elif torch.is_tensor(mask) and mask.dim() == 2:
        tokens = (mask != 0).sum()
    else:  # packed rows of flash-attn and dense masks: padding cannot be told here
        tokens = inputs["input_ids"].numel()

    trainer.chatts_tokens = getattr(trainer, "chatts_tokens", 0) + tokens


OF_PAIRS = {"rewards/accuracies": "accuracy", "rewards/margins": "margin"}
"""What the stages that compare answers (dpo, kto) log, and what it is called in a line."""


class StepLine(ProgressCallback):
    """Takes the place of the host's progress bar and its dictionaries.

    On a terminal the bar stays below the lines; into a file or a pipe only lines are written.
    """

    def __init__(self, trainer: Any) -> None:
        super().__init__()
        self.trainer = trainer
        self.bar = sys.stderr.isatty() and not trainer.args.disable_tqdm
        self._mark: tuple[float, int, int] | None = None
        self._begin: tuple[float, int] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begin = None
        self._mark = (time.perf_counter(), state.global_step, self._tokens())
        if self.bar:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._begin is None:  # the first step warms up: kernels are chosen, memory is taken
            self._begin = (time.perf_counter(), state.global_step)

        if self.bar:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar:
            super().on_prediction_step(args, state, control, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs is None or not state.is_world_process_zero:
            return

        line = self._line(args, state, logs) if "loss" in logs and self._mark is not None else as_pairs(logs)
        if self.training_bar is not None:
            self.training_bar.write(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def _tokens(self) -> int:
        return int(getattr(self.trainer, "chatts_tokens", 0))

    def _line(self, args: Any, state: Any, logs: dict[str, Any]) -> str:
        now, step, tokens = time.perf_counter(), state.global_step, self._tokens()
        then, last_step, last_tokens = self._mark or (now, step, tokens)
        self._mark = (now, step, tokens)
        seconds, steps = max(now - then, 1e-9), step - last_step
        rows = steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        parts = [f"step {step}/{state.max_steps}", f"loss {logs['loss']:.4f}"]
        parts += [f"{name} {logs[key]:.3g}" for key, name in OF_PAIRS.items() if key in logs]
        parts += [f"grad {logs['grad_norm']:.3g}"] if "grad_norm" in logs else []
        parts += [f"lr {logs['learning_rate']:.3g}"] if "learning_rate" in logs else []
        parts += [f"encoder lr {logs[LOG_KEY]:.3g}"] if LOG_KEY in logs else []
        if steps > 0:
            parts += [
                f"{rows / seconds:.3g} rows/s",
                f"{(tokens - last_tokens) * args.world_size / seconds:.0f} tokens/s",
            ]

        if torch.cuda.is_available():
            parts.append(f"{torch.cuda.max_memory_reserved() / 2**30:.1f} GiB")

        parts.append(f"{time_left(self._begin, now, step, state.max_steps)} left")
        return "  ".join(parts)


def time_left(begin: tuple[float, int] | None, now: float, step: int, last: int) -> str:
    """Return hours, minutes and seconds until step ``last``, from the pace since ``begin``; ``?`` at first."""
    if begin is None or step <= begin[1]:
        return "?"

    return str(timedelta(seconds=round((now - begin[0]) / (step - begin[1]) * (last - step))))


def as_pairs(logs: dict[str, Any]) -> str:
    """Return other logs (evaluation, the end of training) as one line of names and values."""
    values = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in logs.items()}
    values.pop("total_flos", None)
    return "  ".join(f"{key} {value}" for key, value in values.items())


def print_lines(trainer: Any) -> None:
    """Put :class:`StepLine` in the place of the callbacks that print dictionaries; once."""
    if any(isinstance(callback, StepLine) for callback in trainer.callback_handler.callbacks):
        return

    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)

    trainer.add_callback(StepLine(trainer))
