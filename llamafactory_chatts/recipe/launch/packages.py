"""Card, processes, DeepSpeed, optional packages: what depends on where the recipe is run."""

import importlib.metadata
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.errors import shorten
from ...core.installs import install
from ..context import Context
from ..finding import Finding


PACKAGES: tuple[tuple[str, str, str], ...] = (
    ("plot_loss", "matplotlib", "matplotlib"),
    ("predict_with_generate", "jieba", "'llamafactory-chatts[metrics]'"),
    ("predict_with_generate", "nltk", "'llamafactory-chatts[metrics]'"),
    ("predict_with_generate", "rouge-chinese", "'llamafactory-chatts[metrics]'"),
    ("deepspeed", "deepspeed", "'llamafactory-chatts[deepspeed]'"),
    ("use_galore", "galore-torch", "galore-torch"),
    ("use_apollo", "apollo-torch", "apollo-torch"),
    ("use_badam", "badam", "badam"),
    ("use_adam_mini", "adam-mini", "adam-mini"),
    ("use_swanlab", "swanlab", "swanlab"),
)
"""Switch, package that it needs, what to give to ``pip install``."""

REPORTERS = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "comet_ml": ("comet-ml",),
    "mlflow": ("mlflow", "mlflow-skinny"),
    "neptune": ("neptune", "neptune-client"),
    "clearml": ("clearml",),
    "dvclive": ("dvclive",),
    "swanlab": ("swanlab",),
    "codecarbon": ("codecarbon",),
    "azure_ml": ("azureml-core", "azureml-sdk"),
    "dagshub": ("dagshub",),
    "flyte": ("flytekit",),
    "kubeflow": (),
}
"""Names of ``report_to`` and the packages of which one is needed."""


DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Of NVIDIA's driver, of Windows' and of AMD's: without any of them torch has no ``cuda``."""


def is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False

    return True


def packages(context: Context) -> Iterator[Finding]:
    """Switches whose package is not installed."""
    if not context.trains or context.elsewhere:
        return

    for key, package, argument in PACKAGES:
        if context.on(key) and not is_installed(package):
            where = context.recipe.where(key)
            yield Finding("error", key, f"{package} is not installed", where, f"Run: pip install {argument}")

    bits = context.get("quantization_bit") is not None and str(context.get("quantization_method", "bnb")) == "bnb"
    optimizer = str(context.get("optim", ""))
    eight = optimizer in ("adamw_bnb_8bit", "rmsprop_bnb") or optimizer.endswith("_8bit") or "paged_" in optimizer
    for key, used in (("quantization_bit", bits), ("optim", eight and "torch" not in optimizer)):
        if used and not is_installed("bitsandbytes"):
            fix = "Run: pip install 'bitsandbytes>=0.49'"
            yield Finding("error", key, "bitsandbytes is not installed", context.recipe.where(key), fix)

    if context.get("flash_attn") == "fa2" and not is_installed("flash-attn"):
        what = "flash-attn is not installed, so PyTorch's own attention is used"
        fix = "Write flash_attn: auto; ChatTS training does not need flash-attn"
        yield Finding("warning", "flash_attn", what, context.recipe.where("flash_attn"), fix)

    if context.on("enable_liger_kernel") and not is_installed("liger-kernel"):
        what = "liger-kernel is not installed: slower, more memory for activations"
        fix = f"Run: {install('liger-kernel')}"
        yield Finding("warning", "enable_liger_kernel", what, context.recipe.where("enable_liger_kernel"), fix)


def reporters(context: Context) -> Iterator[Finding]:
    """``report_to``: each is known, and its package is there."""
    value = context.get("report_to")
    if not context.trains or value is None:
        return

    where = context.recipe.where("report_to")
    if isinstance(value, str) and "," in value and not context.recipe.as_flags:
        fix = f"Write a list: [{', '.join(context.words('report_to'))}]"
        yield Finding("error", "report_to", "text with commas is taken for one name", where, fix)
        return

    for name in context.words("report_to"):
        if name in ("none", "all"):
            continue

        needed = REPORTERS.get(name)
        if needed is None:
            known = ", ".join(["none", *REPORTERS])
            yield Finding("error", "report_to", f"there is no {shorten(name)!r}", where, f"Use one of: {known}")
        elif needed and not context.elsewhere and not any(map(is_installed, needed)):
            fix = f"Run: pip install {needed[0]}, or write report_to: none"
            yield Finding("error", "report_to", f"{needed[0]} is not installed", where, fix)


def precision_of_card(context: Context) -> Iterator[Finding]:
    """bf16 on a card that emulates it; no mixed precision on a card at all."""
    if not context.trains:
        return

    old = [card for card in context.cards if not card.has_bf16]
    for key in ("bf16", "pure_bf16"):
        if context.on(key) and old:
            number = ".".join(map(str, old[0].capability))
            what = f"{old[0].name} (compute capability {number}) only emulates bf16, many times slower"
            yield Finding("error", key, what, context.recipe.where(key), "Write fp16: true instead")

    if context.at_start or context.on("use_cpu"):
        return

    mixed = next((key for key in ("bf16", "pure_bf16", "fp16") if context.on(key)), None)
    if not context.cards and mixed:
        what = "nvidia-smi shows no GPU here; LLaMA-Factory refuses 16 bits without one"
        fix = "Run it where the GPU is; to try it on the CPU: use_cpu=true and this one off"
        yield Finding("warning", mixed, what, context.recipe.where(mixed), fix)
    elif context.cards and not mixed and context.on("do_train"):
        name = "fp16" if old else "bf16"
        what = "neither bf16 nor fp16 is on: slower, and more memory for activations"
        yield Finding("warning", name, what, context.recipe.where(name), f"Write {name}: true")


def checkpointing_without_gpu(context: Context) -> Iterator[Finding]:
    """``use_unsloth_gc`` brings what it saved back to ``cuda``, wherever the model is."""
    key = "use_unsloth_gc"
    if not context.on(key) or context.on("disable_gradient_checkpointing") or not context.on("do_train"):
        return

    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
    if context.on("use_cpu") or (not context.cards and (hidden or not any(map(os.path.exists, DEVICES)))):
        level = "error" if context.at_start or context.on("use_cpu") else "warning"
        what = "it needs a GPU" + ("" if context.on("use_cpu") else ", there is none here")
        yield Finding(level, key, what, context.recipe.where(key), f"Remove {key} on the CPU")


def data_parallel_checkpointing(context: Context) -> Iterator[Finding]:
    """DDP that looks for unused parameters and reentrant checkpointing mark a parameter twice."""
    key = "ddp_find_unused_parameters"
    reentrant = not context.on("disable_gradient_checkpointing") and context.on("use_reentrant_gc", True)
    if not context.trains or not context.on(key) or not reentrant or context.deepspeed is not None or context.fsdp:
        return

    several = context.processes > 1
    yield Finding(
        "error" if several else "warning",
        key,
        "with several processes it stops reentrant gradient checkpointing: a parameter is marked ready twice",
        context.recipe.where(key),
        "Remove it, or write use_reentrant_gc: false",
    )


def checkpointing_names(context: Context) -> Iterator[Finding]:
    """``gradient_checkpointing`` is the trainer's switch; the host has one of its own, which is on."""
    key = "gradient_checkpointing"
    if key not in context.recipe.values or not context.trains:
        return

    off = context.on("disable_gradient_checkpointing")
    if context.on(key) and off:
        what = "it switches on again what disable_gradient_checkpointing switches off"
        yield Finding("error", key, what, context.recipe.where(key), "Remove one of the two")
    elif not context.on(key) and not off:
        what = "it has no effect: LLaMA-Factory checkpoints unless disable_gradient_checkpointing is set"
        fix = "Write disable_gradient_checkpointing: true"
        yield Finding("warning", key, what, context.recipe.where(key), fix)


def deepspeed_file(context: Context) -> Iterator[Finding]:
    """The DeepSpeed configuration is there, is JSON, and agrees with the recipe."""
    key, value, where = "deepspeed", context.get("deepspeed"), context.recipe.where("deepspeed")
    if context.deepspeed is None or not context.trains:
        return

    if isinstance(value, str) and not value.startswith("{"):
        path = Path(value)
        if not path.is_file():
            yield Finding("error", key, f"there is no file {shorten(value)}", where, "Correct the path")
            return

        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            yield Finding("error", key, f"{value} is no readable JSON ({shorten(error)})", where, "Correct the file")
            return

        if not isinstance(content, dict):
            yield Finding("error", key, f"{value} is no JSON object", where, "Correct the file")
            return

    for name, there, here, setting in _pairs(context):
        if there is not None and there != "auto" and there != here:
            what = f"{name} is {json.dumps(there)} in it, the recipe says {setting}: {json.dumps(here)}"
            yield Finding("error", key, what, where, f'Write "{name.rpartition(".")[2]}": "auto" into it')

    if context.at_start or context.processes > 1 or os.environ.get("FORCE_TORCHRUN", "0") in ("1", "true", "y"):
        return

    what = "with one process `llamafactory-cli train` refuses DeepSpeed"
    yield Finding("warning", key, what, where, "Start it with FORCE_TORCHRUN=1, torchrun or deepspeed")


def _pairs(context: Context) -> Iterator[tuple[str, Any, Any, str]]:
    """Yield name in the DeepSpeed file, its value, the recipe's value and key, where both must be equal."""
    config = context.deepspeed or {}

    def inside(name: str) -> Any:
        node: Any = config
        for part in name.split("."):
            node = node.get(part) if isinstance(node, dict) else None

        return node

    plain = (
        ("train_micro_batch_size_per_gpu", "per_device_train_batch_size", 8),
        ("gradient_accumulation_steps", "gradient_accumulation_steps", 1),
        ("gradient_clipping", "max_grad_norm", 1.0),
        ("optimizer.params.lr", "learning_rate", 5e-5),
        ("optimizer.params.weight_decay", "weight_decay", 0.0),
    )
    for name, key, default in plain:
        value = context.number(key, default)
        yield name, inside(name), int(value) if value == int(value) else value, key

    for name in ("fp16", "bf16"):
        yield f"{name}.enabled", inside(f"{name}.enabled"), context.on(name) or context.on(f"{name}_full_eval"), name


def quantised_and_sharded(context: Context) -> Iterator[Finding]:
    """4-bit weights under ZeRO-3 do train (two processes on CPU: same losses as without), but it rarely pays."""
    if context.trains and context.zero_stage == 3 and context.number("quantization_bit") == 4:
        yield Finding(
            "warning",
            "quantization_bit",
            "ZeRO-3 gathers the 4-bit weights of every layer anew in each pass, and a base in 4 bits fits one card",
            context.recipe.where("quantization_bit"),
            "Remove deepspeed (each card then holds the 4-bit base), or use ZeRO-3 with 16-bit weights",
        )
