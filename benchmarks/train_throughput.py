"""Samples per second and memory of training recipes, each in a process of its own, on the device that is there.

    python benchmarks/train_throughput.py --shape 8b --out results            # on a GPU
    python benchmarks/train_throughput.py --shape tiny --out results          # anywhere

A random base of the shape is built below --work once. Rows are anomaly-detection samples of --points points,
a prompt of about 250 tokens and an answer of about 24 labelled ones. Timing leaves out --skip steps.
Writes OUT/SHAPE.json and OUT/SHAPE.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path


SHAPES = {
    "8b": {"kind": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936},
    "14b": {"kind": "qwen2", "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40,
            "num_key_value_heads": 8, "intermediate_size": 13824, "vocab_size": 152064},
    "tiny": {"kind": "qwen3", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128, "vocab_size": 4096},
}  # fmt: skip
"""Published shapes of ChatTS-8B and ChatTS-14B, and a tiny one for a machine without a GPU."""

SETTINGS = {
    "lora 1x16": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16},
    "lora 8x2": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    "lora 16x1": {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1},
    "lora 16x1 no checkpointing": {
        "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "disable_gradient_checkpointing": True,
    },
    "qlora 1x16": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "quantization_bit": 4},
    "qlora 4x4": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "quantization_bit": 4},
    "qlora 16x1": {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "quantization_bit": 4},
}  # fmt: skip


def write_rows(path: Path, rows: int, points: int) -> None:
    """Write rows with the demo generator's series under one fixed Chinese prompt."""
    import numpy as np

    rng = np.random.default_rng(0)
    kinds = ["竖直尖峰", "阶跃突变", "异常平台", "模式变化"]
    prompt = (
        f"你是一位工业时间序列异常检测专家。请分析这段长度为{points}的单变量时序数据<ts><ts/>，找出异常区间和异常类型。\n\n"
        "异常类型：\n1. 竖直尖峰 - 数据在极短时间内急剧突变\n2. 阶跃突变 - 数据快速跃迁到新水平\n"
        "3. 异常平台 - 在不该稳定的地方出现平缓区间\n4. 模式变化 - 整体特征发生结构性转折\n\n"
        '输出必须是标准JSON格式：\n\n[{"interval":[start,end],"type":"类型"}]\n\n若无异常：\n[]\n\n请精确标注起止索引。'
    )
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            series = 24.2 + 0.3 * rng.standard_normal(points)
            first = int(rng.integers(0, points - 60))
            last, kind = first + int(rng.integers(5, 50)), int(rng.integers(0, 4))
            series[first:last] += rng.uniform(3, 20)
            answer = json.dumps([{"interval": [first, last], "type": kinds[kind]}], ensure_ascii=False)
            row = {"input": prompt, "output": answer, "timeseries": [[round(float(x), 6) for x in series]]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    entry = {"file_name": path.name, "formatting": "chatts"}
    (path.parent / "dataset_info.json").write_text(json.dumps({"bench": entry}))


def build_base(folder: Path, shape: str, corpus: list[str]) -> None:
    """Save a random ChatTS base of a shape, on the GPU if there is one."""
    import torch

    from llamafactory_chatts import model as chatts
    from llamafactory_chatts.model.tiny_base import CHAT_TOKENS, save_tokenizer, train_tokenizer

    fields = dict(SHAPES[shape])
    kind = fields.pop("kind")
    specials = [*CHAT_TOKENS, "<ts>", "<ts/>"]
    # few merges: real text costs about one token a character, as the row of this benchmark does with Qwen's tokenizer
    tokenizer = train_tokenizer(corpus, vocab_size=560, specials=specials)
    ids = {token: tokenizer.token_to_id(token) for token in specials}
    config = {"qwen3": chatts.Qwen3TSConfig, "qwen2": chatts.Qwen2TSConfig}[kind](
        **fields, max_position_embeddings=40960, rms_norm_eps=1e-6, rope_theta=1000000, tie_word_embeddings=False,
        pad_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"],
        ts={"patch_size": 8, "num_layers": 5, "embedding_dim": 16, "max_sequence_length": 32768},
        ts_token_start_index=ids["<ts>"], ts_token_end_index=ids["<ts/>"],
    )  # fmt: skip
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    torch.set_default_dtype(dtype)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = {"qwen3": chatts.Qwen3TSForCausalLM, "qwen2": chatts.Qwen2TSForCausalLM}[kind](config)

    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="4GB")
    save_tokenizer(tokenizer, folder)


def measure(recipe: dict, skip: int) -> dict:
    """Train in this process and return samples/s, tokens/s and peak memory."""
    import torch

    import llamafactory_chatts.autoload  # noqa: F401  (where the package lies on PYTHONPATH, without start-up file)

    from llamafactory.train.tuner import run_exp  # isort: skip
    from transformers import TrainerCallback  # isort: skip

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if torch.cuda.is_available():
                torch.cuda.synchronize()

            marks.append(time.perf_counter())

    run_exp(recipe, callbacks=[Clock()])
    steps = len(marks) - 1 - skip
    samples = steps * recipe["per_device_train_batch_size"] * recipe["gradient_accumulation_steps"]
    history = json.loads(Path(recipe["output_dir"], "trainer_state.json").read_text())["log_history"]
    cuda = torch.cuda.is_available()
    return {
        "samples_per_second": samples / (marks[-1] - marks[skip]),
        "steps_timed": steps,
        "first_loss": history[0].get("loss"),
        "last_loss": [entry["loss"] for entry in history if "loss" in entry][-1],
        "peak_allocated_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "peak_reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if cuda else None,
    }


def recipe_for(base: Path, data: Path, out: Path, changes: dict, steps: int) -> dict:
    """Return the field recipe: LoRA rank 8 on q, k, v, gradient checkpointing, sdpa, cosine."""
    import torch

    return {
        "model_name_or_path": str(base), "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_rank": 8,
        "lora_target": "q_proj,k_proj,v_proj", "template": "chatts", "dataset_dir": str(data), "dataset": "bench",
        "cutoff_len": 4096, "output_dir": str(out), "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "learning_rate": 1e-4, "lr_scheduler_type": "cosine", "max_steps": steps, "flash_attn": "sdpa",
        **changes, "bf16": torch.cuda.is_available(),
    }  # fmt: skip


def recipe_settings(path: Path) -> dict:
    """Return what a recipe says about the method and the batch; model, data and output are the benchmark's."""
    import yaml

    ours = (
        "model_name_or_path",
        "dataset",
        "dataset_dir",
        "output_dir",
        "save_steps",
        "plot_loss",
        "num_train_epochs",
    )
    return {key: value for key, value in yaml.safe_load(path.read_text()).items() if key not in ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--points", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=417)
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps per setting")
    parser.add_argument("--skip", type=int, default=3, help="first steps left out of the timing")
    parser.add_argument("--only", nargs="*", help="settings to run (default: all)")
    parser.add_argument("--recipe", type=Path, nargs="*", default=[], help="shipped recipes to measure instead")
    parser.add_argument("--work", type=Path, default=Path("bench_work"))
    parser.add_argument("--out", type=Path, default=Path("bench_results"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print("RESULT " + json.dumps(measure(json.loads(args.child), args.skip)))
        return

    data, base = args.work / "data", args.work / f"base_{args.shape}"
    data.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    write_rows(data / "bench.jsonl", args.rows, args.points)
    if not (base / "config.json").exists():
        started = time.perf_counter()
        texts = [json.loads(line) for line in (data / "bench.jsonl").open(encoding="utf-8")]
        build_base(base, args.shape, [row["input"] + row["output"] for row in texts])
        print(f"base built in {time.perf_counter() - started:.0f} s", flush=True)

    settings = {path.name: recipe_settings(path) for path in args.recipe} or SETTINGS
    results = []
    for name, changes in settings.items():
        if args.only and name not in args.only:
            continue

        recipe = recipe_for(base, data, args.work / "run", changes, args.steps)
        recipe["overwrite_output_dir"] = True
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, __file__, "--skip", str(args.skip), "--child", json.dumps(recipe)],
            env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        result = json.loads(lines[0][7:]) if lines else {"error": done.stderr[-1500:]}
        results.append({"setting": name, "wall_s": round(time.perf_counter() - started, 1), **result})
        print(json.dumps(results[-1]), flush=True)
        label = f"{args.shape}_recipes" if args.recipe else args.shape
        (args.out / f"{label}.json").write_text(json.dumps(results, indent=2))
        (args.out / f"{label}.md").write_text(as_table(results))


def as_table(results: list[dict]) -> str:
    """Return the results as a Markdown table."""
    lines = ["| setting | samples/s | peak GiB allocated (reserved) | loss first, last |", "| --- | --- | --- | --- |"]
    for row in results:
        if "error" in row:
            lines.append(f"| {row['setting']} | failed | | |")
            continue

        memory = "-"
        if row["peak_allocated_gib"]:
            memory = f"{row['peak_allocated_gib']:.1f} ({row['peak_reserved_gib']:.1f})"

        lines.append(
            f"| {row['setting']} | {row['samples_per_second']:.2f} | {memory} "
            f"| {row['first_loss']:.3f}, {row['last_loss']:.3f} |"
        )

    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
