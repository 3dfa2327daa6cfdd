"""Every stage of DeepSpeed's ZeRO trains what one plain process trains, however the rows of a step are divided."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
import warm
from safetensors.torch import load_file
from training_runs import environment


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
ZERO = {
    "0": {"stage": 0},
    "1": {"stage": 1},
    "1-offload": {"stage": 1, **OFFLOAD},
    "2": {"stage": 2},
    "2-offload": {"stage": 2, **OFFLOAD},
    "3": {"stage": 3},
    "3-offload": {"stage": 3, **OFFLOAD},
    "3-offload-all": {"stage": 3, **OFFLOAD, "offload_param": {"device": "cpu"}},
}
DIVIDED = {
    "1": {"per_device_train_batch_size": 4},
    "1-budget": {"per_device_train_batch_size": 4, "tokens_per_batch": 300},
    "4": {"gradient_accumulation_steps": 4},
    "4-budget": {"gradient_accumulation_steps": 4, "tokens_per_batch": 300},
}
"""Four rows a step, and in the third step, the last of an epoch of 9 rows, one: in one pass, in two to four passes."""

HALF = {"bf16": {"enabled": True}}
VARIANTS = {
    "1-offload overlap": {"zero": {"overlap_comm": True}},
    "1-offload half": {"deepspeed": HALF},
    "2-offload overlap": {"zero": {"overlap_comm": True}},
    "2-offload round-robin": {"zero": {"round_robin_gradients": True}},
    "2-offload half": {"deepspeed": HALF},
    "2-offload half-in-full": {"deepspeed": {**HALF, "data_types": {"grad_accum_dtype": "fp32"}}},
    "2 scattered-overlap": {"zero": {"contiguous_gradients": False, "overlap_comm": True}},
}
"""A kind of the table above with other settings, each with the last division."""


def all_cases():
    cases = {f"plain {name}": {"zero": None, "recipe": recipe} for name, recipe in DIVIDED.items()}
    for kind, zero in ZERO.items():
        cases |= {f"{kind} {name}": {"zero": zero, "recipe": recipe} for name, recipe in DIVIDED.items()}

    for name, changes in VARIANTS.items():
        case = {"deepspeed": changes.get("deepspeed", {}), "recipe": dict(DIVIDED["4-budget"])}
        case["recipe"]["bf16"] = "bf16" in case["deepspeed"]
        cases[f"{name} 4-budget"] = {**case, "zero": {**ZERO[name.split()[0]], **changes.get("zero", {})}}

    return cases


CASES = all_cases()


@pytest.fixture(scope="module")
def trained(tiny_base, tmp_path_factory):
    """Return a function: the name of a case -> what its four steps changed in the weights, one long vector."""
    folder = tmp_path_factory.mktemp("zero")
    points = torch.linspace(0, 6, 40)
    rows = [
        {
            "input": "Look at <ts><ts/>.",
            "output": f"It has {number} waves." * (1 + number % 3),
            "timeseries": [(points * number).sin().tolist()],
        }
        for number in range(9)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "dataset_info.json").write_text('{"data": {"file_name": "data.jsonl", "formatting": "chatts"}}')
    recipe = {
        "model_name_or_path": str(tiny_base),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "template": "chatts",
        "dataset": "data",
        "dataset_dir": str(folder),
        "cutoff_len": 1024,
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": 1,
        "learning_rate": 0.1,
        "optim": "sgd",  # its steps are the gradients: a factor shows, too
        "lr_scheduler_type": "constant",
        "max_steps": 4,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "disable_gradient_checkpointing": True,
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "cases.json").write_text(json.dumps(CASES))
    program = Path(__file__).with_name("zero_stages.py")
    done = warm.run(
        [sys.executable, program, folder / "recipe.json", folder / "cases.json"], environment(), timeout=1500
    )
    printed = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert printed, (done.stdout + done.stderr)[-3000:]
    paths = json.loads(printed[0].partition(" ")[2])
    start = load_file(tiny_base / "model.safetensors")

    def changes(name):
        assert Path(paths[name]).is_file(), paths[name]
        end = load_file(paths[name])
        return torch.cat([(end[key].float() - value.float()).flatten() for key, value in start.items()])

    return changes


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("plain")])
def test_the_steps_of_one_plain_process(trained, name):
    wanted, found = trained(f"plain {name.split()[-1]}"), trained(name)
    off = (found - wanted).norm() / wanted.norm()
    assert off < (0.1 if "half" in name else 1e-4)


def test_a_division_changes_nothing(trained):
    wanted = trained("plain 1")
    assert wanted.norm() > 0.1
    assert all((trained(f"plain {name}") - wanted).norm() < 1e-4 * wanted.norm() for name in DIVIDED)
