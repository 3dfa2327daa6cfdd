"""A folder that is there completely or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import ChatTSError


def check_target(out_dir: str | os.PathLike, overwrite: bool = False) -> Path:
    """Return the absolute path of a folder that may be written.

    Raises:
        ChatTSError: it is a file, or it is not empty and ``overwrite`` is off, or what would be replaced does
            not look like a model folder (it has no ``config.json``).
    """
    target = Path(out_dir).expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise ChatTSError("this is a file", where=str(out_dir), fix="Name a folder that is new or empty")

    if target.is_dir() and any(target.iterdir()):
        if not overwrite:
            raise ChatTSError(
                "the folder is not empty", where=str(out_dir), fix="Name another folder, or pass --overwrite"
            )

        if not (target / "config.json").is_file():
            raise ChatTSError(
                "the folder holds no config.json, so it is no model folder and is not replaced",
                where=str(out_dir),
                fix="Name another folder",
            )

    return target


@contextmanager
def fresh_folder(out_dir: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """Give a new folder beside ``out_dir``; it takes that name when the block ends without an error.

    Args:
        out_dir: where the result goes; new or empty, unless ``overwrite``.
        overwrite: replace a model folder. The old one stays until the new one is complete.

    Raises:
        ChatTSError: see :func:`check_target`, or the parent folder cannot be written.
    """
    target = check_target(out_dir, overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        room = tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent)
    except OSError as error:
        raise ChatTSError(
            f"cannot write here ({error.strerror})", where=str(target.parent), fix="Name another folder"
        ) from error

    with room as name:
        partial, replaced = Path(name, "new"), Path(f"{name}.old")
        partial.mkdir()  # not the temporary folder itself: that one is closed to other users
        yield partial
        readable = partial.stat().st_mode & 0o666  # what the umask allows; safetensors writes for the owner only
        for path in partial.iterdir():
            path.chmod(readable)

        if target.is_dir() and any(target.iterdir()):
            check_target(out_dir, overwrite)  # someone else may have written meanwhile
            os.rename(target, replaced)

        try:
            os.rename(partial, target)
        except OSError:
            if replaced.exists():
                os.rename(replaced, target)
            raise

        if replaced.exists():
            shutil.rmtree(replaced)
