"""The trainings, each in a process of its own: one setting, or one sweep over rows that grow from block to block."""

import contextlib
import json
import os
import time
from pathlib import Path

from .meter import Meter, peaks, reset_peaks
from .watch import host_memory


SWEEPS = {
    "lengths": [(points, 1) for points in (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)],
    "series": [(1024, series) for series in (1, 2, 5, 10, 20, 30)],
}
"""Sweep -> (points, series) of each block."""

STEPS_PER_BLOCK, ROWS_PER_STEP = 3, 2
"""One step to warm up, two timed; two samples each."""


def write_result(path: Path, result: dict) -> None:
    """Replace a result file in one step, so that a reader never sees half of it."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(result))
    os.replace(unfinished, path)


def train(recipe: dict, meter: Meter) -> None:
    """Train in this process with LLaMA-Factory."""
    import llamafactory_chatts.autoload  # noqa: F401  (where the package lies on PYTHONPATH, without start-up file)

    from llamafactory.train.tuner import run_exp  # isort: skip

    meter.install()
    run_exp(recipe)


def larger(one: float | None, other: float | None) -> float | None:
    """Return the larger of two peaks, None without figures."""
    return None if one is None or other is None else max(one, other)


def measure(recipe: dict, steps: int, skip: int, split: int, rate: float) -> dict:
    """Train ``skip`` steps, then the timed ones up to ``steps``, then ``split`` more for the shares of the parts.

    Args:
        recipe: of LLaMA-Factory; its ``max_steps`` is set here.
        steps: optimizer steps without the extra ones.
        skip: first steps left out of the timing, at least 1.
        split: extra steps.
        rate: matrix rate of the device in 10^12 operations a second.
    """
    meter = Meter(steps, split)
    started = time.perf_counter()
    train({**recipe, "max_steps": steps + split}, meter)
    seconds, work = meter.seconds(skip, steps), meter.work(skip, steps)
    losses = {entry["step"]: entry["loss"] for entry in meter.trainer.state.log_history if "loss" in entry}
    memory = peaks()
    return {
        "samples_per_second": work["samples"] / seconds,
        "tokens_per_second": work["tokens"] / seconds,
        "mfu": work["flops"] / seconds / (rate * 1e12),
        "flops_per_sample": work["flops"] / work["samples"],
        "tokens_per_sample": work["tokens"] / work["samples"],
        "labelled_per_sample": work["labelled"] / work["samples"],
        "samples_per_step": work["samples"] / (steps - skip),
        "steps_timed": steps - skip,
        "seconds_timed": seconds,
        "seconds_before_training": meter.marks[0] - started,
        "first_loss": losses.get(1),
        "last_loss": losses.get(steps),
        "peak_allocated_gib": larger(meter.loading["allocated_gib"], memory["allocated_gib"]),
        "peak_reserved_gib": larger(meter.loading["reserved_gib"], memory["reserved_gib"]),
        "loading_allocated_gib": meter.loading["allocated_gib"],
        "loading_reserved_gib": meter.loading["reserved_gib"],
        "training_allocated_gib": memory["allocated_gib"],
        "training_reserved_gib": memory["reserved_gib"],
        "loading_host_rss_gib": meter.loading["host_rss_gib"],
        "peak_host_rss_gib": host_memory(),
        "gpu_utilisation": meter.watch.between(meter.marks[skip], meter.marks[steps]),
        "shares": meter.shares(),
    }


def sweep_rows(name: str) -> list[tuple[int, int, int]]:
    """Return (rows, points, series) of each block of a sweep."""
    return [(STEPS_PER_BLOCK * ROWS_PER_STEP, points, series) for points, series in SWEEPS[name]]


def sweep(recipe: dict, name: str, rate: float, result: Path) -> dict:
    """Train once over a dataset that :func:`sweep_rows` describes; ``result`` is written after each block.

    Returns:
        ``blocks`` that were measured, and ``ended``: None, or why the sweep ended before its last block.
    """
    blocks: list[dict] = []
    expected = SWEEPS[name]

    def finish_block(step: int, meter: Meter) -> None:
        if step % STEPS_PER_BLOCK:
            return

        first, last = step - STEPS_PER_BLOCK + 1, step
        points, series = expected[step // STEPS_PER_BLOCK - 1]
        rows = meter.work(first - 1, last)["rows"]
        patches = series * -(-points // 8)
        if len(rows) != STEPS_PER_BLOCK * ROWS_PER_STEP or any(found != patches for _, found in rows):
            raise ValueError(f"{series} x {points} points: these are not the rows of this block: {rows}")

        seconds, work = meter.seconds(first, last), meter.work(first, last)
        blocks.append(
            {
                "points": points,
                "series": series,
                "tokens_per_sample": work["tokens"] / work["samples"],
                "samples_per_second": work["samples"] / seconds,
                "tokens_per_second": work["tokens"] / seconds,
                "mfu": work["flops"] / seconds / (rate * 1e12),
                **{f"peak_{key}": value for key, value in peaks().items()},
                "peak_host_rss_gib": host_memory(),
            }
        )
        write_result(result, {"blocks": blocks, "ended": None})
        start_block(meter)

    def start_block(meter: Meter) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next block's reserved memory is its own

        reset_peaks()
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here; not permitted everywhere

    steps = STEPS_PER_BLOCK * len(expected)
    ended = None
    try:
        train({**recipe, "max_steps": steps, "disable_shuffling": True}, Meter(steps, on_step=finish_block))
    except Exception as error:
        if not is_out_of_memory(error):
            raise

        points, series = expected[len(blocks)]
        ended = f"out of memory at {series} x {points} points: {str(error).splitlines()[0][:200]}"

    return {"blocks": blocks, "ended": ended}


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether an error is the device's out of memory, or was raised from it."""
    import torch

    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True

        error = error.__cause__ or error.__context__

    return False
