"""Time and memory of everything that happens to rows before the model: reading, converting, tokenising, batching.

    python benchmarks/preprocess.py
    python benchmarks/preprocess.py --rows 2000 --points 5000 --work /tmp/preprocess

Rows go through LLaMA-Factory's own `get_dataset`, each run in a process of its own: cold (no cache), again with the
same datasets cache, then saving to `tokenized_path` and loading from it. Seconds are those of `get_dataset`, without
imports and without the tokenizer's loading; CPU seconds count all processes and tell more on a busy machine. Memory
is the resident set of the main process before and at its peak, and the largest peak of a worker (pages shared with
the main process count in both). Then the collator: a batch of 16 rows for each shape, split into reading the rows
from the Arrow file, the tokens, and the series.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parent))

SHAPES = [(1024, 1), (256, 14), (5000, 1), (1024, 30)]
"""Points and series of a row."""

BATCH = 16
MIB = 2**20


def write_data(folder: Path, rows: list[dict], kind: str) -> None:
    """Write ``bench.jsonl`` or ``bench.parquet`` with its dataset_info.json."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"bench.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), file)

    entry = {"file_name": file.name, "formatting": "chatts"}
    (folder / "dataset_info.json").write_text(json.dumps({"bench": entry}))


def prepare(work: Path, rows: int, points: int) -> None:
    """Build the tiny base, and write the data of all runs."""
    from throughput.base import build_base
    from throughput.rows import make_rows

    build_base(work / "base", "tiny")
    generated = list(make_rows(rows, points, 1))
    for kind in ("jsonl", "parquet"):
        write_data(work / kind, generated, kind)

    for points, series in SHAPES:
        write_data(work / f"{series}x{points}", list(make_rows(BATCH, points, series)), "jsonl")


def resident(field: str) -> float:
    """Return ``VmRSS`` (now) or ``VmHWM`` (peak) of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024

    return 0.0


def load(settings: dict[str, Any]) -> tuple[Any, dict[str, float]]:
    """Run a recipe up to its datasets; return what the collator needs, and what it took."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model_args, data_args, training_args, finetuning_args, _ = get_train_args(settings)
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    start, cpu = time.perf_counter(), sum(os.times()[:4])
    dataset = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
    taken = {
        "seconds": time.perf_counter() - start,
        "cpu": sum(os.times()[:4]) - cpu,
        "before": before,
        "peak": resident("VmHWM"),
        "worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        "rows": len(dataset),
        "tokens": len(dataset[0]["input_ids"]),
    }
    return (dataset, template, module), taken


def collate(settings: dict[str, Any], repeats: int = 20) -> dict[str, float]:
    """Return median milliseconds of a batch: reading the rows, the tokens, the series."""
    import torch
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask

    (dataset, template, module), taken = load(settings)
    plugin = template.mm_plugin
    collator = SFTDataCollatorWith4DAttentionMask(
        template=template, label_pad_token_id=-100, compute_dtype=torch.bfloat16, pad_to_multiple_of=8, **module
    )
    inside: list[float] = []
    original = plugin.get_mm_inputs

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = original(*args, **kwargs)
        inside.append(time.perf_counter() - start)
        return result

    plugin.get_mm_inputs = timed
    times = []
    for _ in range(repeats):
        inside.clear()
        start = time.perf_counter()
        rows = [dataset[index] for index in range(BATCH)]
        read = time.perf_counter()
        batch = collator(rows)
        done = time.perf_counter()
        times.append((read - start, done - read - sum(inside), sum(inside)))

    medians = (1000 * statistics.median(part) for part in zip(*times[1:]))
    return dict(zip(("read", "tokens", "series"), medians), length=batch["input_ids"].shape[1], rows=taken["rows"])


def child(what: str, settings: dict[str, Any], cache: Path) -> dict[str, float]:
    """Run ``load`` or ``collate`` in a process of its own."""
    environment = {
        **os.environ,
        "HF_DATASETS_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, __file__, "--child", what, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr[-3000:])

    return json.loads(done.stdout.splitlines()[-1])


def recipe(work: Path, data: str, **changes: Any) -> dict[str, Any]:
    return {
        "model_name_or_path": str(work / "base"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "template": "chatts",
        "dataset": "bench",
        "dataset_dir": str(work / data),
        "cutoff_len": 32768,
        "output_dir": str(work / "out"),
        "max_steps": 1,
        "use_cpu": True,
        "report_to": "none",
        **changes,
    }


def datasets_table(work: Path, rows: int, points: int) -> None:
    print(f"{rows} rows x 1 series of {points} points, {len(os.sched_getaffinity(0))} cores\n")
    print("| input | run | workers | seconds | CPU seconds | RSS before, MiB | peak, MiB | largest worker, MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind in ("jsonl", "parquet"):
        for workers in (1, 2):
            saved = {"tokenized_path": str(work / "tokenized")}
            cache = work / "cache"
            for folder in (cache, Path(saved["tokenized_path"])):
                shutil.rmtree(folder, ignore_errors=True)

            for run, changes in (("cold", {}), ("same cache", {}), ("saving", saved), ("tokenized_path", saved)):
                settings = recipe(work, kind, preprocessing_num_workers=workers, **changes)
                taken = child("load", settings, cache)
                cells = [kind, run, workers, f"{taken['seconds']:.2f}", f"{taken['cpu']:.2f}"]
                cells += [f"{taken[key]:.0f}" for key in ("before", "peak", "worker")]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def collator_table(work: Path) -> None:
    print(f"\nA batch of {BATCH} rows, milliseconds (median)\n")
    print("| series x points | tokens a row | reading rows | tokens | series | together |")
    print("| --- | --- | --- | --- | --- | --- |")
    for points, series in SHAPES:
        taken = child("collate", recipe(work, f"{series}x{points}"), work / "cache")
        parts = [taken[key] for key in ("read", "tokens", "series")]
        cells = [f"{series} x {points}", taken["length"], *(f"{part:.1f}" for part in [*parts, sum(parts)])]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=417)
    parser.add_argument("--points", type=int, default=5000)
    parser.add_argument("--work", type=Path, default=Path("bench_work/preprocess"), help="folder that is written to")
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "SETTINGS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        import llamafactory_chatts.autoload  # noqa: F401  (also where the start-up file is not installed)

        what, settings = args.child[0], json.loads(args.child[1])
        print("\n" + json.dumps(load(settings)[1] if what == "load" else collate(settings)))
        return

    prepare(args.work.resolve(), args.rows, args.points)
    datasets_table(args.work.resolve(), args.rows, args.points)
    collator_table(args.work.resolve())


if __name__ == "__main__":
    main()
