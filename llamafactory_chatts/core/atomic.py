"""Writing a file so that a reader sees the old or the new one, never half of it."""

import os
from contextlib import suppress
from pathlib import Path

from .errors import ChatTSError


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text through a temporary file beside ``path``; folders on the way are created.

    Raises:
        ChatTSError: the place cannot be written. What was there before is untouched.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())

        os.replace(partial, target)
    except OSError as error:
        raise ChatTSError(
            f"cannot be written ({error.strerror})", where=str(target), fix="Name another path or free the place"
        ) from error
    finally:
        with suppress(OSError):  # it is gone after success, and never was where the place cannot be written
            partial.unlink()
