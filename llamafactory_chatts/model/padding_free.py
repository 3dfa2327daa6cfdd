"""The decoder over real tokens only: rows without padding, packed samples without a dense mask.

A batch is flattened to one row ``(1, tokens)`` with the bounds of its samples beside it, and attention runs from
bound to bound: FlashAttention's variable-length kernel where the card and the dtype allow it (flash-attn when it was
asked for, otherwise the one inside PyTorch), and PyTorch's SDPA sample by sample everywhere else. Both are exact: no
sample sees another one, no padding is computed, and no mask of ``length x length`` exists.
"""

import functools
import importlib.util
import inspect
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


VARLEN = "chatts_varlen"
"""Name of the attention in transformers' registry; without bounds it is plain ``sdpa``."""


@dataclass
class Samples:
    """Where the samples of a batch lie.

    Attributes:
        place: of each real token in the batch flattened row by row, shape ``(tokens,)``.
        bounds: first token of each sample and the end, int32, shape ``(samples + 1,)``.
        lengths: tokens per sample, on the host.
        positions: position of each token in its sample, shape ``(1, tokens)``.
    """

    place: torch.Tensor
    bounds: torch.Tensor
    lengths: list[int]
    positions: torch.Tensor

    def pick(self, values: torch.Tensor) -> torch.Tensor:
        """Return the real tokens ``(1, tokens, ...)`` of ``(rows, length, ...)``."""
        return values.flatten(0, 1)[self.place].unsqueeze(0)

    def put_back(self, values: torch.Tensor, rows: int, length: int) -> torch.Tensor:
        """Return ``(rows, length, ...)``, zeros where padding was, from ``(1, tokens, ...)``."""
        full = values.new_zeros(rows * length, *values.shape[2:])
        return full.index_copy(0, self.place, values[0]).unflatten(0, (rows, length))

    def attention_kwargs(self, name: str, dtype: torch.dtype) -> dict:
        """Return what attention ``name`` needs, under the names that transformers uses for FlashAttention.

        Args:
            name: ``config._attn_implementation``.
            dtype: of the hidden states; autocast's where it is on.
        """
        device, longest = self.place.device, max(self.lengths)
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)

        by_sample = name == VARLEN and not has_varlen_kernel(device, dtype)
        return {
            "cu_seq_lens_q": self.bounds,
            "cu_seq_lens_k": self.bounds,
            "max_length_q": longest,
            "max_length_k": longest,
            **({"sample_lengths": self.lengths} if by_sample else {}),
        }


def find_samples(
    mask: torch.Tensor | None, position_ids: torch.Tensor | None, rows: int, length: int, device: torch.device
) -> Samples:
    """Find the samples of a batch.

    Args:
        mask: shape ``(rows, length)``: 0 for padding, 1, 2, 3 ... number the samples of a packed row.
            None: no padding.
        position_ids: shape ``(rows, length)``; read without a mask only: a sample begins at each 0.
        rows, length: shape of the batch.
        device: where the tensors shall be.
    """
    first = torch.zeros(rows, length, dtype=torch.bool, device=device)
    first[:, 0] = True
    if mask is not None:
        mask = mask.to(device)
        first[:, 1:] = mask[:, 1:] != mask[:, :-1]
        place = torch.nonzero(mask.flatten() != 0).flatten()
    else:
        if position_ids is not None:
            first |= (position_ids.to(device) == 0).expand(rows, length)

        place = torch.arange(rows * length, device=device)

    starts = torch.nonzero(first.flatten()[place]).flatten()
    bounds = F.pad(starts, (0, 1), value=place.numel())
    widths = bounds.diff()
    positions = torch.arange(place.numel(), device=device) - starts.repeat_interleave(
        widths, output_size=place.numel()
    )
    return Samples(place, bounds.int(), widths.tolist(), positions.unsqueeze(0))


@functools.cache
def _torch_has_varlen() -> bool:
    """PyTorch 2.11 has the function in the form used here; 2.10 has another one, earlier versions have none."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return False

    from torch.nn.attention.varlen import varlen_attn

    return "window_size" in inspect.signature(varlen_attn).parameters


def has_varlen_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether PyTorch's own variable-length FlashAttention runs here: compute capability 8.0, 16 bits."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or torch.version.hip:
        return False

    return _torch_has_varlen() and torch.cuda.get_device_capability(device) >= (8, 0)


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    sample_lengths: list[int] | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Causal attention within the samples of one flattened row; ``sdpa`` when no bounds are given.

    Args:
        query: shape ``(1, heads, tokens, head_dim)``; key and value with the model's number of key-value heads.
        cu_seq_lens_q: bounds of the samples, int32, shape ``(samples + 1,)``.
        max_length_q: longest sample.
        sample_lengths: tokens per sample, on the host; given where the variable-length kernel does not run.

    Returns:
        shape ``(1, tokens, heads, head_dim)``, and None in the place of attention weights.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)

    if torch.is_autocast_enabled(query.device.type):  # upcast norms hand over float32
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)

    if sample_lengths is None:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (item.squeeze(0).transpose(0, 1) for item in (query, key, value))
        bounds, longest = cu_seq_lens_q, max_length_q or 0
        output = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=(-1, 0))
        assert isinstance(output, torch.Tensor)
        return output.unsqueeze(0), None

    parts = zip(*(item.split(sample_lengths, dim=2) for item in (query, key, value)), strict=True)
    done = [
        F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
        )
        for q, k, v in parts
    ]
    return torch.cat(done, dim=2).transpose(1, 2), None


AttentionInterface.register(VARLEN, varlen_attention)
AttentionMaskInterface.register(VARLEN, sdpa_mask)
