"""Run a training so that it outlives its terminal: log with times, PID file, exit code.

The command is started in a session of its own; what it prints goes into LOG, and this program only follows that log.
When the terminal is closed, the run goes on. Ctrl-C stops it (SIGTERM), a second one kills it. The log ends with the
exit code, which is this program's own, too.

example:
  $ lmf-chatts run --gpus 1 -- llamafactory-cli train examples/chatts_qlora.yaml output_dir=saves/a seed=1
  log  saves/a.log
  pid  4711 in saves/a.pid; stop it with: kill -- -4711
  2026-11-26 09:00:00 launcher: PYTHONUNBUFFERED=1 ... CUDA_VISIBLE_DEVICES=1 ... llamafactory-cli train ...
  ...
  2026-11-26 09:42:10 exit code 0

  $ lmf-chatts run --gpus 0,1 -- torchrun --nproc_per_node 2 -m llamafactory.launcher examples/chatts_lora.yaml
  $ lmf-chatts run --stop saves/a.pid      SIGTERM; what is left after a minute is killed

Before anything starts: the GPUs are there, the port is free, no run with the same PID file is under way, and
`lmf-chatts doctor` finds no errors in the recipe. Otherwise the exit code is 2. docs/launchers.md has it all.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..core.errors import ChatTSError
from ..core.locking import locked
from ..running import processes
from ..running.command import as_line, environment, is_spread, node_rank, on_cpu, recipe_place, setting, settings_of
from ..running.supervisor import Run, start


STOP_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.usage = "lmf-chatts run [options] -- COMMAND [--then COMMAND]"
    said = os.environ.get
    parser.add_argument("--gpus", metavar="N,N", help="numbers as nvidia-smi shows them (default: all)")
    parser.add_argument("--port", type=int, metavar="N", help="where the processes meet: refused when it is in use")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: no GPU, no 16 bits, gloo")
    parser.add_argument("--log", type=Path, metavar="FILE", help="default: OUTPUT_DIR.log; a second run goes on in it")
    parser.add_argument("--pid-file", type=Path, metavar="FILE", help="default: beside the log")
    parser.add_argument(
        "--wait-for", type=Path, metavar="FILE", help="of a command behind --then: written by another machine"
    )
    parser.add_argument(
        "--dry-run", action="store_true", default=said("DRY_RUN", "0") not in ("", "0"),
        help="print the exact command, do nothing else; also DRY_RUN=1 in the environment",
    )  # fmt: skip
    parser.add_argument(
        "--no-preflight", action="store_true", default=said("PREFLIGHT") == "0",
        help="do not ask lmf-chatts doctor; also PREFLIGHT=0",
    )  # fmt: skip
    parser.add_argument(
        "--background", action="store_true", default=said("FOREGROUND") == "0",
        help="return at once instead of following the log; also FOREGROUND=0",
    )  # fmt: skip
    parser.add_argument("--stop", type=Path, metavar="PID_FILE", help="stop the run that has this PID file")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND",
        help="what llamafactory-cli, torchrun, deepspeed or accelerate is told; `--then` between two commands starts "
        "the second one when the first has ended with 0",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Start the command, follow its log; return its exit code."""
    if args.stop is not None:
        print(f"{args.stop}: {processes.stop(args.stop, STOP_SECONDS)}")
        return 0

    if args.gpus is not None and not re.fullmatch(r"\d+(,\d+)*", args.gpus):
        raise ChatTSError("no numbers of GPUs", f"GPUS={args.gpus}", "Write those that nvidia-smi shows, as in 0,1")

    cpu, count = args.device == "cpu", args.gpus.count(",") + 1 if args.gpus else 1
    commands = _commands(args.command)
    if cpu or not args.dry_run:
        _refuse_recipes(commands)

    commands = [on_cpu(words, count) for words in commands] if cpu else commands
    variables = environment(args.gpus, args.port, cpu)
    if args.dry_run:
        for words in commands:
            print(as_line(variables, words))

        return 0

    log = args.log or _default_log(commands[-1])
    started = Run(commands, variables, log, args.pid_file or log.with_suffix(".pid"), args.wait_for, args.gpus)
    _refuse(started, cpu, args.port)
    if not args.no_preflight:
        _preflight(started, count if args.gpus else None)

    return _start(started, args.background)


def _commands(words: list[str]) -> list[list[str]]:
    """Return the commands, in the order in which they run."""
    commands: list[list[str]] = [[]]
    for word in words[1:] if words[:1] == ["--"] else words:
        if word == "--then":
            commands.append([])
        else:
            commands[-1].append(word)

    if not all(commands):
        raise ChatTSError("there is no command", fix="Write one behind --, as in: lmf-chatts run -- torchrun ...")

    return commands


def _default_log(words: list[str]) -> Path:
    """Return a log beside the output folder that a command or its recipe names."""
    output = settings_of(words).get("output_dir") or setting(words, "output_dir")
    if not output:
        raise ChatTSError("no word says where the log goes", fix="Add --log FILE, or output_dir=DIR behind the recipe")

    return Path(f"{str(output).rstrip('/')}.log")


def _refuse_recipes(commands: list[list[str]]) -> None:
    """Raise a ChatTSError when a recipe is not there."""
    for words in commands:
        place = recipe_place(words)
        if place is not None and not Path(words[place]).is_file():
            raise ChatTSError(
                f"there is no recipe {words[place]} in {Path.cwd()}", fix="Start it in its folder, or name its place"
            )


def _refuse_second(pid_file: Path) -> None:
    """Raise a ChatTSError when the run is under way."""
    if processes.marked(pid_file):
        raise ChatTSError(f"a run of {pid_file} is under way", fix="Stop it, or set OUTPUT to another folder")


def _refuse(run: Run, cpu: bool, port: int | None) -> None:
    """Stop what cannot go well.

    Raises:
        ChatTSError: a program or a GPU is not there, the port is in use, or the run is under way.
    """
    for words in run.commands:
        if shutil.which(words[0]) is None:
            raise ChatTSError(f"{words[0]} is not found", fix="Activate the environment that it is installed in")

    if run.gpus is not None and not cpu:
        from ..recipe.machine.gpus import driver

        there = [str(card.index) for card in driver().cards]
        if not there:
            raise ChatTSError("no GPU is found", fix="Set DEVICE=cpu (--device cpu) to run without one")

        for number in run.gpus.split(","):
            if number not in there:
                raise ChatTSError(f"there is no GPU {number}", fix=f"Set GPUS to some of: {' '.join(there)}")

    if port is not None and node_rank(run.commands[0]) == "0":
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            raise ChatTSError(f"port {port} is in use", fix="Set MASTER_PORT (--port) to a free one")

    _refuse_second(run.pid_file)


def _preflight(run: Run, count: int | None) -> None:
    """Ask ``lmf-chatts doctor`` about each recipe.

    Raises:
        ChatTSError: it found errors. They were printed.
    """
    written: dict[str, str] = {}  # by an earlier command -> what that one starts from
    for words in run.commands:
        place, settings = recipe_place(words), settings_of(words)
        if place is None:
            continue

        model, output = settings.get("model_name_or_path", ""), settings.get("output_dir", "")
        changes = [f"model_name_or_path={written[model]}"] if model in written else []
        written[output] = written.get(model, model)
        variables = {**os.environ, **run.environment}
        if is_spread(words):
            variables |= {"FORCE_TORCHRUN": "1"} | ({"NPROC_PER_NODE": str(count)} if count else {})

        doctor = [sys.executable, "-P", "-m", "llamafactory_chatts.cli", "doctor"]
        if subprocess.run([*doctor, *words[place:], *changes], env=variables).returncode:
            raise ChatTSError(
                f"the preflight found errors in {words[place]}", fix="See above; PREFLIGHT=0 starts all the same"
            )


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Show something; when nobody reads any more (a closed terminal, ``| head``), from then on to nobody."""
    try:
        yield
    except OSError:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), sys.stdout.fileno())


def _start(run: Run, background: bool) -> int:
    """Start the run; return its exit code, or 0 at once."""
    try:
        for file in (run.log, run.pid_file):
            file.parent.mkdir(parents=True, exist_ok=True)

        with open(run.log, "ab") as log:
            begin = log.tell()  # a resumed run goes on in its log
    except OSError as error:
        raise ChatTSError(f"cannot be written ({error.strerror})", str(run.log), "Name another place") from error

    both = (signal.SIGINT, signal.SIGTERM)
    held = (*both, signal.SIGHUP)  # from the first moment on, they mean the run, which then has its own session
    with locked(run.pid_file):  # of two starts, both may have passed the first look while the other's preflight ran
        _refuse_second(run.pid_file)
        signal.pthread_sigmask(signal.SIG_BLOCK, held)
        supervisor, pid = start(run)

    with _reader_may_leave():
        stop = f"stop it with: kill -- -{pid or 'PID'}"
        print(f"log  {run.log}\npid  {pid or 'ended'} in {run.pid_file}; {stop}", flush=True)

    if background:
        return 0

    presses = 0

    def ask(number: int, frame: object) -> None:
        nonlocal presses
        presses += 1
        if presses == 1:
            print("stopping; press Ctrl-C again to kill it", file=sys.stderr, flush=True)
            os.kill(supervisor, signal.SIGTERM)
        else:
            processes.signal_all(processes.marked(run.pid_file), signal.SIGKILL)

    for number in both:
        signal.signal(number, ask)

    signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
    return _follow(supervisor, run.log, begin)


def _follow(supervisor: int, log: Path, begin: int) -> int:
    """Show a log from a byte on until its run ends; return the exit code."""
    with open(log if log.is_file() else os.devnull, "rb") as file:
        file.seek(begin)
        while True:
            ended, status = os.waitpid(supervisor, os.WNOHANG)
            with _reader_may_leave():
                shutil.copyfileobj(file, sys.stdout.buffer)
                sys.stdout.flush()

            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code

            time.sleep(0.1)
