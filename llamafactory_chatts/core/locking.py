"""One writer at a time: a lock file beside a file that several processes change."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import ChatTSError


try:
    import fcntl

    def _take(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows
    import msvcrt

    def _take(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)


TIMEOUT = 10.0
"""Seconds to wait for another writer."""

PAUSE = 0.02


def lock_path(path: str | os.PathLike) -> Path:
    """Return the lock file of a file."""
    return Path(path).with_name(f".{Path(path).name}.lock")


@contextmanager
def locked(path: str | os.PathLike, timeout: float = TIMEOUT) -> Iterator[None]:
    """Hold the lock of a file for the length of a ``with`` block.

    The system lets go of the lock when its holder ends, however it ends, so that none is left behind.

    Raises:
        ChatTSError: another process held it for ``timeout`` seconds, or there is no place for it.
    """
    lock = lock_path(path)
    handle = _open(lock, timeout)
    try:
        os.truncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file; the next holder will use it again
            lock.unlink()

        os.close(handle)


def _open(lock: Path, timeout: float) -> int:
    end = time.monotonic() + timeout
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ChatTSError(
                f"cannot be written ({error.strerror})", where=str(lock), fix="Name another path or free the place"
            ) from error

        try:
            _take(handle)
            if os.path.exists(lock) and os.path.samestat(os.fstat(handle), os.stat(lock)):
                return handle  # otherwise the holder before us has removed the file that we locked
        except OSError:
            if time.monotonic() >= end:
                with suppress(OSError):
                    holder = os.read(handle, 20).decode("ascii", "replace").strip()

                os.close(handle)
                raise ChatTSError(
                    f"another process (number {holder or 'unknown'}) has been writing for {timeout:g} seconds",
                    where=str(lock.with_name(lock.name[1:].removesuffix(".lock"))),
                    fix="Wait for it, or end it, and try again",
                ) from None

        os.close(handle)
        time.sleep(PAUSE)
