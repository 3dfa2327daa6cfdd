"""One holder at a time: a lock file beside a file that several processes change, or beside what only one may start."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ChatTSError


TIMEOUT = 10.0
"""Seconds to wait for another holder."""


@contextmanager
def locked(path: str | os.PathLike, timeout: float | None = None) -> Iterator[None]:
    """Hold the lock of a file for the length of a ``with`` block; the system takes it from a holder that has ended.

    Args:
        path: the file. Its lock stands beside it, in a hidden file.
        timeout: seconds to wait; :data:`TIMEOUT` if None.

    Raises:
        ChatTSError: another process held it for so long, or there is no place for it.
    """
    from filelock import FileLock, Timeout

    target, timeout = Path(path), TIMEOUT if timeout is None else timeout
    lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=timeout)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        what = f"another process has been writing for {timeout:g} seconds"
        raise ChatTSError(what, where=str(path), fix="Wait for it, or end it, and try again") from None
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise ChatTSError(what, where=lock.lock_file, fix="Name another path or free the place") from error

    try:
        yield
    finally:
        lock.release()
