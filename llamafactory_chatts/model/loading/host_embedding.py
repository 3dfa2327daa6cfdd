"""An input embedding that stays in host memory; only the rows that a batch looks up travel to the GPU."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .weight_files import FileTensor


ROWS = 4096
"""Rows read at a time where the file's type is not the model's."""


class HostEmbedding(nn.Module):
    """A frozen embedding whose weight is in host memory, for training adapters on a quantised model.

    It saves the whole table on the GPU: 1.16 GiB for ChatTS-8B (151,936 x 4,096 in 16 bits), 1.45 GiB for ChatTS-14B
    (152,064 x 5,120). It costs that much host memory per process, a wait for the token ids each pass, and the rows
    over the bus (20 MiB for 2,048 tokens of 14B). Results are those of ``nn.Embedding``, bit by bit.

    ``weight`` is neither parameter nor buffer: ``model.to(device)``, DDP and DeepSpeed do not see it, and a
    checkpoint does not hold it. The table itself is not pinned, as the processor gathers the rows: they are.

    Args:
        source: the tensor in the checkpoint, shape ``(vocabulary, hidden)``.
        dtype: type of the weight and the output.
        padding_idx: kept for the host; it has no meaning where nothing is trained.
    """

    def __init__(self, source: FileTensor, dtype: torch.dtype, padding_idx: int | None = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = source.shape
        self.padding_idx = padding_idx
        self.output_dtype = dtype
        self.weight = torch.empty(source.shape, dtype=dtype, device="cpu")
        if source.dtype == dtype:
            source.file.read_into(self.weight, source.start)
        else:
            for start in range(0, self.num_embeddings, ROWS):
                self.weight[start : start + ROWS] = source.read_rows(start, start + ROWS)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of ``input_ids``, any shape, on the device of ``input_ids``: ``(*shape, hidden)``."""
        device = input_ids.device
        if device.type == "cpu":
            return F.embedding(input_ids, self.weight).to(self.output_dtype)

        ids = input_ids.to("cpu")
        # PyTorch gives this block of pinned memory to nobody else before the copy is done, also after it is freed
        rows = torch.empty(ids.numel(), self.embedding_dim, dtype=self.weight.dtype, pin_memory=device.type == "cuda")
        torch.index_select(self.weight, 0, ids.flatten(), out=rows)
        return rows.to(device, non_blocking=True).view(*ids.shape, -1).to(self.output_dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> "HostEmbedding":
        """Stay where it is; of ``model.to(...)``, ``.half()`` and the like only the type of the output is kept."""
        self.output_dtype = fn(torch.empty(0, dtype=self.output_dtype)).dtype
        return self

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, in host memory"
