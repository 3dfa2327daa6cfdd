"""An ``lm_head`` of 8-bit rows with one scale each, for training adapters on a quantised model."""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from .weight_files import FileTensor


CHUNK = 4096
"""Vocabulary rows that exist in 16 bits at a time: 4,096 x 5,120 take 0.04 GB, and 0.08 GB in float32 on the way."""


def quantize_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 rows and the float32 scale of each, largest magnitude / 127, for ``(rows, hidden)``."""
    rows = rows.to(torch.float32, copy=True)  # the one copy: everything else is done in place
    largest = torch.linalg.vector_norm(rows, ord=float("inf"), dim=1)
    scale = largest.clamp(min=1e-30) / 127
    return rows.div_(scale[:, None]).round_().clamp_(-127, 127).to(torch.int8), scale


def dequantize(weight: torch.Tensor, scale: torch.Tensor, start: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the rows of one chunk, rounded once, to ``dtype``."""
    part = slice(start, start + CHUNK)
    return (weight[part] * scale[part, None]).to(dtype)


class _Project(torch.autograd.Function):
    """Logits of ``(positions, hidden)``; the backward pass gives the gradient of the input only."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight, scale)
        logits = hidden.new_empty(hidden.shape[0], weight.shape[0])
        for start in range(0, weight.shape[0], CHUNK):
            logits[:, start : start + CHUNK] = hidden @ dequantize(weight, scale, start, hidden.dtype).t()

        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        total = grad.new_zeros(grad.shape[0], weight.shape[1], dtype=torch.float32)  # not 38 roundings to 16 bits
        for start in range(0, weight.shape[0], CHUNK):
            total += grad[:, start : start + CHUNK] @ dequantize(weight, scale, start, grad.dtype)

        return total.to(grad.dtype), None, None


class Int8Head(nn.Module):
    """A frozen output layer of int8 rows, dequantised chunk by chunk; a whole 16-bit weight never exists.

    It saves half of the layer on the GPU: 0.58 GiB for ChatTS-8B (151,936 x 4,096), 0.72 GiB for ChatTS-14B
    (152,064 x 5,120). It costs a rounding of each weight by at most ``largest of its row / 254``, and the
    dequantisation in each pass.

    Attributes:
        weight: int8, shape ``(vocabulary, hidden)``.
        scale_bits: float32 scales, shape ``(vocabulary,)``, kept as the integers of the same bits, so that
            ``model.bfloat16()`` and the like do not round them.
    """

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_parameter("weight", None)  # given by fill: there is nothing for transformers to load
        self.register_parameter("scale_bits", None)

    @torch.no_grad()
    def fill(self, source: FileTensor, device: torch.device, dtype: torch.dtype) -> "Int8Head":
        """Read the weight chunk by chunk and quantise it on ``device``.

        Args:
            source: the tensor in the checkpoint.
            device: where the head will be.
            dtype: type that the model is loaded in; weights are rounded to it before they are quantised.
        """
        weight = torch.empty(self.out_features, self.in_features, dtype=torch.int8, device=device)
        scale = torch.empty(self.out_features, dtype=torch.float32, device=device)
        for start in range(0, self.out_features, CHUNK):
            part = slice(start, start + CHUNK)
            weight[part], scale[part] = quantize_rows(source.read_rows(start, start + CHUNK).to(device, dtype))

        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale_bits = nn.Parameter(scale.view(torch.int32), requires_grad=False)
        return self

    @property
    def scale(self) -> torch.Tensor:
        return self.scale_bits.view(torch.float32)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits ``(..., vocabulary)`` in the type of ``hidden``, or of autocast where it is on."""
        kind = hidden.device.type
        if torch.is_autocast_enabled(kind):
            hidden = hidden.to(torch.get_autocast_dtype(kind))

        logits = _Project.apply(hidden.reshape(-1, self.in_features), self.weight, self.scale)
        return logits.view(*hidden.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, 8 bits"
