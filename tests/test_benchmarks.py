"""The throughput benchmark: what it counts and which settings it has."""

import json
import os
import sys
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch


BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from throughput import base, flops, meter, rows, settings, watch  # noqa: E402


def tiny_model(**changes):
    from llamafactory_chatts import model as chatts

    shape = {key: value for key, value in settings.SHAPES["tiny"].items() if key != "kind"}
    config = chatts.Qwen3TSConfig(
        **shape, ts={"patch_size": 8, "num_layers": 5, "embedding_dim": 16, "max_sequence_length": 512},
        ts_token_start_index=4094, ts_token_end_index=4095, attn_implementation="eager",
    )  # fmt: skip
    return chatts.Qwen3TSForCausalLM(config).train()


class TestOperations:
    """The formula against what PyTorch counts while the tiny model runs."""

    @pytest.mark.parametrize("full", [False, True])
    def test_equals_what_pytorch_counts(self, full):
        from torch.utils.flop_counter import FlopCounterMode

        model, length, labelled = tiny_model(), 200, 30
        model.requires_grad_(full)
        model.enable_input_require_grads()  # as under adapters: gradients flow down to the first layer
        ids = torch.randint(0, 4000, (2, length))
        labels = torch.full_like(ids, -100)
        labels[0, -labelled:] = 5
        patches = 0
        series = {}
        if full:
            patches = 8
            ids[0, :8] = 4094
            series["timeseries"] = torch.ones(1, 2 * 64, 1)

        with FlopCounterMode(display=False) as counter:
            model(input_ids=ids, labels=labels, **series).loss.backward()

        ours = flops.training_flops(model.config, [length] * 2, labelled, patches, full)
        upper_half = (
            3 * 2 * 2 * 2 * length**2 * 4 * 16
        )  # passes, layers, rows, 2 a pair; eager attention computes what causality hides, too
        assert counter.get_total_flops() == pytest.approx(ours + upper_half, rel=0.01)

    def test_8b_sample_is_what_the_issue_says(self):
        shape = {key: value for key, value in settings.SHAPES["8b"].items() if key != "kind"}
        ts = {"patch_size": 8, "num_layers": 5, "embedding_dim": 16, "hidden_size": 4096}
        ts |= {"use_position_embedding": True, "use_position_idx": False}
        config = SimpleNamespace(**shape, time_series=ts)
        assert flops.decoder_weights(config) == pytest.approx(6.95e9, rel=0.01)
        assert flops.training_flops(config, [365], 21, 128, full=False) == pytest.approx(1.0e13, rel=0.05)


class TestSettings:
    def test_all_take_16_samples_a_step(self):
        for name, changes in settings.SETTINGS.items():
            assert changes["per_device_train_batch_size"] * changes["gradient_accumulation_steps"] == 16, name

    def test_the_host_knows_every_key(self):
        from llamafactory_chatts import register

        register.register()
        from llamafactory.hparams import parser

        known = {field.name for kind in parser._TRAIN_ARGS for field in fields(kind)}
        used = {key for changes in settings.SETTINGS.values() for key in changes}
        assert used - known == set()

    def test_choice_by_shape_and_name(self):
        assert "full" not in settings.choose("14b", None, []) and "qlora 10gib" in settings.choose("14b", None, [])
        assert list(settings.choose("14b", ["full"], [])) == ["full"]
        with pytest.raises(ValueError, match="'lora 1x17' is not in the table. Choose from: lora 1x16"):
            settings.choose("8b", ["lora 1x17"], [])

    def test_set_is_read_as_yaml(self):
        assert settings.parse_changes(["a=1600", "b=true", "c=x,y", "d=k=v"]) == {
            "a": 1600, "b": True, "c": "x,y", "d": "k=v",
        }  # fmt: skip
        with pytest.raises(ValueError, match="write key=value"):
            settings.parse_changes(["a"])

    def test_full_tuning_drops_the_adapter_and_autocast(self):
        made = settings.recipe_for(Path("b"), Path("d"), Path("o"), settings.SETTINGS["full"], 5, 4096, cuda=True)
        assert made["finetuning_type"] == "full" and made["bf16"] is False
        assert not [key for key in made if key.startswith("lora_")]

    def test_without_cuda(self):
        changes, note, why_not = settings.fit_to_cpu(settings.SETTINGS["lora 24gib"])
        assert "enable_liger_kernel" not in changes and changes["tokens_per_batch"] == 1600
        assert "kernels need CUDA" in note and why_not is None
        assert "use_unsloth_gc needs CUDA" in settings.fit_to_cpu(settings.SETTINGS["qlora 8.6gib"])[2]

    def test_a_recipe_keeps_its_method_only(self, tmp_path):
        path = tmp_path / "r.yaml"
        path.write_text("lora_rank: 4\ndataset: mine\nnum_train_epochs: 3\nval_size: 0.1\n")
        assert settings.recipe_settings(path) == {"lora_rank": 4}


class TestRows:
    def test_a_placeholder_per_series(self):
        (row,) = rows.make_rows(1, 256, 14)
        assert row["input"].count("<ts><ts/>") == 14 == len(row["timeseries"])
        assert {len(series) for series in row["timeseries"]} == {256}
        (entry,) = json.loads(row["output"])
        first, last = entry["interval"]
        assert max(row["timeseries"][0][first:last]) > 26 > max(row["timeseries"][1])

    def test_cutoff_is_above_every_row(self):
        assert rows.cutoff_for(1024, 1) == 4096
        assert rows.cutoff_for(32768, 1) > 4096 + 300 and rows.cutoff_for(1024, 30) > 30 * (128 + 60)


class TestMeter:
    def test_real_tokens_per_sample(self):
        ids = torch.zeros(2, 5, dtype=torch.long)
        padded = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
        packed = torch.tensor([[1, 1, 2, 2, 2], [1, 2, 3, 3, 0]])
        assert meter.sample_lengths(None, ids) == [[5], [5]]
        assert meter.sample_lengths(padded, ids) == [[3], [5]]
        assert meter.sample_lengths(packed, ids) == [[2, 3], [1, 1, 2]]
        with pytest.raises(ValueError, match="4 dimensions"):
            meter.sample_lengths(torch.ones(1, 1, 5, 5), ids)

    def test_shares_come_from_the_extra_steps(self):
        clock = meter.Meter(steps=2, split=1)
        wait = clock._timed("forward", lambda: time.sleep(0.02))
        clock._mark()
        for _ in range(3):
            wait()
            clock._mark()

        assert 0.018 < clock.parts["forward"] < 0.03  # one of three calls
        assert clock.shares()["forward"] > 0.9 and sum(clock.shares().values()) == pytest.approx(1)

    def test_host_memory_counts_what_is_touched(self):
        before = watch.host_memory()
        block = bytearray(200 * 2**20)
        assert watch.host_memory() - before > 0.15
        del block


class TestUtilisation:
    def fake(self, folder, monkeypatch, text):
        program = folder / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def test_mean_and_share_of_a_span(self, tmp_path, monkeypatch):
        self.fake(tmp_path, monkeypatch, "echo 90; echo 10; echo '[N/A]'; echo 80; echo 100; exec sleep 60")
        started = time.perf_counter()
        watching = watch.Utilisation()
        while len(watching.samples) < 4 and time.perf_counter() < started + 20:
            time.sleep(0.02)

        watching.stop()
        assert watching._process.returncode is not None
        seen = watching.between(started, time.perf_counter())
        assert seen == {"mean_percent": 70.0, "share_below_50": 0.25, "samples": 4}
        assert watching.between(started - 2, started - 1) is None

    def test_without_the_command(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        watching = watch.Utilisation()
        watching.stop()
        assert watching.between(0, 1e12) is None and watch.smi("driver_version") is None


class TestBase:
    def test_is_used_again_only_when_complete(self, tmp_path):
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            assert not base.is_complete(tmp_path)
            (tmp_path / name).write_text("{}")

        index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        (tmp_path / "1.safetensors").touch()
        assert not base.is_complete(tmp_path)
        (tmp_path / "2.safetensors").touch()
        assert base.is_complete(tmp_path)
