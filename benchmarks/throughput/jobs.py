"""One process per measurement: the parent writes a job, the child its result. The parent never touches the GPU."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


PROGRAM = Path(__file__).resolve().parent.parent / "train_throughput.py"
STDERR_CHARACTERS = 3000
"""How much of a failed child's stderr goes into the results."""


def run_child(path: Path) -> None:
    """Do one job: read ``path``, write the result beside it as ``*.result.json``."""
    from . import base, training, watch

    job = json.loads(path.read_text(encoding="utf-8"))
    result, kind = result_file(path), job.pop("kind")
    if kind == "device":
        found = watch.describe_device()
    elif kind == "base":
        found = base.build_base(Path(job["folder"]), job["shape"]) or {}
    elif kind == "measure":
        found = training.measure(**job)
    else:
        found = training.sweep(**job, result=result)

    training.write_result(result, found)


def result_file(job: Path) -> Path:
    return job.with_suffix(".result.json")


def run_job(work: Path, name: str, job: dict, on_progress: Callable[[dict], None] | None = None) -> dict:
    """Run a job in a new process and return its result.

    Args:
        work: gets ``jobs/NAME.json``, its result, and ``NAME.stdout`` and ``NAME.stderr``.
        name: of the job; characters that do not suit a file name are replaced.
        job: ``kind`` (device, base, measure or sweep) and the arguments.
        on_progress: called with what the result file holds whenever it has changed.

    Returns:
        the result with ``wall_s``; with ``error`` (the end of stderr) when the process failed.
    """
    folder = work / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("".join(c if c.isalnum() or c in ".-" else "_" for c in name) + ".json")
    result = result_file(path)
    result.unlink(missing_ok=True)
    path.write_text(json.dumps(job))
    env = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str((work / "cache").resolve()), **os.environ}
    started, seen = time.perf_counter(), None
    with path.with_suffix(".stdout").open("w") as stdout, path.with_suffix(".stderr").open("w") as stderr:
        child = subprocess.Popen(
            [sys.executable, str(PROGRAM), "--child", str(path)], stdout=stdout, stderr=stderr, env=env
        )
        try:
            while child.poll() is None:
                time.sleep(0.1)
                if on_progress is not None and result.exists() and seen != (stamp := result.stat().st_mtime_ns):
                    seen = stamp
                    on_progress(json.loads(result.read_text()))
        finally:
            child.kill()  # the parent may have been told to stop
            child.wait()

    found = json.loads(result.read_text()) if result.exists() else {}
    found["wall_s"] = round(time.perf_counter() - started, 1)
    if child.returncode:
        text = path.with_suffix(".stderr").read_text(errors="replace").strip()
        found["error"] = text[-STDERR_CHARACTERS:] or f"exit status {child.returncode}, nothing on stderr"

    return found
