"""The real command line on the tiny base: processes, accumulation, kill and resume, export, packing."""

import json
import signal
import sys
from pathlib import Path

import pytest
import torch
import warm
from training_runs import cli, environment, losses, settings

from llamafactory_chatts.recipe.checkpoints import RECORD


pytestmark = pytest.mark.slow


def test_two_processes_with_text_only_rows_equal_one(tiny_base, data_dir, tmp_path):
    common = {"dataset": "mixed", "timeseries_sft_lr": 1.0e-3}
    one = settings(tiny_base, data_dir, tmp_path / "one", gradient_accumulation_steps=2, **common)
    two = settings(tiny_base, data_dir, tmp_path / "two", gradient_accumulation_steps=1, **common)
    cli("train", one, tmp_path)
    cli("train", two, tmp_path, FORCE_TORCHRUN="1", NPROC_PER_NODE="2")
    first, second = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(first) == len(second) == 6
    assert first == pytest.approx(second, abs=2e-4)
    assert first[-1] < first[0]


GRADIENTS = """
import sys, json, torch
from transformers import TrainerCallback
from llamafactory.train.tuner import run_exp

class Keep(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        torch.save({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, sys.argv[2])

run_exp(json.load(open(sys.argv[1])), callbacks=[Keep()])
"""


def gradients(recipe: dict, folder: Path, name: str) -> dict[str, torch.Tensor]:
    path, kept = folder / f"{name}.json", folder / f"{name}.pt"
    path.write_text(json.dumps(recipe))
    done = warm.run([sys.executable, "-c", GRADIENTS, path, kept], environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(kept)


def test_gradients_of_one_batch_equal_accumulated_ones(tiny_base, data_dir, tmp_path):
    common = {"max_steps": 1, "disable_shuffling": True, "finetuning_type": "full", "max_grad_norm": 1.0e9}
    common |= {"dataset": "mixed"}
    joint = settings(tiny_base, data_dir, tmp_path / "a", per_device_train_batch_size=4, **common)
    split = settings(tiny_base, data_dir, tmp_path / "b", gradient_accumulation_steps=4, **common)
    at_once, summed = gradients(joint, tmp_path, "a"), gradients(split, tmp_path, "b")
    assert set(at_once) == set(summed) and any("ts_encoder" in name for name in at_once)
    for name, grad in at_once.items():
        assert torch.linalg.norm(grad - summed[name]) <= 1e-4 * torch.linalg.norm(grad) + 1e-9, name

    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), abs=1e-5)


KILLED = """
import os, signal, sys
import yaml
from transformers import TrainerCallback
from llamafactory.train.tuner import run_exp

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 12:
            os.kill(os.getpid(), signal.SIGKILL)

run_exp(yaml.safe_load(open(sys.argv[2])), callbacks=[Kill()])
"""


def test_killed_run_resumes_to_the_same_loss(tiny_base, data_dir, tmp_path):
    common = {"max_steps": 15, "save_strategy": "steps", "save_steps": 5, "save_total_limit": 2}
    common |= {"timeseries_sft_lr": 1.0e-3, "warmup_steps": 4}
    cli("train", settings(tiny_base, data_dir, tmp_path / "whole", **common), tmp_path)

    out = tmp_path / "killed"
    recipe = settings(tiny_base, data_dir, out, **common)
    path = tmp_path / "killed.json"
    path.write_text(json.dumps(recipe))
    done = warm.run([sys.executable, "-c", KILLED, "train", path], environment())
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert (out / "checkpoint-10" / RECORD).exists() and not (out / "trainer_state.json").exists()
    log = cli("train", recipe, tmp_path)
    assert "Resuming training from" in log
    whole, resumed = losses(tmp_path / "whole"), losses(out)
    assert len(resumed) == 15 and resumed[-1] == pytest.approx(whole[-1], abs=1e-6)
    assert resumed == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_export_gives_the_logits_of_base_and_adapter(tiny_base, data_dir, tmp_path, plant_rows, tuning):
    import shutil

    from llamafactory_chatts.model import from_pretrained, load_processor

    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    config = json.loads((base / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "configuration_qwen3_ts.Qwen3TSConfig",
        "AutoModelForCausalLM": "modeling_qwen3_ts.Qwen3TSForCausalLM",
        "AutoProcessor": "processing_qwen3_ts.Qwen3TSProcessor",
    }
    (base / "config.json").write_text(json.dumps(config))
    for name in ("configuration_qwen3_ts.py", "modeling_qwen3_ts.py", "processing_qwen3_ts.py"):
        (base / name).write_text("raise SystemExit('code of the checkpoint was executed')\n")

    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    cli("train", settings(base, data_dir, adapter, timeseries_tuning=tuning, max_steps=4), tmp_path)
    saved = {"model_name_or_path": str(base), "adapter_name_or_path": str(adapter), "template": "chatts"}
    cli("export", {**saved, "export_dir": str(merged), "infer_dtype": "float32", "trust_remote_code": True}, tmp_path)

    from peft import PeftModel

    text, series = plant_rows[0]["input"], plant_rows[0]["timeseries"]
    batch = load_processor(str(merged))(text=[text], timeseries=series, return_tensors="pt")
    start = from_pretrained(str(base)).eval()
    with torch.no_grad():
        untrained = start(**batch).logits
        expected = PeftModel.from_pretrained(start, str(adapter)).eval()(**batch).logits
        found = from_pretrained(str(merged)).eval()(**batch).logits

    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(untrained, expected, atol=1e-3)
    exported = json.loads((merged / "config.json").read_text())
    for key in ("architectures", "auto_map", "model_type", "ts", "ts_token_start_index", "ts_token_end_index"):
        assert exported[key] == config[key], key

    assert "rope_theta" in exported and "torch_dtype" in exported
    assert {"configuration_qwen3_ts.py", "modeling_qwen3_ts.py", "processing_qwen3_ts.py"} <= {
        path.name for path in merged.iterdir()
    }


PER_ROW = """
import sys, json, torch
from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer

def per_row(recipe):
    model_args, data_args, training_args, finetuning_args, _ = get_train_args(recipe)
    parts = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(parts["tokenizer"], data_args)
    data = get_dataset(template, model_args, data_args, training_args, stage="sft", **parts)["train_dataset"]
    model = load_model(parts["tokenizer"], model_args, finetuning_args, False).eval()
    collate = SFTDataCollatorWith4DAttentionMask(
        template=template, model=model, pad_to_multiple_of=8, label_pad_token_id=-100,
        block_diag_attn=model_args.block_diag_attn, neat_packing=data_args.neat_packing,
        attn_implementation="sdpa", compute_dtype=torch.float32, **parts)
    found = {}
    for row in data:
        bounds = (row.get("packing_params") or {}).get("sequence_boundaries") or [0, len(row["input_ids"])]
        batch = collate([dict(row)])
        with torch.no_grad():
            logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits[0]
        for first, last in zip(bounds, bounds[1:]):
            labels = torch.tensor(row["labels"][first:last])
            if (labels != -100).any():
                loss = torch.nn.functional.cross_entropy(logits[first:last - 1], labels[1:])
                found[str(row["input_ids"][first:last])] = loss.item()
    return found

plain, packed = (per_row(json.load(open(path))) for path in sys.argv[1:3])
assert set(plain) == set(packed), (len(plain), len(packed))
print("ROWS", len(plain), "WORST", max(abs(plain[k] - packed[k]) for k in plain))
"""


def test_packed_rows_have_the_losses_of_single_rows(tiny_base, data_dir, tmp_path):
    for name, changes in {"plain": {}, "packed": {"packing": True, "cutoff_len": 1024}}.items():
        recipe = settings(tiny_base, data_dir, tmp_path / name, dataset="mixed", **changes)
        (tmp_path / f"{name}.json").write_text(json.dumps(recipe))

    words = [sys.executable, "-c", PER_ROW, tmp_path / "plain.json", tmp_path / "packed.json"]
    done = warm.run(words, environment())
    assert done.returncode == 0, done.stderr[-3000:]
    rows, worst = done.stdout.split("ROWS")[1].split("WORST")
    assert int(rows) >= 12
    assert float(worst) < 1e-4
