"""Rows as bytes: lines of JSON, or Arrow batches on their way to Parquet."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...core.contract import COLUMN


if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Row:
    """A finished row.

    Attributes:
        texts: turns as ``{"role", "content"}``.
        series: finite float64 vectors, one per placeholder.
    """

    texts: list[dict[str, str]]
    series: list[np.ndarray]


def payload_of(rows: list[Row], parquet: bool, messages: bool) -> tuple[bytes, list[int]]:
    """Return rows as bytes, and the bytes of each row (0 for Arrow).

    Args:
        parquet: Arrow batches instead of JSON lines.
        messages: columns ``messages`` and ``timeseries`` instead of ``input``, ``output`` and ``timeseries``.
    """
    if parquet:
        return to_ipc(arrow_batch(rows, messages)) if rows else b"", [0] * len(rows)

    lines = [json_line(row, messages) for row in rows]
    return b"".join(lines), list(map(len, lines))


def json_line(row: Row, messages: bool) -> bytes:
    """Return a row as a line of JSON; numbers are as short as they can be without a change of their value."""
    import orjson

    content: dict[str, object] = (
        {"messages": row.texts}
        if messages
        else {
            "input": row.texts[0]["content"],
            "output": row.texts[1]["content"],
        }
    )
    content[COLUMN] = [np.ascontiguousarray(values) for values in row.series]
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def arrow_schema(messages: bool) -> "pa.Schema":
    """Return the Arrow schema of the rows: text, and ``list<list<float>>`` of float32."""
    import pyarrow as pa

    series = pa.field(COLUMN, pa.list_(pa.list_(pa.float32())))
    if messages:
        turn = pa.struct([("role", pa.string()), ("content", pa.string())])
        return pa.schema([pa.field("messages", pa.list_(turn)), series])

    return pa.schema([pa.field("input", pa.string()), pa.field("output", pa.string()), series])


def arrow_batch(rows: list[Row], messages: bool) -> "pa.RecordBatch":
    """Return rows as an Arrow record batch; the series are not copied through Python lists."""
    import pyarrow as pa

    series = [values for row in rows for values in row.series]
    numbers = np.concatenate([values.astype(np.float32) for values in series]) if series else np.empty(0, np.float32)
    points = np.cumsum([0, *map(len, series)], dtype=np.int32)
    counts = np.cumsum([0, *(len(row.series) for row in rows)], dtype=np.int32)
    inner = pa.ListArray.from_arrays(pa.array(points), pa.array(numbers))
    column = pa.ListArray.from_arrays(pa.array(counts), inner)
    schema = arrow_schema(messages)
    if messages:
        texts = [pa.array([row.texts for row in rows], schema.field("messages").type)]
    else:
        texts = [pa.array([row.texts[place]["content"] for row in rows], pa.string()) for place in (0, 1)]

    return pa.RecordBatch.from_arrays([*texts, column.cast(schema.field(COLUMN).type)], schema=schema)


def to_ipc(batch: "pa.RecordBatch") -> bytes:
    """Return an Arrow batch as the bytes of an IPC stream."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)

    return sink.getvalue().to_pybytes()


def from_ipc(payload: bytes) -> "pa.RecordBatch":
    """Return the Arrow batch of :func:`to_ipc`."""
    import pyarrow as pa

    return pa.ipc.open_stream(payload).read_next_batch()


def keep_rows(payload: bytes, parquet: bool, sizes: list[int], kept: list[bool]) -> bytes:
    """Return a payload with some of its rows.

    Args:
        sizes: bytes of each row (JSONL).
        kept: whether a row stays.
    """
    if all(kept):
        return payload

    if not any(kept):
        return b""

    if parquet:
        return to_ipc(from_ipc(payload).take(np.flatnonzero(kept)))

    ends = np.cumsum([0, *sizes]).tolist()
    return b"".join(payload[ends[n] : ends[n + 1]] for n, keep in enumerate(kept) if keep)
