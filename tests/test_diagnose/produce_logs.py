"""Produce the logs of the gallery (docs/failures.md) for real, on a CPU, with the tiny base.

    python tests/test_diagnose/produce_logs.py --out DIR [NAME ...]

Each scenario starts the real llamafactory-cli, torchrun, deepspeed or accelerate; what it prints is trimmed, paths
become /home/user/..., and the exit code becomes the last line, as the launchers of this project write it. ``logs/``
holds the result. Some scenarios want root (another user, a small tmpfs) or systemd (a memory limit); they
are left out, with a line, where there is none.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import yaml


sys.path.insert(0, str(Path(__file__).parent))
from produce_prepare import PREPARE  # noqa: E402
from produce_scenarios import SCENARIOS, Scenario  # noqa: E402


HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
BIN = Path(sys.executable).parent
HOST = importlib.util.find_spec("llamafactory").submodule_search_locations[0]


class Bench:
    """The folder of one production: bases, data, and a recipe of two steps."""

    def __init__(self, folder: Path) -> None:
        from llamafactory_chatts.data.synthesize.demo import corpus, generate
        from llamafactory_chatts.model.bases.tiny_base import init_tiny

        self.folder, self.data = folder, folder / "data"
        self.base = folder / "base"
        if not self.base.exists():
            init_tiny(self.base, [*corpus(60), "<tool_response>"], seed=0)

        self.data.mkdir(exist_ok=True)
        rows = list(generate(18, seed=5, min_points=64, max_points=96))
        broken = [
            dict(row, input=row["input"].replace("<ts><ts/>", "")) if n == 4 else row for n, row in enumerate(rows)
        ]
        self.write("series", rows)
        self.write("broken", broken)
        self.write("pairs", [{**row, "chosen": row["output"], "rejected": "no"} for row in rows])
        columns = {"prompt": "input", "response": "output", "timeseries": "timeseries"}
        info = {name: {"file_name": f"{name}.jsonl", "columns": columns} for name in ("series", "broken", "gone")}
        ranked = {"prompt": "input", "chosen": "chosen", "rejected": "rejected", "timeseries": "timeseries"}
        info["pairs"] = {"file_name": "pairs.jsonl", "ranking": True, "columns": ranked}
        (self.data / "dataset_info.json").write_text(json.dumps(info))

    def write(self, name: str, rows: list[dict]) -> None:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (self.data / f"{name}.jsonl").write_text(lines, encoding="utf-8")

    def recipe(self, name: str, changes: dict) -> Path:
        settings = {
            "model_name_or_path": str(self.base),
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "lora_target": "all",
            "template": "chatts",
            "dataset_dir": str(self.data),
            "dataset": "series",
            "cutoff_len": 2048,
            "output_dir": str(self.folder / "saves" / name),
            "logging_steps": 1,
            "save_strategy": "no",
            "per_device_train_batch_size": 1,
            "learning_rate": 3.0e-3,
            "max_steps": 3,
            "report_to": "none",
            **{key: self.fill(value) for key, value in changes.items()},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in settings.items() if value is not None}))
        return path

    def fill(self, value):
        return value.replace("{folder}", str(self.folder)) if isinstance(value, str) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "logs")
    parser.add_argument("--work", type=Path, default=Path("/tmp/chatts_failures"))
    parser.add_argument("names", nargs="*", help="scenarios; all without")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.work)
    for name in args.names or SCENARIOS:
        started = time.monotonic()
        text = produce(bench, name, SCENARIOS[name])
        if text is None:
            print(f"{name:<32} left out: wants root or systemd", flush=True)
            continue

        (args.work / f"{name}.raw.log").write_bytes(text)
        (args.out / f"{name}.log").write_bytes(trim(text, bench.folder))
        last = text.rstrip().rsplit(b"\n", 1)[-1].decode()
        print(f"{name:<32} {last}, {time.monotonic() - started:.0f} s", flush=True)


def produce(bench: Bench, name: str, scenario: Scenario) -> bytes | None:
    """Run one scenario and return what it printed, the exit code as the last line."""
    shutil.rmtree(bench.folder / "saves" / name, ignore_errors=True)
    recipe = bench.recipe(name, scenario.changes)
    if scenario.text is not None:
        recipe.write_text(bench.fill(scenario.text))

    env = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "LLAMAFACTORY_CHATTS_PREFLIGHT": "0",  # what LLaMA-Factory itself says is wanted here
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "HF_HOME": str(bench.folder / "hf"),
        **{key: bench.fill(value) for key, value in scenario.env.items()},
    }
    undo = PREPARE[scenario.prepare](bench, name, env) if scenario.prepare else None
    if undo is False:
        return None

    log = bench.folder / f"{name}.raw.log"
    command = [bench.fill(part) for part in [*scenario.command, str(recipe), *scenario.arguments]]
    try:
        with open(log, "wb") as file:
            process = subprocess.Popen(
                command, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_as_a_shell
            )
            if scenario.send:
                send(process, log, *scenario.send)

            code = process.wait(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    finally:
        if callable(undo):
            undo()

    code = code if code >= 0 else 128 - code
    return log.read_bytes().rstrip(b"\n") + f"\nexit code {code}\n".encode()


def _as_a_shell() -> None:
    """Let signals end the child also when this script runs under nohup or with &, whose children ignore some."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def send(process: subprocess.Popen, log: Path, words: str, number: int, target: str) -> None:
    """Wait for words in the log, then send a signal as a person, a terminal or the kernel would."""
    until = time.monotonic() + 120
    while words.encode() not in log.read_bytes() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)

    if target == "group":
        os.killpg(process.pid, number)
    elif target == "one":
        process.send_signal(number)
    else:
        while (child := below(process.pid, target)) is None and time.monotonic() < until:
            time.sleep(0.05)

        os.kill(child, number)


def below(pid: int, words: str) -> int | None:
    """Return the newest process below ``pid`` whose command line holds words."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()[1:]
    parents = {int(line.split()[0]): (int(line.split()[1]), line) for line in listed}
    for child, (parent, line) in sorted(parents.items(), reverse=True):
        while parent in parents and parent != pid:
            parent = parents[parent][0]

        if parent == pid and words in line:
            return child

    return None


def trim(text: bytes, folder: Path) -> bytes:
    """Cut what repeats and replace the paths of this machine."""
    for path, shown in (
        (folder, "/home/user/run"), (Path(sys.prefix), "/home/user/venv"), (REPOSITORY, "/home/user/chatts"),
        (Path(sys.base_prefix), "/usr"), (Path(HOST).parent, "/home/user/venv/lib/python3.11/site-packages"),
    ):  # fmt: skip
        text = text.replace(str(path).encode(), shown.encode())
        text = text.replace(str(path).replace("/", "_").encode(), shown.replace("/", "_").encode())

    text = text.replace(b"/tmp/", b"/home/user/scratch/")
    text = text.replace(socket.gethostname().encode(), b"node1")
    kept, block = [], False
    for line in text.split(b"\n"):
        if re.search(rb"Config \w+ \{$|onfig \{$", line):
            block = True
        elif block:
            block = line != b"}"
            continue

        pieces = line.split(b"\r")
        if len(pieces) > 5:
            pieces = [*pieces[:2], *pieces[-3:]]

        kept.append(b"\r".join(piece if len(piece) < 700 else piece[:300] + b" ..." for piece in pieces))

    return b"\n".join(kept)


if __name__ == "__main__":
    main()
