"""Host memory of a node while a run loads and trains, by the way it is launched.

The plug-in's own loader reads one tensor at a time and maps no file (``model/loading/weight_files.py``), so the size
of the checkpoint counts only where weights stay in host memory: on a machine without a GPU, or offloaded by DeepSpeed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ...core.memory import GIB, count_shares
from ...recipe.machine.planned import Machine
from ...recipe.reading import Recipe
from ..strategy import Strategy
from .activations import Pass
from .base_model import BaseModel
from .trained import Trained, count_trained, state_bytes


PROCESS = 2.2
"""GiB of a training process on a GPU: Python, PyTorch with CUDA's libraries, transformers (H200, torch 2.11)."""

LATER = 0.5
"""GiB of it that come after loading: what NCCL, DeepSpeed and the first pass load."""

DEEPSPEED, ACCELERATE = 1.0, 0.4
"""GiB of the processes that start the training ones and wait for them; torchrun's shares its pages with them."""

FSDP_SAVES = 0.9
"""What FSDP gathers on the host at saving beside the whole model, in multiples of embedding and head (as in
``gpu_memory``: 1B, 8B and 14B)."""

PROCESS_CPU = 0.96
"""GiB of the same without a GPU, the dataset loaded (0.88 after the imports)."""

WORKERS, WORKER = 2, 16 * 2**20
"""Data loader workers where a recipe leaves them open (the host package's ``dataloading``; a test compares them), and
the bytes that one takes for itself; the rest it shares with its process."""

BUFFERS = 4 * 32 * 2**20
"""Bytes of the buffers between a file and a GPU: 32 MiB for each of four loading threads."""

BUCKET = 5 * 10**8
"""Gradients that DeepSpeed collects before it reduces them, where its file does not say otherwise."""


@dataclass(frozen=True)
class HostMemory:
    """Bytes of one node, all its processes together.

    Attributes:
        parts: name -> bytes.
        launcher: how the processes are started.
    """

    parts: Mapping[str, float]
    launcher: str

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


def launcher_of(machine: Machine, strategy: Strategy) -> str:
    """Return how a run is started: what ``llamafactory-cli train`` does with as many cards, or deepspeed."""
    nodes = f" on each of {machine.nodes} nodes" if machine.nodes > 1 else ""
    if strategy.fsdp:
        return f"accelerate launch, {machine.count} processes{nodes}, FSDP"

    if strategy.stage:
        return f"deepspeed or torchrun, {machine.count} processes{nodes}, {strategy.name}"

    if machine.world == 1:
        return "llamafactory-cli, 1 process"

    return f"llamafactory-cli or torchrun, {machine.count} processes{nodes}, DDP"


def _parked(base: BaseModel, world: int, element: int, pinned: bool) -> int:
    """Return the bytes of one process's shares of the weights that DeepSpeed keeps in host memory."""
    tensors = [inputs * outputs for inputs, outputs in base.linear.values()] * base.shape.num_hidden_layers
    tensors += [base.embedding, base.head, *(inputs * outputs for inputs, outputs in base.encoder_linear)]
    rest = base.total - sum(tensors)  # norms, biases, places: as one
    return count_shares(tensors, world, element, pinned) + count_shares([rest], world, element, False)


def _passing(recipe: Recipe, base: BaseModel, machine: Machine, strategy: Strategy, trained: Trained) -> float:
    """Return the bytes that are on the host for a moment: when DeepSpeed sets up, and when a model is saved.

    DeepSpeed moves what is trained to the host and back, to have it in one piece. A model that is trained in full is
    gathered there by the first process; so is, with FSDP, every model.
    """
    if strategy.fsdp:
        roots = (base.embedding + base.head) * base.element
        layers = base.layers * (0.5 if recipe["quantization_bit"] == 4 else base.element)
        return layers + base.encoder * base.element + roots * (1 + FSDP_SAVES)

    if strategy.stage != 3:
        return 0.0

    moved = 0.0 if strategy.offload_param else trained.total * 2.0 * machine.count / machine.world
    return max(moved, base.total * 2.0 if strategy.gathers and not recipe.adapter else 0.0)


def estimate_host(
    recipe: Recipe, base: BaseModel, machine: Machine, strategy: Strategy, work: Pass, gpu: bool = True
) -> HostMemory:
    """Estimate the host memory of one node.

    Args:
        recipe, base, machine, strategy: of the run.
        work: the largest pass.
        gpu: False for a run on processors, where everything is in host memory.
    """
    world, count = machine.world, machine.count
    share = 1 / world if strategy.stage == 3 else 1.0
    half = recipe["bf16"] or recipe["fp16"]
    element = (2.0 if half else 4.0) if strategy.stage else float(base.element)
    trained = count_trained(recipe, base)
    parts = {"processes": count * (PROCESS if gpu else PROCESS_CPU) * GIB}
    workers = recipe.values.get("dataloader_num_workers", WORKERS if gpu and not recipe["streaming"] else 0)
    loose = gpu and strategy.offload_param and not strategy.pinned
    if loose and "dataloader_num_workers" not in recipe.values:
        workers = 0  # the host package starts none then

    parts["data loader"] = count * int(workers) * float(WORKER)
    if gpu:
        starting = DEEPSPEED if strategy.stage else ACCELERATE if strategy.fsdp else 0.0
        parts["starting processes"] = starting * GIB
        parts["set up and saving"] = _passing(recipe, base, machine, strategy, trained)

    if gpu and strategy.stage == 3:  # rank 0 reads a tensor, every rank of the node gathers it on its GPU
        largest = max(base.embedding, *(a * b for a, b in base.linear.values())) * base.element
        parts["loading"] = max(0.0, largest - count * LATER * GIB)
    elif gpu:
        parts["loading"] = count * float(BUFFERS)

    if gpu and recipe["offload_embedding"]:
        parts["embedding"] = count * float(base.embedding * base.element)

    if gpu and strategy.offload_param:
        parts["weights"] = count * (
            _parked(base, world, int(element), strategy.pinned) + trained.adapter * element / world
        )
        if loose and int(workers) > 0:  # a forked worker keeps the old pages of shares that are written at saving
            parts["copies for loader workers"] = parts["weights"]
    elif not gpu:
        parts["weights"] = (base.total * element + trained.adapter * 4.0) * share * count

    if not gpu or strategy.offload_optimizer:
        kept = (4.0 if half or strategy.stage else 0.0) + state_bytes(str(recipe["optim"]), 4) + 4.0  # and gradients
        parts["optimizer"] = trained.total * kept * (count / world if strategy.stage else count)

    if not gpu and strategy.stage == 3:  # gathered weights and the buffer they come in, gradients to be reduced
        gathered = 2 * min(strategy.live, base.total) * element
        parts["workspace"] = count * (gathered + min(BUCKET, trained.total) * element)

    if recipe["use_unsloth_gc"] and not recipe["disable_gradient_checkpointing"]:
        states = base.shape.num_hidden_layers * work.tokens * base.shape.hidden_size * 2.0
        parts["checkpoints in host memory"] = count * states

    return HostMemory({name: size for name, size in parts.items() if size}, launcher_of(machine, strategy))
