"""The rules for recipes: each finds its mistake, none cries wolf, and the host agrees where it has an opinion."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.recipe import rules as recipe_checks
from llamafactory_chatts.recipe.machine import gpus
from llamafactory_chatts.recipe.reading import Recipe, read_recipe, recipe_of
from llamafactory_chatts.recipe.rules import RULES, Rule, check_recipe
from llamafactory_chatts.recipe.schema import schema


ROOT = Path(__file__).parents[2]
RECIPES = sorted(set((ROOT / "examples").glob("*.yaml")) - set((ROOT / "examples").glob("prepare_*.yaml")))
PAIRS = {"prompt": "input", "chosen": "output", "rejected": "input", "timeseries": "timeseries"}
ONE_PROCESS = ("WORLD_SIZE", "NNODES", "NPROC_PER_NODE", "FORCE_TORCHRUN", "CUDA_VISIBLE_DEVICES", "ALLOW_EXTRA_ARGS")


@pytest.fixture(autouse=True)
def no_card(monkeypatch):
    """A machine without cards and launcher; ``cards(card)`` gives it one."""
    for name in ONE_PROCESS:
        monkeypatch.delenv(name, raising=False)

    monkeypatch.setattr(gpus, "driver", lambda *args: gpus.Driver())


@pytest.fixture
def cards(monkeypatch):
    """Return a function that puts cards into the machine."""

    def make(*found):
        monkeypatch.setattr(gpus, "driver", lambda *args: gpus.Driver(found))

    return make


TURING = gpus.Gpu(0, "GPU-aa", "NVIDIA GeForce RTX 2080 Ti", "550.54.14", 11264, 11011, (7, 5))
AMPERE = gpus.Gpu(1, "GPU-bb", "NVIDIA GeForce RTX 3090", "550.54.14", 24576, 24111, (8, 6))


@pytest.fixture
def find(recipe, write_dataset, rows):
    """Return a function: the findings of the good recipe with changes (a key set to None is left out)."""
    write_dataset(rows(12))
    write_dataset(rows(3), name="pairs", ranking=True, columns=PAIRS)

    def look(at_start=False, **changes):
        return check_recipe(Recipe(recipe(**changes)), at_start)

    return look


def errors(findings):
    return [(finding.subject, finding.what, finding.fix) for finding in findings if finding.level == "error"]


GOOD = {
    "as it is": {},
    "numbers of every kind": {"learning_rate": 1.0e-5, "num_train_epochs": 3, "save_steps": 0.2, "warmup_steps": 10},
    "list of layers": {"lora_target": ["q_proj", "v_proj"], "report_to": ["none"]},
    "text of layers": {"lora_target": "q_proj,k_proj,v_proj", "additional_target": "embed_tokens,lm_head"},
    "dora": {"use_dora": True, "lora_dropout": 0.05},
    "qlora": {"quantization_bit": 4, "quantization_method": "bnb", "double_quantization": True},
    "small qlora": {"quantization_bit": 8, "offload_embedding": True, "lm_head_8bit": True},
    "full": {"finetuning_type": "full", "learning_rate": 1e-5},
    "freeze": {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
    "attention": {"flash_attn": "disabled"},
    "packing": {"packing": True},
    "token budget": {"tokens_per_batch": 2048, "gradient_accumulation_steps": 4},
    "evaluation": {"val_size": 0.2, "eval_strategy": "steps", "eval_steps": 1},
    "best model": {
        "val_size": 0.2,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "early_stopping_steps": 2,
    },
    "streaming": {"streaming": True, "max_steps": 10},
    "encoder": {"timeseries_tuning": "full", "timeseries_sft_lr": "1e-5"},
    "frozen encoder": {"timeseries_tuning": "freeze"},
    "saves nothing": {"save_strategy": "no", "eval_strategy": "no", "logging_strategy": "steps"},
    "nothing is set": {"quantization_bit": None, "eval_dataset": None},
    "batches": {"loss_normalization": "batch"},
    "names of LlamaBoard": {
        "flash_attn": "auto",
        "optim": "adamw_torch",
        "include_num_input_tokens_seen": True,
        "freeze_vision_tower": True,
        "trust_remote_code": True,
        "ddp_timeout": 180000000,
        "plot_loss": True,
    },
    "predict": {"do_train": None, "do_predict": True, "predict_with_generate": True, "eval_dataset": "data"},
}


@pytest.mark.parametrize("name", GOOD)
class TestGood:
    def test_no_error_is_found(self, find, name):
        changes = {key: value for key, value in GOOD[name].items()}
        assert errors(find(**changes)) == []
        assert find(at_start=True, **changes) == []

    def test_the_host_takes_it(self, find, recipe, name):
        from llamafactory.hparams import get_train_args

        get_train_args(dict(recipe(**GOOD[name])))


BAD = {
    # key in question -> changes, a word of what and fix, whether the host's parser refuses it too
    "lora_rnk": ({"lora_rnk": 8}, "Write lora_rank", True),
    "evaluation_strategy": ({"evaluation_strategy": "steps"}, "Write eval_strategy", True),
    "learning-rate": ({"learning-rate": 1e-4}, "Write learning_rate", True),
    "qqqq": ({"qqqq": 1}, "no setting has this name", True),
    "flash_attn": ({"flash_attn": False}, "disabled", False),
    "finetuning_type": ({"finetuning_type": "dora"}, "finetuning_type: lora and use_dora: true", True),
    "quantization_method": ({"quantization_bit": 4, "quantization_method": "bitsandbytes"}, "Write bnb", False),
    "save_strategy": ({"save_strategy": False}, '"no", in quotes', True),
    "lr_scheduler_type": ({"lr_scheduler_type": "cosin"}, "Write cosine", True),
    "train_timeseries_modules": ({"train_timeseries_modules": "false"}, "counts as true", False),
    "learning_rate": ({"learning_rate": "1e-4"}, "Write 0.0001 without quotes", False),
    "per_device_train_batch_size": ({"per_device_train_batch_size": "4"}, "Write 4 without quotes", False),
    "lora_rank": ({"lora_rank": 7.5}, "no whole number", False),
    "max_steps": ({"streaming": True, "max_steps": -1}, "Add max_steps", True),
    "quantization_bit": ({"quantization_bit": "None"}, "is not null", False),
    "adapter_name_or_path": ({"adapter_name_or_path": ["a", "b"]}, "text with commas", True),
    "do_train": ({"do_train": None, "learning_rate": 1e-4}, "Write do_train: true", False),
    "model_name_or_path": ({"model_name_or_path": "/no/such/base"}, "there is no folder", False),
    "dataset": ({"dataset": "dta"}, "Entries: data", False),
    "dataset_dir": ({"dataset_dir": "/no/such/folder"}, "there is no /no/such/folder/dataset_info.json", False),
    "output_dir": ({"output_dir": 5}, "is no path", True),
    "resume_from_checkpoint": ({"resume_from_checkpoint": "/no/checkpoint-1"}, "there is no folder", False),
    "fp16": ({"fp16": True, "bf16": True}, "both on", True),
    "eval_strategy": ({"eval_strategy": "steps"}, "nothing to evaluate on", True),
    "val_size": ({"val_size": 0.1, "eval_dataset": "data"}, "both set", True),
    "load_best_model_at_end": ({"load_best_model_at_end": True, "save_strategy": "steps"}, "differ", True),
    "early_stopping_steps": ({"early_stopping_steps": 3}, "nothing to compare", False),
    "use_dora": ({"finetuning_type": "full", "use_dora": True}, "finetuning_type: lora", True),
    "use_galore": ({"use_galore": True}, "does not work with LoRA", True),
    "mask_history": ({"mask_history": True, "train_on_prompt": True}, "contradict", True),
    "neat_packing": ({"neat_packing": True, "stage": "dpo", "dataset": "pairs"}, "stage sft", True),
    "infer_backend": ({"infer_backend": "vllm"}, "huggingface only", True),
    "use_unsloth": ({"use_unsloth": True}, "lose the encoder", True),
    "label_smoothing_factor": ({"label_smoothing_factor": 0.1}, "unshifted", True),
    "stage": ({"stage": "pt"}, "plain text", True),
    "timeseries_tuning": ({"timeseries_tuning": "full", "finetuning_type": "full"}, "adapter methods", True),
    "timeseries_sft_lr": ({"timeseries_sft_lr": 1e-5, "train_timeseries_modules": False}, "not trained", True),
    "tokens_per_batch": ({"tokens_per_batch": 512, "packing": True}, "fills passes already", True),
    "offload_embedding": ({"offload_embedding": True}, "quantization_bit: 4", True),
    "lora_target": ({"lora_target": "q_proj,W_pack"}, "no layer is called W_pack", False),
    "template": ({"template": "qwen3"}, "template: chatts", False),
    "report_to": ({"report_to": "tensorbord"}, "there is no 'tensorbord'", False),
    "gradient_checkpointing": (
        {"gradient_checkpointing": True, "disable_gradient_checkpointing": True},
        "switches on again",
        False,
    ),
    "deepspeed": ({"deepspeed": "/no/ds.json"}, "there is no file", True),
    "quantization_device_map": ({"quantization_bit": 4, "quantization_device_map": "auto"}, "for inference", True),
    "stage ": ({"stage": "ppo", "reward_model": "x"}, "PPO is not supported", True),
    "gradient_accumulation_steps": ({"gradient_accumulation_steps": 0}, "below 1", False),
}


@pytest.mark.parametrize("key", BAD)
class TestBad:
    def test_it_is_named_with_a_fix(self, find, key):
        changes, words, _ = BAD[key]
        found = [error for error in errors(find(**changes)) if error[0] == key.strip()]
        assert any(words in f"{what}. {fix}" for _, what, fix in found), found
        assert all(fix for _, _, fix in found)

    def test_it_is_found_at_the_start_too(self, find, key):
        assert key.strip() in [one.subject for one in find(at_start=True, **BAD[key][0])] or key == "template"

    def test_the_host_refuses_it(self, find, recipe, key):
        """Where its parser looks at the key; the others fail later, or train something else in silence."""
        from llamafactory.hparams import get_train_args

        changes, _, refused = BAD[key]
        if refused:
            with pytest.raises(Exception):  # noqa: B017  (the host and transformers raise all kinds)
                get_train_args(dict(recipe(**changes)))
        elif key not in ("output_dir", "deepspeed"):
            get_train_args(dict(recipe(**changes)))


class TestRealRecipes:
    @pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
    def test_a_shipped_recipe_has_no_error(self, path, monkeypatch):
        monkeypatch.chdir(ROOT)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        assert errors(check_recipe(read_recipe(path.relative_to(ROOT), ["report_to=none"]))) == []

    @pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
    def test_with_a_mistake_it_has_that_one(self, path, monkeypatch):
        monkeypatch.chdir(ROOT)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        found = errors(check_recipe(read_recipe(path.relative_to(ROOT), ["report_to=none", "flash_attn=False"])))
        assert [subject for subject, _, _ in found] == ["flash_attn"]

    def test_neither_torch_nor_the_host_is_imported(self, tmp_path):
        script = (
            "import sys, time\nfrom llamafactory_chatts.cli import main\n"
            "code = main(['doctor', 'examples/chatts_demo.yaml', 'model_name_or_path=a/b'])\n"
            "print(code, time.process_time() < 3, [n for n in ('torch', 'llamafactory') if n in sys.modules])"
        )
        environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, env=environment
        )
        assert done.stdout.splitlines()[-1] == "0 True []"


class TestSchema:
    def test_it_equals_the_argument_classes(self):
        from llamafactory import hparams

        kinds = ("Model", "Data", "Training", "Finetuning", "Generating")
        real = {
            field.name
            for kind in kinds
            for field in dataclasses.fields(getattr(hparams, f"{kind}Arguments"))
            if field.init
        }
        assert set(schema()) == real

    def test_types_and_choices(self):
        fields = schema()
        assert fields["flash_attn"].choices == ("auto", "disabled", "sdpa", "fa2", "fa3")
        assert fields["bf16"].types == {"bool"} and fields["lora_rank"].types == {"int"}
        assert fields["eval_strategy"].choices == ("no", "steps", "epoch")
        assert fields["timeseries_sft_lr"].optional and not fields["lora_rank"].optional

    def test_every_default_passes(self):
        """No rule for types may refuse what an argument class starts with."""
        from llamafactory import hparams

        from llamafactory_chatts.recipe.checks.keys import wrong_values
        from llamafactory_chatts.recipe.context import Context

        kinds = ("Model", "Data", "Training", "Finetuning", "Generating")
        values = {
            field.name: field.default
            for kind in kinds
            for field in dataclasses.fields(getattr(hparams, f"{kind}Arguments"))
            if field.init and field.default is not dataclasses.MISSING
        }
        found = list(wrong_values(Context(Recipe(values))))
        assert len(values) > 300 and found == []


class TestCards:
    def test_bf16_on_a_card_without_it(self, find, cards):
        cards(TURING)
        found = errors(find(bf16=True, use_cpu=None))
        assert found[0][0] == "bf16" and "RTX 2080 Ti" in found[0][1] and "fp16: true" in found[0][2]
        assert errors(find(fp16=True, use_cpu=None)) == []

    def test_bf16_on_a_card_with_it(self, find, cards, monkeypatch):
        cards(TURING, AMPERE)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        assert errors(find(bf16=True, use_cpu=None)) == []

    def test_several_processes_with_unused_parameters(self, find, cards):
        cards(dataclasses.replace(AMPERE, index=0), dataclasses.replace(AMPERE, uuid="GPU-cc"))
        changes = {"bf16": True, "use_cpu": None, "ddp_find_unused_parameters": True}
        assert [error[0] for error in errors(find(**changes))] == ["ddp_find_unused_parameters"]
        assert errors(find(**changes, use_reentrant_gc=False)) == []
        assert errors(find(**changes, disable_gradient_checkpointing=True)) == []

    def test_one_process_is_only_warned(self, find):
        found = [one for one in find(ddp_find_unused_parameters=True) if one.subject == "ddp_find_unused_parameters"]
        assert [one.level for one in found] == ["warning"]


class TestWithoutACard:
    def test_checkpoints_that_go_back_to_cuda(self, find, monkeypatch):
        from llamafactory_chatts.recipe.launch import packages as recipe_checks_launch

        def levels(**changes):
            return [one.level for one in find(use_unsloth_gc=True, **changes) if one.subject == "use_unsloth_gc"]

        assert levels() == levels(at_start=True) == ["error"]
        monkeypatch.setattr(recipe_checks_launch, "DEVICES", ())
        assert levels(use_cpu=None) == ["warning"] and levels(use_cpu=None, at_start=True) == ["error"]
        assert levels(disable_gradient_checkpointing=True) == []
        monkeypatch.setattr(recipe_checks_launch, "DEVICES", ("/",))  # a driver, but no nvidia-smi
        assert levels(use_cpu=None) == []
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
        assert levels(use_cpu=None, at_start=True) == ["error"]

    def test_with_one(self, find, cards):
        cards(AMPERE)
        assert errors(find(use_unsloth_gc=True, use_cpu=None, bf16=True)) == []


class TestFiles:
    def test_a_used_output_folder(self, find, tmp_path):
        out = tmp_path / "saves"
        out.mkdir()
        assert errors(find()) == []
        (out / "adapter_model.safetensors").write_bytes(b"")
        assert errors(find())[0][0] == "output_dir"
        assert errors(find(overwrite_output_dir=True)) == []
        (out / "checkpoint-7").mkdir()
        assert [(one.level, "checkpoint-7" in one.what) for one in find() if one.subject == "output_dir"] == [
            ("warning", True)
        ]

    def test_a_base_without_series(self, find, plain_qwen3):
        found = errors(find(model_name_or_path=str(plain_qwen3)))
        assert found[0][0] == "model_name_or_path" and "lmf-chatts init-base" in found[0][2]

    def test_missing_shards(self, find, tmp_path, tiny_base):
        base = tmp_path / "base"
        base.mkdir()
        (base / "config.json").write_text((tiny_base / "config.json").read_text())
        shards = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        (base / "model.safetensors.index.json").write_text(json.dumps(shards))
        assert "2 of 2 weight files are missing" in errors(find(model_name_or_path=str(base)))[0][1]

    def test_a_missing_data_file(self, find, tmp_path):
        (tmp_path / "data.jsonl").unlink()
        assert "there is no file" in errors(find())[0][1]

    def test_pairs_for_sft(self, find):
        assert "single answers" in errors(find(dataset="pairs"))[0][1]
        assert errors(find(dataset="pairs", stage="dpo")) == []

    def test_offline_without_a_cache(self, find, monkeypatch, tmp_path):
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        name = {"model_name_or_path": "bytedance-research/ChatTS-8B"}
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert "HF_HUB_OFFLINE" in errors(find(**name))[0][1]
        (tmp_path / "hub/models--bytedance-research--ChatTS-8B/snapshots/0").mkdir(parents=True)
        (tmp_path / "hub/models--bytedance-research--ChatTS-8B/snapshots/0/config.json").write_text("{}")
        assert errors(find(**name)) == []

    def test_deepspeed_that_contradicts(self, find, tmp_path):
        config = {
            "train_micro_batch_size_per_gpu": 4,
            "bf16": {"enabled": True},
            "gradient_clipping": "auto",
            "zero_optimization": {"stage": 3},
        }
        (tmp_path / "ds.json").write_text(json.dumps(config))
        found = errors(find(deepspeed=str(tmp_path / "ds.json"), pure_bf16=True))
        assert [what.split(" ")[0] for key, what, _ in found if key == "deepspeed"] == [
            "train_micro_batch_size_per_gpu",
            "bf16.enabled",
        ]
        assert "pure_bf16" in [key for key, _, _ in found]
        (tmp_path / "ds.json").write_text("{")
        assert "no readable JSON" in errors(find(deepspeed=str(tmp_path / "ds.json")))[0][1]


class TestWarnings:
    def test_intervals_and_reference(self, find):
        found = {one.subject: one for one in find(save_steps=500, save_strategy="steps", max_steps=20)}
        assert found["save_steps"].level == "warning" and "the run has 20" in found["save_steps"].what
        assert [one.subject for one in find(stage="dpo", dataset="pairs", finetuning_type="full")] == ["stage"]
        assert find(stage="dpo", dataset="pairs") == []

    def test_steps_are_counted_as_the_trainer_does(self, find):
        """12 rows, batches of 5, two of them a step: 3 batches, 2 steps an epoch."""
        changes = {"max_steps": None, "num_train_epochs": 2, "save_strategy": "steps"}
        changes |= {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 2}
        assert "the run has 4" in find(**changes, save_steps=5)[0].what
        assert find(**changes, save_steps=4) == []

    def test_remote_code_is_a_note(self, find):
        assert [(one.level, one.subject) for one in find(trust_remote_code=True)] == [("note", "trust_remote_code")]


class TestReading:
    def write(self, tmp_path, text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    def test_as_the_host_reads_it(self, tmp_path, monkeypatch):
        from llamafactory.hparams import read_args

        path = self.write(tmp_path, "a: 1e-5\nb: no\nc: [1, x]\nd: 010\n# e: 1\nf: null\n")
        words = ["a=2e-4", "g=True", "h=x,y", "i="]
        monkeypatch.setattr(sys, "argv", ["llamafactory-cli", str(path), *words])
        assert read_recipe(path, words).values == read_args()

    def test_where(self, tmp_path):
        read = read_recipe(self.write(tmp_path, "# head\nstage: sft\n\nlora_rnk: 4\n"), ["stage=dpo"])
        assert read.where("lora_rnk").endswith("recipe.yaml:4") and read.where("stage") == "command line"
        (finding,) = [one for one in check_recipe(read) if one.subject == "lora_rnk"]
        assert finding.where.endswith("recipe.yaml:4")

    @pytest.mark.parametrize(
        "text, words",
        [("a: 1\na: 2\n", "recipe.yaml:2"), ("a: b\n\tc: 1\n", "recipe.yaml:2"), ("- 1\n", "mapping of keys")],
    )
    def test_broken_files_are_named_with_their_line(self, tmp_path, text, words):
        with pytest.raises(ChatTSError, match=words):
            read_recipe(self.write(tmp_path, text))

    def test_flags_behind_a_recipe(self, tmp_path):
        with pytest.raises(ChatTSError, match="Write it as learning_rate=VALUE"):
            read_recipe(self.write(tmp_path, "a: 1\n"), ["--learning_rate", "1e-4"])

    def test_a_json_recipe_is_refused_as_the_host_does(self, tmp_path):
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps({"stage": "sft", "do_train": True}))
        assert "JSON" in [one.what for one in check_recipe(read_recipe(path)) if one.subject == "recipe"][0]

    def test_words_of_a_command_line(self, find, recipe):
        words = [part for key, value in recipe(save_strategy="no").items() for part in (f"--{key}", str(value))]
        assert check_recipe(recipe_of(words, ["x"]), at_start=True) == []
        found = check_recipe(recipe_of([*words, "--flash_attn", "False", "--lora_rnk=8"], ["x"]), at_start=True)
        assert sorted(one.subject for one in found) == ["flash_attn", "lora_rnk"]
        assert {one.where for one in found} == {"command line"}

    def test_lines_are_known_in_a_starting_training(self, tmp_path):
        path = self.write(tmp_path, yaml.safe_dump({"lora_rnk": 8, "stage": "sft"}))
        recipe = recipe_of({"lora_rnk": 8, "stage": "sft"}, ["launcher.py", str(path)])
        assert recipe.where("lora_rnk").endswith("recipe.yaml:1")
        assert recipe_of({"stage": "dpo"}, ["launcher.py", str(path)]).path is None


class TestRun:
    def test_a_rule_that_fails_is_reported(self, find, monkeypatch):
        def broken(context):
            raise RuntimeError("oops")

        monkeypatch.setattr(recipe_checks, "RULES", (Rule("broken", broken), *RULES))
        found = find(lora_rnk=8)
        assert [(one.level, one.subject) for one in found] == [("error", "lora_rnk"), ("note", "broken")]
        assert find(at_start=True) == []

    def test_recipes_for_chat_are_left_alone(self, tiny_base):
        chat = {"model_name_or_path": str(tiny_base), "template": "chatts", "infer_backend": "huggingface"}
        assert check_recipe(Recipe(chat)) == []

    @pytest.mark.slow
    def test_the_hosts_parser_is_asked(self, recipe, write_dataset, rows):
        from llamafactory_chatts.recipe.host_parser import ask_parser

        write_dataset(rows(2))
        assert ask_parser(Recipe(recipe(bf16=True))) == []
        (finding,) = ask_parser(Recipe(recipe(buffer_size=5, interleave_probs="0.5")))
        assert finding.level == "error" and "interleave" in finding.what
