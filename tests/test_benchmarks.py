"""The benchmarks of throughput and launchers: what they count, which settings and commands they have."""

import json
import os
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml


BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import launchers  # noqa: E402
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
        """In a process of its own: the mark of this one may stand above what it holds now."""
        program = (
            "from throughput import watch; before = watch.host_memory(); block = bytearray(200 * 2**20); "
            "print(watch.host_memory() - before)"
        )
        folder = Path(watch.__file__).parent.parent
        done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
        assert 0.15 < float(done.stdout) < 0.3


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
        while len(watching.samples) < 4 and time.perf_counter() < started + 300:
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


class TestLauncherCommands:
    def command(self, name, *argv):
        args = launchers.parse(["--shape", "tiny", "--work", "w", "--gpus", "4,5", *argv])
        return launchers.command_of(name, args, Path("/base"), Path("/out"))

    def recipe(self, name):
        """Return the settings that a case trains with."""
        words = launchers.CASES[name].split()
        file = next(
            (word for word in words if word.startswith("examples/train")), f"examples/{Path(words[0]).stem}.yaml"
        )
        changes = settings.parse_changes([word for word in words if "=" in word])
        return {**yaml.safe_load((launchers.ROOT / file).read_text()), **changes}

    @pytest.mark.parametrize("name", launchers.CASES)
    def test_every_case_spreads_weights_as_its_name_says(self, name):
        file = self.recipe(name).get("deepspeed")
        config = json.loads((launchers.ROOT / file).read_text())["zero_optimization"] if file else {}
        assert (config.get("stage") == 3) == (name in ("zero3", "zero3_offload", "full"))
        assert ("offload_param" in config) == (name == "zero3_offload")

    @pytest.mark.parametrize("name", launchers.CASES)
    def test_every_case_takes_16_samples_a_step(self, name):
        recipe = self.recipe(name)
        rows_per_pass = recipe["per_device_train_batch_size"] * (1 if name == "one_gpu" else 2)
        assert rows_per_pass * recipe["gradient_accumulation_steps"] == 16

    def test_a_launcher_of_shell_gets_its_places_from_the_environment(self):
        words, where = self.command("full", "--steps", "7", "--set", "seed=3", "--device", "cpu")
        assert words[0] == str(launchers.ROOT / "shell/train_chatts_full.sh") and os.access(words[0], os.X_OK)
        assert words[1] == "gradient_accumulation_steps=8" and {"max_steps=7", "seed=3"} <= set(words)
        assert not {"use_cpu=true", "dataset=bench"} & set(words)  # the launcher's own part
        assert where == {
            "MODEL": "/base", "DATASET_DIR": str(Path("w/data").resolve()), "DATASET": "bench", "OUTPUT": "/out",
            "GPUS": "4,5", "DEVICE": "cpu", "LOG": "/out.log",
        }  # fmt: skip

    def test_llamafactory_cli_on_gpus(self):
        words, where = self.command("one_gpu")
        assert words[:3] == ["llamafactory-cli", "train", "examples/train_chatts_14b_rtx6000.yaml"]
        assert {"model_name_or_path=/base", "output_dir=/out", "dataset=bench"} <= set(words)
        assert where["CUDA_VISIBLE_DEVICES"] == "4" and "use_cpu=true" not in words
        assert self.command("ddp_qlora")[1]["CUDA_VISIBLE_DEVICES"] == "4,5"

    def test_llamafactory_cli_on_the_cpu(self):
        words, where = self.command("ddp_qlora", "--device", "cpu")
        assert {"use_cpu=true", "bf16=false", "enable_liger_kernel=false", "ddp_backend=gloo"} <= set(words)
        assert (where["CUDA_VISIBLE_DEVICES"], where["FORCE_TORCHRUN"], where["NPROC_PER_NODE"]) == ("", "1", "2")
        words, where = self.command("one_gpu", "--device", "cpu")
        assert "use_cpu=true" in words and "FORCE_TORCHRUN" not in where

    def test_accelerate(self):
        words, where = self.command("fsdp_qlora", "--device", "cpu")
        assert words[:6] == ["accelerate", "launch", "--cpu", "--mixed_precision", "no", "--config_file"]
        assert words[7:9] == ["-m", "llamafactory.launcher"] and words.index("use_cpu=true") > words.index(words[9])
        assert "--cpu" not in self.command("fsdp_qlora")[0] and where["PYTHONUNBUFFERED"] == "1"

    def test_the_step_line_is_read(self, capsys):
        from llamafactory_chatts.host.say.progress import StepLine

        args = SimpleNamespace(train_batch_size=2, gradient_accumulation_steps=4, world_size=2, disable_tqdm=True)
        line = StepLine(SimpleNamespace(args=args))
        states = [SimpleNamespace(global_step=step, max_steps=2, is_world_process_zero=True) for step in range(3)]
        line.on_train_begin(args, states[0], None)
        logs = {"loss": 12.5, "grad_norm": 0.2, "learning_rate": 1e-4, "ts_encoder_learning_rate": 1e-5}
        for state, number in ((states[1], 12.5), (states[2], float("nan")), (states[2], 11)):
            line.on_log(args, state, None, {**logs, "loss": number})

        line.on_log(args, states[2], None, {"train_loss": 12.0, "train_samples_per_second": 4.0})
        text = "".join(f"2026-11-21 08:51:02 {shown}\n" for shown in capsys.readouterr().err.splitlines())
        found = [match.groups() for match in launchers.STEP.finditer(text)]
        assert [(step, loss) for step, loss, _ in found] == [("1", "12.5000"), ("2", "nan"), ("2", "11.0000")]
        assert float(found[0][2]) > 0 and float(found[1][2]) > 0 and found[2][2] is None  # no step since


class TestLauncherMemory:
    def test_a_marked_process_counts(self, tmp_path):
        code = "x = bytearray(b'x') * (200 << 20); print(flush=True); input()"
        child = subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, launchers.MARK: str(tmp_path)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        with child:
            child.stdout.readline()
            assert launchers.marked(tmp_path) == [str(child.pid)]
            assert launchers.marked(tmp_path.parent) == []  # the whole name, not its beginning
            assert 0.19 < launchers.proportional(str(child.pid)) < 0.5
            child.stdin.close()

        assert launchers.marked(tmp_path) == [] and launchers.proportional(str(child.pid)) == 0.0

    def test_what_a_case_leaves_running_is_ended(self, tmp_path):
        code = "import subprocess, sys; subprocess.Popen(['sleep', '60'], start_new_session=True)"
        env = {**os.environ, launchers.MARK: str(tmp_path)}
        subprocess.run([sys.executable, "-c", code], env=env, check=True)
        assert len(launchers.marked(tmp_path)) == 1
        launchers.end_all(tmp_path, patience=0)
        assert launchers.marked(tmp_path) == []

    def test_the_largest_sum_is_kept(self, tmp_path, monkeypatch):
        sizes = iter([1.0, 3.0, 2.0])
        monkeypatch.setattr(launchers, "marked", lambda folder: ["7"])
        monkeypatch.setattr(launchers, "proportional", lambda process: next(sizes, 0.0))
        memory = launchers.Memory(tmp_path, cuda=False)
        started = time.perf_counter()
        while len(memory.over_time) < 4 and time.perf_counter() < started + 300:
            time.sleep(0.05)

        found = memory.stop()
        assert found["host_gib"] == 3.0 and [size for _, size in found["host_grown"]] == [1.0, 3.0]
        assert found["card_gib"] == {}


class TestPeaks:
    """What a training process leaves behind when it ends (at_exit/sitecustomize.py)."""

    CUDA = """
import sys, types
torch = sys.modules["torch"] = types.ModuleType("torch")
size = lambda gib: lambda: gib * 2**30
torch.cuda = types.SimpleNamespace(is_available=lambda: True, is_initialized=lambda: True, memory_allocated=size(1),
    memory_reserved=size(2), max_memory_allocated=size(3), max_memory_reserved=size(4))
import time; time.sleep(0.6)
"""

    def run(self, folder, code, **env):
        kept = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", launchers.MARK)}
        kept |= {"PYTHONPATH": str(BENCHMARKS / "throughput" / "at_exit"), **env}
        done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True, timeout=900)
        assert (done.returncode, done.stderr) == (0, "")
        return [json.loads(file.read_text()) for file in folder.glob("*.json")]

    def test_a_rank_without_cuda(self, tmp_path):
        found = self.run(tmp_path, "import torch", LOCAL_RANK="1", CHATTS_PEAKS=str(tmp_path))
        assert found == [{"rank": 1, "gpu_reserved": None, "gpu_allocated": None}]

    def test_with_cuda_and_without_ranks(self, tmp_path):
        (found,) = self.run(tmp_path, self.CUDA, CHATTS_PEAKS=str(tmp_path))
        assert (found["rank"], found["gpu_reserved"], found["gpu_allocated"]) == (0, 4.0, 3.0)
        ((moment, *sizes),) = found["grown"]  # one look, nothing changed after it
        assert moment < 60 and sizes == [1.0, 3.0, 2.0]

    @pytest.mark.parametrize("env", [{"LOCAL_RANK": "0"}, {}])
    def test_nothing_of_a_process_without_torch(self, tmp_path, env):
        assert self.run(tmp_path, "pass", CHATTS_PEAKS=str(tmp_path), **env) == []

    def test_nothing_where_nobody_asked(self, tmp_path):
        code = "import sys, threading; assert 'sitecustomize' in sys.modules and threading.active_count() == 1"
        assert self.run(tmp_path, code, LOCAL_RANK="0") == []
