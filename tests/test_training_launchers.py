"""Every launcher people use starts workers in which ChatTS trains: torchrun, accelerate, DeepSpeed ZeRO-3."""

import importlib.util
import json

import llamafactory
import pytest
import warm
import yaml
from shell_runs import free_port
from training_runs import LAUNCHER, environment, losses, may_abort, settings, zero


pytestmark = pytest.mark.slow


def launch(command: list, recipe: dict, tmp_path, **env: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = warm.run([*command, LAUNCHER, path], environment(**env))
    printed = done.stdout + done.stderr
    assert done.returncode == 0 or may_abort(command, printed, tmp_path / "out"), printed[-3000:]


def test_host_is_untouched_on_disk():
    assert llamafactory.__version__ == "0.9.5"
    assert not any("chatts" in line for line in open(LAUNCHER))


def test_torchrun(tiny_base, data_dir, tmp_path):
    recipe = settings(tiny_base, data_dir, tmp_path / "out", max_steps=3, ddp_backend="gloo", dataset="mixed")
    launch(["torchrun", "--standalone", "--nproc_per_node", "2"], recipe, tmp_path)
    assert len(losses(tmp_path / "out")) == 3


def test_accelerate(tiny_base, data_dir, tmp_path):
    recipe = settings(tiny_base, data_dir, tmp_path / "out", max_steps=3)
    flags = ["--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
    launch(["accelerate", "launch", *flags, "--dynamo_backend", "no"], recipe, tmp_path)
    assert len(losses(tmp_path / "out")) == 3


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed(tiny_base, data_dir, tmp_path, stage):
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
