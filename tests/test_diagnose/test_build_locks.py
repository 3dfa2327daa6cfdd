"""Locks of extension builds, and DeepSpeed files with parts that replace settings of the recipe."""

import os
import subprocess
import sys
import time

import pytest

from llamafactory_chatts.diagnose.environment.checks import CHECKS
from llamafactory_chatts.recipe.machine import build_locks
from llamafactory_chatts.recipe.reading import Recipe
from llamafactory_chatts.recipe.rules import check_recipe


TAG = f"py{sys.version_info.major}{sys.version_info.minor}_cpu"


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """Return a function that puts a lock into a build folder of this Python, or of another tag, and returns it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)

    def put(tag=TAG, root=None):
        path = (root or tmp_path / "cache" / "torch_extensions" / tag) / "cpu_adam" / "lock"
        path.parent.mkdir(parents=True)
        path.write_text("")
        return path

    return put


def lines(**settings):
    recipe = Recipe({"do_train": True, "stage": "sft", "template": "chatts", **settings})
    return [one.line() for one in check_recipe(recipe, at_start=True)]


class TestBuildLocks:
    def test_none(self, lock):
        assert build_locks.stale_locks() == []
        assert [one.level for one in CHECKS["builds"](None)] == ["ok"]

    def test_one_that_a_killed_build_left(self, lock):
        path = lock()
        assert build_locks.stale_locks() == [path]
        (finding,) = CHECKS["builds"](None)
        assert finding.level == "error" and finding.where == str(path) and "delete that file" in finding.fix
        assert path.exists(), "doctor changes nothing"

    def test_a_training_with_deepspeed_is_refused(self, lock):
        path = lock()
        assert any(str(path) in line for line in lines(deepspeed={"zero_optimization": {"stage": 2}}))
        assert not any(str(path) in line for line in lines())

    def test_a_build_that_runs(self, lock):
        path = lock()
        path.unlink()
        program = "import os, sys; os.open(sys.argv[1], os.O_CREAT | os.O_EXCL); print('there', flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as builder:
            assert builder.stdout.readline() == "there\n"
            assert build_locks.stale_locks() == []
            builder.communicate("\n")

        assert build_locks.stale_locks() == [path], "it ended without taking its lock away"

    def test_where_holders_are_not_seen_age_decides(self, lock, monkeypatch):
        path = lock()
        monkeypatch.setattr(build_locks, "_open_files", lambda: None)
        assert build_locks.stale_locks() == []
        os.utime(path, (time.time() - 2 * build_locks.OLD,) * 2)
        assert build_locks.stale_locks() == [path]

    def test_a_folder_of_ones_own(self, lock, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "own"))
        lock()
        assert build_locks.stale_locks() == []
        assert build_locks.stale_locks() == [] and lock(root=tmp_path / "own") in build_locks.stale_locks()

    def test_another_python_builds_elsewhere(self, lock):
        lock(tag="py37_cpu")
        assert build_locks.stale_locks() == []


OPTIMIZER, SCHEDULER = {"optimizer": {"type": "AdamW"}}, {"scheduler": {"type": "WarmupLR"}}


class TestOwnOptimizer:
    @pytest.mark.parametrize(
        "config, settings",
        [
            (OPTIMIZER, {"timeseries_sft_lr": 1e-5}),
            (OPTIMIZER, {"timeseries_sft_lr": "1e-5"}),
            (SCHEDULER, {"timeseries_sft_lr": 1e-5}),
            (OPTIMIZER, {"loraplus_lr_ratio": 16.0}),
            (OPTIMIZER, {"use_muon": True}),
            (OPTIMIZER, {"optim": "adafactor"}),
            ({"optimizer": {"type": "Lion"}}, {"optim": "adamw_torch"}),
            (SCHEDULER, {"lr_scheduler_type": "cosine"}),
        ],
    )
    def test_what_it_would_replace(self, lock, config, settings):
        found = [line for line in lines(deepspeed=config, **settings) if "takes its place" in line]
        assert len(found) == 1 and next(iter(settings)) in found[0] and next(iter(config)) in found[0]
        assert not [line for line in lines(deepspeed={}, **settings) if "takes its place" in line]

    @pytest.mark.parametrize(
        "config, settings",
        [
            (OPTIMIZER, {"optim": "adamw_torch"}),
            (OPTIMIZER, {}),
            (SCHEDULER, {"lr_scheduler_type": "constant_with_warmup"}),
        ],
    )
    def test_what_is_the_same(self, lock, config, settings):
        assert not [line for line in lines(deepspeed=config, **settings) if "takes its place" in line]
