"""ZeRO-3 on the CPU: a parameter that was gathered is not overwritten later by the rest of that gather."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from host_steps import parse

from llamafactory_chatts.host.load.deepspeed_gather import gather_in_order


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
    """A DeepSpeed of modules that hold only what is asked for; ``start`` sets the device and enables ZeRO-3."""
    modules = {name: ModuleType(name) for name in ("deepspeed", "deepspeed.accelerator", "deepspeed.runtime")}
    modules["deepspeed.runtime.zero"] = zero = ModuleType("deepspeed.runtime.zero")
    zero.partition_parameters = parameters = ModuleType("deepspeed.runtime.zero.partition_parameters")
    parameters.Init = make_init()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)

    def start(device="cpu", zero3=True):
        accelerator = SimpleNamespace(device_name=lambda: device)
        modules["deepspeed.accelerator"].get_accelerator = lambda: accelerator
        monkeypatch.setattr("transformers.integrations.is_deepspeed_zero3_enabled", lambda: zero3)
        gather_in_order()
        return parameters.Init

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


def test_once(deepspeed):
    once = deepspeed()._allgather_params_coalesced
    assert deepspeed()._allgather_params_coalesced is once


@pytest.mark.parametrize("where", [{"device": "cuda"}, {"zero3": False}])
def test_elsewhere_deepspeed_is_left_alone(deepspeed, where):
    assert load(deepspeed(**where)()) == ["share", "share", "checkpoint"]


def test_without_deepspeed(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # an import of it fails
    gather_in_order()


def test_before_a_model_is_loaded(recipe, monkeypatch):
    from llamafactory.model import load_model, load_tokenizer, loader

    run, order, original = parse(recipe()), [], loader.init_adapter
    monkeypatch.setattr("llamafactory_chatts.host.load.loading.gather_in_order", lambda: order.append("gather"))
    monkeypatch.setattr(loader, "init_adapter", lambda *args: order.append("adapter") or original(*args))
    load_model(load_tokenizer(run.model_args)["tokenizer"], run.model_args, run.finetuning_args, True)
    assert order == ["gather", "adapter"]


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_canary_deepspeed_has_the_method():
    """It is read, not imported: that takes seconds."""
    folder = Path(importlib.util.find_spec("deepspeed").origin).parent
    text = (folder / "runtime/zero/partition_parameters.py").read_text(encoding="utf-8")
    assert "\n    def _allgather_params_coalesced(self, param_list, hierarchy=0, quantize=False):" in text
    assert "launch_handles[-1].wait()" in text, "it waits for each by now: deepspeed_gather.py can go"
