"""The processes of a run, known by a mark in their environment: a PID alone may be another program's by now."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil


MARK = "CHATTS_RUN"
"""Variable in the environment of all processes of a run, whatever their session or parent: its PID file."""


def mark_of(pid_file: str | os.PathLike) -> dict[str, str]:
    """Return the mark of a run as a variable of the environment."""
    return {MARK: str(Path(pid_file).resolve())}


def marked(pid_file: str | os.PathLike) -> list[psutil.Process]:
    """Return the processes of the run that has a PID file, whether the file is still there or not."""
    mark, found = mark_of(pid_file)[MARK], []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # another user's, or ended meanwhile
            if process.environ().get(MARK) == mark:
                found.append(process)

    return found


def leader(pid_file: str | os.PathLike) -> int | None:
    """Return the process group of a run; None when no process of that number belongs to the run."""
    with suppress(OSError, ValueError):
        pid = int(Path(pid_file).read_text(encoding="ascii"))
        if os.getpgid(pid) == pid and pid in (process.pid for process in marked(pid_file)):
            return pid

    return None


def signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)


def wait_until_gone(pid_file: str | os.PathLike, seconds: float) -> list[psutil.Process]:
    """Wait for the end of all processes of a run; return those that are left after some seconds."""
    end = time.monotonic() + seconds
    while (left := marked(pid_file)) and time.monotonic() < end:
        time.sleep(0.1)

    return left


def stop(pid_file: str | os.PathLike, seconds: float) -> str:
    """Ask a run to stop: SIGTERM to its process group; kill what is left after some seconds.

    Returns:
        what was done: ``stopped``, ``not running``, or ``stopped, killed after N s``.
    """
    processes = marked(pid_file)
    if not processes:
        return "not running"

    pid = leader(pid_file)
    if pid is None:
        signal_all(processes, signal.SIGTERM)
    else:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGTERM)

    left = wait_until_gone(pid_file, seconds)
    signal_all(left, signal.SIGKILL)
    return f"stopped, killed after {seconds:g} s" if left else "stopped"
