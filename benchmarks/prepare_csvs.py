"""How fast `lmf-chatts prepare` turns CSVs into a dataset, against the plain script people write.

    python benchmarks/prepare_csvs.py
    python benchmarks/prepare_csvs.py --files 10000 --points 5000 --workers 2

Generates the CSVs and a label file in a work folder (kept for the next run of the same size), then measures in turn:
the plain script (csv.DictReader, json.dumps, one process), prepare to JSONL, prepare to Parquet. Each runs in a
process of its own, after one reading of all files so that all find them in the disk cache. Memory is the largest sum
over the process and its children, sampled ten times a second (PSS, which counts shared pages once; RSS elsewhere).
Prints a Markdown table.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path


PLAIN = """
import ast, csv, json, sys
from pathlib import Path

folder, output = Path(sys.argv[1]), sys.argv[2]
with open(output, "w", encoding="utf-8") as out:
    for row in json.loads((folder / "labels.json").read_text(encoding="utf-8")):
        name = Path(row["image"]).name.replace(".jpg", ".csv")
        with open(folder / "csv" / name, newline="", encoding="utf-8") as stream:
            series = [float(line["value"]) for line in csv.DictReader(stream)]

        prompt, answer = (turn["value"] for turn in row["conversations"])
        answer = json.dumps(ast.literal_eval(answer), ensure_ascii=False)
        line = {"input": prompt.replace("<image>", "<ts><ts/>"), "output": answer, "timeseries": [series]}
        out.write(json.dumps(line, ensure_ascii=False) + "\\n")
"""
PREPARE = """
import json, sys
from llamafactory_chatts.data.prepare.run import prepare

if __name__ == "__main__":
    report = prepare(json.loads(sys.argv[1]), workers=int(sys.argv[2]), progress=False)
    assert not report.total().rejected, report.total()
"""


def generate(folder: Path, files: int, points: int) -> None:
    """Write the CSVs (time and value, four decimals) and their labels."""
    import numpy as np

    (folder / "csv").mkdir(parents=True, exist_ok=True)
    rows = []
    start = np.datetime64("2024-03-01T00:00:00")
    times = [str(start + np.timedelta64(60 * step, "s")).replace("T", " ") for step in range(points)]
    for number in range(files):
        rng = np.random.default_rng(number)
        values = np.sin(np.arange(points) / rng.uniform(5, 50)) * 10 + rng.normal(50, 1, points)
        lines = (f"{moment},{value:.4f}" for moment, value in zip(times, values))
        (folder / "csv" / f"机组_{number:06d}.csv").write_text("time,value\n" + "\n".join(lines) + "\n", "utf-8")
        answer = str([{"interval": [number % points, number % points], "type": "竖直尖峰"}])
        turns = [{"from": "human", "value": "<image>\n找出异常区间。"}, {"from": "gpt", "value": answer}]
        rows.append({"image": f"/home/user/机组_{number:06d}.jpg", "conversations": turns})

    (folder / "labels.json").write_text(json.dumps(rows, ensure_ascii=False), "utf-8")


def memory(process) -> int:
    """Return the bytes that a process and its children hold."""
    import psutil

    total = 0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):  # it ended in the meantime
            info = one.memory_full_info()
            total += getattr(info, "pss", 0) or info.rss

    return total


def measure(script: str, *arguments: str) -> tuple[float, float, float]:
    """Return the seconds a script takes, its CPU seconds (children included) and the MB it needs."""
    import psutil

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", script, *arguments])
    process, peak = psutil.Process(child.pid), 0
    while child.returncode is None:
        with suppress(psutil.Error):
            peak = max(peak, memory(process))

        with suppress(subprocess.TimeoutExpired):
            child.wait(0.1)

    taken = time.perf_counter() - start
    if child.returncode:
        sys.exit(f"the script failed: {script[:80]}")

    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return taken, cpu, peak / 1e6


def same_numbers(plain: Path, jsonl: Path, parquet: Path) -> None:
    """Stop unless all three hold the same rows."""
    import numpy as np
    import pyarrow.parquet as pq

    packed = (row for batch in pq.ParquetFile(parquet).iter_batches(64) for row in batch.to_pylist())
    with open(plain, "rb") as one, open(jsonl, "rb") as two:
        for number, (a, b, c) in enumerate(zip(one, two, packed, strict=True)):
            a, b = json.loads(a), json.loads(b)
            if a != b or a["output"] != c["output"] or not np.allclose(a["timeseries"], c["timeseries"], rtol=1e-6):
                sys.exit(f"row {number + 1} differs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000, help="CSVs (default: 1000)")
    parser.add_argument("--points", type=int, default=5000, help="points of each (default: 5000)")
    parser.add_argument("--workers", type=int, default=2, help="processes of prepare (default: 2)")
    parser.add_argument("--work", default="bench_work", help="folder for everything (default: bench_work)")
    args = parser.parse_args()

    folder = Path(args.work, f"prepare_{args.files}x{args.points}")
    if not (folder / "labels.json").exists():
        generate(folder, args.files, args.points)

    size = sum(len(path.read_bytes()) for path in (folder / "csv").iterdir()) / 1e6
    source = {
        "name": "bench",
        "labels": str(folder / "labels.json"),
        "series": str(folder / "csv"),
        "match": [{"suffix": {".jpg": ".csv"}}],
    }
    results = []
    runs = [("plain", ".jsonl", "off"), ("jsonl", ".jsonl", "off"), ("near", ".jsonl", "near")]
    for name, suffix, mode in [*runs, ("parquet", ".parquet", "off")]:
        output = folder / f"{name}{suffix}"
        config = {"output": str(output), "answers": "json", "deduplicate": mode, "sources": [source]}
        if name == "plain":
            taken, cpu, peak = measure(PLAIN, str(folder), str(output))
        else:
            taken, cpu, peak = measure(PREPARE, json.dumps(config), str(args.workers))

        results.append((name, taken, cpu, peak, output.stat().st_size / 1e6))

    same_numbers(*(folder / name for name in ("plain.jsonl", "jsonl.jsonl", "parquet.parquet")))
    titles = {
        "plain": "plain script (1 process)",
        "jsonl": f"prepare to JSONL ({args.workers} workers)",
        "near": f"the same, deduplicate: near ({args.workers} workers)",
        "parquet": f"prepare to Parquet ({args.workers} workers)",
    }
    print(f"{args.files} CSVs of {args.points} points, {size:.0f} MB\n")
    print("| what | seconds | CPU seconds | rows/s | MB/s read | peak memory | output | speed |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, taken, cpu, peak, written in results:
        print(
            f"| {titles[name]} | {taken:.1f} | {cpu:.1f} | {args.files / taken:.0f} | {size / taken:.0f} "
            f"| {peak:.0f} MB | {written:.0f} MB | {results[0][1] / taken:.1f}x |"
        )


if __name__ == "__main__":
    main()
