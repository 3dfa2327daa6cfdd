"""The same samples in one optimizer step give the same loss, however they are put into passes."""

import importlib.util
from pathlib import Path

import pytest
from training_runs import TEXT_ONLY, cli, losses, settings, write_sets, zero

from llamafactory_chatts.data.synthesize.demo import generate


pytestmark = pytest.mark.slow
STEPS = 20


@pytest.fixture(scope="module")
def uneven_dir(tmp_path_factory) -> Path:
    """Data sets of 37 rows (the last step of an epoch holds 5) and of 8 (each step holds them all)."""
    folder = tmp_path_factory.mktemp("uneven")
    content = list(generate(33, seed=8, min_points=32, max_points=300)) + TEXT_ONLY[:4]
    content = content[::2] + content[1::2]
    for index, row in enumerate(content):
        row["output"] = row["output"] * (1 + index % 3)

    return write_sets(folder, {"series": content, "eight": content[12:20]})


@pytest.fixture
def run(tiny_base, uneven_dir, tmp_path):
    """Train all parameters in float32 for 20 steps; return the loss of each."""
    from llamafactory.train.tuner import run_exp

    def run(**changes) -> list[float]:
        out = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        common = {"finetuning_type": "full", "max_steps": STEPS, "learning_rate": 1.0e-3, "use_cpu": True}
        run_exp(settings(tiny_base, uneven_dir, out, **common, disable_tqdm=True, **changes))
        found = losses(out)
        assert len(found) == STEPS and found[-1] < found[0] - 0.3
        return found

    return run


def shape(size: int, batches: int, **more) -> dict:
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": batches, **more}


def test_per_token_losses_do_not_depend_on_the_batches(run):
    one_by_one = run(**shape(1, 8))
    for other in (
        shape(8, 1),
        shape(1, 8, tokens_per_batch=440),
        shape(1, 8, tokens_per_batch=3000),
        shape(4, 2, tokens_per_batch=700),
    ):
        assert run(**other) == pytest.approx(one_by_one, abs=1e-4), other


def test_packed_losses_equal_those_of_single_rows(run):
    """One packed row, or two, hold the samples of a step: the data set has 8."""
    one_by_one = run(**shape(1, 8), dataset="eight")
    in_one = run(**shape(1, 1), dataset="eight", packing=True, cutoff_len=3000)
    in_two = run(**shape(1, 2), dataset="eight", packing=True, cutoff_len=900)
    assert in_one == pytest.approx(one_by_one, abs=1e-4)
    assert in_two == pytest.approx(one_by_one, abs=1e-4)


def test_losses_of_the_hosts_own_normalization(run):
    one_by_one = run(**shape(1, 8), loss_normalization="batch")
    assert run(**shape(1, 8), loss_normalization="batch", tokens_per_batch=900) == pytest.approx(one_by_one, abs=1e-4)
    in_pairs = run(**shape(2, 4), loss_normalization="batch")
    assert run(**shape(2, 4), loss_normalization="batch", tokens_per_batch=900) == pytest.approx(in_pairs, abs=1e-4)
    assert in_pairs != pytest.approx(one_by_one, abs=1e-3), "the batches of a recipe matter here"


def test_two_processes(tiny_base, data_dir, tmp_path):
    """18 rows, 8 a step: the last step of an epoch is filled up in the recipe's own way."""
    common = shape(1, 4, max_steps=6, dataset="series,mixed", finetuning_type="full")
    for name, changes in {"plain": {}, "filled": {"tokens_per_batch": 400}}.items():
        recipe = settings(tiny_base, data_dir, tmp_path / name, **common, **changes)
        log = cli("train", recipe, tmp_path, processes=2)

    assert "tokens_per_batch 400: 4 rows per optimizer step and process in about" in log
    plain, filled = losses(tmp_path / "plain"), losses(tmp_path / "filled")
    assert len(plain) == 6 and filled == pytest.approx(plain, abs=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_two_processes_of_deepspeed_zero3(tiny_base, data_dir, tmp_path):
    """Losses are those of one process, which one wrong weight changes (6.8791 was seen, not 6.8763).

    The number of rows whose tokens fill a pass differs between the processes: a wrong count of passes hangs.
    """
    from llamafactory.train.tuner import run_exp

    common = {"dataset": "mixed", "finetuning_type": "full", "loss_normalization": "batch"}
    run_exp(settings(tiny_base, data_dir, tmp_path / "one", use_cpu=True, **shape(1, 8, max_steps=4), **common))
    expected = losses(tmp_path / "one")
    config = tmp_path / "zero3.json"
    config.write_text(zero(3))
    for name, changes in {"plain": {}, "filled": {"tokens_per_batch": 420}}.items():
        folder = tmp_path / name
        folder.mkdir()
        recipe = settings(
            tiny_base, data_dir, folder / "out", deepspeed=str(config), **shape(1, 4, max_steps=4, **changes), **common
        )
        cli("train", recipe, folder, processes=2, DS_ACCELERATOR="cpu")
        assert losses(folder / "out") == pytest.approx(expected, abs=1e-4), name
