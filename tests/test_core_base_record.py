"""An adapter is put on the base it was trained on, once; the fingerprint knows weights, not paths."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llamafactory_chatts.core.base_record import (
    RECORD,
    _digest,
    check_adapters,
    fingerprint,
    lineage,
    merged_lineage,
    write_record,
)
from llamafactory_chatts.core.errors import ChatTSError


def model(folder, seed=0, name="model.safetensors"):
    folder.mkdir()
    draw = np.random.default_rng(seed)
    save_file({f"layer.{i}": draw.standard_normal((64, 64)).astype("f4") for i in range(4)}, folder / name)
    return folder


def adapter(folder, base, seed, before=(), goes_on=False):
    model(folder, seed, "adapter_model.safetensors")
    write_record(folder, lineage(base, list(before), goes_on))
    return folder


@pytest.fixture
def base(tmp_path):
    return model(tmp_path / "base")


class TestFingerprint:
    def test_copied_renamed_and_sharded_it_is_the_same(self, base, tmp_path):
        own = fingerprint(base)
        other = shutil.copytree(base, tmp_path / "elsewhere")
        (other / "config.json").write_text("{}")
        assert fingerprint(other) == own and len(own) == 32

        weights = load_file(base / "model.safetensors")
        sharded = tmp_path / "sharded"
        sharded.mkdir()
        places = {}
        for index, (key, value) in enumerate(weights.items()):
            places[key] = f"part-{3 - index}.safetensors"
            save_file({key: value}, sharded / places[key])

        (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        assert fingerprint(sharded) == own

    @pytest.mark.parametrize("change", ["value", "name", "type", "shape"])
    def test_other_weights_are_another_base(self, base, change):
        own, weights = fingerprint(base), load_file(base / "model.safetensors")
        if change == "value":
            weights["layer.2"] = weights["layer.2"] + np.float32(1e-3)
        elif change == "name":
            weights["layer.9"] = weights.pop("layer.2")
        elif change == "type":
            weights["layer.2"] = weights["layer.2"].view("i4")
        else:
            weights["layer.2"] = weights["layer.2"].reshape(32, 128)

        save_file(weights, base / "model.safetensors")
        _digest.cache_clear()  # two writes within one tick of the clock
        assert fingerprint(base) != own

    def test_bin_files_and_damaged_ones(self, tmp_path):
        folder = tmp_path / "old"
        folder.mkdir()
        assert fingerprint(folder) is None
        (folder / "pytorch_model.bin").write_bytes(bytes(range(256)) * 64)
        first = fingerprint(folder)
        (folder / "pytorch_model.bin").write_bytes(bytes(range(255, -1, -1)) * 64)
        _digest.cache_clear()
        assert first and fingerprint(folder) not in (None, first)
        (folder / "model.safetensors").write_bytes(b"no weights")
        assert fingerprint(folder) is None


class TestCombinations:
    def test_on_its_base_wherever_that_lies(self, base, tmp_path):
        one = adapter(tmp_path / "one", base, 1)
        assert check_adapters(base, [one]) == []
        assert check_adapters(shutil.copytree(base, tmp_path / "moved"), [one]) == []
        assert str(tmp_path) not in (one / RECORD).read_text()

    def test_on_another_base(self, base, tmp_path):
        one = adapter(tmp_path / "one", base, 1)
        with pytest.raises(ChatTSError, match=r"one: it was trained on another base \(base\) than .*other"):
            check_adapters(model(tmp_path / "other", 7), [one])

    def test_twice(self, base, tmp_path):
        one = adapter(tmp_path / "one", base, 1)
        again = shutil.copytree(one, tmp_path / "again")
        with pytest.raises(ChatTSError, match="again: it stands there twice"):
            check_adapters(base, [one, again])

    def test_one_that_goes_on_from_the_other(self, base, tmp_path):
        one = adapter(tmp_path / "one", base, 1)
        two = adapter(tmp_path / "two", base, 2, [one], goes_on=True)
        three = adapter(tmp_path / "three", base, 3, [two], goes_on=True)
        assert check_adapters(base, [three]) == []
        with pytest.raises(ChatTSError, match="three: it stands there twice, or goes on from another"):
            check_adapters(base, [one, three])

    def test_trained_above_another(self, base, tmp_path):
        one = adapter(tmp_path / "one", base, 1)
        two = adapter(tmp_path / "two", base, 2, [one])
        assert check_adapters(base, [one, two]) == []
        with pytest.raises(
            ChatTSError, match="two: it was trained on this base with one merged into it. Name one bef"
        ):
            check_adapters(base, [two])

    def test_trained_beside_another(self, base, tmp_path):
        one, two = adapter(tmp_path / "one", base, 1), adapter(tmp_path / "two", base, 2)
        (note,) = check_adapters(base, [one, two])
        assert "two: it was trained without the adapters before it" in note

    def test_an_export_knows_what_is_in_it(self, base, tmp_path):
        one = adapter(tmp_path / "one", base, 1)
        two = adapter(tmp_path / "two", base, 2, [one])
        beside = adapter(tmp_path / "beside", base, 3)
        more = adapter(tmp_path / "more", base, 4, [one], goes_on=True)
        merged = model(tmp_path / "merged", 9)
        write_record(merged, merged_lineage(base, [one]))
        for holds in (one, more):
            with pytest.raises(ChatTSError, match="merged already holds it: it was merged into it"):
                check_adapters(merged, [holds])

        with pytest.raises(ChatTSError, match="beside: it was trained on another base"):
            check_adapters(merged, [beside])

        assert check_adapters(merged, [two]) == [], "the same model as base and first adapter"
        assert check_adapters(merged, [adapter(tmp_path / "new", merged, 5)]) == []

        again = model(tmp_path / "again", 10)
        write_record(again, merged_lineage(merged, [two]))
        for holds in (one, two):
            with pytest.raises(ChatTSError, match="again already holds it"):
                check_adapters(again, [holds])

    def test_an_adapter_without_a_record(self, base, tmp_path):
        old = model(tmp_path / "old", 1, "adapter_model.safetensors")
        (note,) = check_adapters(base, [old])
        assert "old: it is not known which base it was trained on" in note
        with pytest.raises(ChatTSError, match="it stands there twice"):
            check_adapters(base, [old, old])
