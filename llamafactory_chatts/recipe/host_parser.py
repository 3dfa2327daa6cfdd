"""LLaMA-Factory's own parser, asked in a process of its own: what no rule here knows."""

import json
import os
import subprocess
import sys

from ..core.errors import shorten
from .context import Context
from .finding import Finding
from .reading import Recipe


HERE_OFF = (
    "bf16",
    "fp16",
    "pure_bf16",
    "bf16_full_eval",
    "fp16_full_eval",
    "tf32",
    "deepspeed",
    "fsdp",
    "ddp_backend",
)
"""Keys that depend on cards and launchers, which the asked process does not have; the rules look at them."""

_PROGRAM = """
import json, sys
recipe, trains = json.load(sys.stdin)
from llamafactory.hparams import get_infer_args, get_train_args
try:
    (get_train_args if trains else get_infer_args)(recipe)
except BaseException as error:
    print("\\nREFUSED " + json.dumps([type(error).__name__, str(error)]), flush=True)
else:
    print("\\nTAKEN", flush=True)
"""


def ask_parser(recipe: Recipe, seconds: float = 300.0) -> list[Finding]:
    """Return what the host's argument parser says of a recipe: one error, or nothing. Costs an import of the host."""
    context = Context(recipe)
    values = {key: value for key, value in recipe.values.items() if key not in HERE_OFF}
    if context.trains:
        values |= {"use_cpu": True, "overwrite_output_dir": True}

    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "LLAMAFACTORY_VERBOSITY": "ERROR"}
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        environment.pop(name, None)

    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            input=json.dumps([values, context.trains]),
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return [Finding("warning", "parser", f"LLaMA-Factory's parser gave no answer in {seconds:g} s")]

    lines = [line for line in done.stdout.splitlines() if line.startswith(("REFUSED ", "TAKEN"))]
    if lines and lines[-1] == "TAKEN":
        return []

    if not lines:
        last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        what = f"LLaMA-Factory's parser could not be asked ({shorten(last, 200)})"
        return [Finding("warning", "parser", what, fix="Run: lmf-chatts doctor")]

    kind, message = json.loads(lines[-1][8:])
    where = str(recipe.path or "")
    return [Finding("error", "parser", f"LLaMA-Factory refuses it: {kind}: {message.rstrip('.')}", where)]
