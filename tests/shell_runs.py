"""Steps of the launcher tests: a machine made of stand-ins, and what a launcher left behind."""

import _ctypes
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path


ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
PROGRAMS = ("llamafactory-cli", "torchrun", "deepspeed")
KEEP = ("PATH", "HOME", "LANG", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "PYTHONPATH", "TMPDIR")
LIMIT = 900.0
"""Seconds after which a test gives up; nothing is expected to take that long, also on a busy machine."""

FAKE_DRIVER = Path(__file__).with_name("fake_driver")
CARDS = [{"uuid": f"GPU-{i}", "name": "NVIDIA A100", "total": 81920, "free": 81000} for i in range(4)]


def write_program(folder: Path, name: str, body: str) -> None:
    """Write an executable bash script."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class Machine:
    """A machine with four GPUs on which training programs are stand-ins; lmf-chatts is the real one.

    Without the preflight, which knows that these GPUs are none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.out = folder, folder / "bin", folder / "out"
        self.programs("echo trained: $*")
        write_program(self.bin, "lmf-chatts", f'exec "{sys.executable}" -m llamafactory_chatts.cli "$@"')
        self.cards = CARDS
        self.libraries = folder / "driver"
        self.libraries.mkdir(exist_ok=True)  # that the driver is there is seen by its library: any will do
        (self.libraries / "libnvidia-ml.so.1").symlink_to(Path(_ctypes.__file__))

    def programs(self, trains: str) -> None:
        """Set what every training program does, a piece of bash."""
        for name in PROGRAMS:
            write_program(self.bin, name, trains)

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {key: os.environ[key] for key in KEEP if key in os.environ}
        mine = {
            "OUTPUT": str(self.out),
            "OUTPUT_ROOT": str(self.folder / "jobs"),
            "PREFLIGHT": "0",
            "PATH": f"{self.bin}:{kept['PATH']}",
            **self.driver(kept),
        }
        return {**kept, **mine, **variables}

    def driver(self, kept: dict[str, str]) -> dict[str, str]:
        """Return the variables by which programs see the cards."""
        return {
            "PYTHONPATH": os.pathsep.join([str(FAKE_DRIVER), *filter(None, [kept.get("PYTHONPATH")])]),
            "LD_LIBRARY_PATH": str(self.libraries),
            "FAKE_NVML": json.dumps({"cards": self.cards}),
        }

    def start(self, script: str, *words: str, **variables: str) -> subprocess.Popen:
        """Start a script of shell/, or lmf-chatts, and return at once."""
        command = [ROOT / "shell" / script if script.endswith(".sh") else self.bin / script, *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        return subprocess.Popen(
            command, env=self.environment(**variables), text=True, errors="replace", cwd=self.folder, **pipes
        )

    def run(self, *words: str, timeout: float = LIMIT, **variables: str) -> tuple[int, str]:
        """Return exit code and output of a script of shell/, or of lmf-chatts."""
        process = self.start(*words, **variables)
        printed, _ = process.communicate(timeout=timeout)
        return process.returncode, printed

    @property
    def log(self) -> Path:
        return self.out.with_suffix(".log")

    @property
    def pid_file(self) -> Path:
        return self.out.with_suffix(".pid")


TRAIN = ("--", "llamafactory-cli", "train", str(ROOT / "examples/train_chatts_tune_simple.yaml"))


class Runs(Machine):
    """A machine on which ``lmf-chatts run`` starts the stand-ins."""

    def words(self, *options: str) -> tuple[str, ...]:
        return ("run", "--log", str(self.log), *options, *([] if "--" in options else TRAIN))

    def start(self, *options: str, **variables: str) -> subprocess.Popen:
        return super().start("lmf-chatts", *self.words(*options), **variables)

    def begin(self, *options: str, **variables: str) -> int:
        """Start a run in the background that says ``begun``; return the PID in its file."""
        code, printed = self.run("--background", *options, **variables)
        assert code == 0, printed
        wait_for(lambda: self.log.exists() and "begun" in self.log.read_text())
        pid = int(self.pid_file.read_text())
        assert f"kill -- -{pid}" in printed and str(self.log) in printed
        return pid


def lines_of(log: Path) -> list[str]:
    """Return the lines of a log without their times; each must have one."""
    found = log.read_text(errors="replace").splitlines()
    assert all(STAMP.match(line) for line in found), found
    return [STAMP.sub("", line) for line in found]


def last_line(log: Path) -> str:
    return lines_of(log)[-1] if log.exists() and log.stat().st_size else ""


def wait_for(condition, seconds: float = LIMIT):
    """Return the first true value of ``condition()``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value

        time.sleep(0.05)

    raise AssertionError(f"not within {seconds} s")


def free_port() -> str:
    """Return a port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def read_until(descriptor: int, word: bytes) -> None:
    """Read what a launcher shows until it holds ``word``: from then on it listens to Ctrl-C."""
    shown = b""
    while word not in shown:
        more = os.read(descriptor, 4096)
        assert more, shown
        shown += more


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def marked(folder: Path) -> list[int]:
    """Return the processes of all runs whose PID files lie below a folder."""
    mark, found = f"CHATTS_RUN={folder}/".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue

        if any(word.startswith(mark) for word in words):
            found.append(int(path.parent.name))

    return found


def end_all(folder: Path) -> None:
    """End what a failed test left running."""
    for pid in marked(folder):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
