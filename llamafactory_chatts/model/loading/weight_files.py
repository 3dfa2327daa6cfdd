"""Tensors of safetensors files, read only when they are asked for, with no page of a file left mapped.

transformers 5.5.4 maps every shard of a checkpoint and holds the maps until the last tensor is in place, so that the
resident memory of a process that loads to a GPU grows to the size of the checkpoint (16.5 GiB for an 8B model). A
tensor of this file is read with ``preadv`` instead: into memory of its own, or, on its way to a GPU, through one small
buffer per loading thread. Then resident memory stays flat however large the checkpoint is.
"""

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...core.errors import ChatTSError
from ...core.safetensors_folder import read_header


STAGING_BYTES = 8 * 2**20
"""Size of the buffer between a file and a GPU, one per loading thread (transformers has four at most)."""

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}

HAS_PREADV = hasattr(os, "preadv")  # not on Windows


class WeightFile:
    """One open safetensors file.

    Args:
        path: of the file.
        local: holds the buffer of each thread; files that are read together share it.

    Raises:
        ChatTSError: the file is cut short, damaged, or holds a data type that is not known here.
    """

    def __init__(self, path: str | os.PathLike, local: threading.local | None = None) -> None:
        self.path = Path(path)
        self.header = read_header(self.path)
        unknown = next((item["dtype"] for item in self.header.values() if item["dtype"] not in DTYPES), None)
        if unknown is not None:
            raise ChatTSError(
                f"data type {unknown} is not known", where=str(self.path), fix="Save the weights as bfloat16"
            )

        self._file = self.path.open("rb", buffering=0)
        self._data = 8 + int.from_bytes(self._file.read(8), "little")
        self._local = local or threading.local()

    def close(self) -> None:
        self._file.close()

    def read_into(self, target: torch.Tensor, start: int) -> None:
        """Fill a contiguous CPU tensor with the bytes of the data section from ``start`` on; safe in threads."""
        view = target.reshape(-1).view(torch.uint8).numpy().data
        done = 0
        while done < len(view):  # the kernel hands out 2 GiB at most in one call
            count = os.preadv(self._file.fileno(), [view[done:]], self._data + start + done)
            if count == 0:
                raise ChatTSError("the file was cut short while it was read", where=str(self.path), fix="Load again")

            done += count

    def staging(self) -> torch.Tensor:
        """Return this thread's buffer, in pinned memory where there is a GPU."""
        if not hasattr(self._local, "buffer"):
            pinned = torch.cuda.is_available()
            self._local.buffer = torch.empty(STAGING_BYTES, dtype=torch.uint8, pin_memory=pinned)

        return self._local.buffer


class FileTensor:
    """One tensor of a file, which stands for itself wherever transformers and DeepSpeed load weights.

    It is what ``safetensors.safe_open(...).get_slice(...)`` gives (``[...]``, ``get_shape``, ``get_dtype``) and can
    be copied from in place of a tensor (``param.copy_(file_tensor)``), as ZeRO-3 does. Each use reads it anew.

    Args:
        file: the open file.
        name: of the tensor.
        device: read it straight to this device; None for the CPU.
    """

    is_meta = False

    def __init__(self, file: WeightFile, name: str, device: torch.device | None = None) -> None:
        entry = file.header[name]
        self.file, self.name, self.device = file, name, device
        self.shape, self.dtype = torch.Size(entry["shape"]), DTYPES[entry["dtype"]]
        self.start, end = entry["data_offsets"]
        self.nbytes = end - self.start
        if self.nbytes != math.prod(self.shape) * self.dtype.itemsize:
            raise ChatTSError(
                f"{name} does not have the size that its header says", where=str(file.path), fix="Download it again"
            )

    def get_shape(self) -> list[int]:
        return list(self.shape)

    def get_dtype(self) -> str:
        return self.file.header[self.name]["dtype"]

    def __getitem__(self, key: Any) -> torch.Tensor:
        tensor = self.read()
        return tensor if key is Ellipsis else tensor[key]

    def read(self) -> torch.Tensor:
        """Return the tensor, on ``device`` or on the CPU."""
        flat = torch.empty(self.nbytes, dtype=torch.uint8, device=self.device)
        if self.device is None:
            self.file.read_into(flat, self.start)
        else:
            buffer = self.file.staging()
            for at in range(0, self.nbytes, STAGING_BYTES):
                piece = buffer[: min(STAGING_BYTES, self.nbytes - at)]
                self.file.read_into(piece, self.start + at)
                flat[at : at + piece.numel()].copy_(piece)  # waits: the buffer is filled again at once

        return flat.view(self.dtype).view(self.shape)

    def read_rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows ``start`` to ``stop`` of a matrix, on the CPU."""
        rows = torch.empty(min(stop, self.shape[0]) - start, self.shape[1], dtype=self.dtype)
        self.file.read_into(rows, self.start + start * self.shape[1] * self.dtype.itemsize)
        return rows

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = [item.read() if isinstance(item, FileTensor) else item for item in args]
        return function(*args, **(kwargs or {}))


@contextmanager
def open_weights(
    files: list[str], device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Iterator[dict[str, FileTensor]]:
    """Open safetensors files; yield name -> tensor. A name in two files means the last, as in transformers.

    Args:
        files: paths of the shards.
        device: GPU that tensors of ``dtype`` are read straight to. Others are read to the CPU: they are cast there
            before they travel, as a copy of another type on the GPU would cost more than the tensor.
        dtype: see ``device``.

    Raises:
        ChatTSError: a file is cut short or damaged; the message names it.
    """
    opened: list[WeightFile] = []
    local = threading.local()
    try:
        tensors = {}
        for path in files:
            opened.append(WeightFile(path, local))
            for name, entry in opened[-1].header.items():
                straight = device if DTYPES[entry["dtype"]] == dtype else None
                tensors[name] = FileTensor(opened[-1], name, straight)

        yield tensors
    finally:
        for file in opened:
            file.close()
