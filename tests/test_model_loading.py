"""Checkpoints in the wild: recognised, loaded without their own code, saved as they were published."""

import json
import shutil

import pytest
import torch
from accelerate import infer_auto_device_map
from golden_cases import LOGIT_COLUMNS, MODELS, byte_tokenizer, case, expanded, folder, word_tokenizer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.model import (
    Qwen2TSConfig,
    Qwen2TSForCausalLM,
    Qwen2TSProcessor,
    Qwen3TSConfig,
    Qwen3TSForCausalLM,
    Qwen3TSProcessor,
    from_pretrained,
    is_chatts,
    load_config,
    load_processor,
)
from llamafactory_chatts.model.loading import checkpoint_files


KINDS = {
    "qwen3ts_default": (Qwen3TSConfig, Qwen3TSForCausalLM, Qwen3TSProcessor),
    "chatts_default": (Qwen2TSConfig, Qwen2TSForCausalLM, Qwen2TSProcessor),
}
MARKER = "remote code was executed"
TRUST = [{"trust_remote_code": True}, {"trust_remote_code": False}, {}]


def published(path, name, **changes):
    """Write a folder as the hub has it: remote code (here it raises) named in three files."""
    kind = "qwen3" if name.startswith("qwen3") else "qwen2"
    prefix = f"{kind.capitalize()}TS"
    processor = {"AutoProcessor": f"processing_{kind}_ts.{prefix}Processor"}
    auto_map = {
        "AutoConfig": f"configuration_{kind}_ts.{prefix}Config",
        "AutoModel": f"modeling_{kind}_ts.{prefix}ForCausalLM",
        "AutoModelForCausalLM": f"modeling_{kind}_ts.{prefix}ForCausalLM",
        **processor,
    }
    folder(path, name, word_tokenizer(), auto_map=auto_map, use_cache=False, **changes)
    for part in ("configuration", "modeling", "processing"):
        (path / f"{part}_{kind}_ts.py").write_text(f"raise RuntimeError({MARKER!r})  # {part}\n")

    settings = path / "tokenizer_config.json"
    tokenizer = {**json.loads(settings.read_text()), "processor_class": f"{prefix}Processor", "auto_map": processor}
    settings.write_text(json.dumps(tokenizer))
    (path / "processor_config.json").write_text(
        json.dumps({"processor_class": f"{prefix}Processor", "auto_map": processor})
    )
    return path


def config_of(path):
    return json.loads((path / "config.json").read_text())


def check_logits(model, name, which="left_pad"):
    golden = case(name, which)
    with torch.no_grad():
        output = model.eval()(**golden.inputs)

    batch = expanded(golden.inputs, golden.expected["patch_cnt"].tolist(), golden.padding)
    found = output.logits[batch["attention_mask"].bool()][:, LOGIT_COLUMNS]
    assert (found - golden.expected["valid_logits"]).abs().max() < 1e-4


class TestRecognition:
    @pytest.mark.parametrize(
        ("name", "model_type"),
        [("qwen3ts_default", "qwen3ts"), ("qwen3ts_default", "qwen3"), ("qwen3ts_layernorm", "qwen3")]
        + [("chatts_default", "chatts"), ("chatts_default", "qwen2"), ("chatts_plain", "qwen2")],
    )
    def test_by_its_ts_block(self, tmp_path, name, model_type):
        path = folder(tmp_path / "m", name, model_type=model_type)
        config = load_config(path)
        wanted = KINDS["qwen3ts_default" if name.startswith("qwen3") else "chatts_default"]
        assert type(config) is wanted[0]
        assert config.model_type == wanted[0].model_type
        model = from_pretrained(path, dtype=torch.float32)
        assert type(model) is wanted[1]
        check_logits(model, name)

    def test_architectures_name_the_backbone_where_model_type_does_not(self, tmp_path):
        path = folder(tmp_path / "m", "chatts_default", model_type="streasoner", architectures=["Qwen2TSForCausalLM"])
        assert type(load_config(path)) is Qwen2TSConfig

    def test_the_class_loads_a_folder_of_another_model_type(self, tmp_path):
        path = folder(tmp_path / "m", "qwen3ts_default", model_type="qwen3")
        model = Qwen3TSForCausalLM.from_pretrained(path, dtype=torch.float32)
        check_logits(model, "qwen3ts_default")

    @pytest.mark.parametrize("changes", [{"ts": None}, {"ts_token_start_index": None}, {"ts": "yes"}])
    def test_without_a_ts_block_it_is_another_model(self, tmp_path, changes):
        path = folder(tmp_path / "m", "qwen3ts_default", word_tokenizer(), model_type="qwen3", **changes)
        assert not is_chatts(config_of(path))
        assert load_config(path) is None
        for loader in (from_pretrained, load_processor):
            with pytest.raises(ChatTSError) as caught:
                loader(path)

            assert str(caught.value) == (
                f"{path}: this is no ChatTS checkpoint: its config.json has no `ts` block with "
                "`ts_token_start_index`. Use a ChatTS checkpoint, or turn a Qwen folder into a base: "
                "lmf-chatts init-base QWEN_DIR OUT."
            )

    def test_a_model_needs_the_ts_block(self):
        with pytest.raises(ChatTSError, match="config.json: the config has no `ts` block"):
            Qwen3TSForCausalLM(Qwen3TSConfig())

    def test_an_unknown_backbone(self, tmp_path):
        path = folder(tmp_path / "m", "qwen3ts_default", model_type="llama", architectures=["LlamaTSForCausalLM"])
        with pytest.raises(ChatTSError) as caught:
            from_pretrained(path)

        assert str(caught.value) == (
            f"{path}: unknown ChatTS backbone: model_type 'llama', architectures ['LlamaTSForCausalLM']. "
            "Qwen2TSForCausalLM and Qwen3TSForCausalLM are supported."
        )

    def test_a_config_of_another_class(self, tmp_path):
        path = folder(tmp_path / "m", "qwen3ts_default")
        with pytest.raises(ChatTSError, match="config: a Qwen3Config has no time-series encoder. Leave config"):
            from_pretrained(path, config=Qwen3Config())

    def test_settings_that_a_config_leaves_out(self, tmp_path):
        ts = {"max_sequence_length": 512, "embedding_dim": 4, "num_layers": 3}
        config = load_config(folder(tmp_path / "m", "qwen3ts_default", ts=ts))
        assert config.ts["patch_size"] == 8 and config.ts["hidden_size"] == 32
        assert config.ts["use_position_embedding"] is True and config.ts["use_layer_norm"] is False


class TestMissingWeights:
    def remove(self, path, keep):
        weights = {key: value for key, value in load_file(path / "model.safetensors").items() if keep(key)}
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})

    def test_the_encoder_must_be_there(self, tmp_path):
        path = folder(tmp_path / "m", "qwen3ts_default")
        self.remove(path, lambda key: not key.startswith("ts_encoder."))
        with pytest.raises(ChatTSError) as caught:
            from_pretrained(path)

        assert str(caught.value) == (
            f"{path}: the checkpoint has no weights for ts_encoder.mlp.0.bias, ts_encoder.mlp.0.weight, "
            "ts_encoder.mlp.2.bias and 4 more. Use a complete ChatTS checkpoint, or build a base: "
            "lmf-chatts init-base QWEN_DIR OUT."
        )

    @pytest.mark.parametrize("loader", [AutoModelForCausalLM.from_pretrained, Qwen3TSForCausalLM.from_pretrained])
    def test_whole(self, tmp_path, loader):
        path = folder(tmp_path / "m", "qwen3ts_default")
        self.remove(path, lambda key: key != "ts_encoder.mlp.2.bias")
        with pytest.raises(ChatTSError, match="no weights for ts_encoder.mlp.2.bias. Use"):
            loader(path)

    def test_a_new_model_has_a_fresh_encoder(self, tmp_path):
        config = load_config(folder(tmp_path / "m", "qwen3ts_layernorm"))
        torch.manual_seed(0)
        encoder = AutoModelForCausalLM.from_config(config).ts_encoder
        linear = [layer for layer in encoder.mlp if isinstance(layer, nn.Linear)]
        assert all(layer.bias.abs().max() == 0 for layer in linear)
        assert all(0.5 < layer.weight.std() / (2 / sum(layer.weight.shape)) ** 0.5 < 1.5 for layer in linear)
        assert torch.equal(encoder.mlp[-1].weight, torch.ones(32))

    def test_loading_info_on_demand(self, tmp_path):
        model, info = from_pretrained(folder(tmp_path / "m", "qwen3ts_default"), output_loading_info=True)
        assert type(model) is Qwen3TSForCausalLM and not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.parametrize("trust", TRUST, ids=["trusted", "not trusted", "unset"])
@pytest.mark.parametrize("name", KINDS)
class TestCodeFromTheCheckpointIsNeverRun:
    """The ``*.py`` files of these folders raise when they are imported."""

    def test_model(self, tmp_path, name, trust):
        model = from_pretrained(str(published(tmp_path / "m", name)), dtype=torch.float32, **trust)
        assert type(model) is KINDS[name][1]
        check_logits(model, name)

    def test_processor(self, tmp_path, name, trust):
        processor = load_processor(str(published(tmp_path / "m", name)), **trust)
        assert type(processor) is KINDS[name][2]
        assert processor.patch_size == 8 and processor.max_sequence_length == 512

    def test_any_model_type(self, tmp_path, name, trust):
        path = published(tmp_path / "m", name, model_type="qwen3" if name.startswith("qwen3") else "qwen2")
        assert type(from_pretrained(path, dtype=torch.float32, **trust)) is KINDS[name][1]
        assert type(load_processor(path, **trust)) is KINDS[name][2]

    def test_auto_classes(self, tmp_path, name, trust):
        path = published(tmp_path / "m", name)
        config_class, model_class, processor_class = KINDS[name]
        assert type(AutoConfig.from_pretrained(path, **trust)) is config_class
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **trust)
        assert type(model) is model_class
        check_logits(model, name)
        processor = AutoProcessor.from_pretrained(path, **trust)
        assert type(processor) is processor_class
        prompt = processor(text=["w1 <ts><ts/> w2"], timeseries=[[1.0, 2.0, 3.0]], padding=True, return_tensors="pt")
        output = model.generate(**prompt, max_new_tokens=3)
        assert output.shape[1] <= prompt["input_ids"].shape[1] + 3

    def test_the_processor_reads_the_settings_of_the_model(self, tmp_path, name, trust):
        path = published(tmp_path / "m", name, ts={"patch_size": 16, "max_sequence_length": 99})
        processor = AutoProcessor.from_pretrained(path, **trust)
        assert processor.patch_size == 16 and processor.max_sequence_length == 99

    def test_from_a_config_that_is_already_loaded(self, tmp_path, name, trust):
        path = published(tmp_path / "m", name)
        config = AutoConfig.from_pretrained(path, **trust)
        assert type(AutoModelForCausalLM.from_pretrained(path, config=config, **trust)) is KINDS[name][1]
        assert type(from_pretrained(path, config=config, **trust)) is KINDS[name][1]
        assert type(AutoModelForCausalLM.from_config(config, **trust)) is KINDS[name][1]


class TestSaving:
    @pytest.mark.parametrize(
        ("name", "model_type"),
        [("qwen3ts_default", "qwen3ts"), ("qwen3ts_default", "qwen3")]
        + [("chatts_default", "chatts"), ("chatts_default", "qwen2")],
    )
    def test_an_export_is_the_published_folder(self, tmp_path, name, model_type):
        path, out = published(tmp_path / "m", name, model_type=model_type), tmp_path / "out"
        from_pretrained(path, dtype=torch.float32).save_pretrained(out)
        before, after = config_of(path), config_of(out)
        kept = ["architectures", "model_type", "auto_map", "ts_token_start_index", "ts_token_end_index"]
        kept += ["rope_theta", "torch_dtype", "vocab_size", "hidden_size", "num_hidden_layers", "ignore_index"]
        kept += ["num_attention_heads", "num_key_value_heads", "intermediate_size", "rms_norm_eps", "use_cache"]
        kept += ["tie_word_embeddings", "hidden_act", "max_position_embeddings", "eos_token_id", "pad_token_id"]
        assert {key: after.get(key) for key in kept} == {key: before[key] for key in kept}
        assert {key: after["ts"][key] for key in before["ts"]} == before["ts"]
        assert "_published" not in after
        for file in path.glob("*.py"):
            assert (out / file.name).read_bytes() == file.read_bytes()

        assert len(list(out.glob("*.py"))) == 3
        old, new = load_file(path / "model.safetensors"), load_file(out / "model.safetensors")
        assert old.keys() == new.keys()
        assert all(torch.equal(old[key], new[key]) for key in old)

    @pytest.mark.parametrize("name", MODELS)
    def test_loaded_again_it_gives_the_same_logits(self, tmp_path, name):
        model = from_pretrained(folder(tmp_path / "m", name), dtype=torch.float32)
        model.save_pretrained(tmp_path / "out")
        again = from_pretrained(tmp_path / "out", dtype=torch.float32)
        check_logits(again, name)
        again.save_pretrained(tmp_path / "twice")
        assert config_of(tmp_path / "twice") == config_of(tmp_path / "out")

    def test_into_the_folder_it_came_from(self, tmp_path):
        path = published(tmp_path / "m", "qwen3ts_default")
        from_pretrained(path, dtype=torch.float32).save_pretrained(path)
        assert MARKER in (path / "modeling_qwen3_ts.py").read_text()
        check_logits(from_pretrained(path, dtype=torch.float32), "qwen3ts_default")

    def test_without_remote_code_none_is_invented(self, tmp_path):
        from_pretrained(folder(tmp_path / "m", "qwen3ts_default")).save_pretrained(tmp_path / "out")
        assert "auto_map" not in config_of(tmp_path / "out")
        assert not list((tmp_path / "out").glob("*.py"))

    def test_a_source_that_is_gone(self, tmp_path, monkeypatch):
        path = published(tmp_path / "m", "qwen3ts_default")
        model, out = from_pretrained(path), tmp_path / "out"
        shutil.rmtree(path)
        with monkeypatch.context() as patched:
            said = []
            patched.setattr(checkpoint_files.logger, "warning", said.append)
            model.save_pretrained(out)

        check_logits(from_pretrained(out, dtype=torch.float32), "qwen3ts_default")
        assert said == [
            f"{out}: configuration_qwen3_ts.py, modeling_qwen3_ts.py, processing_qwen3_ts.py named in config.json "
            f"cannot be found in {path}. Copy them there if another tool needs them."
        ]

    def test_a_new_model_says_its_own_type(self, tmp_path):
        config = load_config(folder(tmp_path / "m", "chatts_default")).to_dict()
        config.pop("model_type")
        Qwen2TSForCausalLM(Qwen2TSConfig(**config)).save_pretrained(tmp_path / "out")
        assert config_of(tmp_path / "out")["model_type"] == "chatts"
        assert config_of(tmp_path / "out")["architectures"] == ["Qwen2TSForCausalLM"]

    def test_half_precision(self, tmp_path):
        path = folder(tmp_path / "m", "qwen3ts_default", torch_dtype="bfloat16")
        model = from_pretrained(path, dtype="auto")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        model.save_pretrained(tmp_path / "out")
        assert config_of(tmp_path / "out")["torch_dtype"] == "bfloat16"
        inputs = case("qwen3ts_default", "single").inputs
        assert from_pretrained(tmp_path / "out", dtype="auto")(**inputs).loss.isfinite()

    def test_scaled_rope_keeps_its_older_spelling(self, tmp_path):
        scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
        path = folder(tmp_path / "m", "qwen3ts_default", rope_scaling=scaling)
        from_pretrained(path).save_pretrained(tmp_path / "out")
        saved = config_of(tmp_path / "out")
        assert saved["rope_scaling"] == scaling and saved["rope_theta"] == 1000000
        assert load_config(tmp_path / "out").rope_parameters == load_config(path).rope_parameters

    def test_tied_embeddings_have_no_head_of_their_own(self, tmp_path):
        path = folder(tmp_path / "m", "qwen3ts_default", tie_word_embeddings=True)
        weights = load_file(path / "model.safetensors")
        weights.pop("lm_head.weight")
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
        model = from_pretrained(path, dtype=torch.float32)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        model.save_pretrained(tmp_path / "out")
        assert load_file(tmp_path / "out" / "model.safetensors").keys() == weights.keys()
        assert config_of(tmp_path / "out")["tie_word_embeddings"] is True
        inputs = case("qwen3ts_default", "single").inputs
        again = from_pretrained(tmp_path / "out", dtype=torch.float32)
        with torch.no_grad():
            assert torch.equal(model.eval()(**inputs).logits, again.eval()(**inputs).logits)


class TestTokens:
    def test_a_tokenizer_without_the_tokens(self, tmp_path):
        plain = byte_tokenizer()
        core = json.loads(plain.backend_tokenizer.to_str())
        core["added_tokens"] = [token for token in core["added_tokens"] if not token["content"].startswith("<ts")]
        path = folder(tmp_path / "m", "qwen3ts_default")
        (tmp_path / "t.json").write_text(json.dumps(core))
        PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "t.json")).save_pretrained(path)
        with pytest.raises(ChatTSError, match=r"the tokenizer writes <ts> as \[27, 83, 82, 29\], the config says 125"):
            load_processor(path)

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"ts_token_start_index": 124}, "the tokenizer writes <ts> as [125], the config says 124."),
            ({"ts_token_end_index": 127}, "the tokenizer writes <ts/> as [126], the config says 127."),
        ],
    )
    def test_other_ids(self, tmp_path, changes, text):
        path = folder(tmp_path / "m", "qwen3ts_default", word_tokenizer(), **changes)
        with pytest.raises(ChatTSError) as caught:
            load_processor(path)

        assert str(caught.value) == (
            f"{path}: {text} Use the tokenizer files of the ChatTS checkpoint, "
            "or build a base with lmf-chatts init-base."
        )

    def test_no_tokenizer_at_all(self, tmp_path):
        with pytest.raises((OSError, ValueError)):
            load_processor(folder(tmp_path / "m", "qwen3ts_default"))


class TestDevices:
    def test_the_encoder_stays_on_one_device(self, tmp_path):
        model = from_pretrained(folder(tmp_path / "m", "qwen3ts_default"))
        size = sum(parameter.numel() for parameter in model.ts_encoder.parameters()) * 4
        places = infer_auto_device_map(
            model, max_memory={0: size * 2, 1: 10**9}, no_split_module_classes=model._no_split_modules
        )
        assert [name for name in places if name.startswith("ts_encoder")] == ["ts_encoder"]
        assert len(set(places.values())) == 2


class TestQuantised:
    """bitsandbytes on the CPU. The encoder is small and sensitive: it stays as it is."""

    @pytest.fixture(scope="class")
    def path(self, tmp_path_factory):
        ts = {"patch_size": 8, "num_layers": 3, "embedding_dim": 8, "max_sequence_length": 512}
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 128}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
        tokens = {"ts_token_start_index": 125, "ts_token_end_index": 126, "pad_token_id": 120, "eos_token_id": 121}
        torch.manual_seed(0)
        model = Qwen3TSForCausalLM(Qwen3TSConfig(ts=ts, **tokens, **sizes, **heads))
        path = tmp_path_factory.mktemp("quantised") / "m"
        model.to(torch.bfloat16).save_pretrained(path)
        return path

    CONFIGS = {
        "4 bit": {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16, "bnb_4bit_quant_type": "nf4"},
        "8 bit": {"load_in_8bit": True},
    }

    def check_layers(self, model, kind):
        bitsandbytes = pytest.importorskip("bitsandbytes")
        linear = bitsandbytes.nn.Linear4bit if kind == "4 bit" else bitsandbytes.nn.Linear8bitLt
        encoder = [layer for layer in model.ts_encoder.mlp if isinstance(layer, nn.Linear)]
        assert len(encoder) == 3 and {type(layer) for layer in encoder} == {nn.Linear}
        assert {parameter.dtype for parameter in model.ts_encoder.parameters()} <= {torch.bfloat16, torch.float32}
        assert type(model.lm_head) is nn.Linear
        decoder = [layer for layer in model.model.modules() if isinstance(layer, nn.Linear)]
        assert len(decoder) == 14 and {type(layer) for layer in decoder} == {linear}

    @pytest.mark.parametrize("kind", CONFIGS)
    @pytest.mark.parametrize("skipped", [None, ["lm_head"]])
    @pytest.mark.parametrize("loader", [from_pretrained, AutoModelForCausalLM.from_pretrained])
    def test_the_encoder_is_left_alone(self, path, kind, skipped, loader):
        pytest.importorskip("bitsandbytes")
        config = BitsAndBytesConfig(**self.CONFIGS[kind], llm_int8_skip_modules=skipped)
        self.check_layers(loader(path, dtype=torch.bfloat16, quantization_config=config), kind)

    def test_settings_as_a_dict(self, path):
        pytest.importorskip("bitsandbytes")
        model = from_pretrained(path, dtype=torch.bfloat16, quantization_config={"load_in_4bit": True})
        self.check_layers(model, "4 bit")

    def test_modules_that_the_user_skips(self, path):
        bitsandbytes = pytest.importorskip("bitsandbytes")
        config = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["lm_head", "model.layers.0"])
        model = from_pretrained(path, dtype=torch.bfloat16, quantization_config=config)
        assert type(model.model.layers[0].mlp.up_proj) is nn.Linear
        assert type(model.model.layers[1].mlp.up_proj) is bitsandbytes.nn.Linear4bit
        assert type(model.ts_encoder.mlp[0]) is nn.Linear

    def test_four_bit_computes(self, path, tmp_path):
        pytest.importorskip("bitsandbytes")
        inputs = case("qwen3ts_default", "ragged_left").inputs
        config = BitsAndBytesConfig(**self.CONFIGS["4 bit"])
        model = from_pretrained(path, dtype=torch.bfloat16, quantization_config=config)
        model.train()(**inputs).loss.backward()
        assert model.ts_encoder.mlp[0].weight.grad.abs().sum() > 0
        with torch.no_grad():
            wanted = from_pretrained(path, dtype=torch.bfloat16).eval()(**inputs).loss
            found = model.eval()(**inputs)

        assert found.logits.isfinite().all()
        assert abs(found.loss - wanted) < 0.1
        model.save_pretrained(tmp_path / "out")
        self.check_layers(from_pretrained(tmp_path / "out"), "4 bit")
