"""A pool of processes that is never far ahead of the writer, and that does not outlive its parent."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ...core.errors import ChatTSError


AHEAD = 3
"""Chunks per worker that may wait; this bounds memory."""

_worker: Callable[..., Any]


def cores() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(worker: Callable[..., Any], parent: int) -> None:
    global _worker
    _worker = worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()

    import pyarrow

    pyarrow.set_cpu_count(1)  # there is a process per core already


def _leave_with(parent: int) -> None:
    """End this process soon after its parent: one that was killed cannot tell its workers to stop."""
    while os.getppid() == parent:
        time.sleep(0.5)

    os._exit(1)


def _work(arguments: tuple[Any, ...]) -> Any:
    return _worker(*arguments)


def in_order(
    chunks: Iterable[tuple[Any, ...]], worker: Callable[..., Any], size: int, progress: Any = None
) -> Iterator[Any]:
    """Yield ``worker(*chunk)`` of each chunk, in order, worked on by ``size`` processes (by this one if 1).

    Raises:
        ChatTSError: a worker was killed, for example because memory ran out.
    """
    if size <= 1:
        for chunk in chunks:
            yield worker(*chunk)

        return

    import pandas  # noqa: F401  # arrow loads it with the first vector; loaded here, the workers share it
    import pyarrow.csv  # noqa: F401

    # fork where it is the custom: it needs no guard around the caller's main script
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(size, context, initializer=_start, initargs=(worker, os.getpid()))
    waiting: deque[Any] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_work, chunk))
            if len(waiting) >= AHEAD * size:
                yield waiting.popleft().result()

        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise ChatTSError(
            "a worker process was ended from outside",
            where="prepare",
            fix="If memory ran out, use fewer --workers; the same command goes on where it stopped",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
