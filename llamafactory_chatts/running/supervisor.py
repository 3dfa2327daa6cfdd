"""What stands beside a run: a supervisor, which starts it and keeps its exit code, and the writer of its log.

Both are forks of the process that the user sees, in a session of their own, so that it may end at any time. The run is
another session: its number is that of its process group.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from . import processes
from .command import as_line, settings_of


WAIT_FOR = 1800.0
"""Seconds that a later command waits for the file that another machine writes."""

GRACE = (2.0, 8.0, 2.0)
"""Seconds for processes that outlived their launcher: to end by themselves, after SIGTERM, after SIGKILL."""


@dataclass(frozen=True)
class Run:
    """Commands that run one after the other, as long as they end with 0.

    Attributes:
        environment: variables on top of those that are there. wait_for: file without which no command but the first
        starts. gpus: for the log alone.
    """

    commands: list[list[str]]
    environment: dict[str, str]
    log: Path
    pid_file: Path
    wait_for: Path | None = None
    gpus: str | None = None


def start(run: Run) -> tuple[int, str]:
    """Start a run; return its supervisor, a child of this process, and the run's PID ("" when it ended already)."""
    ready, started = os.pipe()
    sys.stdout.flush()
    supervisor = os.fork()
    if supervisor == 0:
        code = 1
        try:
            _leave_terminal(keep=started)
            writer = _start_writer(run.log, started)
            code = _supervise(run, started)
            for number in (1, 2):  # the writer ends with the last one that holds its pipe
                os.dup2(0, number)

            with suppress(psutil.Error):
                psutil.Process(writer).wait(5)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)

    os.close(started)
    with open(ready, "rb") as answer:
        return supervisor, answer.read().decode()


def _leave_terminal(keep: int) -> None:
    """Become a session of its own that holds nothing open: no terminal, no pipe, no lock of the caller."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)

    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number != keep:
            with suppress(OSError):
                os.close(number)


def _start_writer(log: Path, started: int) -> int:
    """Let what this process and its children print go into the log; return the process that writes it."""
    reading, writing = os.pipe()
    writer = os.fork()
    if writer == 0:
        os.close(writing)
        os.close(started)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

        write_log(reading, log)
        os._exit(0)

    os.close(reading)
    for number in (1, 2):
        os.dup2(writing, number)

    os.close(writing)
    return writer


def write_log(reading: int, log: Path) -> None:
    """Copy a pipe to the end of a log, the time in front of each line. A progress bar's states become lines."""
    unfinished, piece = b"", b"\n"
    with open(log, "ab", buffering=0) as file:
        while piece:
            piece = os.read(reading, 1 << 16)
            *lines, unfinished = re.split(rb"[\r\n]", unfinished + (piece or b"\n"))
            now = time.strftime("%Y-%m-%d %H:%M:%S ").encode()
            with suppress(OSError):  # a full disk must not end the training
                file.write(b"".join(now + line + b"\n" for line in lines if line))


def _say(text: str) -> None:
    with suppress(OSError):  # the writer was killed
        os.write(1, os.fsencode(f"{text}\n"))


class _Stop:
    """What SIGTERM does to the supervisor: it goes on to the run's process group."""

    def __init__(self) -> None:
        self.asked = False
        self.process: subprocess.Popen | None = None

    def __call__(self, number: int, frame: object) -> None:
        self.asked = True
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)


def _supervise(run: Run, started: int) -> int:
    """Run the commands; return the exit code, which is the last line of the log, too."""
    stop, code = _Stop(), 0
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda number, frame: None)  # unlike SIG_IGN, the run does not inherit it

    signal.signal(signal.SIGTERM, stop)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for at, words in enumerate(run.commands):
        end = time.monotonic() + WAIT_FOR
        while at and run.wait_for and not (run.wait_for.exists() or stop.asked or time.monotonic() > end):
            time.sleep(1)

        code = 128 + signal.SIGTERM if stop.asked else _one(run, words, stop, started if at == 0 else None)
        if code:
            break

    if stop.asked:
        _say("launcher: it was asked to stop (SIGTERM)")

    with suppress(ValueError):
        _say(f"launcher: ended by {signal.Signals(code - 128).name}")

    run.pid_file.unlink(missing_ok=True)
    _say(f"exit code {code}")
    return code


def _one(run: Run, words: list[str], stop: _Stop, started: int | None) -> int:
    """Run one command to its end and to that of all its processes; return its exit code, 128 + N after a signal N."""
    _say(f"launcher: {as_line(run.environment, words)}")
    facts = {"host": socket.gethostname(), "GPUs": run.gpus, "output": settings_of(words).get("output_dir")}
    _say(f"launcher: {', '.join(f'{name} {fact}' for name, fact in facts.items() if fact)}")
    variables = {**os.environ, **run.environment, **processes.mark_of(run.pid_file)}
    try:
        process = subprocess.Popen(words, env=variables, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        _say(f"launcher: {error}")
        return 127

    stop.process = process
    if stop.asked:  # while it was started
        stop(signal.SIGTERM, None)

    with suppress(OSError):  # neither a full disk nor an impatient user ends the training
        run.pid_file.write_text(f"{process.pid}\n", encoding="ascii")

    if started is not None:
        with suppress(OSError):
            os.write(started, str(process.pid).encode())

        os.close(started)

    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # not collected: its number is no other program's yet
    stop.process = None
    code = process.wait()
    _end_leftovers(run.pid_file)
    _say("")  # ends a last line without an end; empty lines are left out of the log
    return code if code >= 0 else 128 - code


def _end_leftovers(pid_file: Path) -> None:
    """End workers that outlived their launcher: each would keep its GPU. torchrun's are sessions of their own."""
    if left := processes.wait_until_gone(pid_file, GRACE[0]):
        _say(f"\nlauncher: still running, ending them: {' '.join(str(process.pid) for process in left)}")
        processes.signal_all(left, signal.SIGTERM)
        processes.signal_all(processes.wait_until_gone(pid_file, GRACE[1]), signal.SIGKILL)
        processes.wait_until_gone(pid_file, GRACE[2])
