"""Reads a training from inside: clocks, batches, memory, and where the time goes.

The trainer is wrapped at run time, in the benchmark's process only.
"""

import time
from collections.abc import Callable
from typing import Any

from .flops import training_flops
from .watch import GIB, Utilisation, host_memory


PARTS = ("data", "forward", "backward", "optimizer")


class Meter:
    """Attaches itself to the trainer when its ``train`` is called.

    Args:
        steps: optimizer steps of the run without the extra ones; the GPU is waited for at the end of each, only.
        split: steps behind those in which the GPU is waited for before and after each part, to give their shares.
        on_step: called with (number of finished steps, this) after each one.

    Attributes:
        marks: moment at the end of each step, the start of training first.
        batches: per step, a list of (attention_mask, labels, input_ids); kept on their device and read at the end.
        loading: peaks up to the start of training.
    """

    def __init__(self, steps: int, split: int = 0, on_step: Callable[[int, "Meter"], None] | None = None) -> None:
        self.steps, self.split, self.on_step = steps, split, on_step
        self.marks: list[float] = []
        self.batches: list[list[tuple]] = []
        self.parts = dict.fromkeys(PARTS, 0.0)
        self.loading: dict = {}
        self.trainer: Any = None
        self.watch: Utilisation | None = None

    @property
    def _splitting(self) -> bool:
        return len(self.marks) - 1 >= self.steps

    def install(self) -> None:
        """Wrap ``transformers.Trainer.train``."""
        from transformers import Trainer

        original = Trainer.train

        def train(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            self._attach(trainer)
            try:
                return original(trainer, *args, **kwargs)
            finally:
                self.watch.stop()

        Trainer.train = train

    def _attach(self, trainer: Any) -> None:
        from transformers import TrainerCallback

        meter, self.trainer = self, trainer

        class Clock(TrainerCallback):
            def on_train_begin(self, args, state, control, **kwargs):
                trainer.optimizer.step = meter._timed("optimizer", trainer.optimizer.step)
                meter._mark()

            def on_step_end(self, args, state, control, **kwargs):
                meter._mark()
                if meter.on_step is not None:
                    meter.on_step(state.global_step, meter)

        trainer.add_callback(Clock())
        take = self._timed("data", trainer.get_batch_samples)

        def get_batch_samples(*args: Any, **kwargs: Any) -> Any:
            taken, items = take(*args, **kwargs)
            keys = ("attention_mask", "labels", "input_ids")
            if taken:  # an epoch may end with an empty call, which is no step
                self.batches.append([tuple(batch.get(key) for key in keys) for batch in taken])

            return taken, items

        trainer.get_batch_samples = get_batch_samples
        trainer.compute_loss = self._timed("forward", trainer.compute_loss)
        trainer.accelerator.backward = self._timed("backward", trainer.accelerator.backward)
        trainer.save_model = lambda *args, **kwargs: None  # full tuning would write the model: not what is measured
        self.loading = {**peaks(), "host_rss_gib": host_memory()}
        reset_peaks()
        self.watch = Utilisation()

    def _mark(self) -> None:
        wait_for_gpu()
        self.marks.append(time.perf_counter())

    def _timed(self, part: str, function: Callable) -> Callable:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self._splitting:
                return function(*args, **kwargs)

            wait_for_gpu()
            started = time.perf_counter()
            done = function(*args, **kwargs)
            wait_for_gpu()
            self.parts[part] += time.perf_counter() - started
            return done

        return timed

    def seconds(self, first: int, last: int) -> float:
        """Return the time of steps ``first`` (from 0) up to, without, ``last``."""
        return self.marks[last] - self.marks[first]

    def shares(self) -> dict[str, float] | None:
        """Return each part's share of the extra steps' time, and what is left as ``rest``; None without such steps."""
        if len(self.marks) - 1 <= self.steps:
            return None

        whole = self.marks[-1] - self.marks[self.steps]
        found = {part: seconds / whole for part, seconds in self.parts.items()}
        return {**found, "rest": max(0.0, 1 - sum(found.values()))}

    def work(self, first: int, last: int) -> dict:
        """Return what steps ``first`` up to ``last`` held: samples, tokens, labelled, patches, flops, rows.

        ``rows`` lists (tokens, patches) of each row in order.
        """
        config = self.trainer.model.config
        full = self.trainer.finetuning_args.finetuning_type == "full"
        held: dict = {"samples": 0, "tokens": 0, "labelled": 0, "patches": 0, "padded": 0, "flops": 0.0, "rows": []}
        for mask, labels, ids in (batch for step in self.batches[first:last] for batch in step):
            lengths = sample_lengths(mask, ids)
            at_patch = (ids == config.ts_token_start_index).sum(dim=1).tolist()
            labelled, patches = int((labels[:, 1:] != -100).sum()), sum(at_patch)
            flat = [length for row in lengths for length in row]
            held["samples"] += len(flat)
            held["tokens"] += sum(flat)
            held["padded"] += ids.numel()
            held["labelled"] += labelled
            held["patches"] += patches
            held["flops"] += training_flops(config, flat, labelled, patches, full)
            held["rows"] += [(sum(row), count) for row, count in zip(lengths, at_patch)]

        return held


def sample_lengths(mask: Any, ids: Any) -> list[list[int]]:
    """Return the tokens of each sample, row by row.

    Args:
        mask: ``(rows, length)``: 0 for padding, 1, 2, 3 ... for the samples of a packed row; None without padding.
        ids: ``(rows, length)``.

    Raises:
        ValueError: a mask of another shape, from which real tokens cannot be counted.
    """
    if mask is None:
        return [[ids.shape[1]]] * ids.shape[0]

    if mask.dim() != 2:
        raise ValueError(f"a mask of {mask.dim()} dimensions: real tokens cannot be counted from it")

    rows = []
    for row in mask.tolist():
        counts: dict[int, int] = {}
        for value in row:
            if value:
                counts[value] = counts.get(value, 0) + 1

        rows.append(list(counts.values()))

    return rows


def wait_for_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peaks() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peaks() -> dict[str, float | None]:
    """Return the GPU's peaks since the last reset, in GiB; None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return {"allocated_gib": None, "reserved_gib": None}

    return {
        "allocated_gib": torch.cuda.max_memory_allocated() / GIB,
        "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
    }
