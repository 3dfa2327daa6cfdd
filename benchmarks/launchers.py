"""The shipped launchers on the GPUs that are there, with a random base: losses, samples/s, memory of GPUs and host.

    python benchmarks/launchers.py --shape 1b                                    # on two GPUs
    python benchmarks/launchers.py --shape 14b --only zero3_offload --steps 3
    python benchmarks/launchers.py --shape tiny --device cpu --steps 2           # anywhere

Each case is a file of shell/ (or what docs/launchers.md says instead), started as a user does; --set changes settings
of its recipe. `one_gpu` is the comparison: the first GPU alone, the same rows in each optimizer step. The package must
be installed, not only on PYTHONPATH. The results so far are in OUT/launchers_SHAPE.json after each case, the log of
each case in WORK/SHAPE/CASE.log. The exit status is 1 when a case failed.

What is measured, per case:
  losses          of each logged step
  samples/s       from the line of the last step
  GiB             peak of PyTorch's allocator in each process, loading included ("reserved"), and of each whole card as
                  nvidia-smi shows it ("card")
  host GiB        largest sum of the memory of all processes of the case, pages that they share counted once (Pss);
                  "node" is by how much /proc/meminfo says that the whole machine had less available
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from throughput import base, jobs, rows, settings, watch


ROOT = Path(__file__).resolve().parent.parent
CASES = {
    "one_gpu": "llamafactory-cli train examples/train_chatts_14b_rtx6000.yaml gradient_accumulation_steps=16",
    "ddp": "shell/train_chatts_14b_rtx6000.sh",
    "ddp_qlora": "llamafactory-cli train examples/train_chatts_tune_qlora.yaml gradient_accumulation_steps=8",
    "zero3": "shell/train_chatts_8b_fast.sh deepspeed=examples/deepspeed/ds_z3.json",
    "zero3_offload": "shell/train_chatts_tune.sh",
    "fsdp_qlora": "accelerate launch --config_file examples/accelerate/fsdp_qlora.yaml -m llamafactory.launcher"
    " examples/train_chatts_fsdp_qlora.yaml",
    "full": "shell/train_chatts_full.sh gradient_accumulation_steps=8",
}
"""Case -> command. All take 16 samples per optimizer step on two GPUs."""

MARK = "CHATTS_PEAKS"
STEP = re.compile(r"step (\d+)/\d+  loss (\S+)(?:.*?  (\S+) rows/s)?")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=settings.SHAPES, default="1b")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="cases (default: all)")
    parser.add_argument("--points", type=int, default=1024, help="points of a series (default: 1024)")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps (default: 4)")
    parser.add_argument("--gpus", default="0,1", help="as nvidia-smi numbers them (default: 0,1)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", default=[], help="added to every recipe")
    parser.add_argument("--label", default="", help="added to the names of the results")
    parser.add_argument(
        "--timeout", type=float, default=240, help="seconds after which a case is ended (default: 240)"
    )
    parser.add_argument("--work", type=Path, default=Path("bench_work"), help="bases, data, logs")
    parser.add_argument("--out", type=Path, default=Path("bench_results"), help="results")
    return parser.parse_args(argv)


def command_of(name: str, args: argparse.Namespace, folder: Path, out: Path) -> tuple[list[str], dict[str, str]]:
    """Return the words of a case and its environment."""
    words = CASES[name].split()
    sizes = [f"max_steps={args.steps}", "logging_steps=1", "save_strategy='no'", "plot_loss=false", "report_to=none"]
    sizes += [f"cutoff_len={rows.cutoff_for(args.points, 1)}", *args.set]
    gpus = args.gpus.split(",")[0] if name == "one_gpu" else args.gpus
    data = (args.work / "data").resolve()
    if words[0].startswith("shell/"):
        where = {"MODEL": str(folder), "DATASET_DIR": str(data), "DATASET": "bench", "OUTPUT": str(out), "GPUS": gpus}
        where |= {"DEVICE": args.device, "LOG": str(out) + ".log"}
        return [str(ROOT / words[0]), *words[1:], *sizes], where

    where = {"CUDA_VISIBLE_DEVICES": gpus if args.device == "cuda" else "", "PYTHONUNBUFFERED": "1"}
    if args.device == "cpu":
        sizes += ["bf16=false", "fp16=false", "use_cpu=true", "enable_liger_kernel=false", "use_unsloth_gc=false"]
        if name == "ddp_qlora":
            where |= {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": str(len(gpus.split(",")))}
            sizes += ["ddp_backend=gloo"]

        if words[0] == "accelerate":
            words[2:2] = ["--cpu", "--mixed_precision", "no"]

    sizes += [f"model_name_or_path={folder}", f"dataset_dir={data}", "dataset=bench", f"output_dir={out}"]
    return [*words, *sizes], where


class Memory:
    """Watches the memory of all processes that have :data:`MARK` set to a folder, and of the cards.

    Attributes:
        host: largest sum in GiB. node: by how much less was available.
    """

    def __init__(self, folder: Path, cuda: bool) -> None:
        self.folder, self.cuda, self.host, self.node = folder, cuda, 0.0, 0.0
        self._before, self._done = available(), threading.Event()
        self._started, self.over_time = time.perf_counter(), [(0.0, 0.0)]
        self._cards = folder / "cards.csv"
        self._smi = None
        if cuda:
            command = ["nvidia-smi", "--query-gpu=index,memory.used", *watch.QUERY, "-lms", "200"]
            self._smi = subprocess.Popen(command, stdout=self._cards.open("w"), stderr=subprocess.DEVNULL)

        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            self.host = max(self.host, sum(map(proportional, marked(self.folder))))
            self.over_time.append((round(time.perf_counter() - self._started, 1), round(self.host, 2)))
            self.node = max(self.node, self._before - available())

    def stop(self) -> dict:
        """End the watching; return ``host_gib``, ``node_gib`` and ``card_gib`` (card -> GiB)."""
        self._done.set()
        self._thread.join()
        cards: dict[str, float] = {}
        if self._smi is not None:
            self._smi.terminate()
            self._smi.wait()
            for line in self._cards.read_text().splitlines():
                with suppress(ValueError):
                    card, used = line.split(",")
                    cards[card] = max(cards.get(card, 0.0), float(used) / 1024)

        pairs = zip(self.over_time, self.over_time[1:])
        grown = [later for earlier, later in pairs if later[1] - earlier[1] > 0.2]
        return {"host_gib": self.host, "node_gib": self.node, "card_gib": cards, "host_grown": grown}


def available() -> float:
    """Return GiB that /proc/meminfo calls used: total less available, so that a machine that grows is no error."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return (int(lines["MemAvailable"].split()[0]) - int(lines["MemTotal"].split()[0])) / 2**20


def marked(folder: Path) -> list[str]:
    """Return the processes whose environment names ``folder`` as :data:`MARK`."""
    word, found = f"\0{MARK}={folder}\0".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if word in b"\0" + (process / "environ").read_bytes():
                found.append(process.name)

    return found


def end_all(folder: Path, patience: float) -> None:
    """End the processes of a case that are still there after ``patience`` seconds: the next one needs their memory."""
    then = time.perf_counter() + patience
    while (left := marked(folder)) and time.perf_counter() < then + 10:
        for process in left if time.perf_counter() >= then else []:
            with suppress(OSError):
                os.kill(int(process), 9)

        time.sleep(0.1)


def proportional(process: str) -> float:
    """Return a process's memory in GiB, each shared page divided by the number of processes that share it."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 2**20

    return 0.0


def run_case(name: str, args: argparse.Namespace, folder: Path) -> dict:
    """Run one case; return what was measured, with ``error`` (the log's end) when it failed."""
    label = f"{name}_{args.label}" if args.label else name
    out = (args.work / args.shape / label).resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    log = Path(f"{out}.log")
    log.unlink(missing_ok=True)
    command, where = command_of(name, args, folder.resolve(), out)
    with tempfile.TemporaryDirectory() as peaks:
        path = [str(Path(__file__).parent / "throughput" / "at_exit"), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", **where, MARK: peaks, "PYTHONPATH": os.pathsep.join(path)}
        env["HF_DATASETS_CACHE"] = str((args.work / "cache").resolve())
        memory, started, ended = Memory(Path(peaks), args.device == "cuda"), time.perf_counter(), None
        with Path(f"{out}.console").open("w") as console:
            child = subprocess.Popen(command, cwd=ROOT, env=env, stdout=console, stderr=subprocess.STDOUT)
            try:
                child.wait(args.timeout)
            except subprocess.TimeoutExpired:
                ended = f"ended after {args.timeout:.0f} s"
            finally:
                end_all(Path(peaks), patience=0 if child.poll() is None else 10)
                child.wait()

        found = {"case": label, "command": " ".join(command), "seconds": round(time.perf_counter() - started, 1)}
        found |= memory.stop()
        ranks = [json.loads(file.read_text()) for file in Path(peaks).glob("*.json")]

    text = Path(f"{out}.console").read_text(errors="replace")
    if not log.exists():
        log.write_text(text)

    steps = [match.groups() for match in STEP.finditer(text)]
    found["ranks"] = [rank for rank in sorted(ranks, key=lambda rank: rank["rank"]) if rank["gpu_reserved"] != 0]
    found["losses"] = [float(loss) for _, loss, _ in steps]
    found["samples_per_second"] = float(steps[-1][2]) if steps and steps[-1][2] else None
    if child.returncode or ended:
        found["error"] = ended or f"exit code {child.returncode}\n{text[-3000:]}"

    return found


def main() -> int:
    args = parse()
    folder = args.work / f"base_{args.shape}"
    args.out.mkdir(parents=True, exist_ok=True)
    if not base.is_complete(folder):
        built = jobs.run_job(args.work, "base", {"kind": "base", "folder": str(folder), "shape": args.shape})
        if "error" in built:
            print(built["error"], file=sys.stderr)
            return 1

    rows.write_rows(args.work / "data", [(417, args.points, 1)])
    target = args.out / f"launchers_{args.shape}{'_' * bool(args.label)}{args.label}.json"
    cuda = (
        {"device": "CPU"}
        if args.device == "cpu"
        else {"device": watch.smi("name"), "driver": watch.smi("driver_version")}
    )
    facts = {"command": " ".join(sys.argv), **cuda, "versions": watch.versions(), "shape": args.shape}
    results = []
    for name in args.only:
        results.append(run_case(name, args, folder))
        brief = {key: value for key, value in results[-1].items() if key not in ("command", "host_grown")}
        brief["ranks"] = [{key: rank[key] for key in ("rank", "gpu_reserved")} for rank in brief["ranks"]]
        print(json.dumps(brief), flush=True)
        target.write_text(json.dumps({**facts, "results": results}, indent=2) + "\n")

    return int(any("error" in row for row in results))


if __name__ == "__main__":
    sys.exit(main())
