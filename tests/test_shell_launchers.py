"""Launchers, globbed: short, lint clean, the exact command on a dry run, and a run of each kind."""

import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import time

import pytest
import yaml
from shell_runs import BIN, ROOT, Machine, end_all, last_line, lines_of, read_until, wait_for

from llamafactory_chatts.cli import main


SCRIPTS = sorted((ROOT / "shell").glob("*.sh"))
STARTS = {
    "train_chatts_tune_qlora_safe": "torchrun",
    "train_chatts_tune_simple": "llamafactory-cli",
    "train_chatts_tune_qlora": "llamafactory-cli",
    "train_chatts_tune": "deepspeed",
    "train_chatts_14b_rtx6000": "torchrun",
    "train_chatts_8b_fast": "deepspeed",
    "train_chatts_8b_qlora": "llamafactory-cli",
    "train_chatts_full": "deepspeed",
}
"""The names people know, and what each starts with."""

RECIPES = {name: [name] for name in STARTS} | {"train_chatts_full": ["train_chatts_full_align", "train_chatts_full"]}
NODES = ("train_chatts_14b_rtx6000", "train_chatts_full")
SIMPLE, FULL = "train_chatts_tune_simple.sh", "train_chatts_full.sh"
SHELLCHECK = shutil.which("shellcheck", path=f"{BIN}:/usr/bin:/usr/local/bin")

every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
every_launcher = pytest.mark.parametrize("name", STARTS)


@pytest.fixture
def machine(tmp_path):
    yield Machine(tmp_path)
    end_all(tmp_path)


def settings_of(name):
    return yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8"))


class TestRecipes:
    RECIPES = sorted(path.stem for path in (ROOT / "examples").glob("train_*.yaml"))

    def test_each_has_a_launcher_or_says_how_it_starts(self):
        assert set(self.RECIPES) == {recipe for names in RECIPES.values() for recipe in names} | {
            "train_chatts_fsdp_qlora"
        }
        assert {path.stem for path in SCRIPTS} == {*STARTS, "start_finetune"}

    @pytest.mark.parametrize("name", RECIPES)
    def test_the_header_says_how_it_starts(self, name):
        text = (ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8").split("###")[0]
        launchers = [launcher for launcher, recipes in RECIPES.items() if name in recipes]
        for launcher in launchers:
            assert re.search(rf"^# run     shell/{launcher}\.sh ", text, re.MULTILINE)

        plain = "llamafactory-cli train" if launchers else "accelerate launch"
        assert plain in text and f"examples/{name}.yaml" in text
        assert f"# memory  lmf-chatts plan examples/{name}.yaml --gpu " in text

    @pytest.mark.parametrize("name", RECIPES)
    def test_settings_fit_the_card(self, name):
        settings = settings_of(name)
        assert settings.get("bf16", False) != settings.get("fp16", False)
        assert settings.get("enable_liger_kernel", False) == settings.get("bf16", False)
        if '--gpu "RTX 2080' in (ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8"):
            assert settings["fp16"] and settings["flash_attn"] in ("sdpa", "disabled")

        assert settings["report_to"] == "tensorboard"
        assert not {"quantization_bit", "deepspeed"} <= set(settings), "four bits and ZeRO-3 do not go together"

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
class TestForm:
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
        assert 25 <= len(lines) <= 45 and max(map(len, lines)) <= 119 and "\t" not in text
        first = next(line for line in lines if line and not line.startswith("#"))
        assert first == "set -euo pipefail"
        assert not re.search(r"\b(pkill|killall)\b", text)

    def test_each_variable_on_top_can_be_set_from_outside(self, script):
        top = script.read_text(encoding="utf-8").split("### what to run")[1].split("\n\n")[0]
        names = set(re.findall(r"^(?:.+ )?([A-Z_]+)=\$\{\1:-", top, re.MULTILINE)) | set(
            re.findall(r"^([A-Z_]+)=\$\{\1:-", top, re.MULTILINE)
        )
        needed = "GPUS MODEL DATASET DATASET_DIR OUTPUT LOG PID_FILE MASTER_PORT RECIPE DEVICE"
        if script.stem == "start_finetune":
            needed = "LAUNCHER JOBS_FILE JOBS VENV CONDA_ENV OUTPUT_ROOT DEVICE SLOTS FIRST_PORT STOP_SECONDS"

        assert set(needed.split()) <= names
        nodes = {"NNODES", "NODE_RANK", "MASTER_ADDR"}
        assert nodes <= names if script.stem in NODES else not nodes & names


@every_launcher
def test_the_header_says_what_a_plan_says(name, capsys, monkeypatch):
    """Memory of a card and of the host within a tenth; minutes, which follow a data sheet, within a third."""
    text = (ROOT / "shell" / f"{name}.sh").read_text(encoding="utf-8")
    card, host = map(
        float, re.search(r"^# memory  ([\d.]+) GiB of a card, ([\d.]+) GiB of the host$", text, re.M).groups()
    )
    number, unit = re.search(r"^# time    (\d+) (min|s) for the 240 demo rows; ", text, re.M).groups()
    monkeypatch.chdir(ROOT)
    plans = []
    for recipe in RECIPES[name]:
        main(["plan", f"examples/{recipe}.yaml", "--gpu", re.search(r'--gpu "(.+)"', text)[1], "--json"])
        plans.append(json.loads(capsys.readouterr().out))

    assert card == pytest.approx(max(plan["gpu_gib"]["needed"] for plan in plans), rel=0.1)
    assert host == pytest.approx(max(plan["host_gib"]["total"] for plan in plans), rel=0.1)
    assert int(number) * {"min": 60, "s": 1}[unit] == pytest.approx(sum(plan["seconds"] for plan in plans), rel=0.33)
    assert plans[0]["rows"]["total"] == 240


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
        before = sorted(machine.folder.rglob("*"))
        lines = dry_run(machine, name)
        assert sorted(machine.folder.rglob("*")) == before, "nothing is written"
        assert len(lines) == len(RECIPES[name])
        gpus = re.search(r"^GPUS=\$\{GPUS:-(.+?)\}", (ROOT / "shell" / f"{name}.sh").read_text(), re.MULTILINE)[1]
        for (environment, command), recipe in zip(lines, RECIPES[name]):
            assert command[0] == STARTS[name]
            at = command.index(f"examples/{recipe}.yaml")
            if command[0] == "llamafactory-cli":
                assert command[1:at] == ["train"]
            else:
                assert command[at - 2 : at] in (["-m", "llamafactory.launcher"], ["--module", "llamafactory.launcher"])

            assert ("--no_local_rank" in command) == (command[0] == "deepspeed")
            assert environment["CUDA_VISIBLE_DEVICES"] == gpus and environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
            given = dict(word.split("=", 1) for word in command[at + 1 :])
            settings = settings_of(recipe)
            assert {key: settings[key] for key in ("dataset", "dataset_dir")}.items() <= given.items()
            assert set(given) == {"model_name_or_path", "output_dir", "dataset", "dataset_dir"}

    def test_the_defaults_are_those_of_the_recipe(self, machine, name):
        environment = {"OUTPUT": ""}
        given = dict(word.split("=", 1) for word in dry_run(machine, name, **environment)[0][1] if "=" in word)
        settings = settings_of(RECIPES[name][0])
        assert given["model_name_or_path"] == settings["model_name_or_path"]
        folder = re.sub(r"/\d{8}_\d{6}", "", given["output_dir"])
        assert folder == settings["output_dir"]

    def test_variables_and_words_arrive(self, machine, name):
        words = ("learning_rate=1.0e-3", "dataset_dir=two words")
        variables = {
            "MODEL": "m",
            "DATASET": "a,b",
            "GPUS": "2,3",
            "MASTER_PORT": "1234",
            "EXTRA": "max_steps=2 lora_target=.*",
        }
        lines = dry_run(machine, name, *words, **variables)
        for environment, command in lines:
            assert {"dataset=a,b", "max_steps=2", "lora_target=.*"} < set(command)
            assert command[-2:] == list(words), "the words behind the script have the last say"
            assert environment["CUDA_VISIBLE_DEVICES"] == "2,3" and environment["MASTER_PORT"] == "1234"
            following = dict(zip(command, command[1:]))
            assert following.get("--nproc_per_node", "2") == "2"
            assert following.get("--include", "localhost:2,3") == "localhost:2,3"
            assert following.get("--master_port", "1234") == "1234"

        assert "model_name_or_path=m" in lines[0][1]

    def test_without_a_gpu(self, machine, name):
        for environment, command in dry_run(machine, name, DEVICE="cpu", GPUS="0,1"):
            assert environment["CUDA_VISIBLE_DEVICES"] == ""
            assert {"bf16=false", "fp16=false"} < set(command)
            processes = {"torchrun": "--nproc_per_node", "deepspeed": "--num_accelerators"}.get(command[0])
            assert processes is None or command[command.index(processes) + 1] == "2"

    def test_ports_follow_the_gpus(self, machine, name):
        ports = {dry_run(machine, name, GPUS=gpus)[0][0]["MASTER_PORT"] for gpus in ("0", "1,2", "5")}
        assert ports == {"29500", "29501", "29505"}
        code, printed = machine.run(f"{name}.sh", DRY_RUN="1", GPUS="all")
        assert code == 2 and "GPUS=all" in printed


class TestSeveralMachines:
    @pytest.mark.parametrize("name", NODES)
    def test_the_command(self, machine, name):
        variables = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "GPUS": "0,1"}
        for _, command in dry_run(machine, name, **variables):
            following = dict(zip(command, command[1:]))
            assert command[0] == "torchrun" and following["-m"] == "llamafactory.launcher"
            assert (following["--nnodes"], following["--node_rank"], following["--nproc_per_node"]) == ("2", "1", "2")
            assert following["--master_addr"] == "10.0.0.1"

    @pytest.mark.parametrize("name", NODES)
    def test_they_need_one_output(self, machine, name):
        code, printed = machine.run(f"{name}.sh", DRY_RUN="1", NNODES="2", OUTPUT="")
        assert code != 0 and "OUTPUT" in printed


STAGE = """
for word in "$@"; do [[ $word != output_dir=* ]] || folder=${word#output_dir=}; done
echo "stage ${folder##*/}"
mkdir -p "$folder" && touch "$folder/trainer_state.json"
"""


class TestFull:
    def stages(self, machine):
        return [line for line in lines_of(machine.log) if line.startswith("stage ")]

    def test_the_second_stage_starts_from_the_first(self, machine):
        align, sft = (command for _, command in dry_run(machine, "train_chatts_full", OUTPUT="o", MODEL="m"))
        assert {"model_name_or_path=m", "output_dir=o/align"} < set(align)
        assert {"model_name_or_path=o/align", "output_dir=o/sft"} < set(sft)

    @pytest.mark.parametrize("stage", ["align", "sft"])
    def test_one_stage(self, machine, stage):
        ((_, command),) = dry_run(machine, "train_chatts_full", STAGES=stage, OUTPUT="o", MODEL="m")
        assert {"model_name_or_path=m", f"output_dir=o/{stage}"} < set(command)

    def test_another_stage(self, machine):
        code, printed = machine.run(FULL, STAGES="sft align")
        assert code == 2 and "STAGES=sft align" in printed

    def test_one_after_the_other(self, machine):
        machine.programs(STAGE)
        assert machine.run(FULL, GPUS="0,1")[0] == 0
        assert self.stages(machine) == ["stage align", "stage sft"]
        assert [line for line in lines_of(machine.log) if line.startswith("exit code")] == ["exit code 0"]

    def test_two_machines(self, machine):
        """The second one waits until the first has written the model that stage two reads."""
        machine.programs(STAGE.replace("&& touch", '&& [[ "$*" == *"--node_rank 1"* ]] || touch'))
        common = {"NNODES": "2", "GPUS": "0", "FOREGROUND": "0"}
        assert machine.run(FULL, NODE_RANK="1", **common)[0] == 0
        log = machine.folder / "out.node1.log"
        wait_for(lambda: log.exists() and "stage align" in lines_of(log))
        time.sleep(1)
        assert "stage sft" not in lines_of(log)
        assert machine.run(FULL, NODE_RANK="0", **common)[0] == 0
        wait_for(lambda: last_line(machine.folder / "out.node0.log") == "exit code 0")
        wait_for(lambda: last_line(log) == "exit code 0")
        assert "stage sft" in lines_of(log)


class TestRun:
    """Through a launcher; what ``lmf-chatts run`` itself promises is in test_commands/test_run.py."""

    def test_log_pid_file_and_exit_code(self, machine):
        machine.programs("echo trained; exit 3")
        assert machine.run(SIMPLE)[0] == 3
        assert lines_of(machine.log)[-2:] == ["trained", "exit code 3"] and not machine.pid_file.exists()

    def test_a_closed_terminal(self, machine):
        """The launcher is the session of a terminal, as over ssh."""
        go = machine.folder / "go"
        machine.programs(f"echo begun; until [[ -e {go} ]]; do sleep 0.1; done; echo still here; exit 5")
        pid, terminal = pty.fork()
        if pid == 0:
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)  # also where the tests run under nohup or in the background

            os.execve(ROOT / "shell" / SIMPLE, [SIMPLE], machine.environment())

        read_until(terminal, b"begun")
        os.close(terminal)
        assert os.waitpid(pid, 0)[1] != 0
        go.touch()
        wait_for(lambda: last_line(machine.log) == "exit code 5")
        assert "still here" in lines_of(machine.log)

    def test_terminating_the_launcher_ends_the_run(self, machine):
        machine.programs("echo begun; exec sleep 300")
        process = machine.start(SIMPLE)
        read_until(process.stdout.fileno(), b"begun")
        process.terminate()
        process.communicate(timeout=900)
        assert process.returncode == 143 and last_line(machine.log) == "exit code 143"

    def test_without_the_environment(self, machine):
        code, printed = machine.run(SIMPLE, PATH="/usr/bin:/bin")
        assert code == 2 and "Activate the environment" in printed and not machine.log.exists()

    def test_blanks_in_paths(self, machine, tmp_path):
        root, output = tmp_path / "my repository", tmp_path / "my saves" / "a run"
        root.symlink_to(ROOT)
        machine.programs('printf "<%s>\\n" "$@"')
        words = {"ROOT": str(root), "OUTPUT": str(output), "MODEL": "/my models/8B"}
        assert machine.run(SIMPLE, "dataset=a b", **words)[0] == 0
        lines = lines_of(output.with_name("a run.log"))
        assert {f"<output_dir={output}>", "<model_name_or_path=/my models/8B>", "<dataset=a b>"} < set(lines)

    def test_one_that_was_copied_works_alone(self, machine):
        copy = machine.folder / "mine.sh"
        copy.write_bytes((ROOT / "shell" / SIMPLE).read_bytes())
        done = subprocess.run(
            ["bash", copy], env=machine.environment(ROOT=str(ROOT)), capture_output=True, timeout=900
        )
        assert done.returncode == 0 and last_line(machine.log) == "exit code 0"


def test_the_page_names_every_launcher_and_how_it_starts():
    page = (ROOT / "docs" / "launchers.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)\.sh` \| (.+?) \|", page, re.MULTILINE))
    assert set(rows) == {*STARTS, "start_finetune"}
    for name, program in STARTS.items():
        assert rows[name].startswith(program)
        assert ("offload" in rows[name]) == ("offload" in settings_of(name).get("deepspeed", ""))
