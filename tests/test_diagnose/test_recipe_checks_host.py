"""Weights that DeepSpeed keeps in host memory against what is free."""

import json
import struct

import pytest
import yaml

from llamafactory_chatts.recipe.launch import host_memory as checks
from llamafactory_chatts.recipe.machine.host_limits import Memory
from llamafactory_chatts.recipe.reading import read_recipe
from llamafactory_chatts.recipe.rules import check_recipe


MIB = 2**20


def write_header(path, shapes):
    """Write the header of a safetensors file; its tensors are never read."""
    header = {f"t{at}": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for at, shape in enumerate(shapes)}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


class TestSizes:
    def test_of_a_checkpoint(self, tmp_path):
        write_header(tmp_path / "a.safetensors", [[3, 5], [7]])
        write_header(tmp_path / "b.safetensors", [[2, 2, 2]])
        (tmp_path / "broken.safetensors").write_bytes(b"123")
        assert sorted(checks.tensor_sizes(tmp_path)) == [7, 8, 15]

    def test_pinned_shares_are_rounded_up(self):
        sizes = [4096 * 12288, 4096 * 4096]  # of an MLP and an attention layer of ChatTS-8B, halved
        assert checks.count_shares(sizes, 2, 2, pinned=False) == (48 + 16) * MIB
        assert checks.count_shares(sizes, 2, 2, pinned=True) == (64 + 16) * MIB


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Return a function: (GiB free, pinned, GPUs) -> errors about host memory of a ZeRO-3 recipe with offloading."""
    base = tmp_path / "base"
    base.mkdir()
    write_header(base / "model.safetensors", [[4096, 12288]] * 100)  # 9.4 GiB in 16 bits, 12.5 pinned for two

    def check(free, pinned=True, offload="cpu", limit=None, level="error", at_start=False):
        zero = {"stage": 3, "offload_param": {"device": offload, "pin_memory": pinned}}
        recipe = {"model_name_or_path": str(base), "deepspeed": json.dumps({"zero_optimization": zero}), "fp16": True}
        recipe |= {"stage": "sft", "do_train": True, "template": "chatts"}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        memory = Memory(total=64.0, available=free, swap=0.0, limit=free if limit is None else limit)
        monkeypatch.setattr(checks, "host_memory", lambda: memory)
        monkeypatch.setattr("llamafactory_chatts.recipe.context.Context.cards", ("a card",))
        monkeypatch.setenv("NPROC_PER_NODE", "2")
        monkeypatch.setattr("llamafactory_chatts.recipe.context.Context.processes", 2)
        found = [item for item in check_recipe(read_recipe(path), at_start) if "in host memory" in item.what]
        assert all(item.level == level for item in found)
        return [str(item.what) + str(item.fix) for item in found]

    return check


def test_enough_memory(found):
    assert not found(13.0) and not found(9.5, pinned=False) and not found(1.0, offload="none")


def test_pinned_weights_do_not_fit_but_others_would(found):
    (text,) = found(12.0)
    assert "keeps 12.5 GiB" in text and "there are 12.0 GiB" in text and "ds_z3_offload_unpinned.json" in text
    assert "takes 9.4 GiB" in text


def test_nothing_fits(found):
    for text in (*found(5.0), *found(5.0, pinned=False)):
        assert "quantization_bit: 4" in text


@pytest.mark.parametrize("at_start", [False, True])
def test_what_is_free_now_is_an_estimate(found, at_start):
    """It stops nothing: other programs end, and the page cache is given back."""
    (text,) = found(12.0, limit=32.0, level="warning", at_start=at_start)
    assert "12.0 GiB are free now" in text and "the kernel" not in text


def test_the_rule_is_part_of_the_check():
    from llamafactory_chatts.recipe.rules import RULES

    assert checks.offloaded_weights in [rule.find for rule in RULES]
