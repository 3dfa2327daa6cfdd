"""Peak memory of one GPU over a run, part by part. Checked against runs on an H200, see docs/benchmarks.md."""

from collections.abc import Mapping
from dataclasses import dataclass

from ...core.memory import GIB
from ...recipe.machine.planned import Machine
from ...recipe.reading import Recipe
from ..strategy import Strategy
from .activations import Pass, activation_element, copies_weights, estimate_pass, evaluation_logits
from .base_model import BaseModel
from .trained import Trained, count_trained, is_paged, state_bytes


CONTEXT, NCCL, ZERO = 0.75, 0.8, 0.5
"""GiB beside PyTorch's own memory, as nvidia-smi showed on H200s: CUDA with its kernels; the buffers of several
processes that train together; what DeepSpeed's own groups and streams add."""

BLOCK, DOUBLE_BLOCK = 64, 256
"""bitsandbytes: weights that share a scale, and scales that share one where they are quantised in their turn."""

SPARE, WORKING_SHARE, KEPT_SHARE = 0.1, 0.4, 0.03
"""What PyTorch's allocator holds but cannot use: a tenth of a GiB, and these shares of one layer's work and of what a
pass keeps: passes differ in size, and blocks of one do not fit another."""

FSDP_ROOT = 2.6
"""What FSDP reserves beside the whole model that each GPU loads first, in multiples of embedding and head, which it
gathers as one unit (from 1B, 8B and 14B with 4-bit weights on two H200s)."""

PARTS = (
    "weights",
    "quantisation constants",
    "encoder",
    "adapter",
    "gradients",
    "optimizer",
    "checkpoints",
    "activations",
    "logits",
    "workspace",
)


@dataclass(frozen=True)
class GpuMemory:
    """Bytes on one GPU.

    Attributes:
        parts: of the peak, by the names in :data:`PARTS`.
        moment: when the peak is reached: ``start``, ``loss``, ``backward``, ``optimizer step`` or ``evaluation``.
        elsewhere: the most that a part takes at another moment, where that is more.
        outside: CUDA's own, which PyTorch does not count.
    """

    parts: Mapping[str, float]
    moment: str
    elsewhere: Mapping[str, float]
    outside: float

    @property
    def peak(self) -> float:
        """Bytes that PyTorch reserves."""
        return sum(self.parts.values())

    @property
    def needed(self) -> float:
        """Bytes that the card must have free."""
        return self.peak + self.outside


def _weights(recipe: Recipe, base: BaseModel, trained: Trained) -> dict[str, float]:
    """Return the weights of one process that holds all of them."""
    bits, element = recipe["quantization_bit"], base.element
    wide = element if recipe["pure_bf16"] else 4  # the host casts what is trained to float32
    layers, constants = float(base.layers * element), 0.0
    if bits == 4:
        layers, scales = base.layers / 2, base.layers / BLOCK
        constants = scales * (1 + 4 / DOUBLE_BLOCK) if recipe["double_quantization"] else scales * 4
    elif bits == 8:
        layers = float(base.layers)
        constants = 4.0 * base.shape.num_hidden_layers * sum(outputs for _, outputs in base.linear.values())

    embedding = 0.0 if recipe["offload_embedding"] else float(base.embedding * element)
    head = float(base.head * element)
    if recipe["lm_head_8bit"]:
        head = base.head + 4.0 * base.shape.vocab_size

    decoder = layers + base.small * element + embedding + head + trained.decoder * (wide - element)
    encoder = float(base.encoder * element)
    if trained.copies:  # the trained copy stands beside the original
        encoder += trained.copies * wide
    elif trained.encoder:
        encoder = float(trained.encoder * wide)

    # a second model for reference; of an adapter, the trained one stands in, with the adapter switched off
    referred = recipe["stage"] in ("dpo", "kto") and (not recipe.adapter or bool(recipe["ref_model"]))
    second = decoder + constants + encoder if referred else 0.0
    return {
        "weights": decoder + second,
        "quantisation constants": constants,
        "encoder": encoder,
        "adapter": float(trained.adapter * wide),
    }


def _held(
    recipe: Recipe, base: BaseModel, machine: Machine, strategy: Strategy, trained: Trained
) -> tuple[dict[str, float], float]:
    """Return what a process holds all the time, with the workspace, and its gradients."""
    world, optim, half = machine.world, str(recipe["optim"]), recipe["bf16"] or recipe["fp16"]
    wide = base.element if recipe["pure_bf16"] else 4
    held = _weights(recipe, base, trained)
    gradients = float(trained.total * wide)
    held["optimizer"] = 0.0 if is_paged(optim) else trained.total * state_bytes(optim, wide)
    workspace = 0.0
    if recipe["quantization_bit"]:  # the largest layer, dequantised
        largest = max(inputs * outputs for inputs, outputs in base.linear.values())
        workspace += largest * activation_element(recipe, base) * (1 + copies_weights(recipe, base, strategy))

    if not strategy.stage:
        if strategy.fsdp:
            workspace += FSDP_ROOT * (base.embedding + base.head) * base.element
        elif world > 1:
            workspace += gradients  # DDP's buckets

        if trained.decoder and half and not recipe["pure_bf16"]:
            workspace += trained.decoder * 2.0  # autocast keeps 16-bit copies of trained weights over a forward pass

        return {**held, "workspace": workspace}, gradients

    share = 1 / world
    if half:  # DeepSpeed trains 16-bit weights, with a float32 copy beside the moments
        held |= {"weights": 2.0 * (base.total - base.encoder), "encoder": 2.0 * base.encoder}
        held |= {"adapter": 2.0 * trained.adapter}
        gradients = 2.0 * trained.total
        held["optimizer"] = trained.total * (4.0 + state_bytes(optim, 4))

    held["optimizer"] *= 0.0 if strategy.offload_optimizer else share
    workspace += 2 * 2.0 * min(base.shape.hidden_size**2, trained.total)  # the buckets of the reduction
    if strategy.stage >= 2:
        gradients *= 0.0 if strategy.offload_optimizer else share

    if strategy.stage == 3:
        # with the shares they are gathered from; embedding and head on top, both are met at the turn of two passes
        gathered = min(base.total, strategy.live + base.embedding + base.head) * (2.0 if half else 4.0)
        workspace += gathered * (1 + share if strategy.offload_param else 1.0)
        for part in ("weights", "encoder", "adapter"):
            held[part] *= 0.0 if strategy.offload_param else share

    return {**held, "workspace": workspace}, gradients


def _broadcast(recipe: Recipe, base: BaseModel) -> float:
    """Return the bytes of the two largest tensors on the GPU: DDP's first broadcast copies them."""
    weight = {4: 0.5, 8: 1.0}.get(recipe["quantization_bit"], float(base.element))
    tensors = [inputs * outputs * weight for inputs, outputs in base.linear.values()]
    tensors += [] if recipe["offload_embedding"] else [base.embedding * float(base.element)]
    tensors += [base.head * (1.0 if recipe["lm_head_8bit"] else base.element)]
    return sum(sorted(tensors)[-2:])


def estimate_gpu(recipe: Recipe, base: BaseModel, machine: Machine, strategy: Strategy, work: Pass) -> GpuMemory:
    """Estimate the peak of one GPU over a run.

    Args:
        recipe: the settings.
        base: sizes of the model.
        machine: the card, for its kind of attention, and the number of processes.
        strategy: what DeepSpeed shares out.
        work: the largest pass.
    """
    trained, layers = count_trained(recipe, base), base.shape.num_hidden_layers
    held, gradients = _held(recipe, base, machine, strategy, trained)
    one = estimate_pass(recipe, base, machine, strategy, trained, work)
    checkpoints, before = 0.0, layers * one.layer + one.around
    activations = before + one.working
    if not recipe["disable_gradient_checkpointing"]:
        checkpoints = 0.0 if recipe["use_unsloth_gc"] else layers * one.state
        before = one.around
        activations = one.around + one.layer - one.state + one.working  # the layer's input is its checkpoint

    nothing = dict.fromkeys(("gradients", "checkpoints", "activations", "logits"), 0.0)
    held["workspace"] += SPARE * GIB + WORKING_SHARE * (one.layer + one.working) + KEPT_SHARE * (checkpoints + before)
    grown = gradients if work.several else 0.0
    stepping = gradients if recipe["optim"] == "adamw_torch" and not strategy.stage else 0.0  # AdamW's lists
    if strategy.stage == 3 and not strategy.offload_optimizer:
        stepping = min(strategy.sub_group, trained.total / machine.world) * 4.0

    kept = {**held, **nothing, "gradients": grown, "checkpoints": checkpoints}
    moments = {
        "loss": {**kept, "activations": before, "logits": one.logits},
        "backward": {**kept, "gradients": max(grown, gradients / layers), "activations": activations},
        "optimizer step": {**held, **nothing, "gradients": gradients, "workspace": SPARE * GIB + stepping},
        "evaluation": {**held, **nothing, "logits": evaluation_logits(recipe, base, work.longest)},
    }
    if machine.world > 1 and not strategy.stage and not strategy.fsdp:
        moments["start"] = {**held, **nothing, "workspace": SPARE * GIB + _broadcast(recipe, base)}

    moment = max(moments, key=lambda name: sum(moments[name].values()))
    parts = {name: moments[moment][name] for name in PARTS}
    most = {name: max(found[name] for found in moments.values()) for name in PARTS}
    elsewhere = {name: most[name] for name in PARTS if most[name] > 1.05 * parts[name] + GIB / 100}
    outside = (CONTEXT + NCCL * (machine.world > 1) + ZERO * (strategy.stage > 0)) * GIB
    return GpuMemory(parts, moment, elsewhere, outside)
