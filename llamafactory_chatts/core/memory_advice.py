"""Which settings of a recipe would free the most GPU memory, and about how much each."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .memory import (
    FOUR_BIT_SHARE,
    GIB,
    Shape,
    count_adapter_parameters,
    count_embedding_parameters,
    count_linear_parameters,
    estimate_activations,
    estimate_trained,
    estimate_weights,
)


@dataclass(frozen=True)
class Run:
    """What the advice depends on.

    Attributes:
        finetuning_type: ``lora``, ``oft``, ``freeze`` or ``full``.
        bits: of the linear layers: 4 or 8 when quantised, else 16 or 32.
        element: bytes of an activation, 2 or 4.
        checkpointing, offloaded, kernels: as in :func:`~.memory.estimate_activations`.
        rows, tokens, longest: of the pass under way, padding counted where it is computed; 0 while loading.
        batch_size: ``per_device_train_batch_size``.
        accumulation: ``gradient_accumulation_steps``.
        fills_passes: ``tokens_per_batch`` may be set in this stage.
        trained: trained parameters; None: not known yet.
        offload_embedding, lm_head_8bit: the settings; None where there is no such setting.
        processes: processes of the run.
        sharded: weights are shared out among them (ZeRO-3, FSDP).
    """

    shape: Shape
    finetuning_type: str = "lora"
    bits: int = 16
    element: int = 2
    checkpointing: bool = True
    offloaded: bool = False
    kernels: bool = False
    rows: int = 0
    tokens: int = 0
    longest: int = 0
    batch_size: int = 1
    accumulation: int = 1
    fills_passes: bool = True
    trained: int | None = None
    lora_rank: int = 8
    pure_16bit: bool = False
    offload_embedding: bool | None = None
    lm_head_8bit: bool | None = None
    processes: int = 1
    sharded: bool = False

    @property
    def activations(self) -> float:
        """Bytes that the pass under way keeps."""
        return estimate_activations(
            self.shape, self.tokens, self.checkpointing, self.kernels, self.element, self.offloaded
        )


@dataclass(frozen=True)
class Effect:
    """A setting as it stands in a recipe, and the bytes of GPU memory it would free."""

    setting: str
    saved: float

    def __str__(self) -> str:
        gib = self.saved / GIB
        return f"`{self.setting}` about -{f'{gib:.1f}' if gib >= 1 else f'{gib:.2g}'} GiB"


def rank_effects(run: Run, count: int = 3) -> list[Effect]:
    """Return the ``count`` settings that would free the most, best first."""
    effects = [*_smaller_passes(run), *_smaller_weights(run)]
    return sorted((e for e in effects if e.saved > 0), key=lambda effect: -effect.saved)[:count]


def _smaller_passes(run: Run) -> Iterator[Effect]:
    if not run.tokens:
        return

    def saved(**changes) -> float:
        return run.activations - replace(run, **changes).activations

    fewer = max(run.longest, -(-run.tokens // 2))
    if run.rows > 1 and run.fills_passes:
        yield Effect(f"tokens_per_batch: {fewer}", saved(tokens=fewer))
    elif run.batch_size > 1:
        size = run.batch_size // 2
        steps = -(-run.batch_size * run.accumulation // size)
        text = f"per_device_train_batch_size: {size}, gradient_accumulation_steps: {steps}"
        yield Effect(text, saved(tokens=run.tokens * size // run.batch_size))

    if not run.checkpointing:
        yield Effect("disable_gradient_checkpointing: false", saved(checkpointing=True))
    elif not run.offloaded:
        yield Effect("use_unsloth_gc: true", saved(offloaded=True))

    if not run.kernels:
        yield Effect("enable_liger_kernel: true", saved(kernels=True))

    if run.element == 4:
        yield Effect("bf16: true", saved(element=2))


def _smaller_weights(run: Run) -> Iterator[Effect]:
    shape, quantised, adapter = run.shape, run.bits < 16, run.finetuning_type in ("lora", "oft")
    linear, embedding = 2 * count_linear_parameters(shape), 2 * count_embedding_parameters(shape)
    whole = estimate_weights(shape, run.bits)
    if adapter and not quantised and not run.sharded:
        yield Effect("quantization_bit: 4", linear * (run.bits / 16 - FOUR_BIT_SHARE))
    elif adapter and run.bits == 8:
        yield Effect("quantization_bit: 4", linear * (0.52 - FOUR_BIT_SHARE))

    if adapter and quantised and run.offload_embedding is False:
        yield Effect("offload_embedding: true", embedding)

    if adapter and quantised and run.lm_head_8bit is False:
        yield Effect("lm_head_8bit: true", embedding / 2)

    if adapter and run.lora_rank > 8:
        fewer = count_adapter_parameters(shape, run.lora_rank) - count_adapter_parameters(shape, 8)
        yield Effect("lora_rank: 8", estimate_trained(fewer))

    trained = run.trained
    if trained is None:
        whole_model = count_linear_parameters(shape) + 2 * count_embedding_parameters(shape)
        trained = count_adapter_parameters(shape, run.lora_rank) if adapter else whole_model

    kept = estimate_trained(trained, run.pure_16bit)
    if run.finetuning_type == "full":
        lora = estimate_weights(shape) + estimate_trained(count_adapter_parameters(shape, 8))
        yield Effect("finetuning_type: lora", (kept - lora) / (run.processes if run.sharded else 1))
        if not run.pure_16bit and not run.sharded:
            yield Effect("pure_bf16: true", kept / 2)

    if run.processes > 1 and not run.sharded and not quantised:
        total = kept + (whole if adapter else 0)
        yield Effect("deepspeed: (a ZeRO-3 config)", total * (1 - 1 / run.processes))
