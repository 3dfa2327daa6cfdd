"""Python imports this when it starts, where the folder is on PYTHONPATH: what a training process took at most.

Each process with a place among several (``LOCAL_RANK``), or with a CUDA device in use, writes ``PID.json`` to the
folder that ``CHATTS_PEAKS`` names, when it ends: the peaks of PyTorch's allocator, and when it grew.
"""

import atexit
import contextlib
import json
import os
import sys
import threading
import time


GIB, EVERY, WORTH = 2**30, 0.25, 1 / 16
"""Bytes; seconds between two looks; GiB by which a figure must change to be kept."""

started, grown = time.time(), []


def uses_cuda() -> bool:
    torch = sys.modules.get("torch")
    return bool(torch) and torch.cuda.is_available() and torch.cuda.is_initialized()


def watch() -> None:
    """Keep (seconds since the start, GiB allocated, largest so far, reserved) whenever one of them has changed."""
    while True:
        time.sleep(EVERY)
        with contextlib.suppress(Exception):  # torch may be half imported
            cuda = sys.modules["torch"].cuda
            if uses_cuda():
                sizes = [cuda.memory_allocated(), cuda.max_memory_allocated(), cuda.memory_reserved()]
                sizes = [round(size / GIB, 3) for size in sizes]
                if not grown or max(abs(a - b) for a, b in zip(sizes, grown[-1][1:])) > WORTH:
                    grown.append([round(time.time() - started, 2), *sizes])


def write_peaks() -> None:
    used = uses_cuda()
    if not used and ("LOCAL_RANK" not in os.environ or "torch" not in sys.modules):
        return

    found = {"rank": int(os.environ.get("LOCAL_RANK", 0)), "gpu_reserved": None, "gpu_allocated": None}
    if used:
        cuda = sys.modules["torch"].cuda
        found |= {"gpu_reserved": cuda.max_memory_reserved() / GIB, "gpu_allocated": cuda.max_memory_allocated() / GIB}
        found["grown"] = grown

    with open(os.path.join(os.environ["CHATTS_PEAKS"], f"{os.getpid()}.json"), "w") as file:
        json.dump(found, file)


if os.environ.get("CHATTS_PEAKS"):
    threading.Thread(target=watch, daemon=True).start()
    atexit.register(write_peaks)
