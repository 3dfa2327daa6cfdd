"""Adapters: what was trained is what is loaded again, on the base and beside the reference that people mean."""

import json
import math
import shutil

import pytest
from host_steps import load_all
from safetensors.torch import load_file

from llamafactory_chatts.core.base_record import RECORD
from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.data.synthesize.demo import corpus, generate
from llamafactory_chatts.model.bases.tiny_base import init_tiny


COLUMNS = {"prompt": "input", "timeseries": "timeseries"}
ENTRIES = {
    "data": {"formatting": "chatts"},
    "pairs": {"ranking": True, "columns": {**COLUMNS, "chosen": "output", "rejected": "bad"}},
    "tags": {"columns": {**COLUMNS, "response": "output", "kto_tag": "tag"}},
}


class Runs:
    """Trainings on one tiny base, each made once; ``NAME`` is the folder of the run NAME."""

    def __init__(self, base, folder):
        self.base, self.folder, self.made = base, folder, {}
        rows = [{**row, "bad": "no", "tag": i % 2 == 0} for i, row in enumerate(generate(8, 0, 32, 64))]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        entries = {name: {"file_name": "rows.jsonl", **entry} for name, entry in ENTRIES.items()}
        (folder / "dataset_info.json").write_text(json.dumps(entries))

    def recipe(self, name="loaded", **changes):
        settings = {
            "model_name_or_path": str(self.base),
            "stage": "sft",
            "do_train": True,
            "lora_rank": 4,
            "template": "chatts",
            "dataset": "data",
            "eval_dataset": "data",
            "dataset_dir": str(self.folder),
            "cutoff_len": 1024,
            "output_dir": str(self.folder / name),
            "per_device_train_batch_size": 2,
            "learning_rate": 2e-2,
            "max_steps": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            **changes,
        }
        return {key: value for key, value in settings.items() if value is not None}

    def train(self, name, **changes):
        """Return the folder of a run; its ``eval_results.json`` holds the loss of the model as it was trained."""
        from llamafactory.train.tuner import run_exp

        if name not in self.made:
            run_exp(self.recipe(name, **{"do_eval": True, **changes}))
            self.made[name] = self.folder / name

        return self.made[name]

    def loss(self, **changes):
        """Return the loss of a model as it is loaded, in a run with another seed."""
        from llamafactory.train.tuner import run_exp

        run_exp(self.recipe(do_train=None, do_eval=True, overwrite_output_dir=True, seed=7, **changes))
        return trained_loss(self.folder / "loaded")


def trained_loss(folder):
    return json.loads((folder / "eval_results.json").read_text())["eval_loss"]


def steps(folder):
    return [
        entry for entry in json.loads((folder / "trainer_state.json").read_text())["log_history"] if "loss" in entry
    ]


@pytest.fixture(scope="module")
def runs(tiny_base, tmp_path_factory):
    return Runs(tiny_base, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def other_base(tmp_path_factory):
    return init_tiny(tmp_path_factory.mktemp("bases") / "other", [*corpus(60), "<tool_response>"], seed=1)


@pytest.fixture
def nothing_loads(monkeypatch):
    """The test fails when weights are loaded."""

    def loaded(*args, **kwargs):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", loaded)
    monkeypatch.setattr("llamafactory.model.loader.AutoModelForCausalLM.from_pretrained", loaded)


@pytest.fixture
def said(monkeypatch):
    """The host's lines about adapters."""
    from llamafactory.model import adapter

    lines = []
    monkeypatch.setattr(adapter.logger, "info_rank0", lines.append)
    return lines


pytestmark = pytest.mark.slow
PISSA = {"pissa_init": True, "pissa_convert": True}


class TestPissa:
    @pytest.mark.parametrize(
        "name, settings",
        [
            ("pissa", {}),
            ("pissa_full", {"timeseries_tuning": "full"}),
            ("pissa_dora", {"use_dora": True}),
            ("pissa_exact", {"pissa_iter": -1}),
        ],
    )
    def test_what_is_saved_is_what_was_trained(self, runs, name, settings):
        out = runs.train(name, **PISSA, **settings)
        wanted = trained_loss(out)
        assert wanted < steps(out)[0]["loss"] - 0.01, "it learned something"
        assert runs.loss(adapter_name_or_path=str(out)) == pytest.approx(wanted, abs=2e-5)
        assert runs.loss(adapter_name_or_path=str(out / "pissa_converted")) == pytest.approx(wanted, abs=2e-4)

    def test_a_converted_adapter_holds_the_encoder(self, runs):
        out = runs.train("pissa_full", **PISSA, timeseries_tuning="full")
        saved, converted = (
            {key: value for key, value in load_file(folder / "adapter_model.safetensors").items() if "ts_enc" in key}
            for folder in (out, out / "pissa_converted")
        )
        assert len(converted) == 7 and all(converted[key].equal(saved[key]) for key in saved)

    def test_resumed_it_ends_where_the_whole_run_ends(self, runs):
        """The converted adapter, too: the factors it began with are those of step 0."""
        settings = {**PISSA, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        whole = runs.train("pissa_whole", **settings)
        for name in ("pissa_init", "checkpoint-2"):
            shutil.copytree(whole / name, runs.folder / "pissa_again" / name)

        again = runs.train("pissa_again", **settings)
        assert [entry["step"] for entry in steps(again)] == [1, 2, 3, 4]
        assert trained_loss(again) == pytest.approx(trained_loss(whole), abs=2e-5)
        assert runs.loss(adapter_name_or_path=str(again / "pissa_converted")) == pytest.approx(
            trained_loss(whole), abs=2e-4
        )

    def test_resumed_without_its_beginning(self, runs):
        whole = runs.train("pissa_whole", **PISSA, max_steps=4, save_strategy="steps", save_steps=2)
        shutil.copytree(whole / "checkpoint-2", runs.folder / "pissa_lost" / "checkpoint-2")
        with pytest.raises(ChatTSError, match="pissa_init: the training is resumed, and the adapter it began with"):
            runs.train("pissa_lost", **PISSA, max_steps=4)

    def test_an_adapter_from_a_random_start_is_refused(self, runs, tmp_path, nothing_loads):
        old = shutil.copytree(runs.train("pissa", **PISSA), tmp_path / "old")
        (old / RECORD).unlink()
        with pytest.raises(ChatTSError, match="old: it was made with PiSSA .* from a random start"):
            load_all(runs.recipe(adapter_name_or_path=str(old)))

    def test_quantised_weights_are_refused(self, runs, nothing_loads):
        out = runs.train("pissa", **PISSA)
        with pytest.raises(ChatTSError, match="made with PiSSA, which needs the 16-bit weights"):
            load_all(runs.recipe(adapter_name_or_path=str(out), quantization_bit=4))


class TestReference:
    @pytest.mark.parametrize("stage, dataset", [("dpo", "pairs"), ("kto", "tags")])
    @pytest.mark.parametrize("tuning", ["lora", "full"])
    def test_it_is_the_model_that_is_trained_on(self, runs, stage, dataset, tuning):
        """As if the base and the adapter had been named as reference; of which DPO's first loss is ln 2."""
        sft = runs.train(f"sft_{tuning}", timeseries_tuning=tuning, max_steps=3)
        settings = {"stage": stage, "dataset": dataset, "eval_dataset": None, "do_eval": False, "max_steps": 3}
        settings |= {"adapter_name_or_path": str(sft)}
        named = {"ref_model": str(runs.base), "ref_model_adapters": str(sft)}
        plain, explicit = (
            steps(runs.train(f"{stage}_{tuning}_{name}", **settings, **more))
            for name, more in (("plain", {}), ("named", named))
        )
        assert [entry["loss"] for entry in plain] == pytest.approx([entry["loss"] for entry in explicit], abs=1e-4)
        if stage == "dpo":
            assert plain[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
            assert plain[-1]["loss"] < 0.69, "the reference stays, the model moves"

    def test_a_new_adapter_on_a_merged_one(self, runs):
        sft = runs.train("sft_lora", timeseries_tuning="lora", max_steps=3)
        settings = {"stage": "dpo", "dataset": "pairs", "eval_dataset": None, "do_eval": False}
        new = runs.train("dpo_new", adapter_name_or_path=str(sft), create_new_adapter=True, **settings)
        assert steps(new)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
        both = runs.train("dpo_both", adapter_name_or_path=f"{sft},{new}", **settings)
        assert steps(both)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)

    def test_stages_without_reference_keep_no_copy(self, runs, said):
        sft = runs.train("sft_lora", timeseries_tuning="lora", max_steps=3)
        for settings in ({"stage": "dpo", "pref_loss": "orpo"}, {"stage": "rm"}, {"stage": "sft"}):
            dataset = "data" if settings["stage"] == "sft" else "pairs"
            load_all(runs.recipe(adapter_name_or_path=str(sft), dataset=dataset, eval_dataset=None, **settings))

        assert not any("reference" in line for line in said)
        load_all(runs.recipe(adapter_name_or_path=str(sft), dataset="pairs", eval_dataset=None, stage="dpo"))
        assert any("the reference is the model with the loaded adapter" in line for line in said)

    def test_sharded_weights_are_refused(self, runs, monkeypatch, nothing_loads):
        sft = runs.train("sft_lora", timeseries_tuning="lora", max_steps=3)
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        with pytest.raises(ChatTSError, match="ZeRO-3 and FSDP cannot keep .* Name it in ref_model"):
            load_all(runs.recipe(adapter_name_or_path=str(sft), dataset="pairs", eval_dataset=None, stage="dpo"))


class TestBase:
    def test_every_save_names_it(self, runs):
        out = runs.train("saved", save_strategy="steps", save_steps=1)
        records = [json.loads((folder / RECORD).read_text()) for folder in (out, out / "checkpoint-1")]
        assert records[0] == records[1] and records[0]["base"]["name"] == runs.base.name
        assert str(runs.base.parent) not in (out / RECORD).read_text()

    def test_a_copy_of_it_is_the_same(self, runs, tmp_path):
        out = runs.train("saved", save_strategy="steps", save_steps=1)
        copy = shutil.copytree(runs.base, tmp_path / "copy")
        assert runs.loss(model_name_or_path=str(copy), adapter_name_or_path=str(out)) == pytest.approx(
            trained_loss(out), abs=2e-5
        )

    @pytest.mark.parametrize("settings", [{}, {"create_new_adapter": True}, {"do_train": None, "do_eval": True}])
    def test_another_one_is_refused(self, runs, other_base, nothing_loads, settings):
        out = runs.train("saved", save_strategy="steps", save_steps=1)
        recipe = runs.recipe(model_name_or_path=str(other_base), adapter_name_or_path=str(out), **settings)
        with pytest.raises(ChatTSError, match="saved: it was trained on another base .* Name that base"):
            load_all(recipe)

    def test_another_one_is_refused_when_resuming(self, runs, other_base, nothing_loads):
        out = runs.train("saved", save_strategy="steps", save_steps=1)
        with pytest.raises(ChatTSError, match="resume_from_checkpoint.*trained on another base"):
            load_all(runs.recipe(model_name_or_path=str(other_base), resume_from_checkpoint=str(out / "checkpoint-1")))

    def test_an_older_adapter_gets_a_line(self, runs, tmp_path, monkeypatch):
        from llamafactory.model import loader

        lines = []
        monkeypatch.setattr(loader.logger, "info_rank0", lines.append)
        old = shutil.copytree(runs.train("saved", save_strategy="steps", save_steps=1), tmp_path / "old")
        (old / RECORD).unlink()
        load_all(runs.recipe(adapter_name_or_path=str(old)))
        assert sum("old: it is not known which base it was trained on" in line for line in lines) == 1

    def test_merged_once(self, runs, tmp_path, other_base):
        from llamafactory.train.tuner import export_model

        out = runs.train("saved", save_strategy="steps", save_steps=1)
        merge = {"adapter_name_or_path": str(out), "template": "chatts", "infer_dtype": "float32"}
        merged = tmp_path / "merged"
        export_model({"model_name_or_path": str(runs.base), "export_dir": str(merged), **merge})
        assert json.loads((merged / RECORD).read_text())["merged"][0]["name"] == "saved"
        with pytest.raises(ChatTSError, match="merged already holds it: it was merged into it"):
            export_model({"model_name_or_path": str(merged), "export_dir": str(tmp_path / "twice"), **merge})

        with pytest.raises(ChatTSError, match="trained on another base"):
            export_model({"model_name_or_path": str(other_base), "export_dir": str(tmp_path / "wrong"), **merge})

        assert not (tmp_path / "twice").exists() and not (tmp_path / "wrong").exists()
        assert runs.loss(model_name_or_path=str(merged)) == pytest.approx(trained_loss(out), abs=2e-5)

        export_model({"model_name_or_path": str(merged), "export_dir": str(tmp_path / "again"), "template": "chatts"})
        assert json.loads((tmp_path / "again" / RECORD).read_text()) == json.loads((merged / RECORD).read_text())


class TestQuantised:
    @pytest.fixture(autouse=True)
    def needs_bitsandbytes(self):
        pytest.importorskip("bitsandbytes")

    @pytest.mark.parametrize("tuning", ["lora", "full"])
    def test_qdora(self, runs, tuning):
        settings = {"quantization_bit": 4, "use_dora": True, "timeseries_tuning": tuning}
        out = runs.train(f"qdora_{tuning}", **settings)
        assert any("lora_magnitude_vector" in key for key in load_file(out / "adapter_model.safetensors"))
        assert runs.loss(adapter_name_or_path=str(out), quantization_bit=4) == pytest.approx(
            trained_loss(out), abs=1e-3
        )

    @pytest.mark.parametrize(
        "settings, words",
        [
            ({"quantization_bit": 4}, "quantization_bit: the export would stay quantised"),
            ({"quantization_bit": 8, "adapter_name_or_path": "saved"}, "cannot be merged into quantised weights"),
            ({"export_quantization_bit": 4, "export_quantization_dataset": "x"}, "GPTQ would quantise the series enc"),
        ],
    )
    def test_exports_are_refused(self, runs, tmp_path, nothing_loads, settings, words):
        from llamafactory.train.tuner import export_model

        runs.train("saved", save_strategy="steps", save_steps=1)
        if "adapter_name_or_path" in settings:
            settings = {**settings, "adapter_name_or_path": str(runs.folder / "saved")}

        target = tmp_path / "out"
        with pytest.raises(ChatTSError, match=words):
            export_model(
                {
                    "model_name_or_path": str(runs.base),
                    "template": "chatts",
                    "export_dir": str(target),
                    **settings,
                }
            )

        assert not target.exists()

    def test_a_base_that_is_stored_in_4_bits(self, runs, tmp_path, nothing_loads):
        from llamafactory.train.tuner import export_model

        base = shutil.copytree(runs.base, tmp_path / "base")
        config = json.loads((base / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        (base / "config.json").write_text(json.dumps(config))
        with pytest.raises(ChatTSError, match="stored quantised: it cannot be exported. Name the 16-bit base"):
            export_model({"model_name_or_path": str(base), "template": "chatts", "export_dir": str(tmp_path / "out")})


class TestOft:
    @pytest.mark.parametrize("tuning", ["lora", "full"])
    @pytest.mark.parametrize("method", ["oft", "lora"])
    def test_it_is_loaded_again(self, runs, tuning, method, tmp_path):
        out = runs.train(f"oft_{tuning}", finetuning_type="oft", timeseries_tuning=tuning)
        assert runs.loss(adapter_name_or_path=str(out), finetuning_type=method) == pytest.approx(
            trained_loss(out), abs=2e-5
        )
        load_all(runs.recipe(adapter_name_or_path=str(out), finetuning_type=method, timeseries_tuning=tuning))
        if method == "oft":
            from llamafactory.train.tuner import export_model

            settings = {"template": "chatts", "infer_dtype": "float32", "export_dir": str(tmp_path / "merged")}
            adapter = {"adapter_name_or_path": str(out), "finetuning_type": "oft"}
            export_model({"model_name_or_path": str(runs.base), **adapter, **settings})
            assert runs.loss(model_name_or_path=str(tmp_path / "merged")) == pytest.approx(trained_loss(out), abs=2e-5)

    def test_quantised(self, runs):
        out = runs.train("oft_4", finetuning_type="oft", quantization_bit=4)
        wanted = {"adapter_name_or_path": str(out), "finetuning_type": "oft", "quantization_bit": 4}
        assert runs.loss(**wanted) == pytest.approx(trained_loss(out), abs=1e-3)

    def test_an_adapter_of_another_kind(self, runs, nothing_loads):
        out = runs.train("saved", save_strategy="steps", save_steps=1)
        with pytest.raises(ChatTSError, match="an adapter of the kind lora, finetuning_type is oft"):
            load_all(runs.recipe(adapter_name_or_path=str(out), finetuning_type="oft"))


class TestSaidAtTheStart:
    @pytest.mark.parametrize(
        "settings, words",
        [
            ({}, "is trained by adapters on its MLP: "),
            ({"finetuning_type": "oft"}, "is trained by adapters on its MLP: "),
            ({"timeseries_tuning": "full"}, "is trained as a whole: 27,332 parameters, saved beside the adapter."),
            ({"timeseries_tuning": "freeze"}, "is frozen."),
            ({"train_timeseries_modules": False}, "is frozen."),
            ({"finetuning_type": "full"}, "is trained as a whole: 27,332 parameters."),
            ({"finetuning_type": "full", "train_timeseries_modules": False}, "is frozen."),
            ({"finetuning_type": "freeze"}, "is trained as a whole: 27,332 parameters."),
            ({"quantization_bit": 4}, "is trained by adapters on its MLP: "),
            ({"freeze_vision_tower": True}, "is trained by adapters on its MLP: "),
        ],
    )
    def test_what_of_the_encoder_is_trained(self, runs, said, monkeypatch, settings, words):
        from llamafactory.model.model_utils import visual

        monkeypatch.setattr(visual.logger, "info_rank0", said.append)
        load_all(runs.recipe(**settings))
        assert [line for line in said if "series encoder" in line and words in line], said
        assert not any("vision" in line for line in said), "the host's line about a part that is not there"

    @pytest.mark.parametrize("method", ["full", "freeze"])
    def test_nothing_is_trained(self, runs, method):
        with pytest.raises(ChatTSError, match="nothing is trained: encoder and language model are frozen"):
            load_all(runs.recipe(finetuning_type=method, freeze_language_model=True, train_timeseries_modules=False))
