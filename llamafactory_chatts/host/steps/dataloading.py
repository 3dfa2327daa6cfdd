"""Rows and batches: sizes and worker processes that suit series, when the recipe leaves them open.

Pinned memory is on by default in transformers, so that part needs nothing here. A worker is a fork of the training
process and shares its pages: it takes about 16 MiB of its own (batches of 2 rows with 30 series of 1,024 points), as
long as the training process writes to few of the pages it had before.
"""

import multiprocessing
import os
import shutil
from typing import Any

from ...core.contract import TEMPLATE
from ...recipe.machine.host_limits import processors


WORKERS = 2
"""One makes a batch of 16 rows in 5 to 80 ms, far less than a step takes; a second one covers bursts."""

PREFETCH = (2, 16)
"""Fewest and most batches a worker makes ahead; between them, one optimizer step is made ahead."""

ROWS_AT_A_TIME = 64
"""Rows that are tokenised together; larger batches bring no speed, texts are encoded one by one."""

SHARED_MEMORY = 256 * 2**20
"""Bytes of /dev/shm below which no worker is started; batches go through it. Containers often have 64 MiB."""


def default_workers(
    raw_args: dict[str, Any], model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any
) -> None:
    """Set the fields ``dataloader_*`` of a ChatTS run that the recipe does not name; see :func:`choose_workers`."""
    if data_args.template != TEMPLATE or data_args.streaming or "dataloader_num_workers" in raw_args:
        return

    from llamafactory.extras import logging

    plugin = getattr(training_args, "deepspeed_plugin", None)  # also holds what `accelerate launch` was told
    workers, why = choose_workers(training_args.device.type, plugin and plugin.hf_ds_config)
    logger = logging.get_logger()
    if not workers:
        logger.info_rank0(f"ChatTS: batches are made between the steps, {why}. Set by dataloader_num_workers.")
        return

    logger.info_rank0(f"ChatTS: batches are made by {workers} worker process(es). Set by dataloader_num_workers.")
    ahead = -(-training_args.gradient_accumulation_steps // workers)
    chosen = {
        "dataloader_num_workers": workers,
        "dataloader_persistent_workers": True,  # no new fork each epoch
        "dataloader_prefetch_factor": min(max(ahead, PREFETCH[0]), PREFETCH[1]),
    }
    for key, value in chosen.items():
        if key not in raw_args:
            setattr(training_args, key, value)

    # A fork after the tokenizer used its threads prints a warning. Texts are encoded one by one: nothing to share.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def default_rows_at_a_time(
    raw_args: dict[str, Any], model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any
) -> None:
    """Tokenise fewer rows of a ChatTS run at a time: the host's 1,000 are gigabytes when rows hold 30 long series.

    Only where a row's result does not depend on its neighbours: not for packing, and not for the pairs of stage kto.
    """
    free = data_args.template == TEMPLATE and not data_args.packing and finetuning_args.stage not in ("pt", "kto")
    if free and "preprocessing_batch_size" not in raw_args:
        data_args.preprocessing_batch_size = ROWS_AT_A_TIME


def choose_workers(device: str, deepspeed: Any = None) -> tuple[int, str]:
    """Return how many workers each training process gets, and why when it is none.

    Args:
        device: type of the device that trains, as in ``torch.device.type``.
        deepspeed: the configuration of DeepSpeed, an ``HfDeepSpeedConfig`` of accelerate; None without it.
    """
    if device == "cpu":
        return 0, "because training on the CPU needs the same cores"

    if multiprocessing.get_all_start_methods()[0] != "fork":
        return 0, "because workers would each load a copy of the model here"

    if deepspeed is not None and _shares_weights_with_forks(deepspeed):
        return 0, (
            "because DeepSpeed keeps the weights in host memory without pinning, and each page that it writes there, "
            "as when it saves, would be copied for the workers (offload_param: pin_memory: true allows workers)"
        )

    if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free < SHARED_MEMORY:
        return 0, f"because /dev/shm has less than {SHARED_MEMORY // 2**20} MiB free (docker run --shm-size=1g)"

    cores = processors() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(WORKERS, cores)), ""


def _shares_weights_with_forks(deepspeed: Any) -> bool:
    """Tell whether ZeRO-3 keeps the weights in ordinary host memory. Pinned memory is not shared with forks.

    With an 8B base on two GPUs, host memory grew from 21.5 to more than 37 GiB while an adapter was saved.
    """
    offload = deepspeed.get_value("zero_optimization.offload_param") or {}
    return deepspeed.is_zero3() and offload.get("device") == "cpu" and offload.get("pin_memory") is not True
