"""Out of GPU memory: the error names the three settings that would help most now, with their estimated effect."""

import contextlib
import re
import traceback
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from ...core.errors import ChatTSError, shorten
from ...core.memory import GIB, Shape
from ...core.memory_advice import Run, rank_effects
from ..compat import patch
from ..load.recognising import chatts_config


BUSY = 1 * GIB
"""Bytes that other processes hold from which on small settings are not worth a word."""

LITTLE = 0.2 * GIB
"""Bytes below which a setting is small."""

UNKNOWN = 2**60
"""Bytes from which on a size is no size: the driver of Windows does not tell it, PyTorch then prints 2**64."""

_SIZE = r"([\d.]+) (bytes|KiB|MiB|GiB)"
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": GIB}

_parsed = SimpleNamespace(model=None, data=None, training=None, finetuning=None)
"""The arguments of the run of this process; trainers are not given all of them."""


def remember_arguments(
    raw_args: dict[str, Any], model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any
) -> None:
    """Keep the parsed recipe, so that a message can say which settings are still open."""
    _parsed.model, _parsed.data, _parsed.training, _parsed.finetuning = (
        model_args,
        data_args,
        training_args,
        finetuning_args,
    )


@contextlib.contextmanager
def explain_in_step(trainer: Any, inputs: Any) -> Iterator[None]:
    """Turn an out-of-memory error of the enclosed forward and backward pass over ``inputs`` into a ChatTSError.

    With ``auto_find_batch_size`` the error passes: the trainer waits for it and tries a smaller batch.
    """
    try:
        yield
    except torch.OutOfMemoryError as err:
        if trainer.args.auto_find_batch_size:
            raise

        run = describe(trainer.model.config, _parsed.model, trainer.finetuning_args, trainer, inputs)
        where = f"in a pass of {run.rows} row{'s' if run.rows != 1 else ''} and {run.tokens:,} tokens"
        raise explain(run, where, err) from err


def explain_around_steps(module: Any, name: str) -> None:
    """Explain an out-of-memory error outside of a pass, too: while loading, in the optimizer, in evaluation."""

    def build(original: Any) -> Any:
        def run_stage(model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, *rest: Any) -> None:
            try:
                original(model_args, data_args, training_args, finetuning_args, *rest)
            except torch.OutOfMemoryError as err:
                from llamafactory.model import loader

                config = chatts_config(loader, model_args)
                if config is None:
                    raise

                run = describe(config, model_args, finetuning_args)
                raise explain(run, name_moment(err), err) from err

        return run_stage

    patch(module, name, build)


def name_moment(err: BaseException) -> str:
    """Return what the run was doing, from the functions that the error went through."""
    functions = [frame.name for frame in traceback.extract_tb(err.__traceback__)]
    for function, moment in (
        ("load_model", "while loading the model"),
        ("evaluation_loop", "in evaluation"),
        ("create_optimizer", "while making the optimizer"),
        ("step", "in the optimizer's step"),
    ):
        if function in functions:
            return moment

    return "outside of a pass"


def explain(run: Run, where: str, err: BaseException) -> ChatTSError:
    """Return the error for a run that has no memory left; other processes on the GPU are named before any setting."""
    others = read_other_processes(str(err))
    held, effects = sum(others), rank_effects(run)
    if held > BUSY:
        effects = [effect for effect in effects if effect.saved >= LITTLE]

    advice = "; ".join(str(effect) for effect in effects)
    if advice:
        fix = f"By estimate these would help most now: {advice}"
    else:
        fix = "No setting is left that would help much; use shorter series, a smaller base or a larger GPU"

    what = f"no memory is left on the GPU {where}"
    if others:
        what += f": {len(others)} other process{'es hold' if len(others) > 1 else ' holds'} {held / GIB:.2f} GiB of it"
        free = "Run nvidia-smi and end them, or choose another GPU with CUDA_VISIBLE_DEVICES"
        fix = f"{free}. {fix}" if advice else free

    return ChatTSError(f"{what} ({shorten(err, 200)})", where="out of memory", fix=fix)


def read_other_processes(message: str) -> list[float]:
    """Return how many bytes of the GPU each other process holds, as PyTorch's message lists them.

    Where process numbers differ from those that the driver sees (containers), this process is listed like the others
    and no "this process" follows: the one nearest to what PyTorch holds by itself is left out. Without numbers from
    the driver (Windows) nothing is returned.
    """
    found = [_bytes(*size) for size in re.findall(rf"Process \d+ has {_SIZE} memory in use", message)]
    if found and "this process has" not in message:
        own = re.findall(rf"{_SIZE} (?:is allocated|is reserved) by PyTorch", message)
        held = sum(_bytes(*size) for size in own)
        found.remove(min(found, key=lambda size: abs(size - held)))

    return [size for size in found if size < UNKNOWN]


def _bytes(number: str, unit: str) -> float:
    return float(number) * _UNITS[unit]


def describe(config: Any, model_args: Any, finetuning_args: Any, trainer: Any = None, inputs: Any = None) -> Run:
    """Collect what the advice depends on; without a trainer only weights are known.

    Args:
        model_args: None when the process was not started from a recipe; settings count as not set then.
    """
    known = {key: getattr(model_args, key, None) for key in ("offload_embedding", "lm_head_8bit")}
    bits = getattr(model_args, "quantization_bit", None)
    facts: dict[str, Any] = {
        "shape": Shape.of(config),
        "finetuning_type": finetuning_args.finetuning_type,
        "bits": bits or 16,
        "checkpointing": not getattr(model_args, "disable_gradient_checkpointing", False),
        "offloaded": bool(getattr(model_args, "use_unsloth_gc", False)),
        "kernels": bool(getattr(model_args, "enable_liger_kernel", False)),
        "lora_rank": finetuning_args.lora_rank,
        "pure_16bit": bool(finetuning_args.pure_bf16),
        **known,
    }
    training_args = trainer.args if trainer is not None else _parsed.training
    if training_args is not None:
        facts |= {
            "element": 2 if training_args.bf16 or training_args.fp16 or finetuning_args.pure_bf16 else 4,
            "batch_size": training_args.per_device_train_batch_size,
            "accumulation": training_args.gradient_accumulation_steps,
            "processes": training_args.world_size,
        }

    if trainer is not None:
        facts |= _describe_pass(trainer, inputs)

    return Run(**facts)


def _describe_pass(trainer: Any, inputs: Any) -> dict[str, Any]:
    """Return what only a live trainer and its batch can say."""
    masks = [value for key, value in inputs.items() if key.endswith("attention_mask") and torch.is_tensor(value)]
    masks = [mask for mask in masks if mask.dim() == 2]
    ids = [value for key, value in inputs.items() if key.endswith("input_ids") and torch.is_tensor(value)]
    rows = sum(item.shape[0] for item in ids)
    tokens, longest = sum(item.numel() for item in ids), max((item.shape[-1] for item in ids), default=0)
    padding_free = any(getattr(module, "padding_free", False) for module in trainer.model.modules())
    if padding_free and len(masks) == len(ids):
        with contextlib.suppress(torch.OutOfMemoryError):
            tokens = sum(int((mask != 0).sum()) for mask in masks)
            longest = max((int((mask != 0).sum(dim=1).max()) for mask in masks), default=0)

    stage, data_args = trainer.finetuning_args.stage, _parsed.data
    accelerator = trainer.accelerator
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    fsdp = getattr(accelerator.state, "fsdp_plugin", None) is not None
    return {
        "rows": rows,
        "tokens": tokens,
        "longest": longest,
        "checkpointing": bool(getattr(trainer.model, "is_gradient_checkpointing", False)),
        "fills_passes": stage == "sft" and not getattr(data_args, "packing", False),
        "trained": sum(param.numel() for param in trainer.model.parameters() if param.requires_grad),
        "sharded": fsdp or (plugin is not None and plugin.zero_stage == 3),
    }
