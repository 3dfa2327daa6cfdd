"""ZeRO-3 on the CPU: a parameter that was gathered is not overwritten later by the rest of that gather."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from llamafactory_chatts.host.load.deepspeed_gather import one_by_one


class Parameter:
    value = None


def make_init():
    """Return a stand-in for DeepSpeed's ``zero.Init``: it waits for the last gather, the others end when they like."""

    class Init:
        def __init__(self):
            self.running, self.calls = [], []

        def _allgather_params_coalesced(self, param_list, hierarchy=0, quantize=False):
            self.calls.append((len(param_list), hierarchy, quantize))
            self.running += param_list[:-1]
            for param in param_list[-1:]:
                param.value = "share"

        def end(self):
            for param in self.running:
                param.value = "share"

    return Init


@pytest.fixture
def deepspeed(monkeypatch):
    """Return a function: a device -> ``Init`` as it is changed, beside an accelerator that says so."""

    def start(device="cpu"):
        module = ModuleType("deepspeed.accelerator")
        module.get_accelerator = lambda: SimpleNamespace(device_name=lambda: device)
        monkeypatch.setitem(sys.modules, "deepspeed", ModuleType("deepspeed"))
        monkeypatch.setitem(sys.modules, "deepspeed.accelerator", module)
        init = make_init()
        init._allgather_params_coalesced = one_by_one(init._allgather_params_coalesced)
        return init

    return start


def load(init):
    """Gather three parameters, write a tensor into each as the loader does, let what still runs end."""
    params = [Parameter(), Parameter(), Parameter()]
    assert init._allgather_params_coalesced(params, 1, quantize=False) is None
    for param in params:
        param.value = "checkpoint"

    init.end()
    return [param.value for param in params]


def test_the_checkpoint_stays(deepspeed):
    init = deepspeed()()
    assert load(init) == ["checkpoint"] * 3
    assert init.calls == [(1, 1, False)] * 3


def test_the_fault_is_there_without_it():
    assert load(make_init()()) == ["share", "share", "checkpoint"]


def test_arguments_are_handed_on_and_none_is_fine(deepspeed):
    init = deepspeed()()
    assert init._allgather_params_coalesced([]) is None and init.calls == []
    assert init._allgather_params_coalesced([Parameter()], quantize=True) is None and init.calls == [(1, 0, True)]


def test_on_a_gpu_nothing_changes(deepspeed):
    assert load(deepspeed("cuda")()) == ["share", "share", "checkpoint"]


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_canary_deepspeed_has_the_method():
    """It is read, not imported: that takes seconds."""
    folder = Path(importlib.util.find_spec("deepspeed").origin).parent
    text = (folder / "runtime/zero/partition_parameters.py").read_text(encoding="utf-8")
    assert "\n    def _allgather_params_coalesced(self, param_list, hierarchy=0, quantize=False):" in text
    assert "launch_handles[-1].wait()" in text, "it waits for each by now: deepspeed_gather.py can go"
