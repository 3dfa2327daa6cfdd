"""Programs that run the host, each in a fork of one process that has imported it: a start costs 0.1 s instead of 10.

A fork is a process of its own: its environment, arguments, working folder, output, exit code and memory. What a fork
cannot show needs a fresh interpreter: how a process starts, what it imports, and what executables start themselves.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from shell_runs import free_port


_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["llamafactory.train.tuner", "llamafactory.cli", "llamafactory.chat"])


def _program(words: list[str]) -> None:
    """Run ``words``: ``python -c CODE ...``, ``python FILE ...`` or ``llamafactory-cli COMMAND ...``."""
    if Path(words[0]).name == "llamafactory-cli":
        from llamafactory.cli import main

        sys.argv = words
        sys.exit(main())

    module = type(sys)("__main__")  # classes and functions of the program are found where it says that they are
    sys.modules["__main__"] = module
    if words[1] == "-c":
        sys.argv, sys.path[:] = ["-c", *words[3:]], ["", *sys.path]
        exec(compile(words[2], "<string>", "exec"), module.__dict__)
    else:
        sys.argv, sys.path[:] = words[1:], [str(Path(words[1]).parent), *sys.path]
        runpy.run_path(words[1], run_name="__main__")


def _child(words: list[str], env: dict[str, str], cwd: str, outputs: tuple[str, str]) -> None:
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # the program's own workers start as they do without us
    for number, path in enumerate(outputs, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)

    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    _program(words)


class Program:
    """A running program of ``processes`` processes, joined as torchrun joins them; ``outputs`` are two files."""

    def __init__(self, words, env=None, cwd=None, processes: int = 1):
        words = [str(word) for word in words]
        env = {**(os.environ if env is None else env)}
        self.args, self.outputs = words, []
        for _ in ("stdout", "stderr"):
            handle, path = tempfile.mkstemp()
            os.close(handle)
            self.outputs.append(path)

        ranks = [{}]
        if processes > 1:
            port = free_port()
            ranks = [
                {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                for rank in range(processes)
            ]  # fmt: skip

        self.children = []
        for rank in ranks:
            known = {**env, **{key: str(value) for key, value in rank.items()}}
            child = _CONTEXT.Process(target=_child, args=(words, known, str(cwd or os.getcwd()), tuple(self.outputs)))
            child.start()
            self.children.append(child)

    def poll(self) -> int | None:
        """Return the exit code, the first one that is not zero; None while the program runs."""
        codes = [child.exitcode for child in self.children]
        failed = [code for code in codes if code]
        return failed[0] if failed else None if None in codes else 0

    def kill(self) -> None:
        for child in self.children:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # and what it started

            child.kill()
            child.join()

    def output(self) -> tuple[str, str]:
        return tuple(Path(path).read_text(errors="replace") for path in self.outputs)


def run(words, env=None, cwd=None, timeout: float = 900, processes: int = 1) -> subprocess.CompletedProcess:
    """Return what ``subprocess.run(words, capture_output=True, text=True)`` would.

    ``processes``: as many ranks of one torch.distributed group run ``words``.
    """
    program = Program(words, env, cwd, processes)
    deadline = time.monotonic() + timeout
    try:
        while (code := program.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(program.args, timeout, *program.output())

            time.sleep(0.02)
    finally:
        program.kill()
        stdout, stderr = program.output()
        for path in program.outputs:
            os.unlink(path)

    return subprocess.CompletedProcess(program.args, code, stdout, stderr)
