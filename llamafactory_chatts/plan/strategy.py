"""How a run is spread over processes: DDP, what its DeepSpeed file says, or FSDP by `accelerate launch`."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from ..core.errors import ChatTSError
from ..recipe.context import Context
from ..recipe.reading import Recipe


@dataclass(frozen=True)
class Strategy:
    """DeepSpeed's or FSDP's part in a run.

    Attributes:
        stage: of ZeRO: 1 optimizer state, 2 gradients, 3 weights are shared out among the processes; 0: none, DDP.
        offload_optimizer, offload_param: they wait in host memory.
        pinned: weights in host memory are in pages that the GPU reads itself.
        live: parameters that stage 3 keeps gathered on a GPU at most.
        sub_group: parameters that stage 3 steps at a time.
        gathers: the whole model is gathered on the host to be saved.
        fsdp: weights are shared out by FSDP.
    """

    stage: int = 0
    offload_optimizer: bool = False
    offload_param: bool = False
    pinned: bool = False
    live: int = 10**9
    sub_group: int = 10**9
    gathers: bool = False
    fsdp: bool = False

    @property
    def sharded(self) -> bool:
        """Whether weights are shared out among the processes."""
        return self.fsdp or self.stage == 3

    @property
    def name(self) -> str:
        """What a person calls it: ``DDP``, ``FSDP``, or DeepSpeed with its stage and what it offloads."""
        if self.fsdp:
            return "FSDP"

        if not self.stage:
            return "DDP"

        offloaded = [
            text for text, on in (("optimizer", self.offload_optimizer), ("weights", self.offload_param)) if on
        ]
        return f"DeepSpeed ZeRO-{self.stage}" + (f", {' and '.join(offloaded)} in host memory" if offloaded else "")


def _number(value: object, default: int) -> int:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else default


def read_accelerate(path: str) -> tuple[bool, int | None, int]:
    """Read a file of ``accelerate config``.

    Returns:
        whether FSDP is on, processes of a node (None: not said), nodes.

    Raises:
        ChatTSError: not there, or no mapping.
    """
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        what = getattr(error, "strerror", None) or "no YAML"
        fix = "Name the file that accelerate launch gets as --config_file"
        raise ChatTSError(f"it cannot be read ({what})", where=f"--accelerate {path}", fix=fix) from None

    if not isinstance(config, dict):
        raise ChatTSError("no settings are in it", where=f"--accelerate {path}", fix="Write it with accelerate config")

    nodes, processes = _number(config.get("num_machines"), 1), _number(config.get("num_processes"), 0)
    count = processes // nodes if processes else None
    return str(config.get("distributed_type", "")).upper() == "FSDP", count, nodes


def read_strategy(recipe: Recipe, fsdp: bool = False) -> Strategy:
    """Read the DeepSpeed file of a recipe, if it names one.

    Args:
        recipe: the settings.
        fsdp: the run is started with FSDP.

    Raises:
        ChatTSError: not there, or no JSON object; DeepSpeed and FSDP together.
    """
    if recipe["deepspeed"] and fsdp:
        fix = "Remove deepspeed from the recipe, or start it with torchrun"
        raise ChatTSError("FSDP and DeepSpeed exclude each other", where=f"{recipe.path}: deepspeed", fix=fix)

    context = Context(recipe)
    config = context.deepspeed
    if config is None:
        return Strategy(fsdp=fsdp)

    if not config:
        what, fix = "the DeepSpeed file is missing, empty or no JSON object", "Name one as those in examples/deepspeed"
        raise ChatTSError(what, where=f"{recipe.path}: deepspeed", fix=fix)

    zero = config.get("zero_optimization") or {}
    device = {key: (zero.get(key) or {}).get("device", "none") for key in ("offload_optimizer", "offload_param")}
    pinned = (zero.get("offload_param") or {}).get("pin_memory", False)
    return Strategy(
        stage=context.zero_stage,
        offload_optimizer=device["offload_optimizer"] != "none",
        offload_param=device["offload_param"] != "none",
        pinned=pinned is True,
        live=_number(zero.get("stage3_max_live_parameters"), 10**9),
        sub_group=_number(zero.get("sub_group_size"), 10**9),
        gathers=zero.get("stage3_gather_16bit_weights_on_model_save", False) is True,
    )
