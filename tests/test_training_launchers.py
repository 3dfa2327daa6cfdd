"""Every launcher people use starts workers in which ChatTS trains: torchrun, accelerate, DeepSpeed ZeRO-3."""

import importlib.util
import json
from pathlib import Path

import llamafactory
import pytest
import warm
import yaml
from shell_runs import free_port
from test_training_cli import data_dir, environment, losses, rows, settings  # noqa: F401


pytestmark = pytest.mark.slow
LAUNCHER = importlib.util.find_spec("llamafactory").submodule_search_locations[0] + "/launcher.py"
ZERO = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
}
ABORT = "terminate called without an active exception"


def zero(stage: int) -> str:
    """Return the text of DeepSpeed's configuration for ``stage``."""
    return json.dumps(
        {**ZERO, "zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True}}
    )


def may_abort(command: list, printed: str, out: Path) -> bool:
    """Tell whether a run ended as only DeepSpeed with several processes on the CPU may end.

    Threads of gloo still hold tensors of its gathers while Python shuts down, after everything was saved.
    """
    return (
        any("deepspeed" in str(word) for word in command)
        and ABORT in printed
        and (out / "trainer_state.json").exists()
    )


def launch(command: list, recipe: dict, tmp_path, **env: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = warm.run([*command, LAUNCHER, path], environment(**env))
    printed = done.stdout + done.stderr
    assert done.returncode == 0 or may_abort(command, printed, tmp_path / "out"), printed[-3000:]


def test_host_is_untouched_on_disk():
    assert llamafactory.__version__ == "0.9.5"
    assert not any("chatts" in line for line in open(LAUNCHER))


def test_torchrun(tiny_base, data_dir, tmp_path):  # noqa: F811
    recipe = settings(tiny_base, data_dir, tmp_path / "out", max_steps=3, ddp_backend="gloo", dataset="mixed")
    launch(["torchrun", "--standalone", "--nproc_per_node", "2"], recipe, tmp_path)
    assert len(losses(tmp_path / "out")) == 3


def test_accelerate(tiny_base, data_dir, tmp_path):  # noqa: F811
    recipe = settings(tiny_base, data_dir, tmp_path / "out", max_steps=3)
    flags = ["--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
    launch(["accelerate", "launch", *flags, "--dynamo_backend", "no"], recipe, tmp_path)
    assert len(losses(tmp_path / "out")) == 3


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed(tiny_base, data_dir, tmp_path, stage):  # noqa: F811
    config = tmp_path / "zero.json"
    config.write_text(zero(stage))
    recipe = settings(
        tiny_base, data_dir, tmp_path / "out", max_steps=3, dataset="mixed", timeseries_sft_lr=1.0e-3,
        deepspeed=str(config),
    )  # fmt: skip
    flags = ["--num_accelerators", "2", "--no_local_rank", "--master_port", free_port()]
    launch(["deepspeed", *flags], recipe, tmp_path, DS_ACCELERATOR="cpu")
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    rates = [(entry["learning_rate"], entry["ts_encoder_learning_rate"]) for entry in history if "loss" in entry]
    assert len(rates) == 3
    assert all(own == pytest.approx(main / 3) for main, own in rates)
