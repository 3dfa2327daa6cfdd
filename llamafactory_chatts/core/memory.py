"""What a training run needs in GPU memory, by formula: weights, activations, what the optimizer keeps. All in bytes.

Estimates for planning and for messages. The activation figures are fitted to measurements of a Qwen3-8B (LoRA on
all linear layers, bf16, without checkpointing, 5,840 tokens in a pass on an H200): 1.05 GiB per decoder layer with
PyTorch's own norm, rotary embedding and MLP, 0.79 GiB with Liger's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


GIB = 2**30
FOUR_BIT_SHARE = 0.27
"""Size of 4-bit weights against 16-bit ones: NF4 with the scales of its blocks."""

_STOCK, _KERNELS = (11.6, 4.0), (8.7, 3.0)
"""Values kept per token and layer: so many times hidden_size plus so many times intermediate_size."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder, named as in ``config.json``."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """Read the sizes of a config: an object with these attributes or a mapping with these keys."""
        read = config.get if isinstance(config, Mapping) else lambda key: getattr(config, key, None)
        heads = read("num_attention_heads")
        return cls(
            hidden_size=read("hidden_size"),
            intermediate_size=read("intermediate_size"),
            num_hidden_layers=read("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=read("num_key_value_heads") or heads,
            head_dim=read("head_dim") or read("hidden_size") // heads,
            vocab_size=read("vocab_size"),
        )

    @property
    def linear_layers(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of the linear layers of one decoder layer: q, k, v, o, gate, up, down."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        attention = ((hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden))
        return (*attention, (hidden, inner), (hidden, inner), (inner, hidden))


def count_linear_parameters(shape: Shape) -> int:
    """Return the parameters of all decoder layers' linear layers, which is what quantisation stores in 4 bits."""
    return shape.num_hidden_layers * sum(inputs * outputs for inputs, outputs in shape.linear_layers)


def count_embedding_parameters(shape: Shape) -> int:
    """Return the parameters of the input embedding; the output head (``lm_head``) has as many."""
    return shape.vocab_size * shape.hidden_size


def count_adapter_parameters(shape: Shape, rank: int) -> int:
    """Return the parameters of LoRA with ``rank`` on all linear layers of the decoder."""
    return shape.num_hidden_layers * rank * sum(inputs + outputs for inputs, outputs in shape.linear_layers)


def estimate_weights(shape: Shape, bits: int = 16) -> float:
    """Return the bytes of the model's weights: linear layers in ``bits``, both embeddings in at least 16."""
    share = {4: FOUR_BIT_SHARE, 8: 0.52}.get(bits, bits / 16)
    wide = max(bits, 16) / 8
    return 2.0 * share * count_linear_parameters(shape) + 2 * wide * count_embedding_parameters(shape)


def estimate_activations(
    shape: Shape, tokens: int, checkpointing: bool, kernels: bool = False, element: int = 2, offloaded: bool = False
) -> float:
    """Return the bytes that one pass keeps for its backward pass.

    Args:
        tokens: of the pass; padding counts where it is computed.
        checkpointing: keep one hidden state per layer and compute one layer at a time again.
        kernels: with Liger's norm, rotary embedding and MLP.
        element: bytes of a value: 2 with bf16 or fp16, 4 without.
        offloaded: the hidden states of checkpointing wait in host memory (``use_unsloth_gc``).
    """
    hidden, inner = _KERNELS if kernels else _STOCK
    layer = tokens * element * (hidden * shape.hidden_size + inner * shape.intermediate_size)
    if not checkpointing:
        return shape.num_hidden_layers * layer

    between = 0 if offloaded else shape.num_hidden_layers * tokens * element * shape.hidden_size
    return between + layer


def estimate_trained(parameters: int, pure_16bit: bool = False) -> float:
    """Return the bytes for trained parameters with AdamW: weight, gradient and two moments, in 32 or 16 bits each."""
    return parameters * (8.0 if pure_16bit else 16.0)
