"""Where things stand in a batch: found in host memory, where asking costs nothing, and sent to the GPU in one copy.

A count or a position that Python needs from the GPU makes the process wait for all work that is queued there. The
loader's worker has the batch in host memory before that, so it looks (:func:`read_places`) and hands over what it
found. A batch that comes without it is brought to the host once.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..core.contract import IGNORE_INDEX
from ..core.errors import ChatTSError
from .joining import check_patches
from .padding_free import Samples, find_samples


@dataclass
class Places:
    """What is known of a batch of shape ``(rows, length)``. All tensors lie in host memory.

    It has no method ``to`` on purpose: what moves batches to a device leaves it alone.

    Attributes:
        shape: rows and length.
        ids, mask, labels: the batch itself, each None where it is not known; a mask of another shape is None.
        patches: of each series, shape ``(series,)``.
        marks: where ``<ts>`` stands in the batch flattened row by row.
        pairs: there is a ``<ts/>``, so series are written as pairs.
        numbered: the mask numbers the samples of packed rows, or has another shape.
        problem: why ``<ts>`` and patches do not fit each other, or None.
        samples: the real tokens, see :class:`.padding_free.Samples`.
        labelled: flat positions whose next token has a label, or None without labels.
    """

    shape: tuple[int, int]
    ids: torch.Tensor | None
    mask: torch.Tensor | None
    labels: torch.Tensor | None
    patches: torch.Tensor
    marks: torch.Tensor
    pairs: bool
    numbered: bool
    problem: ChatTSError | None
    samples: Samples
    labelled: torch.Tensor | None

    def send(self, device: torch.device, timeseries: torch.Tensor | None, patch_size: int) -> dict[str, Any]:
        """Return ``marks``, ``patches``, ``labelled``, ``samples`` and ``slots`` on a device, without waiting for it.

        ``slots``: the patches of all series in ``(series, slots)`` flattened, for the encoder.
        """
        names = ["marks", "patches", "slots", "labelled", "place", "bounds", "positions"]
        samples, slots = self.samples, self.patches[:0]
        if timeseries is not None:
            wide = -(-(timeseries.shape[1] // 2) // patch_size)
            real = np.arange(wide)[None, :] < self.patches.numpy()[:, None]
            slots = torch.from_numpy(np.flatnonzero(real))

        labelled = self.patches[:0] if self.labelled is None else self.labelled
        parts = [self.marks, self.patches, slots, labelled, samples.place, samples.bounds, samples.positions.flatten()]
        joined = torch.cat([part.long() for part in parts]).to(device, non_blocking=True)
        sent = dict(zip(names, joined.split([part.numel() for part in parts]), strict=True))
        place, bounds, positions = (sent.pop(name) for name in names[4:])
        return {**sent, "samples": Samples(place, bounds.int(), samples.lengths, positions.unsqueeze(0))}


def read_places(
    ids: torch.Tensor | None,
    mask: torch.Tensor | None,
    labels: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    patches: torch.Tensor | None,
    start_id: int,
    end_id: int,
    shape: tuple[int, int] | None = None,
) -> Places:
    """Look at a batch in host memory.

    Args:
        ids, mask, labels, position_ids: shape ``(rows, length)``, each may be None.
        patches: of each series, in the order of the placeholders.
        start_id, end_id: of ``<ts>`` and ``<ts/>``.
        shape: rows and length where ``ids`` is None.
    """
    if ids is not None:
        shape = (ids.shape[0], ids.shape[1])

    assert shape is not None, "ids or shape must be given"
    known = mask if mask is not None and tuple(mask.shape) == shape else None
    numbered = mask is not None and (known is None or bool((known > 1).any()))
    patches = torch.zeros(0, dtype=torch.long) if patches is None else patches.long()
    marks, pairs, problem = patches[:0], False, None
    if ids is not None:
        at_patch = ids == start_id
        marks, pairs = at_patch.flatten().nonzero().flatten(), bool((ids == end_id).any())
        if patches.numel() and not pairs:
            try:
                check_patches(at_patch, patches)
            except ChatTSError as err:
                problem = err

    labelled = None
    if labels is not None and labels.dim() == 2 and tuple(labels.shape) == shape:
        labelled = torch.nn.functional.pad(labels[:, 1:] != IGNORE_INDEX, (0, 1)).flatten().nonzero().flatten()

    samples = find_samples(known, position_ids, *shape, torch.device("cpu"))
    return Places(shape, ids, known, labels, patches, marks, pairs, numbered, problem, samples, labelled)


def fetch(tensors: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
    """Return whole-number tensors in host memory; all of them in one transfer, which is the one wait it costs."""
    given = {key: value for key, value in tensors.items() if value is not None}
    if not given:
        return tensors

    device = max((value.device for value in given.values()), key=lambda device: device.type != "cpu")
    joined = torch.cat([value.to(device).long().flatten() for value in given.values()]).cpu()
    parts = joined.split([value.numel() for value in given.values()])
    found = {key: part.view(value.shape) for (key, value), part in zip(given.items(), parts, strict=True)}
    return {key: found.get(key) for key in tensors}
