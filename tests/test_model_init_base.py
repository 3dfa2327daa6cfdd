"""Bases made from Qwen folders: the language model stays what it was, two tokens and an encoder are added."""

import json

import pytest
import torch
from qwen_folders import KINDS, SMALL, make_qwen
from safetensors.torch import load_file
from transformers import AutoProcessor, AutoTokenizer, Qwen3ForCausalLM

from llamafactory_chatts.model import from_pretrained, load_processor
from llamafactory_chatts.model.bases.init_base import init_from_qwen
from llamafactory_chatts.model.bases.tiny_base import CHAT_TOKENS


def text_logits(model):
    ids = torch.arange(40).view(2, 20) * 5 % 300
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.fixture(scope="module", params=["qwen2-tied", "qwen2-untied", "qwen3-tied", "qwen3-untied"])
def built(request, tmp_path_factory):
    kind, tie = request.param.split("-")
    room = tmp_path_factory.mktemp(request.param)
    qwen = make_qwen(room / "qwen", kind, tie == "tied")
    init_from_qwen(qwen, room / "base", seed=5, **SMALL)
    return kind, qwen, room / "base"


def test_text_logits_are_those_of_qwen(built):
    kind, qwen, base = built
    expected = text_logits(KINDS[kind][1].from_pretrained(qwen))
    assert torch.allclose(text_logits(from_pretrained(base)), expected, atol=1e-5)


def test_loads_completely_and_reads_series(built):
    _, _, base = built
    model, info = from_pretrained(base, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    processor = load_processor(base)
    batch = processor(text=["spike in <ts><ts/> or <ts><ts/>"], timeseries=[[1.0, 9.0, 4.0], list(range(30))])
    assert model.generate(**batch, max_new_tokens=3).shape[1] == batch["input_ids"].shape[1] + 3
    assert torch.isfinite(model(**batch).logits).all()


def test_shards_are_the_same_files_and_the_index_is_complete(built):
    _, qwen, base = built
    old = sorted(qwen.glob("*.safetensors"))
    new = sorted(base.glob("*.safetensors"))
    assert len(old) > 2 and len(new) == len(old) + 1
    assert [path.read_bytes() for path in new[:-1]] == [path.read_bytes() for path in old]

    index = json.loads((base / "model.safetensors.index.json").read_text())
    tensors = {key: value for path in new for key, value in load_file(path).items()}
    assert {key: path.name for path in new for key in load_file(path)} == index["weight_map"]
    assert index["metadata"]["total_size"] == sum(item.nbytes for item in tensors.values())
    assert index["metadata"]["total_parameters"] == sum(item.numel() for item in tensors.values())
    assert ("lm_head.weight" in tensors) == (not json.loads((qwen / "config.json").read_text())["tie_word_embeddings"])


def test_config_keeps_every_other_field(built):
    kind, qwen, base = built
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (qwen, base))
    added = {"ts", "ts_token_start_index", "ts_token_end_index"}
    changed = {"model_type", "architectures"}
    assert new.keys() == old.keys() | added
    assert {key: new[key] for key in old.keys() - changed} == {key: old[key] for key in old.keys() - changed}
    assert new["model_type"] == {"qwen2": "chatts", "qwen3": "qwen3ts"}[kind]
    assert new["architectures"] == [f"{kind.capitalize()}TSForCausalLM"]
    assert new["ts"]["hidden_size"] == 32 and new["ts"]["max_length"] == new["ts"]["max_sequence_length"] == 256
    assert (base / "generation_config.json").read_bytes() == (qwen / "generation_config.json").read_bytes()


def test_tokens_follow_those_of_qwen(built):
    _, qwen, base = built
    old, new = AutoTokenizer.from_pretrained(qwen), AutoTokenizer.from_pretrained(base)
    config = json.loads((base / "config.json").read_text())
    assert new.encode("<ts><ts/>") == [len(old), len(old) + 1]
    assert [config["ts_token_start_index"], config["ts_token_end_index"]] == [len(old), len(old) + 1]
    assert new.encode("a spike 竖直尖峰 <|im_end|>") == old.encode("a spike 竖直尖峰 <|im_end|>")
    assert new.decode(new.encode("see <ts><ts/>"), skip_special_tokens=True) == "see "
    assert new.chat_template == old.chat_template
    files = json.loads((base / "tokenizer_config.json").read_text())
    assert files["tokenizer_class"] == "Qwen2Tokenizer"
    assert files["added_tokens_decoder"][str(len(old))]["content"] == "<ts>"


def test_encoder_is_fresh_and_seeded(tmp_path, built):
    _, qwen, base = built
    same, other = init_from_qwen(qwen, tmp_path / "a", seed=5, **SMALL), tmp_path / "b"
    init_from_qwen(qwen, other, seed=6, **SMALL)
    one, again, third = (load_file(sorted(folder.glob("*.safetensors"))[-1]) for folder in (base, same, other))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["ts_encoder.mlp.0.weight"], third["ts_encoder.mlp.0.weight"])
    weight = one["ts_encoder.mlp.0.weight"]
    bound = (6 / sum(weight.shape)) ** 0.5
    assert 0.9 * bound < weight.abs().max() <= bound
    assert all(not one[key].any() for key in one if key.endswith("bias"))
    assert abs(one["ts_encoder.position_embedding.weight"].std() - 0.02) < 0.002
    assert one["ts_encoder.position_embedding.weight"].shape == (257, 4)


def test_encoder_has_the_dtype_of_the_backbone(tmp_path):
    init_from_qwen(make_qwen(tmp_path / "qwen", dtype=torch.bfloat16), tmp_path / "base", **SMALL)
    for path in (tmp_path / "base").glob("*.safetensors"):
        assert {value.dtype for value in load_file(path).values()} == {torch.bfloat16}


def test_tokens_that_just_fit_leave_the_vocabulary_alone(tmp_path):
    qwen = make_qwen(tmp_path / "qwen", spare=2)
    base = init_from_qwen(qwen, tmp_path / "base", **SMALL)
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (qwen, base))
    assert new["vocab_size"] == old["vocab_size"] == new["ts_token_end_index"] + 1


@pytest.mark.parametrize("spare", [0, 1])
@pytest.mark.parametrize("tie", [True, False])
def test_embeddings_grow_only_when_the_tokens_do_not_fit(tmp_path, tie, spare):
    qwen = make_qwen(tmp_path / "qwen", tie=tie, spare=spare)
    base = init_from_qwen(qwen, tmp_path / "base", **SMALL)
    expected = text_logits(Qwen3ForCausalLM.from_pretrained(qwen))
    model = from_pretrained(base)
    tokens = expected.shape[-1]
    rows = model.get_input_embeddings().weight.shape[0]
    assert rows == model.config.vocab_size == json.loads((base / "config.json").read_text())["vocab_size"]
    assert rows % 64 == 0 and tokens + 2 <= rows < tokens + 66
    assert torch.allclose(text_logits(model)[..., :tokens], expected, atol=1e-5)

    index = json.loads((base / "model.safetensors.index.json").read_text())["weight_map"]
    grown = {index["model.embed_tokens.weight"], index.get("lm_head.weight", index["model.embed_tokens.weight"])}
    old, new = sorted(qwen.glob("*.safetensors")), sorted(base.glob("*.safetensors"))
    for before, after in zip(old, new):
        assert (before.read_bytes() == after.read_bytes()) == (after.name not in grown)


@pytest.mark.parametrize("order", [("<ts>", "<ts/>"), ("<ts/>", "<ts>")])
def test_tokens_that_exist_keep_their_ids(tmp_path, order):
    qwen = make_qwen(tmp_path / "qwen", specials=(*order, *CHAT_TOKENS))
    old = AutoTokenizer.from_pretrained(qwen)
    base = init_from_qwen(qwen, tmp_path / "base", **SMALL)
    new = AutoTokenizer.from_pretrained(base)
    assert len(new) == len(old)
    assert new.encode("<ts><ts/><|im_end|>") == old.encode("<ts><ts/><|im_end|>")
    assert json.loads((base / "config.json").read_text())["ts_token_start_index"] == old.encode("<ts>")[0]


def test_single_file_and_a_tokenizer_saved_by_transformers(tmp_path):
    qwen = make_qwen(tmp_path / "qwen", shard="5GB")
    AutoTokenizer.from_pretrained(qwen).save_pretrained(qwen)
    base = init_from_qwen(qwen, tmp_path / "base", patch_size=16, **SMALL)
    # a model.safetensors beside an index would be read alone
    assert sorted(path.name for path in base.glob("*.safetensors")) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    expected = text_logits(Qwen3ForCausalLM.from_pretrained(qwen))
    assert torch.allclose(text_logits(from_pretrained(base)), expected, atol=1e-5)
    for processor in (load_processor(base), AutoProcessor.from_pretrained(base)):
        assert (processor.patch_size, processor.max_sequence_length) == (16, 256)
        assert "<|im_start|>" in processor.tokenizer.chat_template
