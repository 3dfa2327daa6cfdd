"""Going on from a checkpoint: what is missing in it or differs from its training is refused before anything loads."""

import json
import shutil

import pytest

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.recipe.checkpoints import RECORD
from llamafactory_chatts.recipe.reading import Recipe
from llamafactory_chatts.recipe.rules import check_recipe


TRAINED = {
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "lora_rank": 4,
    "template": "chatts",
    "dataset": "data",
    "cutoff_len": 1024,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    "timeseries_sft_lr": 2e-3,
    "max_steps": 2,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}

ZERO1, ZERO2, ZERO3 = ({"zero_optimization": {"stage": stage}} for stage in (1, 2, 3))


@pytest.fixture(scope="module")
def saved(tiny_base, tmp_path_factory):
    """The folder of a run with checkpoints after steps 1 and 2, and its recipe."""
    from llamafactory.train.tuner import run_exp

    from llamafactory_chatts.data.synthesize.demo import generate

    folder = tmp_path_factory.mktemp("saved")
    rows = generate(6, seed=0, min_points=32, max_points=64)
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "dataset_info.json").write_text('{"data": {"file_name": "data.jsonl", "formatting": "chatts"}}')
    recipe = {**TRAINED, "model_name_or_path": str(tiny_base), "dataset_dir": str(folder)}
    run_exp({**recipe, "output_dir": str(folder / "out")})
    return folder / "out", recipe


@pytest.fixture
def look(saved, tmp_path, monkeypatch):
    """Return a function: (changes to the recipe) -> lines about the checkpoint; ``look.at`` is the last checkpoint."""
    for name in ("WORLD_SIZE", "NNODES", "NPROC_PER_NODE"):
        monkeypatch.delenv(name, raising=False)

    out = tmp_path / "out"
    shutil.copytree(saved[0], out)
    shutil.rmtree(out / "checkpoint-1")

    def look(level="error", at_start=True, **changes):
        recipe = {**saved[1], "output_dir": str(out), "max_steps": 9, **changes}
        recipe = Recipe({key: value for key, value in recipe.items() if value is not None})
        found = [one for one in check_recipe(recipe, at_start) if one.subject == "resume_from_checkpoint"]
        return [one.line() for one in found if one.level == level]

    look.at, look.recipe = out / "checkpoint-2", {**saved[1], "output_dir": str(out), "max_steps": 9}
    return look


def one(lines, *parts):
    assert len(lines) == 1, lines
    assert all(part in lines[0] for part in parts), lines[0]


class TestWhichCheckpoint:
    @pytest.mark.parametrize("value", [None, True, "OUT/checkpoint-2", False])
    def test_a_whole_one_of_the_same_training_is_fine(self, look, value):
        value = value.replace("OUT", str(look.at.parent)) if isinstance(value, str) else value
        assert not look(resume_from_checkpoint=value)
        assert not look("warning", at_start=False, resume_from_checkpoint=value)

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"resume_from_checkpoint": True},
            {"resume_from_checkpoint": True, "overwrite_output_dir": True},
            {"resume_from_checkpoint": "OUT/checkpoint-2", "output_dir": "OUT/new"},
        ],
    )
    def test_the_one_that_the_host_would_take(self, look, changes):
        (look.at / "optimizer.pt").unlink()
        out = str(look.at.parent)
        changes = {
            key: value.replace("OUT", out) if isinstance(value, str) else value for key, value in changes.items()
        }
        one(look(**changes), str(look.at), "optimizer.pt is missing")

    @pytest.mark.parametrize(
        "changes", [{"overwrite_output_dir": True}, {"resume_from_checkpoint": False}, {"do_train": False}]
    )
    def test_none_is_taken(self, look, changes):
        (look.at / "optimizer.pt").unlink()
        assert not look(**changes)

    def test_the_highest_number_counts(self, look):
        shutil.copytree(look.at, look.at.with_name("checkpoint-10"))
        (look.at / "optimizer.pt").unlink()
        assert not look()

    @pytest.mark.parametrize(
        "value, said", [("nowhere", "there is no folder nowhere"), ("True", "taken for a folder")]
    )
    def test_a_folder_that_is_not_there(self, look, value, said):
        one(look(resume_from_checkpoint=value), said)

    def test_true_without_a_checkpoint(self, look, tmp_path):
        one(look(resume_from_checkpoint=True, output_dir=str(tmp_path / "new")), "there is no checkpoint in")


class TestState:
    @pytest.mark.parametrize("names", [["optimizer.pt", "scheduler.pt"], ["optimizer.pt"], ["scheduler.pt"]])
    def test_missing(self, look, names):
        for name in names:
            (look.at / name).unlink()

        one(look(), " and ".join(names), "save_only_model", f"adapter_name_or_path: {look.at}")

    @pytest.mark.parametrize(
        "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors", "trainer_state.json"]
    )
    def test_cut_off(self, look, name):
        path = look.at / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        one(look(), name, "Delete" if name != "trainer_state.json" else "delete")

    @pytest.mark.parametrize("name", ["trainer_state.json", "adapter_model.safetensors"])
    def test_no_checkpoint_at_all(self, look, name):
        (look.at / name).unlink()
        assert len(look()) == 1

    def test_random_numbers_are_only_a_warning(self, look):
        (look.at / "rng_state.pth").unlink()
        (look.at / RECORD).unlink()
        assert not look()
        one(look("warning", at_start=False), "no rng_state*.pth")

    def test_deepspeed_goes_on_from_its_own_only(self, look):
        one(look(deepspeed=ZERO2), "it was saved without DeepSpeed")
        (look.at / "optimizer.pt").unlink()
        one(look(deepspeed=ZERO2), "no state of DeepSpeed")
        (look.at / "global_step2").mkdir()
        one(look(), "it was saved with DeepSpeed")
        one(look(deepspeed=ZERO2), "`latest` is missing")
        (look.at / "latest").write_text("global_step1")
        one(look(deepspeed=ZERO2), "names global_step1, which is not there")

    def test_deepspeed_goes_on_with_as_many_processes(self, look, monkeypatch):
        (look.at / "optimizer.pt").unlink()
        (look.at / RECORD).unlink()
        folder = look.at / "global_step2"
        folder.mkdir()
        (look.at / "latest").write_text("global_step2")
        for rank in (0, 1):
            name = f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
            shutil.copy(look.at / "scheduler.pt", folder / name)

        one(look(deepspeed=ZERO1), "DeepSpeed wrote it with 2 process(es)")
        one(
            look(deepspeed=ZERO3),
            "saved by ZeRO-1 or ZeRO-2, the DeepSpeed file says ZeRO-3",
        )
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert not look(deepspeed=ZERO1)
        (look.at / "scheduler.pt").unlink()
        one(look(deepspeed=ZERO1), "scheduler.pt is missing")

    def test_fsdp(self, look):
        (look.at / "pytorch_model_fsdp_0").mkdir()
        one(look(), "it was saved with FSDP")

    def test_save_only_model_for_real(self, saved, tmp_path, monkeypatch):
        """The host goes on from such a checkpoint with a new warm-up; it is refused before data or weights load."""
        from llamafactory.train.tuner import run_exp

        recipe = {**saved[1], "output_dir": str(tmp_path), "save_only_model": True}
        run_exp(recipe)
        monkeypatch.setattr("llamafactory.train.tuner.get_train_args", lambda args: pytest.fail("it went on"))
        with pytest.raises(ChatTSError, match="checkpoint-2: optimizer.pt and scheduler.pt are missing"):
            run_exp({**recipe, "max_steps": 4})


CHANGED = [
    ({"timeseries_tuning": "full"}, "timeseries_tuning: lora, the recipe has full"),
    ({"timeseries_tuning": "freeze", "timeseries_sft_lr": None}, "timeseries_tuning: lora, the recipe has freeze"),
    ({"train_timeseries_modules": False, "timeseries_sft_lr": None}, "timeseries_tuning: lora"),
    ({"timeseries_sft_lr": None}, "timeseries_sft_lr"),
    ({"lora_rank": 8}, "lora_rank: 4"),
    ({"lora_rank": None}, "lora_rank: 4"),
    ({"lora_alpha": 99}, "lora_alpha: 8"),
    ({"use_dora": True}, "use_dora: false"),
    ({"finetuning_type": "oft"}, "finetuning_type"),
]
ONLY_RECORDED = [
    ({"lora_target": "q_proj,v_proj"}, "lora_target: all, the recipe has q_proj,v_proj"),
    ({"additional_target": "lm_head"}, "Remove additional_target"),
    ({"loraplus_lr_ratio": 16.0}, "Remove loraplus_lr_ratio"),
    ({"optim": "adafactor"}, "optim: adamw"),
    ({"learning_rate": 5e-4}, "learning_rate: 0.001, the recipe has 0.0005: the stored optimizer keeps its own"),
    ({"timeseries_sft_lr": "1e-3"}, "timeseries_sft_lr: 0.002, the recipe has 1e-3"),
    ({"weight_decay": 0.1}, "weight_decay: 0.0"),
    ({"per_device_train_batch_size": 1}, "2 rows per optimizer step then, 1 now"),
]


class TestSameTraining:
    @pytest.mark.parametrize("changes, said", [*CHANGED, *ONLY_RECORDED])
    def test_recorded_settings(self, look, changes, said):
        lines = look(**changes)
        assert any(said in line for line in lines), lines

    @pytest.mark.parametrize("changes, said", CHANGED)
    def test_a_checkpoint_of_an_older_version(self, look, changes, said):
        (look.at / RECORD).unlink()
        assert any(said.split(":")[0] in line for line in look(**changes))
        assert not look()

    @pytest.mark.parametrize(
        "changes",
        [
            {"lora_rank": "4", "learning_rate": "1.0e-3", "lora_alpha": 8, "lora_target": ["all"]},
            {"timeseries_tuning": "lora", "train_timeseries_modules": True, "use_dora": "false"},
            {"num_train_epochs": 9, "logging_steps": 5, "save_steps": 7, "eval_strategy": "no"},
            {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
            {"oft_rank": 3, "freeze_trainable_layers": 1},
        ],
        ids=["written otherwise", "defaults", "what may change", "the same rows", "of other methods"],
    )
    def test_what_may_differ(self, look, changes):
        assert not look(**changes)

    def test_data_may_begin_anew_on_purpose(self, look):
        assert not look(per_device_train_batch_size=1, ignore_data_skip=True)

    def test_other_number_of_processes(self, look, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        one(look(), "2 rows per optimizer step then, 4 now")
        assert not look(per_device_train_batch_size=1)

    def test_nothing_left_to_train(self, look):
        one(look("warning", at_start=False, max_steps=2), "it is at step 2 of 2")

    def test_whole_models(self, saved, tmp_path):
        from llamafactory.train.tuner import run_exp

        recipe = {**saved[1], "output_dir": str(tmp_path), "finetuning_type": "full", "lora_rank": None}
        recipe = {key: value for key, value in recipe.items() if value is not None}
        run_exp({**recipe, "save_steps": 2})

        def look(**changes):
            found = check_recipe(Recipe({**recipe, "max_steps": 4, **changes}), True)
            return [line.what for line in found if line.subject == "resume_from_checkpoint"]

        assert not look()
        one(look(train_timeseries_modules=False), "train_timeseries_modules: true, the recipe has False")
        one(look(finetuning_type="lora"), "it does not hold the weights of an adapter")
