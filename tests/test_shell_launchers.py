"""Launchers and recipes are what the table says, lint clean, and print the exact command on a dry run."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess

import pytest
import yaml
from shell_runs import BIN, ROOT, Machine


NAMES = (
    "train_chatts_tune_qlora_safe",
    "train_chatts_tune_simple",
    "train_chatts_tune_qlora",
    "train_chatts_tune",
    "train_chatts_14b_rtx6000",
    "train_chatts_8b_fast",
    "train_chatts_8b_qlora",
    "train_chatts_full",
)
SCRIPTS = sorted((ROOT / "shell").glob("*.sh"))
TABLE = yaml.safe_load((ROOT / "shell" / "launchers.yaml").read_text(encoding="utf-8"))
SHELLCHECK = shutil.which("shellcheck", path=f"{BIN}:/usr/bin:/usr/local/bin")

every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
every_launcher = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def settings_of(name):
    return yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8"))


class TestGenerated:
    @pytest.fixture(scope="class")
    def files(self):
        spec = importlib.util.spec_from_file_location("generate", ROOT / "shell" / "generate.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.build()

    def test_the_files_are_what_the_table_says(self, files):
        differ = [path for path, text in files.items() if (ROOT / path).read_bytes() != text.encode()]
        assert not differ, f"run `make launchers`: {differ}"

    def test_no_file_is_left_over(self, files):
        found = [*(ROOT / "shell").glob("train_*.sh"), *(ROOT / "examples").glob("train_*.yaml")]
        assert {path.relative_to(ROOT).as_posix() for path in found} == set(files)

    def test_make_launchers_writes_them(self):
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(r"^launchers: setup\n\t\$\(BIN\)/python shell/generate.py$", makefile, re.MULTILINE)

    def test_values_are_those_of_the_table(self):
        for name, recipe in TABLE["recipes"].items():
            assert settings_of(name) == recipe["settings"], name

    def test_the_names_people_know(self):
        assert {path.stem for path in SCRIPTS} == {*NAMES, "start_finetune"}

    def test_fp16_for_cards_without_bf16(self):
        for name, recipe in TABLE["recipes"].items():
            settings = settings_of(name)
            assert settings.get("bf16", False) != settings.get("fp16", False), name
            assert settings.get("enable_liger_kernel", False) == settings.get("bf16", False), name
            if "2080" in recipe["card"]:
                assert settings["fp16"] and settings["flash_attn"] in ("sdpa", "disabled"), name

    def test_tensorboard_is_on(self):
        assert {settings_of(name)["report_to"] for name in TABLE["recipes"]} == {"tensorboard"}

    def test_four_bits_and_zero3_never_meet(self):
        assert not [n for n in TABLE["recipes"] if {"quantization_bit", "deepspeed"} <= set(settings_of(n))]

    def test_full_tuning_has_two_stages(self):
        align, sft = settings_of("train_chatts_full_align"), settings_of("train_chatts_full")
        assert align["finetuning_type"] == sft["finetuning_type"] == "full"
        assert (align["freeze_language_model"], sft["freeze_language_model"]) == (True, False)


class TestConfigs:
    @pytest.mark.parametrize("path", sorted((ROOT / "examples" / "deepspeed").glob("*.json")), ids=lambda p: p.name)
    def test_deepspeed(self, path):
        config = json.loads(path.read_text(encoding="utf-8"))
        assert config["zero_optimization"]["stage"] == 3
        batch = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
        assert {config[key] for key in (*batch, "gradient_clipping")} == {"auto"}
        assert config["bf16"]["enabled"] == config["fp16"]["enabled"] == "auto"
        assert "optimizer" not in config, "an optimizer inside the config would ignore timeseries_sft_lr"
        offloads = {key for key in config["zero_optimization"] if key.startswith("offload_")}
        assert offloads == ({"offload_param", "offload_optimizer"} if "offload" in path.name else set())

    def test_fsdp(self):
        config = yaml.safe_load((ROOT / "examples" / "accelerate" / "fsdp_qlora.yaml").read_text(encoding="utf-8"))
        recipe = settings_of("train_chatts_fsdp_qlora")
        assert config["distributed_type"] == "FSDP" and recipe["quantization_bit"] == 4
        assert recipe.get("bf16") == (config["mixed_precision"] == "bf16")


@every_script
class TestLint:
    def test_shellcheck(self, script):
        if SHELLCHECK is None:
            pytest.skip("shellcheck is not installed")

        done = subprocess.run([SHELLCHECK, script], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout

    def test_bash_reads_it(self, script):
        done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr

    def test_form(self, script):
        text = script.read_text(encoding="utf-8")
        lines = text.splitlines()
        assert lines[0] == "#!/usr/bin/env bash" and script.stat().st_mode & 0o111
        assert max(map(len, lines)) <= 119 and "\t" not in text
        first = next(line for line in lines if line and not line.startswith("#"))
        assert first == "set -euo pipefail"
        assert not re.search(r"\b(pkill|killall)\b", text)

    def test_each_variable_on_top_can_be_set_from_outside(self, script):
        text = script.read_text(encoding="utf-8")
        top = text.split("### what to run\n")[1].split("\n\n")[0]
        names = re.findall(r"^([A-Z_]+)=\$\{\1:-", top, re.MULTILINE)
        needed = {
            "GPUS",
            "MODEL",
            "DATASET",
            "DATASET_DIR",
            "OUTPUT",
            "LOG",
            "PID_FILE",
            "MASTER_PORT",
            "RECIPE",
            "DEVICE",
        }
        if script.stem == "start_finetune":
            needed = {"LAUNCHER", "JOBS_FILE", "JOBS", "VENV", "CONDA_ENV", "OUTPUT_ROOT", "DEVICE"}
        assert needed <= set(names)
        nodes = {"NNODES", "NODE_RANK", "MASTER_ADDR"}
        wanted = TABLE["launchers"].get(script.stem, {}).get("nodes", False)
        assert nodes <= set(names) if wanted else not nodes & set(names)


def dry_run(machine, name, *words, **variables):
    """Return the environment and the command of each line that a dry run prints."""
    code, printed = machine.run(f"{name}.sh", *words, DRY_RUN="1", **variables)
    assert code == 0, printed
    found = []
    for line in printed.splitlines():
        parts = shlex.split(line)
        at = next(index for index, part in enumerate(parts) if not re.match(r"[A-Z_]+=", part))
        found.append((dict(part.split("=", 1) for part in parts[:at]), parts[at:]))

    return found


@every_launcher
class TestDryRun:
    def test_the_command(self, machine, name):
        entry = TABLE["launchers"][name]
        recipes = list(entry.get("stages", {"": name}).values())
        lines = dry_run(machine, name)
        assert len(lines) == len(recipes)
        for (environment, command), recipe in zip(lines, recipes):
            assert command[0] == entry["starts"]
            assert f"examples/{recipe}.yaml" in command
            at = command.index(f"examples/{recipe}.yaml")
            if command[0] == "llamafactory-cli":
                assert command[1:at] == ["train"]
            else:
                assert command[at - 2 : at] in (["-m", "llamafactory.launcher"], ["--module", "llamafactory.launcher"])

            assert ("--no_local_rank" in command) == (command[0] == "deepspeed")
            assert environment["CUDA_VISIBLE_DEVICES"] == entry["gpus"]
            given = dict(word.split("=", 1) for word in command[at + 1 :])
            settings = settings_of(recipe)
            assert {key: settings[key] for key in ("dataset", "dataset_dir")}.items() <= given.items()
            assert set(given) == {"model_name_or_path", "output_dir", "dataset", "dataset_dir"}

    def test_nothing_is_written(self, machine, name):
        before = sorted(machine.folder.rglob("*"))
        dry_run(machine, name)
        assert sorted(machine.folder.rglob("*")) == before

    def test_variables_and_words_arrive(self, machine, name):
        words = ("learning_rate=1.0e-3", "dataset_dir=two words")
        variables = {
            "MODEL": "m",
            "DATASET": "a,b",
            "GPUS": "2,3",
            "MASTER_PORT": "1234",
            "EXTRA": "max_steps=2 seed=1",
        }
        for environment, command in dry_run(machine, name, *words, **variables):
            assert {"dataset=a,b", "max_steps=2", "seed=1"} < set(command)
            assert command[-2:] == list(words), "the words behind the script have the last say"
            assert environment["CUDA_VISIBLE_DEVICES"] == "2,3" and environment["MASTER_PORT"] == "1234"

        assert "model_name_or_path=m" in dry_run(machine, name, **variables)[0][1]

    def test_without_a_gpu(self, machine, name):
        for environment, command in dry_run(machine, name, DEVICE="cpu", GPUS="0,1"):
            assert environment["CUDA_VISIBLE_DEVICES"] == ""
            assert {"bf16=false", "fp16=false"} < set(command)
            processes = {"torchrun": "--nproc_per_node", "deepspeed": "--num_accelerators"}.get(command[0])
            assert processes is None or command[command.index(processes) + 1] == "2"

    def test_ports_follow_the_gpus(self, machine, name):
        ports = {dry_run(machine, name, GPUS=gpus)[0][0]["MASTER_PORT"] for gpus in ("0", "1,2", "5")}
        assert ports == {"29500", "29501", "29505"}


class TestFull:
    def test_the_second_stage_starts_from_the_first(self, machine):
        align, sft = (command for _, command in dry_run(machine, "train_chatts_full", OUTPUT="o", MODEL="m"))
        assert {"model_name_or_path=m", "output_dir=o/align"} < set(align)
        assert {"model_name_or_path=o/align", "output_dir=o/sft"} < set(sft)

    @pytest.mark.parametrize("stage", ["align", "sft"])
    def test_one_stage(self, machine, stage):
        ((_, command),) = dry_run(machine, "train_chatts_full", STAGES=stage, OUTPUT="o", MODEL="m")
        assert {"model_name_or_path=m", f"output_dir=o/{stage}"} < set(command)

    def test_two_machines(self, machine):
        variables = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "GPUS": "0,1"}
        for _, command in dry_run(machine, "train_chatts_full", **variables):
            assert command[command.index("--include") + 1] == "node0:0,1@node1:0,1"
            assert command[command.index("--node_rank") + 1] == "1" and "--no_ssh" in command
            assert command[command.index("--master_addr") + 1] == "10.0.0.1"

    @pytest.mark.parametrize("name", [name for name, entry in TABLE["launchers"].items() if entry.get("nodes")])
    def test_two_machines_need_one_output(self, machine, name):
        code, printed = machine.run(f"{name}.sh", DRY_RUN="1", NNODES="2", OUTPUT="")
        assert code != 0 and "OUTPUT" in printed


def test_the_page_names_every_launcher_and_how_it_starts():
    page = (ROOT / "docs" / "launchers.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)\.sh` \| (.+?) \|", page, re.MULTILINE))
    assert set(rows) == {*NAMES, "start_finetune"}
    for name, entry in TABLE["launchers"].items():
        assert rows[name].startswith(entry["starts"])
        assert ("offload" in rows[name]) == ("offload" in settings_of(name).get("deepspeed", ""))
