"""Start, list and stop several trainings on one machine: one launcher, disjoint GPUs, a line of changes for each.

example:
  $ cat jobs.txt
  rank8  | 0   | lora_rank=8
  rank16 | 1,2 | lora_rank=16 learning_rate=5.0e-5
  $ lmf-chatts jobs --launcher shell/train_chatts_8b_qlora.sh --jobs-file jobs.txt
  $ lmf-chatts jobs status
  JOB              GPUS       PID       STATE          LOG
  rank8            0          4711      running        saves/jobs/rank8/20261126_090000.log
  rank16           1,2        -         exit code 0    saves/jobs/rank16/20261126_090000.log
  $ lmf-chatts jobs stop rank8

shell/start_finetune.sh is this command with its variables on top. Nothing is started when two jobs would share a GPU,
those that run already included, or when a GPU is not there. `stop` finds a job by its PID file and the mark in its
processes' environment, never by a name.
"""

import argparse
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ChatTSError
from ..core.locking import locked
from ..running import processes


FORM = "Write: name | GPUs | key=value ..., as in: a | 0,1 | lora_rank=8"
ROW = "{:<16} {:<10} {:<9} {:<14} {}"
PREFLIGHTS = 3600.0
"""Seconds that a start waits for another one, which checks its jobs."""


@dataclass(frozen=True)
class Job:
    """A line of the list of jobs: ``changes`` are settings over the recipe's, with blanks between."""

    name: str
    gpus: str
    changes: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("verb", nargs="?", default="start", metavar="start|status|stop", help="default: start")
    parser.add_argument("names", nargs="*", metavar="JOB", help="default: all")
    parser.add_argument("--jobs", metavar="TEXT", default="", help="a line for each job: name | GPUs | key=value ...")
    parser.add_argument("--jobs-file", metavar="FILE", help="the same in a file")
    parser.add_argument("--launcher", type=Path, metavar="FILE", help="a script of shell/; its recipe is that of all")
    parser.add_argument(
        "--folder", type=Path, default=Path("saves/jobs"), help="for FOLDER/JOB/DATE (default: %(default)s)"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: GPUs are slots")
    parser.add_argument("--slots", type=int, default=os.cpu_count(), metavar="N", help="default: the number of cores")
    parser.add_argument("--first-port", type=int, default=29600, metavar="N", help="plus the first GPU (29600)")
    parser.add_argument("--stop-seconds", type=float, default=60, metavar="S", help="then a job is killed (60)")


def run(args: argparse.Namespace) -> int:
    """Do what the verb says; return 0, or the exit code of a launcher that refused to start."""
    if args.verb == "start":
        args.folder.mkdir(parents=True, exist_ok=True)
        jobs = _chosen(_read_jobs(args.jobs, args.jobs_file), args.names)
        with locked(args.folder / "start", timeout=PREFLIGHTS):  # two starts at once must see each other's jobs
            _check_gpus(jobs, args)
            return _start(jobs, args)

    known = {path.stem: _facts(path) for path in sorted(args.folder.glob("*.job"))}
    if args.verb == "status":
        print(ROW.format("JOB", "GPUS", "PID", "STATE", "LOG"))
        for name, facts in known.items():
            pid_file = args.folder / f"{name}.pid"
            pid, state = processes.leader(pid_file) or "-", _state(pid_file, Path(facts["log"]))
            print(ROW.format(name, facts["gpus"], pid, state, facts["log"]))

        return 0

    if args.verb != "stop":
        raise ChatTSError(f"there is no command {args.verb}", fix="Use start [JOB ...], status, or stop [JOB ...]")

    for name in args.names or known:
        if name not in known:
            raise ChatTSError(f"no job {name} was started", fix=f"Those that were: {', '.join(known) or 'none'}")

        print(f"{name}: {processes.stop(args.folder / f'{name}.pid', args.stop_seconds)}", flush=True)

    return 0


def _facts(path: Path) -> dict[str, str]:
    """Return what was noted when a job was started: gpus, log, output."""
    return dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines())


def _state(pid_file: Path, log: Path) -> str:
    if processes.marked(pid_file):
        return "running"

    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    ended = re.search(r"exit code \d+$", lines[-1]) if lines else None
    return ended[0] if ended else "no exit code"


def _read_jobs(text: str, file: str | None) -> list[Job]:
    """Read the list of jobs.

    Raises:
        ChatTSError: a line that is none, with its number; a name twice; no job at all.
    """
    where, jobs = "JOBS", {}
    if file:
        where = file
        if not Path(file).is_file():
            raise ChatTSError(f"JOBS_FILE={file} is not there", fix=f"Paths are relative to {Path.cwd()}")

        text = Path(file).read_text(encoding="utf-8")

    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue

        at = f"{where}, line {number}"
        job = Job(*map(str.strip, (*line.split("|", 2), "", "")[:3]))
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", job.name, re.ASCII) or not re.fullmatch(r"\d+(,\d+)*", job.gpus):
            raise ChatTSError(f"'{line}' is no job", at, FORM)

        for word in job.changes.split():
            if "=" not in word:
                raise ChatTSError(f"'{word}' is no setting", at, "Write key=value")

        if job.name in jobs:
            raise ChatTSError(f"two jobs {job.name}", at, "Give each a name that no other has")

        jobs[job.name] = job

    if not jobs:
        raise ChatTSError("there is no job", fix="Write a line for each into JOBS, or into JOBS_FILE")

    return list(jobs.values())


def _chosen(jobs: list[Job], names: list[str]) -> list[Job]:
    by_name = {job.name: job for job in jobs}
    for name in names:
        if name not in by_name:
            raise ChatTSError(f"there is no job {name}", fix=f"The jobs are: {' '.join(by_name)}")

    return [by_name[name] for name in names] or jobs


def _check_gpus(jobs: list[Job], args: argparse.Namespace) -> None:
    """Raise a ChatTSError unless each GPU is there, and no two jobs share one, those that run already included."""
    if args.device == "cpu":
        there = [str(slot) for slot in range(args.slots)]
    else:
        from ..recipe.machine.gpus import driver

        there = [str(card.index) for card in driver().cards]
        if not there:
            raise ChatTSError("no GPU is found", fix="Set DEVICE=cpu (--device cpu) to run without one")

    owners: dict[str, str] = {}
    for path in args.folder.glob("*.job"):
        if processes.marked(path.with_suffix(".pid")):
            owners |= dict.fromkeys(_facts(path)["gpus"].split(","), f"{path.stem} (running)")

    for job in jobs:
        if f"{job.name} (running)" in owners.values():
            raise ChatTSError(f"{job.name} runs already", fix=f"Stop it first: stop {job.name}")

        for number in job.gpus.split(","):
            if number not in there:
                raise ChatTSError(f"{job.name}: there is no GPU {number}", fix=f"There are: {' '.join(there)}")

            if number in owners:
                raise ChatTSError(
                    f"{job.name} and {owners[number]} would share GPU {number}", fix="Give each GPUs of its own"
                )

            owners[number] = job.name


def _start(jobs: list[Job], args: argparse.Namespace) -> int:
    """Start the launcher for each job; one that is refused does not keep the others."""
    if args.launcher is None or not os.access(args.launcher, os.X_OK):
        raise ChatTSError(f"LAUNCHER={args.launcher} cannot be run", fix="Use one of shell/train_*.sh")

    dry, date, code = os.environ.get("DRY_RUN", "0") not in ("", "0"), time.strftime("%Y%m%d_%H%M%S"), 0
    for job in jobs:
        print(f"== {job.name}: GPUs {job.gpus}, {job.changes or 'the recipe as it is'}", flush=True)
        output = args.folder / job.name / date
        facts = {"gpus": job.gpus, "log": f"{output}.log", "output": str(output)}
        if not dry:
            lines = "".join(f"{key}={value}\n" for key, value in facts.items())
            (args.folder / f"{job.name}.job").write_text(lines, encoding="utf-8")

        here = output.absolute()  # relative paths of a launcher are relative to its repository
        variables = {
            "FOREGROUND": "0", "DEVICE": args.device, "GPUS": job.gpus, "OUTPUT": str(here), "LOG": f"{here}.log",
            "PID_FILE": str(args.folder.absolute() / f"{job.name}.pid"),
            "MASTER_PORT": str(args.first_port + int(job.gpus.split(",")[0])),
            "EXTRA": f"{os.environ.get('EXTRA', '')} {job.changes}",
        }  # fmt: skip
        command = [args.launcher.absolute()]
        code = subprocess.run(command, env=os.environ | variables, stdin=subprocess.DEVNULL).returncode or code

    return code
