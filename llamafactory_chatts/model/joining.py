"""From the published writing of a series in ``input_ids`` to one ``<ts>`` per patch."""

from dataclasses import dataclass

import torch

from ..core.contract import IGNORE_INDEX
from ..core.errors import ChatTSError


@dataclass
class PatchedBatch:
    """A batch in which each series is written as one ``<ts>`` per patch. All tensors: ``(rows, length)``."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor | None


def check_pairs(input_ids: torch.Tensor, start_id: int, end_id: int, series: int) -> None:
    """Raise a :class:`ChatTSError` unless each of the ``series`` is written ``<ts><ts/>``."""
    starts, ends = input_ids == start_id, input_ids == end_id
    paired = torch.zeros_like(ends)
    paired[:, 1:] = starts[:, :-1]
    if not torch.equal(ends, paired) or bool(starts[:, -1].any()):
        raise ChatTSError(
            "<ts> and <ts/> do not stand in pairs",
            where="input_ids",
            fix="Write <ts><ts/> once per series (or <ts> once per patch and no <ts/>)",
        )

    if int(starts.sum()) != series:
        raise ChatTSError(
            f"{int(starts.sum())} <ts><ts/> but {series} series",
            where="input_ids",
            fix="Add a series or remove a placeholder",
        )


def check_patches(at_patch: torch.Tensor, counts: torch.Tensor) -> None:
    """Raise a :class:`ChatTSError` unless the ``<ts>`` of a batch fit the patches of its series.

    Args:
        at_patch: where ``<ts>`` stands, shape ``(rows, length)``.
        counts: patches per series, in the order of the placeholders over the whole batch.
    """
    written, needed = int(at_patch.sum()), int(counts.sum())
    if written != needed:
        raise ChatTSError(
            f"{written} <ts> for {needed} patches of {counts.numel()} series",
            where="input_ids",
            fix="Write <ts> once per patch of each series, or <ts><ts/> once per series",
        )

    last = at_patch.clone()  # of a run: no series may begin in one run and end in the next
    last[:, :-1] &= ~at_patch[:, 1:]
    ends = at_patch.flatten().cumsum(0)[last.flatten()]
    if not bool(torch.isin(ends, counts.cumsum(0).to(ends.device)).all()):
        raise ChatTSError(
            "the runs of <ts> do not have the lengths of their series in patches",
            where="input_ids",
            fix="Give the series in the order of their placeholders, each with <ts> once per patch",
        )


def repeat_series(at_patch: torch.Tensor, counts: torch.Tensor, times: int) -> torch.Tensor:
    """Return the order of series for a batch in which each row stands ``times`` times, one after the other.

    Args:
        at_patch, counts: as for :func:`check_patches`, before the repetition.
        times: how often each row is repeated (beams, returned sequences).
    """
    check_patches(at_patch, counts)
    row = torch.searchsorted(at_patch.sum(dim=1).cumsum(0), counts.cumsum(0).to(at_patch.device))
    groups = [torch.nonzero(row == index).flatten().repeat(times) for index in range(at_patch.shape[0])]
    return torch.cat(groups)


def expand_pairs(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    labels: torch.Tensor | None,
    counts: torch.Tensor,
    start_id: int,
    end_id: int,
    pad_id: int,
) -> PatchedBatch:
    """Replace each ``<ts><ts/>`` by ``<ts>`` once per patch, keeping the padding side.

    Args:
        input_ids: shape ``(rows, length)``, one pair per series.
        attention_mask: same shape, or None when nothing is padded.
        labels: same shape, or None.
        counts: patches per series, in the order of the placeholders over the whole batch.
        start_id, end_id, pad_id: token ids.

    Raises:
        ChatTSError: placeholders are not in pairs, or their number is not that of the series.
    """
    check_pairs(input_ids, start_id, end_id, counts.numel())
    mask = torch.ones_like(input_ids) if attention_mask is None else (attention_mask != 0).to(input_ids.dtype)
    starts, ends = input_ids == start_id, input_ids == end_id
    width = mask.masked_fill(ends, 0)
    width = width.masked_scatter(starts, counts.to(width))

    lengths = width.sum(dim=1, keepdim=True)
    longest = int(lengths.max())
    left_padded = bool((mask[:, 0] == 0).any())
    first = longest - lengths if left_padded else torch.zeros_like(lengths)
    place = width.cumsum(dim=1) - width + first

    column = torch.arange(longest, device=input_ids.device)[None, :]
    real = (column >= first) & (column < first + lengths)
    new_ids = torch.where(real, start_id, pad_id)
    copied = mask.bool() & ~starts & ~ends
    row = torch.arange(input_ids.shape[0], device=input_ids.device)[:, None].expand_as(input_ids)
    target = (row[copied], place[copied])
    new_ids[target] = input_ids[copied]
    new_labels = None
    if labels is not None:
        new_labels = torch.full_like(new_ids, IGNORE_INDEX)
        new_labels[target] = labels[copied]

    return PatchedBatch(new_ids, real.to(mask.dtype), new_labels)
