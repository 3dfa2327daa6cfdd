"""How often a training step waits for the GPU, and where in the code.

    python benchmarks/waits.py
    python benchmarks/waits.py --set tokens_per_batch=2048 packing=false

Trains a small random ChatTS model with LoRA in bf16 for a few steps through LLaMA-Factory's own trainer, on rows with
series of unequal lengths and one without, and counts what `torch.cuda.set_sync_debug_mode("warn")` reports in the last
step: in the forward pass, in the backward pass, and in the rest of `training_step`. Needs one CUDA card. Prints one
JSON object; to compare two versions, run it with each of them on PYTHONPATH. PyTorch reports waits of the backward
pass where it was started, not where they arise.
"""

import argparse
import collections
import contextlib
import json
import sys
import tempfile
import traceback
import warnings
from pathlib import Path


HERE = str(Path(__file__).resolve())
STEPS = 3
_PHASES = ["step"]


def place_of(frames: list) -> str:
    """Return file:line and code of the innermost frame that belongs to this package, else of the innermost one."""
    own = [frame for frame in frames if "llamafactory_chatts" in frame.filename and frame.filename != HERE]
    frame = (own or [one for one in frames if one.filename != HERE])[-1]
    parts = Path(frame.filename).parts
    return f"{'/'.join(parts[-3:])}:{frame.lineno}: {frame.line}"


@contextlib.contextmanager
def phase(name: str):
    """Count waits under a name while a block runs."""
    _PHASES.append(name)
    try:
        yield
    finally:
        _PHASES.pop()


def watch(torch, found: dict) -> None:
    """Make the host's trainer count the waits of its last step into ``found``."""
    from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer as Trainer

    step, loss = Trainer.training_step, Trainer.compute_loss

    def note(message, *args, **kwargs):
        if "synchroniz" in str(message):
            found[_PHASES[-1]][place_of(traceback.extract_stack()[:-1])] += 1

    def compute_loss(self, *args, **kwargs):
        with phase("forward"):
            return loss(self, *args, **kwargs)

    def training_step(self, *args, **kwargs):
        if self.state.global_step < STEPS - 1:  # the first steps choose kernels and make caches
            return step(self, *args, **kwargs)

        backward = self.accelerator.backward

        def counted(*inner, **options):
            with phase("backward"):
                return backward(*inner, **options)

        self.accelerator.backward = counted
        kept = warnings.showwarning
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.showwarning = note
                return step(self, *args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = kept
            del self.accelerator.backward

    Trainer.compute_loss, Trainer.training_step = compute_loss, training_step


def prepare(folder: Path) -> dict:
    """Write a tiny base and eight rows; return the recipe."""
    from llamafactory_chatts.data.synthesize.demo import corpus, generate
    from llamafactory_chatts.model.bases.tiny_base import init_tiny

    init_tiny(folder / "base", [*corpus(60), "<tool_response>"], seed=0, backbone="qwen3")
    rows = [*generate(7, 0, 64, 256), {"input": "Say one.", "output": "One.", "timeseries": []}]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    info = {"data": {"file_name": "data.jsonl", "formatting": "chatts"}}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return {
        "model_name_or_path": str(folder / "base"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "template": "chatts",
        "dataset": "data",
        "dataset_dir": str(folder),
        "cutoff_len": 2048,
        "output_dir": str(folder / "saves"),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_steps": STEPS,
        "learning_rate": 1e-4,
        "bf16": True,
        "save_strategy": "no",
        "logging_steps": 100,
        "report_to": "none",
        "disable_tqdm": True,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the recipe")
    args = parser.parse_args()

    found = {name: collections.Counter() for name in ("forward", "backward", "step")}
    with tempfile.TemporaryDirectory(prefix="chatts_waits_") as folder, contextlib.redirect_stdout(sys.stderr):
        import llamafactory.extras.packages  # noqa: F401  (first, as the host's own entry points import it)
        import torch
        from llamafactory.train.tuner import run_exp

        if not torch.cuda.is_available():
            sys.exit("no CUDA card: on the CPU nothing has to be waited for")

        watch(torch, found)
        recipe = prepare(Path(folder))
        recipe |= {key: json.loads(value) for key, value in (item.split("=", 1) for item in args.set)}
        run_exp(recipe)

    report = {
        name: {"waits": sum(lines.values()), "lines": dict(lines.most_common())} for name, lines in found.items()
    }
    print(json.dumps({"card": torch.cuda.get_device_name(), "torch": torch.__version__, **report}, indent=2))


if __name__ == "__main__":
    main()
