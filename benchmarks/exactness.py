"""Do batch splits train the same in 16 bit? Losses per step of several splits of the same samples; one is repeated.

    python benchmarks/exactness.py --shape 8b            # on a GPU; --shape tiny runs anywhere

LoRA, 16 samples per optimizer step, loss per labelled token. The repeated setting shows how far two runs of the same
thing are apart on this device; the others should not be further apart than rounding in 16 bit explains. In float32 on
CPU they agree to 1e-4, which a test holds (tests/test_training_batches.py).
"""

import argparse
import json
import sys
from pathlib import Path

from throughput import base, jobs, rows, settings


SPLITS = {
    "16x1": {"per_device_train_batch_size": 16},
    "16x1, repeated": {"per_device_train_batch_size": 16},
    "8x2": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    "1x16": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16},
    "tokens_per_batch 2048": {
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "tokens_per_batch": 2048,
    },
    "tokens_per_batch 6144": {
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "tokens_per_batch": 6144,
    },
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=settings.SHAPES, default="tiny")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(SPLITS), help="besides 16x1")
    parser.add_argument("--work", type=Path, default=Path("bench_work"))
    parser.add_argument("--out", type=Path, default=Path("bench_results"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = jobs.run_job(args.work, "device", {"kind": "device"})
    folder, data = args.work / f"base_{args.shape}", args.work / "data"
    if not base.is_complete(folder):
        jobs.run_job(args.work, "base", {"kind": "base", "folder": str(folder), "shape": args.shape})

    rows.write_rows(data, [(417, 1024, 1)])
    losses = {}
    for name, changes in SPLITS.items():
        if args.only and name not in ("16x1", *args.only):
            continue

        changes = {**changes, **({"enable_liger_kernel": True} if device["cuda"] else {})}
        out = args.work / "run"
        recipe = settings.recipe_for(folder, data, out, changes, args.steps, rows.cutoff_for(1024, 1), device["cuda"])
        job = {"kind": "measure", "recipe": recipe, "steps": args.steps, "skip": 1, "split": 0}
        result = jobs.run_job(args.work, name, {**job, "rate": device["matmul_tflops"]})
        if "error" in result:
            print(result["error"], file=sys.stderr)
            return 1

        history = json.loads((out / "trainer_state.json").read_text())["log_history"]
        losses[name] = [entry["loss"] for entry in history if "loss" in entry]
        print(name, losses[name], flush=True)

    first = losses["16x1"]
    lines = [
        "| split | first loss | last loss | largest difference of a step from 16x1 |",
        "| --- | --- | --- | --- |",
    ]
    for name, found in losses.items():
        apart = max(abs(one - other) for one, other in zip(found, first, strict=True))
        lines.append(f"| {name} | {found[0]:.4f} | {found[-1]:.4f} | {apart:.1e} |")

    print("\n".join(lines))
    target = args.out / f"{args.shape}_exactness"
    target.with_suffix(".json").write_text(json.dumps({"device": device, "losses": losses}, indent=2) + "\n")
    target.with_suffix(".md").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
