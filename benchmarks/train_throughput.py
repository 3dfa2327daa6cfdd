"""Samples per second, memory and where the time goes, for a table of training settings on the device that is there.

    python benchmarks/train_throughput.py --shape 8b                          # on a GPU
    python benchmarks/train_throughput.py --shape 14b --points 5000 --only "qlora 1x16" "qlora 10gib"
    python benchmarks/train_throughput.py --shape 8b --recipe examples/chatts_lora.yaml --set tokens_per_batch=1600
    python benchmarks/train_throughput.py --shape 8b --sweep lengths          # or: --sweep series
    python benchmarks/train_throughput.py --shape tiny --steps 4 --skip 1     # anywhere

A random base of the shape is built below --work once. Rows are anomaly-detection samples of --series series of
--points points, a Chinese prompt and an answer of about 20 labelled tokens. Each setting runs in a process of its own;
the results so far are in OUT/NAME.json and OUT/NAME.md after each one. The exit status is 1 when a setting failed.

What is measured, per setting:
  samples/s, tokens/s   optimizer steps behind the first --skip; real tokens, padding not counted
  MFU                   operations the method needs (4 x weights x tokens with adapters, 6 x in full, plus attention;
                        recomputation, embedding and unlabelled rows of lm_head not counted) by time and matrix rate
  GiB                   peak of PyTorch's allocator over the run, and up to the start of training ("loading")
  host RSS              VmHWM, mapped pages included, up to the start of training and over the run
  GPU utilisation       nvidia-smi, five times a second over the timed steps
  shares                parts of --split more steps, with the GPU waited for around each; not in the throughput
"""

import argparse
import json
import shlex
import signal
import sys
from pathlib import Path

from throughput import base, jobs, rows, settings, tables, training


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=settings.SHAPES, default="tiny")
    parser.add_argument("--points", type=int, default=1024, help="points of a series (default: 1024)")
    parser.add_argument("--series", type=int, default=1, help="series of a sample (default: 1)")
    parser.add_argument("--rows", type=int, default=417, help="samples of the dataset (default: 417)")
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps, skipped ones included (default: 12)")
    parser.add_argument("--skip", type=int, default=3, help="first steps left out of the timing (default: 3)")
    parser.add_argument("--split", type=int, default=3, help="extra steps for the shares of the parts (default: 3)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="settings to run (default: all of this shape)")
    parser.add_argument("--recipe", type=Path, nargs="+", metavar="FILE", default=[], help="recipes, not the table")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", default=[], help="added to every setting, as YAML")
    parser.add_argument("--sweep", choices=training.SWEEPS, help="one training over samples that grow, instead")
    parser.add_argument("--work", type=Path, default=Path("bench_work"), help="bases, data, logs of the processes")
    parser.add_argument("--out", type=Path, default=Path("bench_results"), help="JSON, Markdown and PNG")
    parser.add_argument("--list", action="store_true", help="print the settings and end")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if not 1 <= args.skip < args.steps:
        parser.error(f"--skip {args.skip}, --steps {args.steps}: at least 1, and fewer than --steps")

    if args.split < 0 or args.rows < 1 or args.series < 1 or args.points < 64:
        parser.error("--rows and --series are at least 1, --points at least 64, --split at least 0")

    try:
        args.changes = settings.parse_changes(args.set)
        args.table = settings.choose(args.shape, args.only, args.recipe)
    except (ValueError, OSError) as error:
        parser.error(str(error))

    if args.sweep and len(args.table) > 1 and (args.only or args.recipe):
        parser.error("--sweep takes one setting")

    fixed = [key for key in args.changes if args.sweep and key in settings.FIXED_IN_SWEEPS]
    if fixed:
        parser.error(f"--set {fixed[0]}: a sweep passes two rows a step, one after the other")

    return args


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running child is ended, too
    args = parse()
    if args.child:
        jobs.run_child(args.child)
        return 0

    if args.list:
        for name, changes in args.table.items():
            print(f"{name:27} {json.dumps(changes)}")

        return 0

    args.out.mkdir(parents=True, exist_ok=True)
    device = jobs.run_job(args.work, "device", {"kind": "device"})
    if "error" in device:
        print(device["error"], file=sys.stderr)
        return 1

    print(f"{device['device']}: {device['matmul']}, {device['matmul_tflops']:.3g} TFLOP/s", flush=True)
    folder = args.work / f"base_{args.shape}"
    if not base.is_complete(folder):
        built = jobs.run_job(args.work, "base", {"kind": "base", "folder": str(folder), "shape": args.shape})
        if "error" in built:
            print(built["error"], file=sys.stderr)
            return 1

        print(f"base built in {built['wall_s']:.0f} s", flush=True)

    command = shlex.join(["python", "benchmarks/train_throughput.py", *sys.argv[1:]])
    facts = {"command": command, "device": device, "shape": args.shape}
    return run_sweep(args, folder, facts) if args.sweep else run_settings(args, folder, facts)


def recipe(args: argparse.Namespace, folder: Path, changes: dict, cutoff_len: int, cuda: bool) -> dict:
    """Return the recipe of one setting; the data is in ``work/data``."""
    out = args.work / "run"
    return settings.recipe_for(folder, args.work / "data", out, changes, args.steps, cutoff_len, cuda)


def run_settings(args: argparse.Namespace, folder: Path, facts: dict) -> int:
    """Measure one setting after the other; the results so far are written after each."""
    rows.write_rows(args.work / "data", [(args.rows, args.points, args.series)])
    device = facts["device"]
    facts["rows"] = f"{args.shape}, {args.rows} rows of {args.series} x {args.points} points."
    label = f"{args.shape}_{args.series}x{args.points}" + ("_recipes" if args.recipe else "")
    cutoff_len = rows.cutoff_for(args.points, args.series)
    results = []
    for name, changes in args.table.items():
        changes = {**changes, **args.changes}
        note, why_not = None, None
        if not device["cuda"]:
            changes, note, why_not = settings.fit_to_cpu(changes)

        if why_not:
            found = {"skipped": why_not}
        else:
            job = {"kind": "measure", "recipe": recipe(args, folder, changes, cutoff_len, device["cuda"])}
            job |= {"steps": args.steps, "skip": args.skip, "split": args.split, "rate": device["matmul_tflops"]}
            found = jobs.run_job(args.work, name, job)

        results.append({"setting": name, "changes": changes, "note": note, **found})
        print(json.dumps(results[-1], ensure_ascii=False), flush=True)
        write(args.out / label, {**facts, "results": results}, tables.settings_table(results))

    return int(any("error" in row for row in results))


def run_sweep(args: argparse.Namespace, folder: Path, facts: dict) -> int:
    """Measure a sweep; table and picture of what is there are written after each of its blocks."""
    blocks = training.sweep_rows(args.sweep)
    rows.write_rows(args.work / "data", blocks)
    device = facts["device"]
    changes = next(iter(args.table.values())) if args.only or args.recipe else {}
    changes = {**changes, **settings.SWEEP, **args.changes}
    changes.pop("tokens_per_batch", None)  # of the setting: the rows of a sweep have very different lengths
    if not device["cuda"]:
        changes, _, why_not = settings.fit_to_cpu(changes)
        if why_not:
            print(why_not, file=sys.stderr)
            return 1

    facts["rows"] = f"{args.shape}, 2 samples per optimizer step, one after the other; {json.dumps(changes)}."
    cutoff_len = max(rows.cutoff_for(points, series) for _, points, series in blocks)
    job = {"kind": "sweep", "name": args.sweep, "rate": device["matmul_tflops"]}
    job["recipe"] = recipe(args, folder, changes, cutoff_len, device["cuda"])
    target = args.out / f"{args.shape}_sweep_{args.sweep}"
    printed = 0

    def keep(result: dict) -> None:
        nonlocal printed
        done = result.get("blocks", [])
        for block in done[printed:]:
            print(json.dumps(block), flush=True)

        printed = len(done)
        write(target, {**facts, "sweep": args.sweep, **result}, tables.sweep_table(result))
        if done:
            tables.plot_sweep(args.sweep, done, device["device"], target.with_suffix(".png"))

    result = jobs.run_job(args.work, f"sweep {args.sweep}", job, on_progress=keep)
    keep(result)
    print(result.get("error") or result["ended"] or "all blocks measured", flush=True)
    return int("error" in result)


def write(path: Path, content: dict, table: str) -> None:
    """Write ``path.json`` and ``path.md``."""
    path.with_name(path.name + ".json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    path.with_name(path.name + ".md").write_text(tables.head(content) + "\n" + table)


if __name__ == "__main__":
    sys.exit(main())
