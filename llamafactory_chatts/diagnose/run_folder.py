"""The folder of a failed training -> cause and fix, from what its processes wrote there; no log is read for it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.contract import FAILURE
from ..core.errors import ChatTSError
from .log.conclusion import conclude
from .log.facts import Facts
from .log.reading import Reading
from .log.table import Diagnosis
from .log.traces import Frame, Trace, Traces


def diagnose_run(folder: Path) -> list[Diagnosis]:
    """Say why the training that wrote into a folder failed.

    Args:
        folder: its ``output_dir``, with a ``failure*.json`` of each process that failed.

    Returns:
        the cause; empty where nothing was recorded and the training was saved to its end.

    Raises:
        ChatTSError: nothing in the folder tells how the run ended, or a record cannot be read.
    """
    records = [(path, _read(path)) for path in sorted(Path(folder).glob(FAILURE))]
    if not records:
        if (Path(folder) / "train_results.json").is_file():
            return []

        raise ChatTSError(
            "no failure is recorded here, and no training was saved to its end",
            where=str(folder),
            fix="Give its log: lmf-chatts doctor LOG (a run that a signal ended records nothing)",
        )

    records.sort(key=lambda item: item[1]["time"])
    several = max(record["processes"] for _, record in records) > 1
    traces = [_trace(record, record["rank"] if several else None) for _, record in records]
    facts = Facts(phase=records[0][1]["phase"], versions=records[0][1]["versions"])
    found = conclude(Reading(facts=facts, traces=Traces(first=traces)), 1)
    return [replace(one, evidence=_evidence(one.evidence, records)) for one in found]


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        _ = [(one["kind"], one["message"], one["frames"]) for one in record["exceptions"]]
        _ = [record[key] for key in ("time", "rank", "processes", "phase", "versions")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ChatTSError(
            f"cannot be read ({error})", where=str(path), fix="Give the log of the run instead"
        ) from None

    return record


def _trace(record: dict[str, Any], rank: int | None) -> Trace:
    trace = None
    for one in record["exceptions"]:
        frames = [Frame(file, str(line), function) for file, line, function in one["frames"]]
        trace = Trace(1, rank, 1, one["kind"], one["message"], frames, trace)

    return trace


def _evidence(text: str, records: list[tuple[Path, dict[str, Any]]]) -> str:
    """Name the file instead of a log's line, and what that process was doing."""
    found = re.match(r"line \d+: (?:\[rank (\d+)\] )?", text)
    if found is None:
        return text

    path, record = next((item for item in records if str(item[1]["rank"]) == found[1]), records[0])
    step = f", after step {record['step']}" if record.get("step") else ""
    where = f" ({record['phase']}{step})" if record["phase"] else ""
    return f"{path}{where}: {text[found.end() :]}"
