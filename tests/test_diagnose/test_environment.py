"""The checks of installation and machine, against real and made-up answers; they never need torch in this process."""

import fcntl
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llamafactory_chatts.diagnose.environment import checks as environment
from llamafactory_chatts.diagnose.environment import machine as environment_machine
from llamafactory_chatts.diagnose.environment import packages as environment_packages
from llamafactory_chatts.diagnose.environment import probes
from llamafactory_chatts.diagnose.environment.checks import CHECKS, Installation, check_environment
from llamafactory_chatts.recipe.machine import asking, gpus


ROOT = Path(__file__).parents[2]
TORCH = {"version": "2.11.0+cu128", "cuda": "12.8", "hip": None, "available": True, "count": 1}
TORCH |= {"archs": ["sm_75", "sm_80", "sm_90", "sm_120", "compute_120"], "said": []}
FINE = {"bitsandbytes": {"version": "0.50", "device": "cuda", "error_quantised": 0.07, "error_layer": 0.07}, "end": ""}
CARD = gpus.Gpu(0, "GPU-aa", "NVIDIA GeForce RTX 2080 Ti", "550.54", 11264, 11011, (7, 5))


@pytest.fixture
def machine(tmp_path):
    """Return a function: an installation whose probes answered as told."""

    def make(torch=None, quantise=None, **companions):
        made = Installation(tmp_path)
        made.__dict__["torch"] = {"torch": torch or TORCH, "end": "", **companions}
        made.__dict__["quantise"] = quantise or FINE
        return made

    return make


@pytest.fixture
def installed(monkeypatch):
    """Return a function that sets the versions of packages; None takes one away."""
    real = importlib.metadata.version

    def put(**versions):
        known = {name.replace("_", "-"): version for name, version in versions.items()}

        def version(name):
            if name not in known:
                return real(name)

            if known[name] is None:
                raise importlib.metadata.PackageNotFoundError(name)

            return known[name]

        monkeypatch.setattr(importlib.metadata, "version", version)

    return put


@pytest.fixture
def cards(monkeypatch):
    def put(*found, others=()):
        monkeypatch.setattr(gpus, "driver", lambda *args: gpus.Driver(found, processes=tuple(others)))

    put()
    return put


def by_subject(findings, level=None):
    return {one.subject: one for one in findings if level in (None, one.level)}


class TestPackages:
    def test_the_ranges_come_from_the_metadata(self, machine):
        wanted = {one.name: str(one.specifier) for one in environment_packages.requirements()}
        assert wanted["llamafactory"] == "<0.10,>=0.9.5" and "bitsandbytes" in wanted and "openpyxl" not in wanted
        found = list(environment_packages.supported_ranges(machine()))
        assert [one.subject for one in found if one.level == "error"] == []
        assert "llamafactory 0.9.5" in by_subject(found)["versions"].what

    def test_without_metadata_they_come_from_the_project_file(self, monkeypatch):
        def nothing(name):
            raise importlib.metadata.PackageNotFoundError(name)

        before = {one.name for one in environment_packages.requirements()}
        monkeypatch.setattr(importlib.metadata, "requires", nothing)
        assert before <= {one.name for one in environment_packages.requirements()}

    def test_a_wrong_and_a_missing_package(self, machine, installed):
        installed(transformers="4.57.0", trl=None, bitsandbytes=None)
        found = by_subject(environment_packages.supported_ranges(machine()))
        assert found["transformers"].level == "error" and "4.57.0 is installed" in found["transformers"].what
        assert found["transformers"].fix == "Run: pip install 'transformers>=5.5,<5.6'"
        assert found["trl"].level == "error" and found["trl"].what == "not installed"
        assert found["bitsandbytes"].level == "note" and "quantization_bit" in found["bitsandbytes"].what

    @pytest.mark.parametrize(
        "versions, subject, words",
        [
            ({"torchvision": "0.25.0+cu128"}, "torchvision", "0.26.* does"),
            ({"torchaudio": "2.10.0"}, "torchaudio", "2.11.* does"),
            ({"torchvision": "0.26.0+cpu"}, "torchvision", "another CUDA"),
        ],
    )
    def test_builds_that_do_not_belong_together(self, machine, installed, versions, subject, words):
        installed(torch="2.11.0+cu128", **{"torchvision": "0.26.0+cu128", "torchaudio": "2.11.0+cu128", **versions})
        good = {"torchvision": {"version": ""}, "torchaudio": {"version": ""}}
        (finding,) = environment_packages.torch_family(machine(**good))
        assert (finding.level, finding.subject) == ("error", subject) and words in finding.what
        assert "'torchvision==0.26.*'" in finding.fix and "builds for cu128" in finding.fix

    def test_builds_that_do(self, machine, installed):
        installed(torch="2.11.0+cu128", torchvision="0.26.0+cu128", torchaudio="2.11.0")
        good = {"torchvision": {"version": ""}, "torchaudio": {"version": ""}}
        assert [one.level for one in environment_packages.torch_family(machine(**good))] == ["ok"]

    def test_one_that_cannot_be_imported(self, machine, installed):
        installed(torch="2.11.0", torchvision="0.26.0", torchaudio="2.11.0")
        broken = {"torchvision": {"error": "RuntimeError: operator torchvision::nms does not exist"}}
        (finding,) = environment_packages.torch_family(machine(torchaudio={"version": ""}, **broken))
        assert finding.subject == "torchvision" and "nms does not exist" in finding.what

    def test_a_vllm_for_another_torch(self, machine, installed, monkeypatch):
        real = importlib.metadata.requires
        pins = ["torch==2.8.0", "transformers>=4.55", "xformers==0.0.32; platform_machine == 'x'"]
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: pins if name == "vllm" else real(name))
        installed(vllm="0.11.0")
        (finding,) = environment_packages.vllm(machine())
        assert finding.level == "warning" and "torch==2.8.0" in finding.what and "pip uninstall vllm" in finding.fix
        installed(vllm=None)
        assert list(environment_packages.vllm(machine())) == []

    def test_flash_attn_is_optional_but_not_broken(self, machine, installed):
        installed(flash_attn=None)
        (finding,) = environment_packages.flash_attn(machine())
        assert finding.level == "ok" and "not needed" in finding.what
        installed(flash_attn="2.8.3")
        (finding,) = environment_packages.flash_attn(machine(flash_attn={"error": "ImportError: undefined symbol"}))
        assert finding.level == "error" and "pip uninstall flash-attn" in finding.fix

    def test_compilers_for_deepspeed(self, machine, installed, cards, monkeypatch):
        cards(CARD)
        installed(deepspeed="0.18.9")
        monkeypatch.setattr(environment_packages.shutil, "which", lambda name: None)
        monkeypatch.setattr(environment_packages.importlib.util, "find_spec", lambda name: None)
        monkeypatch.setenv("CUDA_HOME", "/no/cuda")
        (finding,) = environment_packages.deepspeed(machine())
        assert finding.level == "warning" and "g++, ninja, nvcc" in finding.what and "toolkit 12.8" in finding.fix

    @pytest.mark.parametrize(
        "error, fix",
        [
            ("ModuleNotFoundError: No module named 'distutils'", "Run: pip install setuptools"),
            ("ImportError: oops", "Run: pip install --force-reinstall --no-deps deepspeed==0.18.9"),
        ],
    )
    def test_a_deepspeed_that_cannot_be_imported(self, machine, installed, error, fix):
        installed(deepspeed="0.18.9")
        (finding,) = environment_packages.deepspeed(machine(deepspeed={"error": error}))
        assert (finding.level, finding.fix) == ("error", fix) and finding.what.endswith(error)

    def test_commands_of_another_environment(self, machine, monkeypatch):
        monkeypatch.setattr(environment_packages.shutil, "which", lambda name: f"/elsewhere/bin/{name}")
        found = [one for one in environment_packages.python(machine()) if one.level == "warning"]
        assert len(found) == 2 and all("another environment" in one.what for one in found)


class TestProbes:
    def test_quantising_here(self, machine, cards):
        """For real, on the device there is."""
        made = Installation()
        (finding,) = environment_packages.bitsandbytes(made)
        assert finding.level == "ok", finding.what
        answer = made.quantise["bitsandbytes"]
        assert 0.05 < answer["error_quantised"] < 0.09 and 0.05 < answer["error_layer"] < 0.09

    def test_quantising_wrongly(self, machine, cards):
        wrong = {"bitsandbytes": {**FINE["bitsandbytes"], "error_layer": 0.8}, "end": ""}
        (finding,) = environment_packages.bitsandbytes(machine(quantise=wrong))
        assert finding.level == "error" and "off by 0.80" in finding.what

    @pytest.mark.parametrize(
        "source, words",
        [
            ("raise OSError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13"),
            ("import os; os.kill(os.getpid(), 11)", "ended by SIGSEGV"),
        ],
    )
    def test_a_torch_that_cannot_be_imported(self, tmp_path, monkeypatch, installed, source, words):
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch/__init__.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        made = Installation(tmp_path)
        (finding,) = environment_packages.torch_family(made)
        assert (finding.level, finding.subject) == ("error", "torch") and words in finding.what
        assert "--force-reinstall" in finding.fix

    def test_a_deepspeed_without_distutils(self, tmp_path, monkeypatch, installed):
        """As on Python 3.12 without setuptools."""
        (tmp_path / "deepspeed.py").write_text("raise ModuleNotFoundError(\"No module named 'distutils'\")")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        installed(deepspeed="0.18.9", torchvision=None, torchaudio=None, flash_attn=None)
        (finding,) = environment_packages.deepspeed(Installation(tmp_path))
        assert (finding.level, finding.fix) == ("error", "Run: pip install setuptools")

    def test_what_was_said_before_a_crash_is_kept(self):
        answers = asking.answers(asking.start("-c", probes._SAY + "say('first', 1)\nimport os; os.abort()"), 60)
        assert answers["first"] == 1 and answers["end"].startswith("ended by SIGABRT")

    def test_no_answer_in_time(self):
        started = asking.start("-c", "import time; time.sleep(60)")
        assert asking.answers(started, 0.5)["end"] == "no answer in 0.5 s" and started.returncode == -9


class TestCards:
    @pytest.mark.parametrize("setting, left", [("", []), ("1", [1]), ("1,0", [1, 0]), ("7,0", []), ("GPU-b", [1])])
    def test_visible_devices(self, setting, left):
        both = (CARD, gpus.Gpu(1, "GPU-bb", "x", "1", 1, 1, (9, 0)))
        assert [card.index for card in gpus.visible(gpus.Driver(both), setting)] == left

    def test_none(self, machine, cards):
        (finding,) = environment_machine.gpu(machine({**TORCH, "available": False}))
        assert finding.level == "warning" and "no GPU" in finding.what

    def test_a_free_and_a_busy_card(self, machine, cards):
        busy = gpus.Gpu(1, "GPU-bb", "RTX 3090", "550.54", 24576, 3000, (8, 6))
        cards(CARD, busy, others=[gpus.Process("GPU-bb", 4711, "python", 20000)])
        first, second = environment_machine.gpu(machine())
        assert first.level == "ok" and "no bf16" in first.what
        assert second.level == "warning" and "pid 4711" in second.what and "CUDA_VISIBLE_DEVICES=0" in second.fix

    @pytest.mark.parametrize(
        "answer, words",
        [
            ({"cuda": None, "available": False}, "built without CUDA"),
            ({"available": False, "said": ["The NVIDIA driver on your system is too old"]}, "too old"),
            ({"archs": ["sm_80", "sm_90"]}, "no code for NVIDIA GeForce RTX 2080 Ti"),
        ],
    )
    def test_cards_that_torch_does_not_reach(self, machine, cards, monkeypatch, answer, words):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        cards(CARD)
        found = [one for one in environment_machine.gpu(machine({**TORCH, **answer})) if one.level == "error"]
        assert len(found) == 1 and words in found[0].what and found[0].fix

    def test_hidden_cards(self, machine, cards, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        cards(CARD)
        found = list(environment_machine.gpu(machine({**TORCH, "available": False})))
        assert found[0].level == "error" and found[0].fix == "Run: unset CUDA_VISIBLE_DEVICES"

    @pytest.mark.parametrize(
        "archs, capability, runs",
        [
            (["sm_80"], (8, 6), True),
            (["sm_90"], (8, 6), False),
            (["sm_75", "compute_90"], (12, 0), True),
            (["sm_75", "sm_90a"], (12, 0), False),
        ],
    )
    def test_code_for_a_card(self, archs, capability, runs):
        assert environment_machine._has_code(archs, capability) is runs


class TestMachine:
    def test_memory_and_limit(self, machine, kernel):
        kernel(
            {
                "proc/meminfo": "MemTotal: 67108864 kB\nMemFree: 0 kB\nMemAvailable: 60000000 kB\nSwapFree: 0 kB\n",
                "cgroup/memory.max": f"{8 * 2**30}\n",
                "cgroup/memory.current": f"{2**30}\n",
                "cgroup/memory.events": "low 0\noom 2\noom_kill 2\noom_group_kill 0\n",
            }
        )
        first, second = environment_machine.memory(machine())
        assert first.level == "warning" and "7.0 GiB free of 64.0, limited to 8.0" in first.what
        assert second.level == "warning" and "ended 2 processes" in second.what

    def test_folders(self, machine, monkeypatch, tmp_path):
        monkeypatch.setenv("HF_HOME", "/proc/nothing/here")
        found = by_subject(environment_machine.folders(machine()))
        assert found["HF_HOME"].level == "error" and "export HF_HOME" in found["HF_HOME"].fix
        assert found["output"].level in ("ok", "warning") and "GiB free" in found["output"].what

    def test_lock_files(self, machine, monkeypatch, tmp_path):
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        locks = tmp_path / "hub" / ".locks"
        locks.mkdir(parents=True)
        (locks / "fresh.lock").write_text("")
        (finding,) = environment_machine.lock_files(machine())
        assert finding.level == "ok"
        for name in ("old", "held"):
            (locks / f"{name}.lock").write_text("")
            os.utime(locks / f"{name}.lock", (time.time() - 2 * 86400,) * 2)

        with (locks / "held.lock").open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            (finding,) = environment_machine.lock_files(machine())

        assert finding.level == "warning" and finding.what.startswith("1 lock files")
        assert finding.where.endswith("old.lock") and "-delete" in finding.fix
        assert (locks / "old.lock").exists(), "doctor changes nothing"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may open every file")
    def test_a_lock_file_without_permission(self, machine, monkeypatch, tmp_path):
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        (tmp_path / "x.lock").write_text("")
        (tmp_path / "x.lock").chmod(0o400)
        (finding,) = environment_machine.lock_files(machine())
        assert finding.level == "error"

    def test_small_shared_memory(self, machine, monkeypatch):
        usage = type("Usage", (), {"free": 60 * 2**20, "total": 64 * 2**20})
        monkeypatch.setattr(environment_machine.shutil, "disk_usage", lambda path: usage)
        (finding,) = environment_machine.shared_memory(machine())
        assert finding.level == "warning" and "--shm-size" in finding.fix


class TestRun:
    def test_a_check_that_crashes_is_reported(self, machine, monkeypatch):
        def broken(machine):
            raise RuntimeError("oops")

        monkeypatch.setattr(environment, "CHECKS", {"broken": broken, "shm": CHECKS["shm"]})
        monkeypatch.setattr(Installation, "ask_ahead", lambda self: None)
        first, second = check_environment(machine())
        assert (first.level, first.subject) == ("warning", "broken") and "RuntimeError: oops" in first.what
        assert second.subject == "shm"

    def test_every_fault_has_a_fix(self, machine, cards, installed, monkeypatch):
        cards(CARD)
        installed(transformers="4.57.0", torchvision="0.25.0", trl=None)
        monkeypatch.setattr(Installation, "ask_ahead", lambda self: None)
        found = check_environment(machine({**TORCH, "cuda": None, "available": False}))
        faults = [one for one in found if one.level in ("error", "warning")]
        assert len(faults) >= 4 and all(one.fix for one in faults)

    @pytest.mark.slow
    def test_doctor_works_without_torch(self, tmp_path):
        """The whole command, with a torch that cannot be imported in front of the real one."""
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch/__init__.py").write_text("raise ImportError('undefined symbol: ncclCommShrink')")
        done = subprocess.run(
            [sys.executable, "-m", "llamafactory_chatts.cli", "doctor", "--json"],
            cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}, timeout=900,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr[-2000:]
        content = json.loads(done.stdout)
        found = {one["subject"]: one for one in content["findings"]}
        assert found["torch"]["level"] == "error" and "ncclCommShrink" in found["torch"]["what"]
        assert {"python", "versions", "memory", "HF_HOME"} <= set(found) and content["rows"] == []
