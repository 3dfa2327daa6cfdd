"""Cross-entropy at labelled positions, in slices, so that a long answer does not hold all its logits at once."""

from collections.abc import Callable

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..core.contract import IGNORE_INDEX


SLICE = 256
"""Labelled positions a slice: 256 x 152,064 logits take 0.16 GB in float32, and training holds about three such."""


def sum_cross_entropy(scores: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Return the sum over ``(positions, vocabulary)`` scores; in float32, each position times its weight."""
    if weights is None:
        return F.cross_entropy(scores.float(), target, reduction="sum")

    return (F.cross_entropy(scores.float(), target, reduction="none") * weights).sum()


def sum_labelled_loss(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor | None = None,
    in_one: bool = False,
) -> torch.Tensor:
    """Return the summed cross-entropy of labelled positions.

    More than :data:`SLICE` positions are taken slice by slice, and the logits of a slice are computed again for the
    backward pass instead of being kept.

    Args:
        head: maps hidden states to logits.
        hidden: shape ``(positions, hidden_size)``.
        target: token ids, shape ``(positions,)``.
        weights: shape ``(positions,)``, or None for 1.
        in_one: never slice (ZeRO-3: ranks with unequal numbers of slices would wait for each other forever).
    """

    def part(hidden: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        return sum_cross_entropy(head(hidden), target, weights)

    if in_one or hidden.shape[0] <= SLICE:
        return part(hidden, target, weights)

    weighted = weights.split(SLICE) if weights is not None else [None] * -(-hidden.shape[0] // SLICE)
    slices = zip(hidden.split(SLICE), target.split(SLICE), weighted, strict=True)
    return torch.stack([checkpoint(part, *piece, use_reentrant=False) for piece in slices]).sum()


def shift_labels(labels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the token that each position has to predict, -100 where there is none; shape ``(rows, length)``."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX).to(device)
