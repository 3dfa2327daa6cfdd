"""What is trained, at which rate, and what is saved: with LLaMA-Factory's own arguments, loader and trainer."""

import json
import math

import pytest
import torch
from host_steps import collate, load_all, parse
from safetensors.torch import load_file

from llamafactory_chatts.core.errors import ChatTSError


ATTENTION = {"q_proj", "k_proj", "v_proj"}
LINEAR = ATTENTION | {"o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture
def load(write_dataset, recipe, rows):
    def load(**settings):
        write_dataset(rows(4))
        return load_all(recipe(**settings))

    return load


@pytest.fixture
def train(write_dataset, recipe, rows, tmp_path):
    """Train with ``run_exp``; return the log of the steps and the output folder."""
    from llamafactory.train.tuner import run_exp

    def train(name="run", data=None, **settings):
        write_dataset(data or rows(12))
        out = tmp_path / name
        run_exp(recipe(**{"output_dir": str(out), "seed": 1, **settings}))
        history = json.loads((out / "trainer_state.json").read_text())["log_history"]
        return [entry for entry in history if "loss" in entry], out

    return train


def trained(model):
    return {name for name, param in model.named_parameters() if param.requires_grad}


def split(model):
    """Return the trained names of the encoder and the others, without the adapter's prefix."""
    names = {name.removeprefix("base_model.model.") for name in trained(model)}
    encoder = {name for name in names if name.startswith("ts_encoder.")}
    return encoder, names - encoder


def layers(names):
    return {name.split(".lora_")[0].split(".")[-1] for name in names}


class TestAdapters:
    @pytest.mark.parametrize(
        "target, wanted", [("all", LINEAR), ("q_proj,k_proj,v_proj", ATTENTION), ("down_proj", {"down_proj"})]
    )
    @pytest.mark.parametrize("tuning", [None, "lora"])
    def test_lora(self, load, target, wanted, tuning):
        """The encoder's layers are called 0, 2 and 4, which are decoder layers, too (trap 5)."""
        run = load(lora_target=target, timeseries_tuning=tuning)
        encoder, language = split(run.model)
        assert layers(language) == wanted and all(".lora_" in name for name in language)
        assert len(language) == len(wanted) * 2 * 2, "both layers, both matrices"
        assert layers(encoder) == {"0", "2", "4"} and len(encoder) == 6
        assert all(name.startswith("ts_encoder.mlp.") and ".lora_" in name for name in encoder)

    @pytest.mark.parametrize("settings", [{"timeseries_tuning": "freeze"}, {"train_timeseries_modules": False}])
    def test_frozen_encoder(self, load, settings):
        encoder, language = split(load(**settings).model)
        assert not encoder and layers(language) == LINEAR

    def test_full_encoder_beside_the_adapter(self, load):
        run = load(timeseries_tuning="full")
        encoder, language = split(run.model)
        assert layers(language) == LINEAR
        assert {name.replace("modules_to_save.default.", "") for name in encoder} == {
            "ts_encoder.position_embedding.weight",
            *(f"ts_encoder.mlp.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")),
        }

    def test_full_in_the_hosts_own_words(self, load):
        encoder, _ = split(load(additional_target="ts_encoder").model)
        assert len(encoder) == 7 and not any(".lora_" in name for name in encoder)

    def test_a_list_of_targets_that_peft_shortens(self, load, monkeypatch):
        monkeypatch.setattr("peft.tuners.tuners_utils.MIN_TARGET_MODULES_FOR_OPTIMIZATION", 3)  # as with many layers
        encoder, language = split(load().model)
        assert layers(encoder) == {"0", "2", "4"} and len(encoder) == 6
        assert layers(language) == LINEAR and len(language) == len(LINEAR) * 4

    def test_other_targets_in_full_are_kept(self, load):
        run = load(timeseries_tuning="full", additional_target="embed_tokens")
        encoder, language = split(run.model)
        assert encoder and any("embed_tokens.modules_to_save" in name for name in language)

    def test_the_encoder_alone(self, load):
        encoder, language = split(load(freeze_language_model=True).model)
        assert encoder and not language
        with pytest.raises(ChatTSError, match="freeze_language_model: no layer is left for the adapter"):
            load(freeze_language_model=True, train_timeseries_modules=False)

    @pytest.mark.parametrize("extra", [{"use_dora": True}, {"use_rslora": True}, {"finetuning_type": "oft"}])
    def test_other_adapters(self, load, extra):
        run = load(**extra)
        encoder, language = split(run.model)
        assert encoder and language
        assert torch.isfinite(run.model(**collate(run, [run.train[0]])).loss)

    def test_the_encoder_is_called_through_the_wrapper(self, load):
        """Also where the step has no series."""
        for tuning in ("lora", "full"):
            run = load(timeseries_tuning=tuning)
            run.model(**collate(run, [run.train[0]])).loss.backward()
            assert any(p.grad.any() for n, p in run.model.named_parameters() if "ts_encoder" in n and p.requires_grad)
            run.model.zero_grad()
            text = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[-100, 6, 7]])}
            run.model(**text).loss.backward()
            assert all(p.grad is not None for n, p in run.model.named_parameters() if p.requires_grad)

    def test_both_backbones(self, load, tiny_base_qwen2):
        encoder, language = split(load(model_name_or_path=str(tiny_base_qwen2)).model)
        assert layers(encoder) == {"0", "2", "4"} and layers(language) == LINEAR


class TestWithoutAdapter:
    def test_full(self, load):
        run = load(finetuning_type="full")
        assert trained(run.model) == {name for name, _ in run.model.named_parameters()}

    def test_full_without_the_encoder(self, load):
        encoder, language = split(load(finetuning_type="full", train_timeseries_modules=False).model)
        assert not encoder and len(language) > 20

    def test_full_with_the_encoder_alone(self, load):
        encoder, language = split(load(finetuning_type="full", freeze_language_model=True).model)
        assert len(encoder) == 7 and not language

    @pytest.mark.parametrize("with_encoder", [True, False])
    def test_freeze(self, load, with_encoder):
        run = load(finetuning_type="freeze", freeze_trainable_layers=1, train_timeseries_modules=with_encoder)
        encoder, language = split(run.model)
        assert len(encoder) == (7 if with_encoder else 0)
        assert language and all(name.startswith("model.layers.1.") for name in language)


class TestQuantised:
    @pytest.fixture(autouse=True)
    def needs_bitsandbytes(self):
        pytest.importorskip("bitsandbytes")

    @pytest.mark.slow
    @pytest.mark.parametrize("settings", [{}, {"timeseries_tuning": "full"}, {"double_quantization": False}])
    def test_the_encoder_stays_as_it_is(self, load, settings, tiny_base):
        run = load(quantization_bit=4, **settings)
        kinds = {name: type(module).__name__ for name, module in run.model.named_modules()}
        language = {kind for name, kind in kinds.items() if name.endswith("q_proj.base_layer")}
        assert language == {"Linear4bit"}
        encoder = [m for n, m in run.model.named_modules() if "ts_encoder" in n and isinstance(m, torch.nn.Linear)]
        assert encoder and not any("4bit" in type(module).__name__ for module in encoder)
        stored = load_file(tiny_base / "model.safetensors")["ts_encoder.mlp.0.weight"]
        found = [p for n, p in run.model.named_parameters() if n.endswith(("mlp.0.weight", "mlp.0.base_layer.weight"))]
        assert found and all(torch.equal(param.float(), stored) for param in found if param.shape == stored.shape)
        loss = run.model(**collate(run, [run.train[0]])).loss
        loss.backward()
        assert torch.isfinite(loss)


class TestRates:
    def test_groups(self, write_dataset, recipe, rows):
        from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer

        write_dataset(rows(4))
        for settings in ({"finetuning_type": "full"}, {}, {"timeseries_tuning": "full"}):
            run = load_all(recipe(timeseries_sft_lr=3e-4, weight_decay=0.1, **settings))
            trainer = CustomSeq2SeqTrainer(
                model=run.model,
                args=run.training_args,
                finetuning_args=run.finetuning_args,
                tokenizer=run.tokenizer,
                processor=run.processor,
                train_dataset=run.train,
            )
            groups = trainer.create_optimizer().param_groups
            names = {id(param): name for name, param in run.model.named_parameters()}
            seen = [names[id(param)] for group in groups for param in group["params"]]
            assert sorted(seen) == sorted(trained(run.model)), "each trained parameter once"
            for group in groups:
                of_encoder = {"ts_encoder" in names[id(param)] for param in group["params"]}
                assert of_encoder == {group.get("name") == "ts_encoder"}
                assert group["lr"] == (3e-4 if True in of_encoder else 1e-3)
                for param in group["params"]:
                    plain = names[id(param)].endswith("bias") or "norm" in names[id(param)]
                    assert group["weight_decay"] == (0.0 if plain else 0.1)

    @pytest.mark.slow
    @pytest.mark.parametrize("settings", [{}, {"finetuning_type": "full"}, {"timeseries_tuning": "full"}])
    def test_logged_at_every_step(self, train, settings):
        log, _ = train(
            max_steps=6,
            learning_rate=1e-3,
            timeseries_sft_lr=2e-4,
            lr_scheduler_type="cosine",
            warmup_steps=2,
            **settings,
        )
        rates = [entry["learning_rate"] for entry in log]
        expected = [1e-3 * (i / 2 if i < 2 else 0.5 * (1 + math.cos(math.pi * (i - 2) / 4))) for i in range(6)]
        assert len(log) == 6 and rates == pytest.approx(expected, abs=1e-9)
        assert [entry["ts_encoder_learning_rate"] for entry in log] == pytest.approx([r * 0.2 for r in rates])

    @pytest.mark.slow
    def test_the_rate_is_what_moves_the_encoder(self, train, tiny_base):
        before = load_file(tiny_base / "model.safetensors")
        moved = {}
        for rate in (1e-5, 1e-3):
            _, out = train(f"rate{rate}", finetuning_type="full", timeseries_sft_lr=rate, save_only_model=True)
            after = load_file(out / "model.safetensors")
            moved[rate] = {key: float((after[key] - before[key]).abs().max()) for key in before}

        key, other = "ts_encoder.mlp.0.weight", "model.layers.0.mlp.up_proj.weight"
        assert moved[1e-3][key] > 30 * moved[1e-5][key] > 0
        assert moved[1e-3][other] == pytest.approx(moved[1e-5][other], rel=0.2)

    @pytest.mark.slow
    def test_not_logged_without_the_setting(self, train):
        log, _ = train(max_steps=1)
        assert "ts_encoder_learning_rate" not in log[0]

    @pytest.mark.slow
    def test_resumed_it_ends_where_the_whole_run_ends(self, train, tmp_path):
        settings = {
            "max_steps": 6,
            "timeseries_sft_lr": 5e-3,
            "lr_scheduler_type": "cosine",
            "save_strategy": "steps",
            "save_steps": 3,
        }
        whole, out = train("whole", **settings)
        rest, again = train("again", resume_from_checkpoint=str(out / "checkpoint-3"), **settings)
        keys = ("loss", "learning_rate", "ts_encoder_learning_rate")
        for one, two in zip(whole[-3:], rest[-3:]):
            assert [one[key] for key in keys] == pytest.approx([two[key] for key in keys], rel=1e-5)

        first, second = (load_file(folder / "adapter_model.safetensors") for folder in (out, again))
        assert first.keys() == second.keys() and any("ts_encoder" in key for key in first)
        assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)


class TestAccumulation:
    @pytest.mark.slow
    def test_loss_and_step_do_not_depend_on_how_a_batch_is_cut(self, train, rows):
        """Trap 13: rows of very different length, one batch of four against four steps of one."""
        data = [{**row, "output": row["output"] * (1 + 5 * (i % 2))} for i, row in enumerate(rows(4))]
        results = []
        for size in (4, 2, 1):
            log, out = train(
                f"cut{size}",
                data=data,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=4 // size,
                finetuning_type="full",
                max_steps=2,
                disable_shuffling=True,
                optim="sgd",  # steps as long as the gradient, unlike Adam's
                learning_rate=0.2,
            )
            results.append((log, load_file(out / "model.safetensors")))

        (log, weights), *others = results
        for other_log, other in others:
            assert [e["loss"] for e in other_log] == pytest.approx([e["loss"] for e in log], rel=1e-4)
            assert [e["grad_norm"] for e in other_log] == pytest.approx([e["grad_norm"] for e in log], rel=1e-3)
            for key in weights:
                assert torch.allclose(other[key], weights[key], atol=1e-5), key


class TestSavedAdapters:
    @pytest.mark.slow
    def test_full_is_saved_beside_the_adapter_and_comes_back_bit_identical(self, train, load, tiny_base, recipe):
        _, out = train(timeseries_tuning="full", max_steps=2, learning_rate=1e-2)
        saved = load_file(out / "adapter_model.safetensors")
        encoder = {key.split("ts_encoder.")[1]: value for key, value in saved.items() if "ts_encoder." in key}
        before = load_file(tiny_base / "model.safetensors")
        assert len(encoder) == 7 and not any(".lora_" in key for key in encoder)
        assert any(not torch.equal(encoder[key], before[f"ts_encoder.{key}"]) for key in encoder)

        run = load(adapter_name_or_path=str(out), do_train=False, do_eval=True, eval_dataset="data")
        found = {k.split("ts_encoder.")[1]: v for k, v in run.model.state_dict().items() if "ts_encoder." in k}
        assert found.keys() == encoder.keys()
        assert all(torch.equal(found[key], encoder[key]) for key in encoder)

        run = load(adapter_name_or_path=str(out), timeseries_tuning="full")
        found = {n: p for n, p in run.model.named_parameters() if "ts_encoder.modules_to_save" in n}
        assert len(found) == 7 and all(p.requires_grad for p in found.values())
        assert all(torch.equal(p, encoder[n.split("default.")[1]]) for n, p in found.items())

    @pytest.mark.slow
    def test_an_adapter_made_in_another_way_is_named(self, train, load, monkeypatch):
        monkeypatch.setattr("peft.tuners.tuners_utils.MIN_TARGET_MODULES_FOR_OPTIMIZATION", 3)  # as with many layers
        _, out = train(timeseries_tuning="lora", max_steps=1)
        for settings, asked in (
            ({"timeseries_tuning": "full"}, "full"),
            ({"timeseries_tuning": "freeze"}, "freeze"),
            ({"train_timeseries_modules": False}, "freeze"),
        ):
            with pytest.raises(ChatTSError, match=f"made with lora, the recipe asks for {asked}"):
                load(adapter_name_or_path=str(out), **settings)

        for settings in ({}, {"timeseries_tuning": "lora"}):
            encoder, _ = split(load(adapter_name_or_path=str(out), **settings).model)
            assert layers(encoder) == {"0", "2", "4"}

        encoder, _ = split(
            load(adapter_name_or_path=str(out), create_new_adapter=True, timeseries_tuning="full").model
        )
        assert len(encoder) == 7


def test_the_flags_of_old_scripts_are_taken(recipe):
    """As a command line, with everything as text."""
    settings = recipe(timeseries_sft_lr=1e-5, train_timeseries_modules=True, timeseries_tuning="full")
    line = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    from llamafactory.hparams import get_train_args

    args = get_train_args(line)[3]
    assert (args.timeseries_sft_lr, args.train_timeseries_modules, args.timeseries_tuning) == (1e-5, True, "full")
    assert parse(recipe()).finetuning_args.timeseries_tuning is None
