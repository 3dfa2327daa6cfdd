"""A log of a failed run -> what ``doctor`` says about it."""

from pathlib import Path

from ...core.errors import ChatTSError
from .conclusion import conclude
from .facts import Facts
from .reading import read
from .signals import quote
from .table import Diagnosis


def diagnose_log(path: Path, exit_code: int | None = None) -> list[Diagnosis]:
    """Say why a run failed.

    Args:
        path: what llamafactory-cli, torchrun, deepspeed, accelerate or lmf-chatts printed, stdout and stderr; also a
            notebook's output, or only its last lines.
        exit_code: of the run, where it is known; else the log's last line ``exit code N`` is taken.

    Returns:
        the cause first; empty for a run that succeeded, or for which the log shows neither failure nor an end that is
        missing.

    Raises:
        ChatTSError: the file cannot be read.
    """
    try:
        reading = read(Path(path))
    except OSError as err:
        raise ChatTSError(
            f"the log cannot be read: {err.strerror or err}", str(path), "Give the path of a text file"
        ) from err

    found, numbers = conclude(reading, exit_code), _numbers(reading.facts)
    silent = exit_code is None and not reading.facts.code and not reading.traces.all()
    return [*numbers, *found] if silent else [*found, *numbers]


def _numbers(facts: Facts) -> list[Diagnosis]:
    """Judge loss and gradient norms; single NaN norms belong to the start of fp16 training."""
    line, what = facts.nan_loss, "the loss became NaN or infinite"
    if line is None and facts.nan_grads is not None and facts.nan_grads[1] >= 3:
        line, steps = facts.nan_grads
        what = f"gradients are NaN or infinite from here on ({steps} logged steps)"

    if line is None:
        return []

    half = "use bf16: true if the card has it (this run was fp16), " if facts.half else ""
    return [
        Diagnosis(
            f"{what}; what was trained after this line is worthless",
            quote(line),
            f"Go back to a checkpoint from before; {half}lower learning_rate (a tenth), set warmup_ratio: 0.1 and "
            "max_grad_norm: 1.0, and check the series for extreme values: `lmf-chatts check`",
        )
    ]
