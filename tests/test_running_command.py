"""The words of a training command: where its recipe stands, what it needs without a GPU, its environment."""

import subprocess
import sys

import pytest
from shell_runs import ROOT

from llamafactory_chatts.running import command


OFF = "bf16=false fp16=false use_unsloth_gc=false"
LORA, ZERO3 = (f"{ROOT}/examples/{name}.yaml" for name in ("train_chatts_14b_rtx6000", "train_chatts_full"))


@pytest.mark.parametrize(
    "start",
    ["llamafactory-cli train", "torchrun --nproc_per_node 2 -m llamafactory.launcher"]
    + ["accelerate launch --config_file c.yaml -m llamafactory.launcher"],
)
def test_the_recipe(start):
    words = [*start.split(), "r.yaml", "a=1", "b=x=y", "a=2"]
    assert words[command.recipe_place(words)] == "r.yaml"
    assert command.settings_of(words) == {"a": "2", "b": "x=y"}


@pytest.mark.parametrize("words", ["bash train", "bash a=1", "llamafactory-cli train --stage sft --output_dir a=1"])
def test_a_command_without_a_recipe(words):
    assert command.recipe_place(words.split()) is None and command.settings_of(words.split()) == {}
    assert command.setting(words.split(), "output_dir") is None


def test_a_setting_of_the_recipe_and_of_the_words_behind_it():
    words = ["llamafactory-cli", "train", LORA]
    assert command.setting(words, "lora_rank") == 16 and command.setting(words, "deepspeed") is None
    assert command.setting([*words, "lora_rank=4"], "lora_rank") == 4


@pytest.mark.parametrize(
    "words, found",
    [
        ("llamafactory-cli train r.yaml a=1", "llamafactory-cli train r.yaml {0} use_cpu=true a=1"),
        (f"torchrun -m llamafactory.launcher {LORA}", "... {0} use_cpu=true ddp_backend=gloo"),
        (f"torchrun -m llamafactory.launcher {ZERO3}", "... {0}"),
        (f"torchrun -m llamafactory.launcher {ZERO3} deepspeed=null", "... {0} use_cpu=true ddp_backend=gloo {1}"),
        (
            "deepspeed --include localhost:2,3 --module llamafactory.launcher r.yaml",
            "deepspeed --num_accelerators 2 --module llamafactory.launcher r.yaml {0}",
        ),
        ("bash run.sh", "bash run.sh"),
    ],
)
def test_without_a_gpu(words, found):
    """With ``use_cpu`` the host leaves DeepSpeed out, so it stands only where there is none."""
    before, _, behind = words.rpartition(" deepspeed=")
    found = found.replace("...", before or words).format(OFF, f"deepspeed={behind}")
    assert command.on_cpu(words.split(), 2) == found.split()


def test_a_line_is_what_a_shell_reads():
    line = command.as_line(
        {"A": "two words", "B": ""},
        [sys.executable, "-c", "import os, sys; print(os.environ['A'], sys.argv)", "$x 'y'"],
    )
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stdout == "two words ['-c', \"$x 'y'\"]\n"


def test_variables_of_the_user_stay(monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "backend:native")
    variables = command.environment("1,2", 29501, cpu=False)
    assert variables["PYTORCH_CUDA_ALLOC_CONF"] == "backend:native" and variables["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert variables["MASTER_PORT"] == "29501"
    assert "CUDA_VISIBLE_DEVICES" not in command.environment(None, None, cpu=False)
