"""Planned optimizer steps against transformers' Trainer: its arithmetic, and real runs on one and two processes."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import warm
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from training_runs import cli, environment
from transformers import Trainer

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.data.synthesize.demo import generate
from llamafactory_chatts.plan.memory.estimate import count
from llamafactory_chatts.plan.steps import count_steps, plan_steps
from llamafactory_chatts.plan.training_rows import select_rows
from llamafactory_chatts.recipe.reading import Recipe


def trainer_steps(rows, batch, accumulation, world, epochs, max_steps, drop_last):
    """Return (steps of the run, steps of an epoch) as transformers computes them over accelerate's batches."""
    sampler = BatchSampler(SequentialSampler(range(rows)), batch, drop_last)
    if world > 1:
        sampler = BatchSamplerShard(sampler, world, 0)

    args = SimpleNamespace(
        max_steps=max_steps,
        num_train_epochs=epochs,
        gradient_accumulation_steps=accumulation,
        world_size=world,
        per_device_train_batch_size=batch,
    )
    trainer = SimpleNamespace(
        get_total_train_batch_size=lambda args: batch * accumulation * world,
        get_sp_size=lambda: 1,
        num_examples=lambda loader: rows,
    )
    loader = DataLoader(torch.zeros(rows), batch_sampler=sampler)
    values = Trainer.set_initial_training_values(trainer, args, loader)
    return values[6], values[1]


def rows_of_last_step(rows, batch, accumulation, world, drop_last):
    """Return the rows that the last step of an epoch really gets on all processes."""
    total = 0
    for rank in range(world):
        sampler = BatchSampler(SequentialSampler(range(rows)), batch, drop_last)
        batches = list(BatchSamplerShard(sampler, world, rank) if world > 1 else sampler)
        last = len(batches) % accumulation or accumulation
        total += sum(map(len, batches[-last:]))

    return total


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("rows", [13, 16, 417])
def test_the_arithmetic_is_transformers(rows, batch, accumulation, world, drop_last):
    for epochs, max_steps in ((3.0, -1), (0.4, -1), (2.5, -1), (3.0, 7)):
        found = count_steps(rows, batch, accumulation, world, epochs, max_steps, drop_last)
        expected = trainer_steps(rows, batch, accumulation, world, epochs, max_steps, drop_last)
        assert (found.total, found.per_epoch) == expected
        assert found.last == rows_of_last_step(rows, batch, accumulation, world, drop_last)


def test_max_steps_wins():
    found = count_steps(16, 2, 2, epochs=5, max_steps=3)
    assert found.by_max_steps and found.total == 3 and found.epochs == 0.75


def test_no_batch_is_left():
    with pytest.raises(ChatTSError, match="make no batch"):
        count_steps(3, 4, drop_last=True)


REAL = {
    "uneven last batch": {"per_device_train_batch_size": 4},
    "last batch dropped": {"per_device_train_batch_size": 4, "dataloader_drop_last": True},
    "accumulation left over": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "half an epoch": {"per_device_train_batch_size": 2, "num_train_epochs": 0.5},
    "packing": {"packing": True, "cutoff_len": 600, "per_device_train_batch_size": 2},
    "long rows left out": {"cutoff_len": 220, "drop_overlong": True, "per_device_train_batch_size": 2},
    "rows kept for evaluation": {"val_size": 0.2, "per_device_train_batch_size": 2},
    "tokens_per_batch": {"tokens_per_batch": 700, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "max_steps over an epoch": {"max_steps": 7, "per_device_train_batch_size": 4},
}
TWO = {
    "two processes, uneven": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "two processes, packing": {"packing": True, "cutoff_len": 600, "per_device_train_batch_size": 1},
}

RUNNER = """
import json, sys
from transformers import TrainerCallback

class Count(TrainerCallback):
    def on_train_end(self, args, state, control, **kwargs):
        found[-1] = (state.global_step, state.max_steps)

from llamafactory.train.tuner import run_exp
found = []
for recipe in json.load(open(sys.argv[1])):
    found.append(None)
    run_exp(recipe, callbacks=[Count()])

json.dump(found, open(sys.argv[2], "w"))
"""


def recipes_of(cases, tiny_base, tmp_path):
    """Return a recipe for each case, over 19 rows of uneven lengths."""
    rows = list(generate(19, 3, 32, 200))
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = {"data": {"file_name": "data.jsonl", "formatting": "chatts"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(entry))
    common = {
        "model_name_or_path": str(tiny_base), "stage": "sft", "do_train": True, "finetuning_type": "lora",
        "lora_rank": 2, "template": "chatts", "dataset": "data", "dataset_dir": str(tmp_path), "cutoff_len": 1024,
        "num_train_epochs": 1.0, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "learning_rate": 1e-4, "dataloader_num_workers": 0,
    }  # fmt: skip
    return [{**common, "output_dir": str(tmp_path / f"out{n}"), **case} for n, case in enumerate(cases.values())]


def plan_of(recipe, world):
    read = Recipe(recipe, Path("recipe.yaml"))
    return plan_steps(read, len(select_rows(count(read).parts, read)), world)


@pytest.mark.slow
def test_real_runs_take_the_planned_steps(tiny_base, tmp_path):
    """Nine trainings in one process: what each did, and what its trainer announced."""
    recipes = recipes_of(REAL, tiny_base, tmp_path)
    (tmp_path / "recipes.json").write_text(json.dumps(recipes))
    (tmp_path / "runner.py").write_text(RUNNER)
    words = [tmp_path / "runner.py", tmp_path / "recipes.json", tmp_path / "found.json"]
    done = warm.run([sys.executable, *words], environment())
    assert done.returncode == 0, done.stderr[-3000:]
    taken = dict(zip(REAL, json.loads((tmp_path / "found.json").read_text()), strict=True))
    planned = {name: plan_of(recipe, 1).total for name, recipe in zip(REAL, recipes)}
    assert {name: [steps, steps] for name, steps in planned.items()} == taken
    assert len(set(planned.values())) > 3  # the cases differ


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO)
def test_real_runs_on_two_processes_take_the_planned_steps(tiny_base, tmp_path, name):
    recipe = recipes_of({name: TWO[name]}, tiny_base, tmp_path)[0]
    cli("train", recipe, tmp_path, processes=2)
    state = json.loads((Path(recipe["output_dir"]) / "trainer_state.json").read_text())
    planned = plan_of(recipe, 2)
    assert (planned.total, planned.total) == (state["global_step"], state["max_steps"])
