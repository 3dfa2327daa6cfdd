"""Output that grows row by row and appears at once: parts in ``NAME.part``, progress in ``NAME.part.state``.

A run that was killed leaves the parts and the state, never a half output file; the next run cuts the parts back to
the last state and goes on. A chunk is written in order, so the result does not depend on interruptions or workers.
"""

import json
import os
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from ...core.atomic import write_text
from ...core.errors import ChatTSError
from .row_writing import arrow_schema, from_ipc


CHECKPOINT_SECONDS = 2.0
"""Work that an interruption costs, at most."""

GROUP_BYTES, GROUP_ROWS = 16 << 20, 2000
"""Largest row group of a Parquet file: what a reader has to hold in memory."""

_HEAD = struct.Struct(">Q")


def cannot_write(path: os.PathLike | str, error: OSError) -> ChatTSError:
    """Return the error for a file that cannot be written."""
    return ChatTSError(
        f"cannot be written ({error.strerror or error})",
        where=str(path),
        fix="Free the place or name another; the same command then goes on where it stopped",
    )


class PartFile:
    """A file that is only appended to, below a temporary name.

    Args:
        path: where it will be.
        offset: bytes to keep of an earlier run.
    """

    def __init__(self, path: Path, offset: int) -> None:
        self.path = path
        self.part = path.with_name(path.name + ".part")
        self.offset = offset
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream: BinaryIO = open(self.part, "r+b" if offset else "wb")
        self._stream.truncate(offset)
        self._stream.seek(offset)

    def append(self, payload: bytes, framed: bool = False) -> None:
        """Write bytes, with their length in front where they have to be told apart again."""
        if framed:
            self._stream.write(_HEAD.pack(len(payload)))

        self._stream.write(payload)
        self.offset += len(payload) + (_HEAD.size if framed else 0)

    def sync(self) -> None:
        """Bring everything to the disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close it; what is there stays."""
        self._stream.close()


class Output:
    """All files of a run while it goes on.

    Args:
        files: name -> where the file will be; the names are the caller's.
        state: the state file.
        fingerprint: of recipe and inputs; an earlier run is continued only if it had the same.
        framed: names of files whose payloads are told apart again (Arrow batches).

    Attributes:
        memory: what the caller wants to find again after an interruption (JSON).
        resumed: whether an earlier run is continued.
        finished: whether the earlier run had written everything and was only to be renamed.
    """

    def __init__(self, files: dict[str, Path], state: Path, fingerprint: str, framed: frozenset[str]) -> None:
        self.files, self.state, self.fingerprint, self.framed = files, state, fingerprint, framed
        earlier = self._earlier()
        self.resumed, self.memory = bool(earlier), earlier.get("memory")
        self.finished = bool(earlier.get("finished"))
        self._last = time.monotonic()
        self._open: dict[str, PartFile] = {}
        if self.finished:
            return

        if earlier:
            offsets = earlier["offsets"]
        else:
            with suppress(FileNotFoundError):
                state.unlink()  # before the parts are cut: a state never speaks of other parts than those there
            offsets = {}

        for name, path in files.items():
            try:
                self._open[name] = PartFile(path, offsets.get(name, 0))
            except OSError as error:
                self.close()
                raise cannot_write(path, error) from error

    def _earlier(self) -> dict[str, Any]:
        """Return the state of an earlier run that can be continued, otherwise nothing."""
        try:
            content = json.loads(self.state.read_text(encoding="utf-8"))
            if content["fingerprint"] != self.fingerprint or set(content["offsets"]) != set(self.files):
                return {}

            if content["finished"]:
                return content

            sizes = {name: path.with_name(path.name + ".part").stat().st_size for name, path in self.files.items()}
            return content if all(sizes[name] >= offset for name, offset in content["offsets"].items()) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def append(self, name: str, payload: bytes) -> None:
        """Add bytes to a file.

        Raises:
            ChatTSError: they cannot be written, such as on a full disk.
        """
        try:
            self._open[name].append(payload, name in self.framed)
        except OSError as error:
            raise cannot_write(self.files[name], error) from error

    def checkpoint(self, memory: Any, finished: bool = False, now: bool = False) -> None:
        """Note how far the run is, unless that was done a moment ago.

        Args:
            memory: a function that returns what :attr:`memory` shall be in the next run.
        """
        if not now and time.monotonic() - self._last < CHECKPOINT_SECONDS:
            return

        try:
            for part in self._open.values():
                part.sync()
        except OSError as error:
            raise cannot_write(self.state, error) from error

        offsets = {name: part.offset for name, part in self._open.items()}
        content = {"fingerprint": self.fingerprint, "finished": finished, "offsets": offsets, "memory": memory()}
        write_text(self.state, json.dumps(content))
        self._last = time.monotonic()

    def earlier_bytes(self, name: str) -> bytes:
        """Return what an earlier run wrote to a file."""
        part = self.files[name].with_name(self.files[name].name + ".part")
        with open(part, "rb") as stream:
            return stream.read(self._open[name].offset)

    def close(self) -> None:
        """Close all files; the parts stay, so that the run can be continued."""
        for part in self._open.values():
            with suppress(OSError):
                part.close()

    def finish(self, keep: dict[str, bool], messages: bool) -> None:
        """Turn the parts into the files and remove the state.

        Args:
            keep: name -> whether the file is wanted; a part that is not wanted is removed.
            messages: columns of Arrow batches, see :func:`.row_writing.arrow_schema`.
        """
        self.close()
        for name, path in self.files.items():
            part = path.with_name(path.name + ".part")
            if not part.exists():
                continue  # done by an earlier run, which was interrupted between two files

            try:
                if keep[name] and name in self.framed:
                    to_parquet(part, path, messages)
                elif keep[name]:
                    os.replace(part, path)
                    continue

                part.unlink()
            except OSError as error:
                raise cannot_write(path, error) from error

        with suppress(FileNotFoundError):
            self.state.unlink()


def _batches(part: Path):
    with open(part, "rb") as stream:
        while head := stream.read(_HEAD.size):
            yield from_ipc(stream.read(_HEAD.unpack(head)[0]))


def to_parquet(part: Path, path: Path, messages: bool) -> None:
    """Write the Arrow batches of a part file as Parquet, one row group at a time; ``path`` appears at the end.

    Texts are stored once each (a dictionary), the float32 values by their bytes' significance, which zstd packs well.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, series = arrow_schema(messages), "timeseries.list.element.list.element"
    texts = ["messages.list.element.role", "messages.list.element.content"] if messages else ["input", "output"]
    partial = path.with_name(f".{path.name}.tmp")
    try:
        with pq.ParquetWriter(
            partial,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=texts,
            column_encoding={series: "BYTE_STREAM_SPLIT"},
            write_statistics=False,
        ) as writer:
            held: list[Any] = []
            for batch in _batches(part):
                held.append(batch)
                if sum(b.nbytes for b in held) >= GROUP_BYTES or sum(b.num_rows for b in held) >= GROUP_ROWS:
                    writer.write_table(pa.Table.from_batches(held, schema).combine_chunks())
                    held = []

            if held:
                writer.write_table(pa.Table.from_batches(held, schema).combine_chunks())

        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink()
