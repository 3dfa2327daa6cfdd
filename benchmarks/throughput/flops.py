"""Operations that training a batch needs, from its lengths and the model's config. No torch.

A multiplication and an addition count as two. Each token passes the weights of the decoder once forward, each patch
those of the encoder; attention is causal, so half of the length x length products are needed; lm_head is needed at
labelled positions only; the embedding is a look-up. The backward pass costs as much again when only gradients of the
activations are needed (adapters on frozen weights), twice that when the weights have gradients, too. What
checkpointing computes again, padding, norms, softmax and the adapters' own weights (below 1 % at these ranks) are not
counted.
"""

from typing import Any


def decoder_weights(config: Any) -> int:
    """Return the weights of the decoder layers' matrices: attention and MLP, without norms, embedding and lm_head."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    attention = config.hidden_size * (queries + 2 * keys) + queries * config.hidden_size
    return config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size)


def encoder_weights(config: Any) -> int:
    """Return the weights of the time-series encoder's matrices."""
    ts = config.time_series
    width = ts["patch_size"]
    if ts["use_position_embedding"]:
        width += ts["patch_size"] * ts["embedding_dim"]
    elif ts["use_position_idx"]:
        width *= 2

    return width * ts["hidden_size"] + (ts["num_layers"] - 1) * ts["hidden_size"] ** 2


def training_flops(config: Any, lengths: list[int], labelled: int, patches: int, full: bool) -> float:
    """Return the operations of one forward and backward pass.

    Args:
        config: of the ChatTS model.
        lengths: real tokens per sample.
        labelled: positions with a label.
        patches: patches of all series.
        full: all weights are trained; otherwise they are frozen below adapters.
    """
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    weights = 2 * decoder_weights(config) * sum(lengths)
    weights += 2 * config.vocab_size * config.hidden_size * labelled
    weights += 2 * encoder_weights(config) * patches
    square = sum(length * length for length in lengths)
    attention = config.num_hidden_layers * 2 * square * config.num_attention_heads * head  # QK and PV, causal half
    return float(weights * (3 if full else 2) + attention * 3)
