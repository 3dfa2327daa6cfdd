"""Mistakes that people made in recipes, each with the key that doctor names; own recipes are clean."""

import json
from pathlib import Path

import pytest

from llamafactory_chatts.recipe.inputs.rows import shortest_tokens
from llamafactory_chatts.recipe.machine import gpus
from llamafactory_chatts.recipe.reading import Recipe, read_recipe
from llamafactory_chatts.recipe.rules import check_recipe


ROOT = Path(__file__).parents[2]
RECIPES = sorted(set((ROOT / "examples").glob("*.yaml")) - set((ROOT / "examples").glob("prepare_*.yaml")))
HERE = ("nvidia-smi shows no GPU here", "there is none here", "FORCE_TORCHRUN=1")
"""What doctor says of a recipe only because of the machine that it stands on."""

EVALUATED = {"val_size": 0.2, "eval_strategy": "epoch", "save_strategy": "epoch"}
ERRORS = [
    {"lora_dropout": 1.0},
    {"lora_dropout": -0.1},
    {"lora_alpha": -8},
    {"num_train_epochs": 0, "max_steps": None},
    {"warmup_ratio": 10},
    {"adam_beta1": 1.5},
    {"seed": -1},
    {"max_samples": 0},
    {"preprocessing_num_workers": 0},
    {"per_device_eval_batch_size": 0},
    {"dataloader_num_workers": -1},
    {"dataloader_prefetch_factor": 2},
    {"dataloader_persistent_workers": True, "dataloader_num_workers": 0},
    {"tokens_per_batch": 0},
    {"logging_steps": 0},
    {"logging_steps": 1.5},
    {"save_steps": 10.5, "save_strategy": "steps"},
    {"eval_steps": 0, "eval_strategy": "steps", "val_size": 0.2},
    {"val_size": -0.1},
    {"val_size": 1.5},
    {"load_best_model_at_end": True},
    {"metric_for_best_model": "accuracy", "load_best_model_at_end": True, **EVALUATED},
    {"metric_for_best_model": "eval_acc", "load_best_model_at_end": True, **EVALUATED},
    {"save_strategy": "best", "eval_strategy": "epoch", "val_size": 0.2},
    {"lr_scheduler_type": "reduce_lr_on_plateau"},
    {"lr_scheduler_type": "cosine_with_min_lr"},
    {"lr_scheduler_kwargs": {"min_lr": 1e-6}, "lr_scheduler_type": "cosine"},
    {"lr_scheduler_kwargs": "min_lr=1e-6", "lr_scheduler_type": "cosine_with_min_lr"},
    {"train_sampling_strategy": "group_by_len"},
    {"interleave_probs": "0.5,0.9", "mix_strategy": "interleave_under", "dataset": "data,data"},
    {"interleave_probs": "a,b", "mix_strategy": "interleave_under", "dataset": "data,data"},
    {"dataset": "data,"},
    {"dataset": "data other"},
    {"dataset": "data.jsonl"},
    {"lora_target": ""},
    {"lora_target": "q_proj v_proj"},
    {"lora_target": "c_attn"},
    {"additional_target": "wte"},
    {"oft_rank": 4, "finetuning_type": "oft"},
    {"ref_model_quantization_bit": 3},
    {"tokenized_path": "t", "streaming": True},
    {"fp16": True},
    {"tf32": True},
    {"fp8": True},
    {"label_names": "labels"},
    {"model_name_or_path": "Qwen/Qwen3-8B"},
    {"new_special_tokens_config": "no.yaml"},
    {"output_dir": "${HOME}/saves"},
    {"output_dir": {"a": None}},
    {"run_name": "“a”"},
    {"train": {"learning_rate": 1e-4}},
    {"stage： sft": None},
    {"lr": 1e-4},
    {"cutoff_len": 24},
]
WARNINGS = [
    {"lora_alpha": 0},
    {"max_steps": 0},
    {"learning_rate": 0.05},
    {"learning_rate": 0},
    {"weight_decay": 10},
    {"save_total_limit": 0},
    {"save_steps": 0, "save_strategy": "steps"},
    {"preprocessing_num_workers": 10_000},
    {"max_length": 1024},
    {"export_dir": "merged"},
    {"shift_attn": True},
    {"warmup_steps": 100, "max_steps": 10},
    {"warmup_steps": 10, "warmup_ratio": 0.1, "max_steps": 100},
    {"media_dir": "/no/such"},
]


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in ("WORLD_SIZE", "NNODES", "NPROC_PER_NODE", "CUDA_VISIBLE_DEVICES", "ALLOW_EXTRA_ARGS"):
        monkeypatch.delenv(name, raising=False)

    monkeypatch.setattr(gpus, "driver", lambda *args: gpus.Driver())


def named(changes):
    key = next(iter(changes))
    return "-".join(map(str, (key, changes[key])))


class TestMistakes:
    @pytest.mark.parametrize("changes", ERRORS, ids=named)
    def test_an_error(self, recipe, write_dataset, rows, changes):
        write_dataset(rows(12))
        wrong = recipe(**{key: value for key, value in changes.items() if value is not None})
        wrong |= {key: value for key, value in changes.items() if value is None and key not in ("max_steps",)}
        if "max_steps" in changes:
            del wrong["max_steps"]

        found = [one for one in check_recipe(Recipe(wrong)) if one.level == "error"]
        assert next(iter(changes)) in [one.subject for one in found], found
        assert all(one.fix for one in found)

    @pytest.mark.parametrize("changes", WARNINGS, ids=named)
    def test_a_warning(self, recipe, write_dataset, rows, changes):
        write_dataset(rows(12))
        found = check_recipe(Recipe(recipe(**changes)))
        assert [one.level for one in found if one.subject == next(iter(changes))] == ["warning"]
        assert not any(one.level == "error" for one in found)

    @pytest.mark.parametrize("value", [1, 2, 0.2])
    def test_rows_to_evaluate_on(self, recipe, write_dataset, rows, value):
        """One without a dot is one row, for the host as for doctor."""
        write_dataset(rows(12))
        assert not any(one.level == "error" for one in check_recipe(Recipe(recipe(val_size=value))))


class TestRows:
    def find(self, recipe, **changes):
        return [(one.level, one.subject, one.what) for one in check_recipe(Recipe(recipe(**changes)))]

    def test_a_column_that_no_row_has(self, recipe, write_dataset, rows):
        write_dataset(rows(3), columns={"prompt": "question", "response": "output", "timeseries": "timeseries"})
        ((level, key, what),) = self.find(recipe)
        assert (level, key) == ("error", "dataset") and "'question'" in what and "input, output, timeseries" in what
        assert self.find(recipe, at_start=None) and check_recipe(Recipe(recipe()), at_start=True) == []

    @pytest.mark.parametrize("text", ["Look at <ts><ts/>", "Look"])
    def test_series_that_no_column_names(self, recipe, write_dataset, rows, text):
        data = [{**row, "input": text} for row in rows(3)]
        write_dataset(data, columns={"prompt": "input", "response": "output"})
        assert [(level, "does not name" in what) for level, _, what in self.find(recipe)] == [("error", True)]
        for row in data:
            del row["timeseries"]

        write_dataset(data, columns={"prompt": "input", "response": "output"})
        assert bool(self.find(recipe)) is ("<ts>" in text)

    def test_kto_without_a_tag(self, recipe, write_dataset, rows):
        columns = {"prompt": "input", "response": "output", "timeseries": "timeseries"}
        write_dataset(rows(3), columns=columns)
        assert any("good or bad" in what for _, _, what in self.find(recipe, stage="kto"))

    def test_the_bound_is_below_the_real_length(self, recipe, write_dataset, rows):
        from host_steps import load_data

        data = rows(20)
        write_dataset(data)
        real = [len(row["input_ids"]) for row in load_data(recipe()).train]
        bounds = [shortest_tokens(row, "timeseries", 8) for row in data]
        assert all(0.3 * length < bound <= length for bound, length in zip(bounds, real, strict=True))

    def test_one_long_row_is_no_mistake(self, recipe, write_dataset, rows):
        data = rows(30)
        data[3]["timeseries"] = [[0.5] * 9000] * len(data[3]["timeseries"])
        write_dataset(data)
        assert self.find(recipe) == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_an_own_recipe_is_clean(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    found = check_recipe(read_recipe(path.relative_to(ROOT)))
    assert [one.line() for one in found if not any(words in one.line() for words in HERE)] == []


def test_on_a_machine_with_cards_nothing_is_said(monkeypatch):
    """Two cards that suit all of them; the demo is made for the CPU."""
    pair = tuple(gpus.Gpu(at, f"GPU-{at}", "NVIDIA H200", "570", 143771, 143000, (9, 0)) for at in range(2))
    monkeypatch.setattr(gpus, "driver", lambda *args: gpus.Driver(pair))
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    recipes = [path.relative_to(ROOT) for path in RECIPES if path.stem != "chatts_demo"]
    assert [one.line() for path in recipes for one in check_recipe(read_recipe(path))] == []


def test_plan_agrees_with_doctor(capsys, monkeypatch, recipe, write_dataset, rows, tmp_path):
    from llamafactory_chatts.cli import main

    write_dataset(rows(12))
    path = tmp_path / "recipe.yaml"
    for changes in ERRORS[::6]:
        wrong = {**recipe(), **{key: value for key, value in changes.items() if value is not None}}
        path.write_text(json.dumps(wrong))
        main(["doctor", str(path), "--json"])
        printed = json.loads(capsys.readouterr().out)
        errors = [one for one in printed["findings"] if one["level"] == "error"]
        assert main(["plan", str(path), "--vram", "80", "--json"]) != 0
        assert json.loads(capsys.readouterr().out)["errors"] == errors and errors
