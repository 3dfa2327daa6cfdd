"""The rows of one optimizer step in one batch, and how passes are cut out of it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from ...core.contract import IGNORE_INDEX
from ...core.errors import ChatTSError
from ...model.places import Places, read_places


SERIES = "timeseries"
WEIGHTS = "loss_weights"
PLACES = "places"
_WHERE = "tokens_per_batch"


class RowWeights:
    """Weights of the rows of a pass, out of reach of the casts on the way to the model.

    DeepSpeed's and FSDP's mixed precision bring every floating tensor of a batch to 16 bits; 1/37 would then be
    wrong by up to 0.2 %. The model asks for its tensor with :meth:`to`.
    """

    def __init__(self, values: Sequence[float]) -> None:
        self.values = list(values)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return the weights, shape ``(rows,)``."""
        return _send(self.values, device, dtype)


class StepRows:
    """The collated batches of one optimizer step as one batch.

    Args:
        batches: as the collator made them: ``(rows, length)`` tensors padded on the right, ``timeseries`` of shape
            ``(series, 2 * longest, 1)`` where a batch has series, other tensors with one entry per row.
        base: the ChatTS model.
        pad_id: token id for padding.

    Attributes:
        lengths: real tokens of each row.
        labelled: positions of each row that the loss counts.
        weights: see :meth:`weigh_batches_alike`; None: every token weighs the same.

    Raises:
        ChatTSError: a tensor that cannot be split by rows, rows not padded on the right, or series that do not fit.
    """

    def __init__(self, batches: Sequence[Any], base: Any, pad_id: int) -> None:
        self.base = base
        self.sizes = [batch["input_ids"].shape[0] for batch in batches]
        self.weights: list[float] | None = None
        series = [batch[SERIES] for batch in batches if batch.get(SERIES) is not None and batch[SERIES].shape[0]]
        self.timeseries = _stack(series, 0) if series else None
        fill = {"input_ids": pad_id, "attention_mask": 0, "labels": IGNORE_INDEX, "position_ids": 0}
        self.tensors = _join(
            [{k: v for k, v in batch.items() if k not in (SERIES, PLACES)} for batch in batches], fill
        )
        self.by_position = [key for key in self.tensors if key in fill]
        found: list[Places | None] = [batch.get(PLACES) for batch in batches]
        known = [one for one in found if one is not None and one.mask is not None and one.labels is not None]
        self.host: dict[str, torch.Tensor] | None = (
            None  # the same rows in host memory, if the loader handed them over
        )
        if len(known) == len(batches):
            rows = [{"input_ids": p.ids, "attention_mask": p.mask, "labels": p.labels} for p in known]
            self.host = _join(rows, fill)

        source = self.tensors if self.host is None else self.host
        ids, mask, labels = (source[key] for key in ("input_ids", "attention_mask", "labels"))
        real = mask != 0
        facts = [
            real.sum(dim=1),
            (labels[:, 1:] != IGNORE_INDEX).sum(dim=1),
            (ids == base.config.ts_token_start_index).sum(dim=1),
            (real[:, 1:] & ~real[:, :-1]).sum(dim=1),
        ]
        if self.host is not None:
            facts += [places.patches for places in known]
        elif self.timeseries is not None:
            facts.append(base.ts_encoder.count_patches(self.timeseries))

        counts: list[int] = torch.cat(facts).tolist()  # at most one transfer from the device for all of them
        size = ids.shape[0]
        self.lengths, self.labelled, written, late = (counts[index * size : (index + 1) * size] for index in range(4))
        if any(late):
            raise ChatTSError("rows are not padded on the right", where=_WHERE, fix="Set padding_side to right")

        self.patches = counts[4 * size :]
        self.series = find_owners(written, self.patches)

    def weigh_batches_alike(self) -> None:
        """Give each collated batch the same weight, as LLaMA-Factory does: the mean over its own labelled tokens.

        The division by the number of batches is left to the trainer.
        """
        self.weights, first = [], 0
        for size in self.sizes:
            labelled = sum(self.labelled[first : first + size])
            self.weights += [1.0 / max(labelled, 1)] * size
            first += size

    def take(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return the batch of a pass, no wider than its longest row.

        Args:
            rows: ascending; empty: the shortest row without labels, which costs least and adds nothing.
        """
        idle = not rows
        rows = rows or [min(range(len(self.lengths)), key=self.lengths.__getitem__)]
        width = max(self.lengths[row] for row in rows)
        index = _send(rows, self.tensors["input_ids"].device)
        batch: dict[str, Any] = {}
        for key, value in self.tensors.items():
            batch[key] = (value[:, :width] if key in self.by_position else value).index_select(0, index)

        own = [item for row in rows for item in self.series[row]]
        if own and self.timeseries is not None:
            points = max(self.patches[item] for item in own) * self.base.ts_encoder.patch_size
            chosen = _send(own, self.timeseries.device)
            batch[SERIES] = self.timeseries[:, : 2 * points].index_select(0, chosen)

        if self.host is not None:
            batch[PLACES] = self._places(self.host, rows, width, own, idle)

        if idle:
            batch["labels"] = torch.full_like(batch["labels"], IGNORE_INDEX)

        if self.weights is not None:
            batch[WEIGHTS] = RowWeights([self.weights[row] for row in rows])

        return batch

    def _places(
        self, host: dict[str, torch.Tensor], rows: Sequence[int], width: int, own: Sequence[int], idle: bool
    ) -> Places:
        """Return the places of a pass, of ``self.host``; other arguments as found in :meth:`take`."""
        index = torch.tensor(rows)
        ids, mask, labels = (
            host[key][:, :width].index_select(0, index) for key in ("input_ids", "attention_mask", "labels")
        )
        if idle:
            labels = torch.full_like(labels, IGNORE_INDEX)

        patches = torch.tensor([self.patches[item] for item in own], dtype=torch.long)
        config = self.base.config
        return read_places(ids, mask, labels, None, patches, config.ts_token_start_index, config.ts_token_end_index)


def find_owners(written: Sequence[int], patches: Sequence[int]) -> list[list[int]]:
    """Return the series of each row.

    Args:
        written: ``<ts>`` in each row, one per patch.
        patches: of each series, in the order of the rows.

    Raises:
        ChatTSError: they do not fit each other.
    """
    owners: list[list[int]] = []
    taken = 0
    for row, wanted in enumerate(written):
        own = []
        while wanted > 0 and taken < len(patches):
            own.append(taken)
            wanted -= patches[taken]
            taken += 1

        if wanted != 0:
            raise ChatTSError(
                f"row {row} of the step has {written[row]} <ts>, which are not the patches of whole series",
                where=_WHERE,
                fix="Write <ts> once per patch of each series, series in the order of the rows",
            )

        owners.append(own)

    if taken < len(patches):
        raise ChatTSError(f"{len(patches)} series, but the rows of the step use {taken}", where=_WHERE)

    return owners


def _send(values: Sequence[float], device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return a tensor on the device without waiting for the work that is queued there."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def _stack(tensors: Sequence[torch.Tensor], fill: int) -> torch.Tensor:
    """Put tensors of shape ``(rows, length, ...)`` under each other, as wide as the widest."""
    width = max(tensor.shape[1] for tensor in tensors)
    behind = [(0, 0) * (tensor.dim() - 2) + (0, width - tensor.shape[1]) for tensor in tensors]
    return torch.cat([F.pad(tensor, pad, value=fill) for tensor, pad in zip(tensors, behind)])


def _join(batches: Sequence[dict[str, Any]], fill: dict[str, int]) -> dict[str, torch.Tensor]:
    """Return one dictionary of tensors for all rows of the batches."""
    joined = {}
    for key in dict.fromkeys(key for batch in batches for key in batch):
        values: list[Any] = [batch.get(key) for batch in batches]
        if key in fill:
            fits = all(torch.is_tensor(v) and v.shape == b["input_ids"].shape for v, b in zip(values, batches))
        else:
            fits = all(torch.is_tensor(v) and v.shape[:1] == b["input_ids"].shape[:1] for v, b in zip(values, batches))
            fits = fits and len({value.shape[1:] for value in values}) == 1

        if not fits:
            shapes = ", ".join(str(tuple(v.shape)) if torch.is_tensor(v) else type(v).__name__ for v in values[:3])
            raise ChatTSError(
                f"the batch holds `{key}` ({shapes}), which cannot be split by rows",
                where=_WHERE,
                fix="Remove tokens_per_batch, or the setting that adds it to the batch",
            )

        joined[key] = _stack(values, fill[key]) if key in fill else torch.cat(values)

    return joined
