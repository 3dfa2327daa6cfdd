"""Programs that start in a tenth of a second: each start is a fork of one process that has imported the host.

``folder()`` holds executables called ``python``, ``llamafactory-cli``, ``torchrun`` and so on. They are started as any
program is, from shells, too. Arguments, environment, working folder, standard streams, signals and the way a program
ends are passed on to and from a fork, whose ``sys.executable`` is that ``python``. What a fork cannot show needs a
fresh interpreter: the start-up file, what is imported when, and the arguments and the environment that ``ps`` shows.
"""

import atexit
import fcntl
import functools
import gc
import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path


BIN = Path(sys.executable).parent
PROGRAMS = ("python", "llamafactory-cli", "torchrun", "deepspeed", "accelerate")
PRELOADED = (
    "llamafactory.train.tuner",
    "llamafactory.cli",
    "llamafactory.launcher",
    "torch.distributed.run",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen3.modeling_qwen3",
    "torch._inductor.utils",
    "jsonschema",
    "peft.tuners.lora",
    "scipy.io",
    "torchdata.stateful_dataloader",
)
IF_INSTALLED = ("deepspeed", "bitsandbytes")  # every training imports them where they are
PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

FRONT = """#!{python} -IS
import json, os, signal, socket, sys

def read(count):
    data = b""
    while len(data) < count:
        piece = server.recv(count - len(data))
        if not piece:
            os._exit(70)
        data += piece
    return data

server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
ignored = [number for number in {passed_on} if signal.getsignal(number) == signal.SIG_IGN]
request = json.dumps([sys.argv, dict(os.environ), os.getcwd(), ignored]).encode()
socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
server.sendall(request)
pid = int.from_bytes(read(8), "big")
for number in {passed_on}:
    if number not in ignored:
        signal.signal(number, lambda number, frame: os.kill(pid, number))
code = os.waitstatus_to_exitcode(int.from_bytes(read(8), "big"))
if code < 0:
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@functools.cache
def folder() -> Path:
    """Return the folder with the executables; the process behind them ends with the last one that has asked for it.

    The workers of one run of the tests share it: its imports take as long as ten trainings.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    made = Path(tempfile.gettempdir(), f"chatts_warm_{run}") if run else Path(tempfile.mkdtemp(prefix="chatts_warm_"))
    made.mkdir(mode=0o700, exist_ok=True)
    address = str(made / "socket")
    with open(made / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        first = not (made / "users").exists()
        if first:
            os.mkfifo(made / "users")

        os.open(made / "users", os.O_RDWR)  # open until this process ends: the server reads the end of file then
        if first:
            _start(made, address)

        assert os.path.exists(address), "the process behind warm programs did not start"

    return made


def _start(made: Path, address: str) -> None:
    """Write the executables, start the server and wait until it serves."""
    for name in PROGRAMS:
        path = made / name
        path.write_text(
            FRONT.format(python=sys.executable, address=address, passed_on=[int(one) for one in PASSED_ON])
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}  # no card survives a fork
    env["HF_DATASETS_CACHE"] = str(made / "cache")  # read when it is imported: it is that of all programs
    server = subprocess.Popen([sys.executable, __file__, str(made)], stdin=subprocess.DEVNULL, env=env)
    deadline = time.monotonic() + 900
    while server.poll() is None and time.monotonic() < deadline and not os.path.exists(address):
        time.sleep(0.05)


def run(
    words, env=None, cwd=None, timeout: float = 900, processes: int = 1, fresh: bool = False
) -> subprocess.CompletedProcess:
    """Return what ``subprocess.run(words, capture_output=True, text=True)`` would.

    Args:
        words: the first one is taken from :func:`folder`, unless the program is to be ``fresh``.
        processes: as many ranks of one torch.distributed group run ``words``; their outputs stand one after the other.
    """
    from shell_runs import free_port

    words = [str(words[0] if fresh else folder() / Path(words[0]).name), *map(str, words[1:])]
    env = {**(os.environ if env is None else env)}
    if processes == 1:
        return subprocess.run(words, env=env, cwd=cwd, timeout=timeout, capture_output=True, text=True)

    size = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    size |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    started = []
    with tempfile.TemporaryDirectory() as outputs:
        for rank in range(processes):
            out, err = (open(Path(outputs, f"{name}{rank}"), "w+") for name in ("out", "err"))
            known = {**env, **size, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append((subprocess.Popen(words, env=known, cwd=cwd, stdout=out, stderr=err), out, err))

        deadline = time.monotonic() + timeout
        try:
            while any(process.poll() is None for process, _, _ in started):
                if any(process.poll() for process, _, _ in started):
                    break

                if time.monotonic() > deadline:
                    raise subprocess.TimeoutExpired(words, timeout)

                time.sleep(0.05)
        finally:
            texts = ["", ""]
            for process, *files in started:
                process.kill()
                process.wait()
                for number, file in enumerate(files):
                    file.seek(0)
                    texts[number] += file.read()
                    file.close()

    codes = [process.returncode for process, _, _ in started]
    return subprocess.CompletedProcess(
        words, next((code for code in codes if code not in (0, -9)), max(codes)), *texts
    )


def _child(argv: list[str], environment: dict[str, str], cwd: str, ignored: list[int], streams: list[int]) -> None:
    """Become the program."""
    import multiprocessing
    import runpy

    os.setsid()
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    if signal.SIGINT not in ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for target, stream in enumerate(streams):
        os.dup2(stream, target)

    os.closerange(3, max(streams) + 1)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, buffering=1, closefd=False) for number, mode in enumerate("rww")
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    multiprocessing.set_start_method(None, force=True)
    sys.executable = str(Path(argv[0]).with_name("python"))
    program = type(sys)("__main__")  # classes and functions of the program are found where it says that they are
    sys.modules["__main__"] = program
    name, words = Path(argv[0]).name, argv[1:]
    if name != "python":
        sys.argv = argv
        runpy.run_path(str(BIN / name), run_name="__main__")
        return

    while words and words[0] in ("-u", "-B"):
        words.pop(0)

    if words[0] == "-c":
        sys.argv, sys.path[:] = ["-c", *words[2:]], ["", *sys.path]
        exec(compile(words[1], "<string>", "exec"), program.__dict__)
    elif words[0] == "-m":
        sys.argv, sys.path[:] = words[1:], [os.getcwd(), *sys.path]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[:] = words, [str(Path(words[0]).absolute().parent), *sys.path]
        runpy.run_path(words[0], run_name="__main__")


def _status_of(function, *args) -> int:
    """Run a program in this process as the interpreter would; return its exit code."""
    import traceback

    code = 0
    try:
        function(*args)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1

    import threading

    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()

    return code


def _serve_one(client: socket.socket) -> None:
    """Fork the program, then wait for its end or for the end of the one who asked; runs in a process of its own."""
    header, streams, _, _ = socket.recv_fds(client, 8, 3)
    size, request = int.from_bytes(header, "big"), b""
    while len(request) < size:
        request += client.recv(size - len(request))

    argv, environment, cwd, ignored = json.loads(request)
    child = os.fork()
    if child == 0:
        client.close()
        os._exit(_status_of(_child, argv, environment, cwd, ignored, streams) & 255)

    for stream in streams:
        os.close(stream)

    client.sendall(child.to_bytes(8, "big"))
    ended = os.pidfd_open(child)
    while True:
        ready, _, _ = select.select([client, ended], [], [])
        if ended in ready:
            _, status = os.waitpid(child, 0)
            client.sendall(status.to_bytes(8, "big"))
            return

        if not client.recv(1):  # whoever asked was killed
            for target in (-child, child):
                with suppress(ProcessLookupError):
                    os.kill(target, signal.SIGKILL)

            os.waitpid(child, 0)
            return


def serve(made: Path) -> None:
    """Import the host, then serve until all who have opened ``users`` in the folder have ended; remove the folder."""
    import importlib.util

    users = os.open(made / "users", os.O_RDONLY | os.O_NONBLOCK)
    address = str(made / "socket")

    installed = [name for name in IF_INSTALLED if importlib.util.find_spec(name)]
    for name in (*PRELOADED, *installed):
        importlib.import_module(name)

    import transformers

    for name in ("ImageTextToText", "Seq2SeqLM", "TextToWaveform"):
        tuple(getattr(transformers, f"AutoModelFor{name}")._model_mapping)  # the host looks for each model in them

    if "deepspeed" in installed:
        # Built with a compiler for the reductions of tensor-parallel inference alone; no training comes to it.
        importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None

    gc.collect()
    gc.freeze()  # what was imported is no garbage: collections in the programs need not look at it
    atexit._clear()  # what the imports have registered belongs to no program
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address + ".new")
    listener.listen(64)
    os.rename(address + ".new", address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([listener, users], [], [])
        if users in ready and not os.read(users, 1):
            shutil.rmtree(made, ignore_errors=True)
            return

        if listener in ready:
            client, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                try:
                    _serve_one(client)
                finally:
                    os._exit(0)

            client.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
