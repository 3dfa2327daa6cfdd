"""The launchers for real, on the CPU with a tiny base: two steps each, torchrun and DeepSpeed with two processes."""

import importlib.util
import os
import signal

import pytest
import warm
from shell_runs import BIN, Machine, end_all, free_port, last_line, lines_of, wait_for
from training_runs import losses, may_abort


pytestmark = pytest.mark.slow
STEPS = ("max_steps=2", "gradient_accumulation_steps=1", "cutoff_len=1024", "plot_loss=false", "logging_steps=1")
LIMIT = 600
ZERO3 = ("8b_fast", "tune")
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


class RealMachine(Machine):
    """A machine without GPUs, with the real programs."""

    def __init__(self, folder, base) -> None:
        self.folder, self.bin, self.out = folder, f"{warm.folder()}:{BIN}", folder / "out"
        self.base = base

    def driver(self, kept):
        return {}

    def environment(self, **variables):
        mine = {
            "DEVICE": "cpu",
            "PREFLIGHT": "1",
            "MODEL": str(self.base),
            "HF_HUB_OFFLINE": "1",
            "EXTRA": " ".join(STEPS),
        }
        return super().environment(**mine, MASTER_PORT=free_port(), **variables)


@pytest.fixture
def machine(tmp_path, tiny_base):
    yield RealMachine(tmp_path, tiny_base)
    end_all(tmp_path)


def train(machine, name, **variables):
    """Run a launcher; return its log."""
    code, printed = machine.run(f"train_chatts_{name}.sh", timeout=LIMIT, **variables)
    log = lines_of(machine.log)
    program = ["deepspeed"] if name in ZERO3 and variables.get("GPUS") == "0,1" else []
    if code == 0 or not may_abort(program, printed, machine.out):
        assert code == 0, printed[-3000:]
        assert log[-1] == "exit code 0"

    assert not machine.pid_file.exists()
    return log


@needs_bitsandbytes
@pytest.mark.parametrize("name", ["tune_simple", "tune_qlora", "8b_qlora"])
def test_one_process(machine, name):
    train(machine, name)
    assert len(losses(machine.out)) == 2
    assert list((machine.out / "runs").rglob("events.out.tfevents.*")), "TensorBoard is on"


@pytest.mark.parametrize("name", [pytest.param("tune_qlora_safe", marks=needs_bitsandbytes), "14b_rtx6000"])
def test_torchrun_with_two_processes(machine, name):
    log = train(machine, name, GPUS="0,1")
    assert len(losses(machine.out)) == 2
    assert any("world size: 2" in line for line in log)


@needs_deepspeed
@pytest.mark.parametrize("name", ZERO3)
def test_zero3_with_two_processes(machine, name):
    log = train(machine, name, GPUS="0,1")
    assert len(losses(machine.out)) == 2
    assert any("world size: 2" in line for line in log)
    assert any("ZeRO3" in line or "ZeRO-3" in line or "ZeRO Stage 3" in line for line in log)


@needs_deepspeed
def test_full_tuning_in_two_stages(machine):
    """Stage two starts from the encoder that stage one has trained, and from nothing else that changed."""
    import torch
    from safetensors.torch import load_file

    train(machine, "full", GPUS="0")
    base, align, sft = (
        load_file(at / "model.safetensors") for at in (machine.base, machine.out / "align", machine.out / "sft")
    )
    changed = {key for key, value in base.items() if not torch.equal(value.float(), align[key].float())}
    assert changed and all(key.startswith("ts_encoder.") for key in changed)
    assert any(not torch.equal(align[key].float(), sft[key].float()) for key in align if "ts_encoder" not in key)
    assert len(losses(machine.out / "align")) == len(losses(machine.out / "sft")) == 2


@needs_bitsandbytes
def test_two_jobs_at_once_and_one_is_killed(machine):
    """start_finetune.sh: the other one trains to its end."""
    machine.bin = BIN  # a fork would write into the log for a moment after the kill
    jobs = "short | 0 | learning_rate=1.0e-3\nlong | 1 | max_steps=100000\n"
    code, printed = machine.run("start_finetune.sh", JOBS=jobs, SLOTS="2", timeout=LIMIT)
    assert code == 0, printed
    folder = machine.folder / "jobs"
    (short,), (long,) = (list(folder.glob(f"{name}/*.log")) for name in ("short", "long"))
    os.kill(int((folder / "long.pid").read_text()), signal.SIGKILL)
    wait_for(lambda: last_line(long) == "exit code 137", LIMIT)
    wait_for(lambda: last_line(short).startswith("exit code"), LIMIT)
    assert last_line(short) == "exit code 0"
    assert len(losses(short.with_suffix(""))) == 2
    _, printed = machine.run("start_finetune.sh", "status")
    rows = {line.split()[0]: line for line in printed.splitlines()[1:]}
    assert "exit code 0" in rows["short"] and "exit code 137" in rows["long"]
