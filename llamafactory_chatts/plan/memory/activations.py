"""What a forward and backward pass holds on a GPU, from the tensors that autograd keeps."""

from dataclasses import dataclass

from ...core.memory import count_kept
from ...recipe.machine.planned import Machine
from ...recipe.reading import Recipe
from ..strategy import Strategy
from .base_model import BaseModel
from .trained import Trained


SLICE = 256
"""Labelled positions whose logits exist at a time (the model package's ``loss.SLICE``; a test compares them)."""

SCORE_BYTES = 2 + 4 + 4 + 2
"""Bytes for one logit and its gradient: in 16 bits, in float32, the gradient in float32, in 16 bits."""

EAGER, FIRST_FLASH = ("disabled", "false"), 8.0
"""Values of ``flash_attn`` without a fused kernel; compute capability from which PyTorch has FlashAttention."""


@dataclass(frozen=True)
class Pass:
    """The largest forward and backward pass of a process.

    Attributes:
        rows: in it.
        tokens: that are computed (padding too, where it is).
        longest: tokens of its longest sample.
        labelled: positions with a label.
        patches: of its series.
        several: a step has more passes than this one.
    """

    rows: int
    tokens: int
    longest: int
    labelled: int
    patches: int
    several: bool = False


@dataclass(frozen=True)
class Activations:
    """Bytes of one pass.

    Attributes:
        state: one hidden state of all tokens.
        layer: what one decoder layer keeps until its backward pass.
        working: what that backward pass takes beside it.
        around: kept outside of the layers: last norm, its gradient, encoder.
        logits: of the labelled positions, with their gradients.
    """

    state: float
    layer: float
    working: float
    around: float
    logits: float


def activation_element(recipe: Recipe, base: BaseModel) -> int:
    """Return the bytes of an activation's value."""
    return 2 if recipe["bf16"] or recipe["fp16"] or recipe["pure_bf16"] or base.element == 2 else 4


def copies_weights(recipe: Recipe, base: BaseModel, strategy: Strategy) -> bool:
    """Tell whether autocast computes in float16 with weights that are loaded in bfloat16.

    LLaMA-Factory loads the dtype of the checkpoint. Weights outside of the 4-bit layers are then copied for each pass,
    and what runs between the layers is float32, the common type of both. DeepSpeed casts the model instead.
    """
    return bool(recipe["fp16"]) and base.dtype == "bfloat16" and not strategy.stage


def estimate_pass(
    recipe: Recipe, base: BaseModel, machine: Machine, strategy: Strategy, trained: Trained, work: Pass
) -> Activations:
    """Return what a pass holds; with two answers a row (``dpo``, ``rm``) each row goes through twice."""
    element, pairs = activation_element(recipe, base), 2 if recipe["stage"] in ("dpo", "rm") else 1
    tokens, shape, kernels = work.tokens * pairs, base.shape, recipe["enable_liger_kernel"]
    scores, scores_working = _attention_scores(recipe, base, machine, work, element)
    copies = copies_weights(recipe, base, strategy)
    between = 4 if copies else element
    state = float(tokens * shape.hidden_size * between)
    encoder = 0.0 if recipe.encoder_mode == "freeze" else float(element * sum(map(sum, base.encoder_linear)))
    dropout = recipe.adapter and recipe["lora_dropout"] > 0
    kept = count_kept(shape, trained.targets, kernels, base.qwen3, dropout, element, between)
    gradients = float(element * ((3 if kernels else 5) * shape.intermediate_size + 2 * shape.hidden_size))  # of SwiGLU
    return Activations(
        state=state,
        layer=tokens * kept + scores * pairs,
        working=tokens * gradients + scores_working,
        around=2 * state + work.patches * pairs * encoder + copies * base.encoder * 2.0,
        logits=_logits(recipe, base, strategy, work, element),
    )


def _attention_scores(
    recipe: Recipe, base: BaseModel, machine: Machine, work: Pass, element: int
) -> tuple[float, float]:
    """Return what a layer keeps, and takes for a moment, where attention writes out ``length x length`` scores.

    That is ``flash_attn: disabled``, and a card without FlashAttention, where PyTorch has only its plain kernel for
    keys that several heads share.
    """
    heads = base.shape.num_attention_heads
    if str(recipe["flash_attn"]).lower() in EAGER:
        scores = float(work.rows * heads * work.longest**2)
        return scores * (element + 4), scores * (element + 4)

    if machine.card is not None and (machine.card.capability or FIRST_FLASH) < FIRST_FLASH:
        scores = float(heads * work.longest * work.tokens)  # sample by sample; as if all were as long as the longest
        return scores * element, heads * work.longest**2 * (element + 8.0)

    return 0.0, 0.0


def _logits(recipe: Recipe, base: BaseModel, strategy: Strategy, work: Pass, element: int) -> float:
    vocabulary, hidden = base.shape.vocab_size, base.shape.hidden_size
    if recipe["stage"] != "sft":  # those stages need the logits of every position
        rows = 2 if recipe["stage"] in ("dpo", "rm") else 1
        return rows * work.tokens * vocabulary * float(element + 4 + 4)

    positions = work.labelled if strategy.sharded else min(work.labelled, SLICE)
    logits = positions * vocabulary * float(SCORE_BYTES if element == 2 else 8)
    if copies_weights(recipe, base, strategy) and not recipe["lm_head_8bit"]:
        logits += vocabulary * hidden * 2.0

    return logits


def evaluation_logits(recipe: Recipe, base: BaseModel, longest: int) -> float:
    """Return the bytes of the logits of an evaluation batch, all positions, in 16 bits and float32; 0 without one."""
    if recipe["eval_strategy"] in ("no", False, None) and not recipe["do_eval"]:
        return 0.0

    return recipe["per_device_eval_batch_size"] * longest * base.shape.vocab_size * 6.0
