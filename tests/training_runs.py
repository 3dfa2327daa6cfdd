"""Trainings of the tests with the real command line: recipes, environments, and what a run left behind."""

import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import warm
import yaml


BIN = Path(sys.executable).parent
LAUNCHER = importlib.util.find_spec("llamafactory").submodule_search_locations[0] + "/launcher.py"
TEXT_ONLY = [{"input": f"Say the number {n}.", "output": f"The number is {n}.", "timeseries": []} for n in range(6)]
ZERO = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
}
ABORT = "terminate called without an active exception"


def write_sets(folder: Path, sets: dict[str, list[dict]], **entry) -> Path:
    """Write a JSONL file for each name and the dataset_info.json that names them all; return the folder."""
    info = {}
    for name, rows in sets.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        info[name] = {"file_name": f"{name}.jsonl", **(entry or {"formatting": "chatts"})}

    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def settings(base: Path, data: Path, out: Path, **changes) -> dict:
    """Return a recipe of six LoRA steps over the rows called ``series``."""
    return {
        "model_name_or_path": str(base),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "template": "chatts",
        "dataset_dir": str(data),
        "dataset": "series",
        "cutoff_len": 2048,
        "output_dir": str(out),
        "logging_steps": 1,
        "save_strategy": "no",
        "per_device_train_batch_size": 1,
        "learning_rate": 3.0e-3,
        "lr_scheduler_type": "cosine",
        "max_steps": 6,
        "report_to": "none",
        "seed": 3,
        **changes,
    }


def zero(stage: int) -> str:
    """Return the text of DeepSpeed's configuration for ``stage``."""
    return json.dumps(
        {**ZERO, "zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True}}
    )


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a training without GPUs whose programs, also those it starts by name, are warm."""
    path = f"{warm.folder()}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"  # the host starts `torchrun` by name
    return {
        **os.environ,
        "PATH": path,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        **extra,
    }


def cli(command: str, recipe: dict, folder: Path, processes: int = 1, **env: str) -> str:
    """Run ``llamafactory-cli COMMAND RECIPE``; return what it printed."""
    path = folder / f"{command}_{time.monotonic_ns()}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    command, env = [BIN / "llamafactory-cli", command, path], environment(**env)
    done = warm.run(command, env, processes=processes)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, done.stderr[-3000:]
    return printed


def losses(out: Path) -> list[float]:
    """Return the loss of each logged step of a run that saved its state."""
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def may_abort(command: list, printed: str, out: Path) -> bool:
    """Tell whether a run ended as only DeepSpeed with several processes on the CPU may end.

    Threads of gloo still hold tensors of its gathers while Python shuts down, after everything was saved.
    """
    return (
        any("deepspeed" in str(word) for word in command)
        and ABORT in printed
        and (out / "trainer_state.json").exists()
    )
