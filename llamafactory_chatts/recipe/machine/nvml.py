"""A program that asks the NVIDIA driver about its cards and prints the answers, see :mod:`.asking`."""

import json
from collections.abc import Callable, Iterator

import pynvml


def told(default, ask: Callable, *words):
    """Return what the driver answers; ``default`` where it does not tell."""
    try:
        return ask(*words)
    except pynvml.NVMLError:
        return default


def handles(count: int, ask: Callable, *words) -> Iterator:
    """Yield (index, handle) of each of ``count`` devices that the driver gives out; others are lost or not ours."""
    for index in range(count):
        handle = told(None, ask, *words, index)
        if handle is not None:
            yield index, handle


def parts_of(card) -> Iterator:
    """Yield (index, handle) of the parts (MIG devices) that a card is divided into."""
    count = told(0, pynvml.nvmlDeviceGetMaxMigDeviceCount, card)
    return handles(count, pynvml.nvmlDeviceGetMigDeviceHandleByIndex, card)


def describe(index: int, card, device) -> dict:
    """Return the fields of :class:`~.gpus.Gpu` for a card, or for a part of it."""
    memory = told(None, pynvml.nvmlDeviceGetMemoryInfo, device)
    return {
        "index": index,
        "uuid": pynvml.nvmlDeviceGetUUID(device),
        "name": pynvml.nvmlDeviceGetName(device),
        "driver": pynvml.nvmlSystemGetDriverVersion(),
        "total": memory.total // 2**20 if memory else 0,
        "free": memory.free // 2**20 if memory else 0,
        "capability": told((), pynvml.nvmlDeviceGetCudaComputeCapability, card),
    }


def programs(card) -> Iterator[dict]:
    """Yield the fields of :class:`~.gpus.Process` for each process that computes on a card."""
    for process in told((), pynvml.nvmlDeviceGetComputeRunningProcesses, card):
        name = told("[Not Found]", pynvml.nvmlSystemGetProcessName, process.pid)  # of another container
        size = (process.usedGpuMemory or 0) // 2**20
        yield {"card": pynvml.nvmlDeviceGetUUID(card), "pid": process.pid, "name": name, "used": size}


def main() -> None:
    """Print ``cards``, ``parts`` of divided cards, and ``processes``."""
    pynvml.nvmlInit()
    cards = list(handles(pynvml.nvmlDeviceGetCount(), pynvml.nvmlDeviceGetHandleByIndex))
    for name, found in (
        ("cards", (describe(index, card, card) for index, card in cards)),
        ("parts", (describe(index, card, part) for index, card in cards for _, part in parts_of(card))),
        ("processes", (program for _, card in cards for program in programs(card))),
    ):
        print(json.dumps([name, list(found)]), flush=True)


if __name__ == "__main__":
    main()
