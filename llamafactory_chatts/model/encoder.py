"""The time-series encoder: patches of a series -> vectors of the language model's width."""

from typing import Any, cast

import torch
from torch import nn

from ..core.errors import ChatTSError


class TimeSeriesEncoder(nn.Module):
    """Cuts series into patches and maps each patch with an MLP.

    Names and shapes of the parameters are those of published checkpoints: ``position_embedding.weight``
    of shape ``(max_sequence_length + 1, embedding_dim)`` and ``mlp.N.{weight,bias}``.

    Args:
        ts: the ``ts`` block of the config.
    """

    def __init__(self, ts: dict[str, Any]) -> None:
        super().__init__()
        self.patch_size = ts["patch_size"]
        self.max_sequence_length = ts["max_sequence_length"]
        self.use_position_idx = bool(ts["use_position_idx"]) and not ts["use_position_embedding"]
        width = self.patch_size * (2 if self.use_position_idx else 1)
        self.position_embedding: nn.Embedding | None = None
        if ts["use_position_embedding"]:
            self.position_embedding = nn.Embedding(ts["max_sequence_length"] + 1, ts["embedding_dim"])
            width += self.patch_size * ts["embedding_dim"]

        layers: list[nn.Module] = []
        for index in range(ts["num_layers"]):
            layers.append(nn.Linear(width if index == 0 else ts["hidden_size"], ts["hidden_size"]))
            if index + 1 < ts["num_layers"]:
                layers.append(nn.GELU())

        if ts["use_layer_norm"]:
            layers.append(nn.LayerNorm(ts["hidden_size"]))

        self.mlp = nn.Sequential(*layers)

    @property
    def dtype(self) -> torch.dtype:
        return cast(torch.Tensor, self.mlp[0].weight).dtype

    def count_patches(self, timeseries: torch.Tensor) -> torch.Tensor:
        """Return the patches of each series, shape ``(series,)``, for ``(series, 2 * longest, 1)``."""
        lengths = (timeseries.reshape(timeseries.shape[0], -1, 2)[:, :, 1] > 0.5).sum(dim=1)
        return (lengths + self.patch_size - 1) // self.patch_size

    def patchify(
        self, timeseries: torch.Tensor, slots: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut a batch of series into patches.

        Args:
            timeseries: shape ``(series, 2 * longest, 1)``, value and mask interleaved, zeros behind.
            slots: which patches are real, in ``(series, most patches)`` flattened; asked of the device if None.

        Returns:
            values of shape ``(patches, patch_size)``, the last value repeated in an unfinished patch;
            the index of each point, same shape, ``max_sequence_length`` where it was repeated.

        Raises:
            ChatTSError: a series is longer than ``max_sequence_length``.
        """
        pairs = timeseries.reshape(timeseries.shape[0], -1, 2)
        series, longest = pairs.shape[:2]
        lengths = (pairs[:, :, 1] > 0.5).sum(dim=1)
        if longest > self.max_sequence_length and int(lengths.max()) > self.max_sequence_length:
            raise ChatTSError(
                f"a series has {int(lengths.max())} points, the encoder takes {self.max_sequence_length}",
                where="timeseries",
                fix="Cut or resample it; the limit is `ts.max_sequence_length` in config.json",
            )

        wide = -(-longest // self.patch_size)
        point = torch.arange(wide * self.patch_size, device=pairs.device)
        source = torch.minimum(point[None, :], (lengths[:, None] - 1).clamp(min=0))
        values = pairs[:, :, 0].gather(1, source).view(series * wide, self.patch_size)
        index = torch.where(point[None, :] < lengths[:, None], point[None, :], self.max_sequence_length)
        index = index.view(series * wide, self.patch_size)
        if slots is None:
            real = torch.arange(wide, device=pairs.device)[None, :] < self.count_patches(timeseries)[:, None]
            slots = real.flatten().nonzero().flatten()

        return values.index_select(0, slots), index.index_select(0, slots)

    def forward(self, timeseries: torch.Tensor, slots: torch.Tensor | None = None) -> torch.Tensor:
        """Encode a batch of series.

        Args:
            timeseries, slots: as for :meth:`patchify`.

        Returns:
            features of shape ``(patches, hidden_size)`` in the order of the series.
        """
        values, index = self.patchify(timeseries, slots)
        values = values.to(self.dtype)
        if self.position_embedding is not None:
            position = self.position_embedding(index).flatten(1)
            values = torch.cat([values, position], dim=-1)
        elif self.use_position_idx:
            filled = index == self.max_sequence_length
            last = index.masked_fill(filled, 0).max().clamp(min=1)  # of the longest series of the batch
            position = (index / last).masked_fill(filled, -1.0).to(values.dtype)
            values = torch.stack([values, position], dim=-1).flatten(1)

        return self.mlp(values)

    def dummy(self, device: torch.device) -> torch.Tensor:
        """Return a series of one patch, so that the encoder can take part in a step that has no series."""
        return torch.ones(1, 2 * self.patch_size, 1, device=device)
