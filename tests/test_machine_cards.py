"""Cards as the driver tells them, asked by a program of its own; `fake_driver/pynvml.py` stands for the driver."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pynvml
import pytest

from llamafactory_chatts.recipe.machine import asking, gpus


FAKE = Path(__file__).with_name("fake_driver")
PROGRAM = Path(gpus.__file__).with_name("nvml.py")
TURING = {"uuid": "GPU-aa", "name": "NVIDIA GeForce RTX 2080 Ti", "total": 11264, "free": 11011, "capability": [7, 5]}
HOPPER = {"uuid": "GPU-bb", "name": "NVIDIA H100 80GB HBM3", "total": 81559, "free": 81000, "capability": [9, 0]}


@pytest.fixture
def ask(monkeypatch):
    """Return a function: what is read from a driver with these cards."""
    monkeypatch.setenv("PYTHONPATH", str(FAKE), prepend=os.pathsep)
    monkeypatch.setattr(gpus, "LIBRARY", None)  # that of this process is always there
    gpus.driver.cache_clear()

    def ask(*cards, seconds=60.0, **faults):
        monkeypatch.setenv("FAKE_NVML", json.dumps({"cards": cards, **faults}))
        return gpus.driver.__wrapped__(seconds)

    yield ask
    gpus.driver.cache_clear()


def test_the_driver_s_library_has_the_names_that_are_asked():
    names = set(re.findall(r"pynvml\.(\w+)", PROGRAM.read_text()))
    assert len(names) > 10 and not {name for name in names if not hasattr(pynvml, name)}
    assert names <= set(re.findall(r"nvml\w+|NVMLError", (FAKE / "pynvml.py").read_text()))


def test_cards_and_processes(ask):
    found = ask({**TURING, "processes": [[4711, 8000], [1, None]]}, HOPPER)
    first, second = found.cards
    assert first == gpus.Gpu(0, "GPU-aa", "NVIDIA GeForce RTX 2080 Ti", "550.54", 11264, 11011, (7, 5))
    assert not first.has_bf16 and second.has_bf16 and (second.index, second.free) == (1, 81000)
    assert found.processes == (
        gpus.Process("GPU-aa", 4711, "python", 8000),
        gpus.Process("GPU-aa", 1, "[Not Found]", 0),
    )
    assert found.parts == ()


def test_parts_of_a_divided_card(ask):
    part = {"uuid": "MIG-5d5ba0d6", "name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "total": 9984, "free": 9950}
    found = ask(TURING, {**HOPPER, "parts": [part]})
    assert len(found.cards) == 2
    assert found.parts == (gpus.Gpu(1, part["uuid"], part["name"], "550.54", 9984, 9950, (9, 0)),)
    assert gpus.visible(found, "1") == gpus.visible(found, "MIG-5d5ba0d6") == found.parts


def test_a_lost_card_and_one_that_tells_little(ask):
    (card,) = ask(None, {"uuid": "GPU-cc", "name": "NVIDIA GB10"}).cards
    assert (card.index, card.total, card.free, card.capability) == (1, 0, 0, ())


def test_without_a_driver_nothing_is_started(ask, monkeypatch):
    monkeypatch.setattr(gpus, "LIBRARY", "libnothing-of-nvidia.so.1")
    monkeypatch.setattr(gpus, "start", None)
    assert ask(TURING) == gpus.Driver()


def test_what_was_told_before_a_crash_is_kept(ask):
    found = ask(TURING, crashes="nvmlDeviceGetComputeRunningProcesses")
    assert [card.uuid for card in found.cards] == ["GPU-aa"] and found.processes == ()


class TestADriverThatHangs:
    def test_at_once(self, ask):
        assert ask(TURING, seconds=1.0, hangs="nvmlInit") == gpus.Driver()

    def test_inside_of_the_kernel_where_no_signal_ends_it(self, monkeypatch, tmp_path):
        monkeypatch.setattr(asking, "PATIENCE", 0.2)
        monkeypatch.setattr(subprocess.Popen, "kill", lambda self: None)
        program = "import os, sys, time; print('[\"first\", 1]', flush=True); os.mkdir(sys.argv[1]); time.sleep(600)"
        process = asking.start("-c", program, str(tmp_path / "told"))
        try:
            while not (tmp_path / "told").exists() and process.poll() is None:
                time.sleep(0.05)

            found = asking.answers(process, 0.2)
            assert found == {"first": 1, "end": "no answer in 0.2 s"} and process.poll() is None
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
