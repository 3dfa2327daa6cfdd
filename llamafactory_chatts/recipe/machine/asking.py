"""Questions to drivers and to broken builds, asked by programs of their own: neither a crash nor a hang takes us down.

Such a program prints one JSON line per answer, ``[name, value]``, as soon as it knows it. What it printed before a
crash is kept; how it ended is the answer ``end``.
"""

import json
import os
import signal
import subprocess
import sys
from typing import Any


Answers = dict[str, Any]
"""Name -> what JSON holds."""

PATIENCE = 2.0
"""Seconds that an ended program may take to go. One that waits inside of a driver never does: it is left behind."""


def start(*words: str) -> subprocess.Popen:
    """Start a program with this interpreter, without waiting for it.

    Args:
        words: its file, or ``-c`` and its text; then its arguments.
    """
    return subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )


def answers(process: subprocess.Popen, seconds: float) -> Answers:
    """Wait for a started program, at most a little longer than ``seconds``.

    Returns:
        name -> answer. ``end`` is "" or how the program ended, with the last line that it wrote to stderr.
    """
    out, err, end = "", "", ""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as expired:
        end = f"no answer in {seconds:g} s"
        process.kill()
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            out = (expired.stdout or b"").decode(errors="replace")

    found: Answers = {}
    for line in out.splitlines():
        try:
            name, value = json.loads(line)
        except ValueError:
            continue

        found[str(name)] = value

    if not end and process.returncode:
        last = err.strip().splitlines()[-1][:300] if err.strip() else ""
        code = process.returncode
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        end = f"{how}{f' ({last})' if last else ''}"

    return {**found, "end": end}
