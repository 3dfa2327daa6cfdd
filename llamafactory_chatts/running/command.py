"""The words of a training command: its recipe, its settings, its environment, and what it needs without a GPU."""

import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..recipe.reading import SUFFIXES, read_recipe


BEFORE_RECIPE = ("train", "llamafactory.launcher")
"""The word in front of the recipe: ``llamafactory-cli train``, ``torchrun -m`` or ``deepspeed --module ...``"""

SPREAD = ("torchrun", "deepspeed", "accelerate")
"""Programs that start several processes."""


def recipe_place(words: list[str]) -> int | None:
    """Return where a command's recipe stands; None for one without, as ``llamafactory-cli train --stage sft ...``."""
    pairs = enumerate(zip(words, words[1:]), 1)
    return next((at for at, (word, file) in pairs if word in BEFORE_RECIPE and file.endswith(SUFFIXES)), None)


def settings_of(words: list[str]) -> dict[str, str]:
    """Return the ``key=value`` words behind a command's recipe; the last one of a key counts."""
    place = recipe_place(words)
    return {} if place is None else dict(word.split("=", 1) for word in words[place + 1 :] if "=" in word)


def setting(words: list[str], key: str) -> Any:
    """Return what a command's recipe and the words behind it set a key to; None without.

    Raises:
        ChatTSError: the recipe is not there or cannot be read.
    """
    place = recipe_place(words)
    return None if place is None else read_recipe(words[place], words[place + 1 :]).get(key)


def is_spread(words: list[str]) -> bool:
    """Tell whether a command starts several processes."""
    return Path(words[0]).name in SPREAD


def node_rank(words: list[str]) -> str:
    """Return the machine's number in a run over several machines; ``"0"`` in other runs."""
    return dict(zip(words, words[1:])).get("--node_rank", "0")


def on_cpu(words: list[str], processes: int) -> list[str]:
    """Return a command for a machine without GPUs: no 16 bits, gloo, as many processes as GPUs were named.

    Its settings stand right behind the recipe, so that those of the command itself have the last say.

    Raises:
        ChatTSError: the recipe of a command for torchrun is not there or cannot be read.
    """
    words, program = list(words), Path(words[0]).name
    if (place := recipe_place(words)) is not None:
        settings = ["bf16=false", "fp16=false", "use_unsloth_gc=false"]
        if not (program == "deepspeed" or program in SPREAD and setting(words, "deepspeed")):
            settings += ["use_cpu=true"]  # with it the host leaves DeepSpeed out; hiding the GPUs does it there
            settings += ["ddp_backend=gloo"] * (program in SPREAD)

        words[place + 1 : place + 1] = settings

    if program == "deepspeed" and "--include" in words and words[words.index("--include") + 1].startswith("localhost"):
        at = words.index("--include")
        words[at : at + 2] = ["--num_accelerators", str(processes)]

    return words


def environment(gpus: str | None, port: int | None, cpu: bool) -> dict[str, str]:
    """Return the variables that a training gets beside those that are there.

    Args:
        gpus: numbers as nvidia-smi shows them, commas between; None leaves the choice to CUDA.
        port: where the processes of a run meet.
        cpu: hide all GPUs.
    """
    variables = {"PYTHONUNBUFFERED": "1"}
    if port is not None:
        variables["MASTER_PORT"] = str(port)

    if cpu:
        threads = os.environ.get("OMP_NUM_THREADS", "1")
        return {**variables, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": threads}

    if gpus is not None:  # CUDA numbers the fastest card 0 otherwise
        variables |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpus}

    allocator = os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # less lost to holes
    return {**variables, "PYTORCH_CUDA_ALLOC_CONF": allocator}


def as_line(variables: Mapping[str, str], words: Iterable[str]) -> str:
    """Return a command and its environment as one line that can be pasted into a shell."""
    return " ".join([*(f"{key}={shlex.quote(value)}" for key, value in variables.items()), shlex.join(words)])
