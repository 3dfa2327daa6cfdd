"""A checkpoint is recognised by its ``ts`` block, whatever it calls itself, and none of its code is run."""

import json
import shutil

import pytest
import torch
from host_steps import collate, load_all, parse
from safetensors.torch import load_file, save_file

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.model.processing_chatts import TimeSeriesProcessor


@pytest.fixture
def base(tmp_path, tiny_base, tiny_base_qwen2):
    """Return a function that copies a tiny base with changes to its config.json."""

    def copy(backbone="qwen3", **changes):
        folder = tmp_path / "base"
        shutil.copytree(tiny_base if backbone == "qwen3" else tiny_base_qwen2, folder)
        config = {**json.loads((folder / "config.json").read_text()), **changes}
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return folder

    return copy


@pytest.mark.parametrize(
    "backbone, model_type, architecture",
    [
        ("qwen3", "qwen3ts", "Qwen3TSForCausalLM"),
        ("qwen3", "qwen3", "Qwen3TSForCausalLM"),
        ("qwen2", "chatts", "Qwen2TSForCausalLM"),
        ("qwen2", "qwen2", "Qwen2TSForCausalLM"),
    ],
)
@pytest.mark.parametrize("trust", [False, True])
def test_every_name_in_the_wild(base, write_dataset, recipe, rows, backbone, model_type, architecture, trust):
    """Trap 6 (the encoder's rate ignored) and code of the checkpoint that must never run."""
    code = {"AutoConfig": "bomb.Config", "AutoModelForCausalLM": "bomb.Model", "AutoProcessor": "bomb.Processor"}
    folder = base(backbone, model_type=model_type, architectures=[architecture], auto_map=code, use_cache=False)
    (folder / "bomb.py").write_text("raise SystemExit('code of the checkpoint was run')\n")
    write_dataset(rows(2))
    run = load_all(recipe(model_name_or_path=str(folder), trust_remote_code=trust, timeseries_sft_lr=1e-4))
    assert type(run.model.base_model.model).__name__ == architecture
    assert isinstance(run.processor, TimeSeriesProcessor) and run.processor.patch_size == 8
    assert sum("ts_encoder" in n and p.requires_grad for n, p in run.model.named_parameters()) == 6
    assert torch.isfinite(run.model(**collate(run, [run.train[0]])).loss)


def test_a_plain_model_is_loaded_as_before(plain_qwen3, recipe):
    from llamafactory.model import load_model, load_tokenizer

    run = parse(recipe(model_name_or_path=str(plain_qwen3), template="qwen3_nothink"))
    module = load_tokenizer(run.model_args)
    assert module["processor"] is None
    model = load_model(module["tokenizer"], run.model_args, run.finetuning_args, True)
    assert type(model.base_model.model).__name__ == "Qwen3ForCausalLM"
    assert not hasattr(model.base_model.model, "ts_encoder")


def test_missing_encoder_weights_are_named(base, write_dataset, recipe, rows):
    folder = base()
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if not k.startswith("ts_encoder.mlp.")},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    write_dataset(rows(2))
    with pytest.raises(ChatTSError, match="the checkpoint has no weights for ts_encoder.mlp.0.bias"):
        load_all(recipe(model_name_or_path=str(folder)))


def test_settings_of_the_encoder_come_from_the_config(base, write_dataset, recipe):
    """Another patch size: data and model follow it, with no setting."""
    ts = {"patch_size": 16, "num_layers": 2, "hidden_size": 64, "embedding_dim": 4, "max_sequence_length": 64}
    folder = base(ts=ts)
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("ts_encoder.")}
    from llamafactory_chatts.model.configuration_chatts import load_config
    from llamafactory_chatts.model.encoder import TimeSeriesEncoder

    encoder = TimeSeriesEncoder(load_config(str(folder)).time_series).state_dict()
    save_file(
        {**weights, **{f"ts_encoder.{k}": v.contiguous() for k, v in encoder.items()}},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    row = {"input": "Look <ts><ts/>", "output": "ok", "timeseries": [[0.5] * 40]}
    write_dataset([row])
    run = load_all(recipe(model_name_or_path=str(folder)))
    assert run.train[0]["input_ids"].count(run.tokenizer.convert_tokens_to_ids("<ts>")) == 3
    assert torch.isfinite(run.model(**collate(run, run.train)).loss)
    write_dataset([{**row, "timeseries": [[0.5] * 65]}])
    with pytest.raises(ChatTSError, match="series 1 has 65 points, the base takes 64"):
        load_all(recipe(model_name_or_path=str(folder)))


@pytest.mark.parametrize("stage, wanted", [("sft", False), ("pt", False), ("dpo", True), ("kto", True), ("rm", True)])
def test_logits_are_complete_where_a_stage_needs_them(recipe, stage, wanted):
    from llamafactory.model import load_model, load_tokenizer

    run = parse(recipe(stage=stage))
    tokenizer = load_tokenizer(run.model_args)["tokenizer"]
    model = load_model(tokenizer, run.model_args, run.finetuning_args, True, add_valuehead=stage == "rm")
    found = [m.full_logits_in_training for m in model.modules() if type(m).__name__ == "Qwen3TSForCausalLM"]
    assert found == [wanted]


class TestConfigThatCannotBeRead:
    """Nobody knows then whether it is ChatTS: never on with the checkpoint's own code."""

    FAULTS = {
        "permission": PermissionError(13, "Permission denied"),
        "offline": OSError("We couldn't connect to 'https://huggingface.co' to load the files"),
        "a dead disk": OSError(5, "Input/output error"),
        "time-out": type("ReadTimeout", (Exception,), {})("The read operation timed out"),
        "not utf-8": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    }

    @pytest.fixture
    def load(self, base, recipe, monkeypatch):
        """Return a function: (file's text or a fault, recipe's changes) -> what loading a ChatTS base raises."""
        import transformers
        from llamafactory.model import load_tokenizer

        monkeypatch.setattr(
            transformers.AutoTokenizer, "from_pretrained", lambda *args, **kwargs: pytest.fail("the host went on")
        )

        def load(fault, **changes):
            folder = base(auto_map={"AutoConfig": "bomb.Config"})
            if isinstance(fault, str):
                (folder / "config.json").write_text(fault)
            elif fault is None:
                (folder / "config.json").unlink()
            else:

                def broken(*args, **kwargs):
                    raise fault

                monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", broken)

            with pytest.raises(Exception) as caught:
                load_tokenizer(parse(recipe(model_name_or_path=str(folder), **changes)).model_args)

            return caught.value

        return load

    @pytest.mark.parametrize("changes", [{}, {"trust_remote_code": True, "template": "qwen3_nothink"}])
    @pytest.mark.parametrize("fault", [*FAULTS.values(), '{"ts": {', "[]", "", None], ids=str)
    def test_is_an_error_that_says_why(self, load, fault, changes):
        error = load(fault, **changes)
        assert isinstance(error, ChatTSError) and "config.json could not be read" in str(error)
        assert error.__cause__ is fault if isinstance(fault, Exception) else "base: its config.json" in str(error)

    def test_the_host_reports_it_for_other_models(self, plain_qwen3, recipe, tmp_path):
        from llamafactory.model import load_config

        shutil.copytree(plain_qwen3, tmp_path / "plain")
        (tmp_path / "plain" / "config.json").write_text("{")
        run = parse(recipe(model_name_or_path=str(tmp_path / "plain"), template="qwen3_nothink"))
        with pytest.raises(OSError, match="not a valid JSON file"):
            load_config(run.model_args)


def test_another_base_is_named_before_its_own_code_could_run(plain_qwen3, recipe, monkeypatch):
    import transformers
    from llamafactory.model import load_tokenizer

    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda *args, **kwargs: pytest.fail("the host went on")
    )
    run = parse(recipe(model_name_or_path=str(plain_qwen3), trust_remote_code=True))
    with pytest.raises(ChatTSError, match="template chatts needs a ChatTS base"):
        load_tokenizer(run.model_args)


def test_the_config_is_read_once(write_dataset, recipe, rows, monkeypatch):
    from transformers import PreTrainedConfig

    read, original = [], PreTrainedConfig.get_config_dict.__func__

    def get_config_dict(cls, name, **kwargs):
        read.append(name)
        return original(cls, name, **kwargs)

    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", classmethod(get_config_dict))
    write_dataset(rows(2))
    settings = recipe()
    load_all(settings)
    assert read.count(settings["model_name_or_path"]) == 1
