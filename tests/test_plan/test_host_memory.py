"""Predicted host memory: by launcher, and against a real DeepSpeed ZeRO-3 run on processors."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import warm
import yaml
from training_runs import environment

from llamafactory_chatts.core.memory import GIB
from llamafactory_chatts.data.synthesize.demo import corpus, generate
from llamafactory_chatts.plan.memory.activations import Pass
from llamafactory_chatts.plan.memory.base_model import read_base
from llamafactory_chatts.plan.memory.host_memory import WORKERS, estimate_host
from llamafactory_chatts.plan.strategy import Strategy, read_strategy
from llamafactory_chatts.recipe.machine.planned import Machine, find_card
from llamafactory_chatts.recipe.reading import Recipe, read_recipe


WORK = Pass(1, 400, 400, 20, 128)


def estimate(count=1, strategy=None, **settings):
    recipe = Recipe({"model_name_or_path": "bytedance-research/ChatTS-14B", "bf16": True, **settings}, Path("r.yaml"))
    return estimate_host(recipe, read_base(recipe), Machine(find_card("H200"), count), strategy or Strategy(), WORK)


class TestLaunchers:
    def test_a_process_on_a_gpu_is_small_whatever_the_model(self):
        """An H200 was seen with 2.1 to 2.5 GiB of resident memory, mapped pages included, 8B and 14B."""
        assert 2.1 < estimate().total / GIB < 2.6
        assert estimate().launcher == "llamafactory-cli, 1 process"

    def test_each_process_counts(self):
        assert estimate(2).total == pytest.approx(2 * estimate().total)
        assert "2 processes, DDP" in estimate(2).launcher

    def test_an_embedding_in_host_memory(self):
        """3.78 GiB were seen on an H200."""
        found = estimate(quantization_bit=4, offload_embedding=True).total / GIB
        assert found == pytest.approx(3.78, rel=0.05)

    def test_zero_3_keeps_no_checkpoint_per_process(self):
        assert estimate(2, Strategy(3)).total / GIB < 2 * 2.2 + 2

    def test_offload_shares_weights_and_state_out(self):
        offloaded = Strategy(3, offload_optimizer=True, offload_param=True)
        two, eight = (estimate(count, offloaded, finetuning_type="full") for count in (2, 8))
        assert two.parts["weights"] == pytest.approx(14.88e9 * 2, rel=0.01)
        assert two.parts["weights"] == pytest.approx(eight.parts["weights"])
        assert two.parts["optimizer"] == pytest.approx(14.88e9 * 16, rel=0.01)

    def test_workers_and_checkpoints_on_the_host(self):
        from llamafactory_chatts.host.steps import dataloading

        assert WORKERS == dataloading.WORKERS
        assert estimate(dataloader_num_workers=0).total < estimate().total < estimate(dataloader_num_workers=8).total
        assert estimate(use_unsloth_gc=True).parts["checkpoints in host memory"] == 48 * 400 * 5120 * 2


WATCHED = """
import importlib, os, re
from llamafactory.train.tuner import run_exp

importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # compiled, and used by inference only
run_exp()
text = open("/proc/self/status").read()
with open(os.environ["PEAKS"] + os.environ["RANK"], "w") as file:
    file.write(re.search(r"VmHWM:\\s+(\\d+)", text)[1])

os._exit(0)  # threads of gloo may still hold tensors of DeepSpeed's gathers
"""


def build_base(folder, layers=4, width=2048):
    """Write a random base of about 0.4 GiB with a small tokenizer."""
    from llamafactory_chatts.model.bases.tiny_base import KINDS, init_tiny

    init_tiny(folder, [*corpus(60), "<tool_response>"], seed=0)
    (folder / "model.safetensors").unlink()
    config_class, model_class = KINDS["qwen3"]
    config = config_class.from_pretrained(folder)
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "dtype": "bfloat16"}
    for key, value in {**sizes, "layer_types": ["full_attention"] * layers}.items():
        setattr(config, key, value)

    config.ts = {**config.ts, "hidden_size": width}
    with torch.device("meta"):
        model = model_class(config).to(torch.bfloat16)

    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.normal_(std=0.02)

    model.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_zero_3_on_processors_within_15_percent(tmp_path):
    build_base(tmp_path / "base")
    rows = list(generate(6, 5, 64, 96))
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "dataset_info.json").write_text('{"data": {"file_name": "data.jsonl", "formatting": "chatts"}}')
    config = {
        "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto", "zero_allow_untested_optimizer": True, "zero_optimization": {"stage": 3},
    }  # fmt: skip
    (tmp_path / "zero3.json").write_text(json.dumps(config))
    recipe = {
        "model_name_or_path": str(tmp_path / "base"), "stage": "sft", "do_train": True, "finetuning_type": "lora",
        "lora_target": "all", "template": "chatts", "dataset": "data", "dataset_dir": str(tmp_path),
        "output_dir": str(tmp_path / "out"), "save_strategy": "no", "per_device_train_batch_size": 1, "max_steps": 2,
        "report_to": "none", "deepspeed": str(tmp_path / "zero3.json"), "dataloader_num_workers": 0,
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    (tmp_path / "watched.py").write_text(WATCHED)
    env = environment(DS_ACCELERATOR="cpu", PEAKS=str(tmp_path / "peak"))
    done = warm.run([sys.executable, tmp_path / "watched.py", path], env, processes=2, fresh=True)  # for its memory
    peaks = [tmp_path / f"peak{rank}" for rank in (0, 1)]
    assert all(peak.exists() for peak in peaks), (done.stdout + done.stderr)[-3000:]
    measured = sum(int(peak.read_text()) * 1024 for peak in peaks)

    read = read_recipe(path)
    machine = replace(Machine(), count=2)
    found = estimate_host(read, read_base(read), machine, read_strategy(read), WORK, gpu=False)
    assert found.total == pytest.approx(measured, rel=0.15)
    own = found.parts["processes"]
    assert found.total - own == pytest.approx(measured - own, rel=0.25)  # the model's part alone
