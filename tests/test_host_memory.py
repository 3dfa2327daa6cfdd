"""``offload_embedding`` and ``lm_head_8bit`` in LLaMA-Factory: the same training, or an error that says why not."""

import json
import shutil

import pytest
import torch
from host_steps import load_all, parse
from safetensors.torch import load_file, save_file

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.model.loading.host_embedding import HostEmbedding
from llamafactory_chatts.model.loading.int8_head import Int8Head


SETTINGS = ("offload_embedding", "lm_head_8bit")


@pytest.fixture
def quantised(recipe):
    """Return a function that makes a 4-bit recipe."""
    pytest.importorskip("bitsandbytes")
    return lambda **settings: recipe(**{"quantization_bit": 4, "infer_dtype": "float32", **settings})


@pytest.fixture
def train(write_dataset, quantised, rows, tmp_path):
    """Train with ``run_exp``; return the losses of the steps and the output folder."""
    from llamafactory.train.tuner import run_exp

    def train(name, steps=3, **settings):
        write_dataset(rows(12))
        out = tmp_path / name
        run_exp(quantised(output_dir=str(out), seed=1, max_steps=steps, **settings))
        history = json.loads((out / "trainer_state.json").read_text())["log_history"]
        return [entry["loss"] for entry in history if "loss" in entry], out

    return train


def with_files(base, folder, change):
    """Copy an adapter or a base; ``change`` gets its tensors and its config."""
    shutil.copytree(base, folder)
    name = "adapter_model" if (folder / "adapter_model.safetensors").exists() else "model"
    config = folder / ("adapter_config.json" if name == "adapter_model" else "config.json")
    tensors, settings = load_file(folder / f"{name}.safetensors"), json.loads(config.read_text())
    change(tensors, settings)
    save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
    config.write_text(json.dumps(settings))
    return str(folder)


class TestTraining:
    @pytest.mark.slow
    def test_losses(self, train):
        """The embedding gives the same, bit by bit; the 8-bit head nearly the same."""
        plain, _ = train("plain")
        host, host_out = train("host", offload_embedding=True)
        int8, int8_out = train("int8", lm_head_8bit=True)
        assert host == plain and len(host) == 3
        assert int8 != plain and int8 == pytest.approx(plain, abs=0.01)
        for out in (host_out, int8_out):
            names = load_file(out / "adapter_model.safetensors")
            assert names and not any("embed_tokens" in name or "lm_head" in name for name in names)

    @pytest.mark.slow
    def test_a_run_is_resumed_and_its_adapter_loaded(self, train, quantised):
        both = dict.fromkeys(SETTINGS, True)
        common = {"lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 2, **both}
        whole, _ = train("whole", steps=4, **common)
        first, out = train("parts", steps=2, **common)
        second, _ = train("parts", steps=4, resume_from_checkpoint=str(out / "checkpoint-2"), **common)
        assert second == whole and first == whole[:2]  # the log of the first two steps is resumed, too
        run = load_all(quantised(adapter_name_or_path=str(out), **both))
        tensors = load_file(out / "adapter_model.safetensors")
        found = {n.replace(".default", ""): p for n, p in run.model.named_parameters() if p.requires_grad}
        assert set(found) == set(tensors) and all(torch.equal(found[key], tensors[key]) for key in tensors)

    @pytest.mark.parametrize("bits", [4, 8])
    def test_the_modules_are_there(self, write_dataset, rows, quantised, bits):
        write_dataset(rows(2))
        run = load_all(quantised(**dict.fromkeys(SETTINGS, True), quantization_bit=bits))
        embedding, head = run.model.get_input_embeddings(), run.model.get_output_embeddings()
        assert isinstance(embedding, HostEmbedding) and isinstance(head, Int8Head)
        assert embedding.weight.shape == head.weight.shape
        trained = {name for name, parameter in run.model.named_parameters() if parameter.requires_grad}
        assert trained and not any("embed_tokens" in name or "lm_head" in name for name in trained)

    def test_off_by_default(self, write_dataset, rows, quantised):
        write_dataset(rows(2))
        run = load_all(quantised())
        assert type(run.model.get_input_embeddings()) is torch.nn.Embedding
        assert type(run.model.get_output_embeddings()) is torch.nn.Linear


@pytest.mark.parametrize("setting", SETTINGS)
class TestConflicts:
    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"quantization_bit": None}, "the model is not quantised with bitsandbytes. Add quantization_bit: 4"),
            ({"quantization_method": "hqq"}, "the model is not quantised with bitsandbytes"),
            ({"quantization_bit": None, "finetuning_type": "full"}, "it is for adapter methods"),
            ({"quantization_bit": None, "finetuning_type": "freeze"}, "it is for adapter methods"),
            (
                {"add_tokens": "a,b"},
                "add_tokens: it changes the embeddings, which does not go with {setting}. Remove add_tokens or",
            ),
            ({"add_special_tokens": "<x>"}, "add_special_tokens: it changes the embeddings"),
            ({"train_from_scratch": True}, "train_from_scratch: it makes random weights"),
        ],
        ids=lambda value: next(iter(value.items())).__str__() if isinstance(value, dict) else "",
    )
    def test_named_before_anything_is_loaded(self, quantised, setting, changes, message):
        with pytest.raises(ChatTSError, match=message.format(setting=setting)):
            parse(quantised(**{setting: True}, **changes))

    @pytest.mark.parametrize("target", ["additional_target", "lora_target"])
    def test_a_trained_module(self, quantised, setting, target):
        module = {"offload_embedding": "embed_tokens", "lm_head_8bit": "lm_head"}[setting]
        other = {"offload_embedding": "lm_head", "lm_head_8bit": "embed_tokens"}[setting]
        for name in (module, f"q_proj,model.{module}"):
            with pytest.raises(ChatTSError, match=f"{target}: it trains {module}, which {setting} freezes"):
                parse(quantised(**{setting: True, target: name}))

        assert getattr(parse(quantised(**{setting: True, target: other})).model_args, setting)

    @pytest.mark.parametrize(
        "sharding",
        [
            {"ACCELERATE_USE_FSDP": "true"},
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
        ],
    )
    def test_sharded_by_the_launcher(self, quantised, setting, sharding, monkeypatch):
        for name, value in sharding.items():
            monkeypatch.setenv(name, value)

        with pytest.raises(ChatTSError, match=f"{setting}: ZeRO-3 and FSDP spread the weights themselves"):
            parse(quantised(**{setting: True}))

    def test_sharded_by_the_recipe(self, quantised, setting, tmp_path):
        (tmp_path / "zero3.json").write_text('{"zero_optimization": {"stage": 3}}')
        with pytest.raises(ChatTSError, match=f"{setting}: ZeRO-3 and FSDP spread the weights themselves"):
            parse(quantised(**{setting: True, "deepspeed": str(tmp_path / "zero3.json")}))

    def test_a_model_that_is_not_trained(self, quantised, setting, write_dataset, rows):
        from llamafactory.hparams import get_infer_args
        from llamafactory.model import load_model, load_tokenizer

        asked = {key: quantised()[key] for key in ("model_name_or_path", "template", "quantization_bit")}
        model_args, _, finetuning_args, _ = get_infer_args({**asked, setting: True})
        tokenizer = load_tokenizer(model_args)["tokenizer"]
        with pytest.raises(ChatTSError, match=f"{setting}: it is for training, and this model is not trained"):
            load_model(tokenizer, model_args, finetuning_args)

    def test_a_model_of_another_kind(self, quantised, setting, plain_qwen3):
        from llamafactory.model import load_model, load_tokenizer

        run = parse(quantised(model_name_or_path=str(plain_qwen3), template="qwen3_nothink", **{setting: True}))
        tokenizer = load_tokenizer(run.model_args)["tokenizer"]
        with pytest.raises(ChatTSError, match=f"{setting}: this is no ChatTS model. Remove {setting}"):
            load_model(tokenizer, run.model_args, run.finetuning_args, True)

    def test_tied_embeddings(self, quantised, setting, write_dataset, rows, tiny_base, tmp_path):
        def tie(tensors, config):
            tensors.pop("lm_head.weight")
            config["tie_word_embeddings"] = True

        write_dataset(rows(2))
        base = with_files(tiny_base, tmp_path / "tied", tie)
        with pytest.raises(ChatTSError, match=f"{setting}: embedding and lm_head of this model are one tensor"):
            load_all(quantised(model_name_or_path=base, **{setting: True}))


def test_the_output_layer_cannot_be_upcast_and_in_8_bits(quantised):
    with pytest.raises(ChatTSError, match="upcast_lmhead_output: it works on the 16-bit layer only"):
        parse(quantised(lm_head_8bit=True, upcast_lmhead_output=True))


@pytest.mark.slow
@pytest.mark.parametrize("setting, module", [("offload_embedding", "embed_tokens"), ("lm_head_8bit", "lm_head")])
def test_an_adapter_that_trains_the_module(train, quantised, setting, module):
    """Its settings are in its own file, not in the recipe."""
    _, out = train("adapter", steps=1, additional_target=module)
    with pytest.raises(ChatTSError, match=f"{setting}: the adapter {out} trains {module}, which it freezes"):
        load_all(quantised(adapter_name_or_path=str(out), **{setting: True}))


def test_the_parser_uses_the_extended_class():
    from llamafactory.hparams import parser
    from llamafactory.hparams.model_args import ModelArguments

    assert ModelArguments in parser._TRAIN_ARGS and ModelArguments in parser._INFER_ARGS
    assert not ModelArguments(model_name_or_path="x").offload_embedding
