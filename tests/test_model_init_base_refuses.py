"""What init_from_qwen refuses, and that it leaves nothing behind then."""

import json
import os

import pytest
from qwen_folders import SMALL, make_qwen
from transformers import LlamaConfig

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.model.bases.init_base import init_from_qwen


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return make_qwen(tmp_path_factory.mktemp("refused") / "qwen")


def edit_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def break_llama(qwen):
    LlamaConfig().save_pretrained(qwen)


def break_kind(qwen):
    edit_config(qwen, model_type="qwen3_moe")


def break_chatts(qwen):
    edit_config(qwen, ts={}, ts_token_start_index=1)


def break_quantised(qwen):
    edit_config(qwen, quantization_config={"quant_method": "gptq"})


def break_no_config(qwen):
    (qwen / "config.json").unlink()


def break_missing_shard(qwen):
    sorted(qwen.glob("*.safetensors"))[1].unlink()


def break_cut_shard(qwen):
    path = sorted(qwen.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-10])


def break_no_weights(qwen):
    (qwen / "model.safetensors.index.json").unlink()


def break_lost_tensor(qwen):
    path = qwen / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.extra.weight"] = next(iter(index["weight_map"].values()))
    path.write_text(json.dumps(index))


def break_no_head(qwen):
    path = qwen / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name = index["weight_map"]["lm_head.weight"]
    index["weight_map"] = {key: file for key, file in index["weight_map"].items() if file != name}
    path.write_text(json.dumps(index))


def break_tokenizer(qwen):
    (qwen / "tokenizer.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_llama, "model_type is 'llama'"),
        (break_kind, "model_type is 'qwen3_moe'"),
        (break_chatts, "ChatTS base already"),
        (break_quantised, "quantised"),
        (break_no_config, "no model folder"),
        (break_missing_shard, r"1 of \d+ shards are missing: model-00002"),
        (break_cut_shard, "model-00002-of-.*: the file is cut short"),
        (break_no_weights, "holds neither model.safetensors nor"),
        (break_lost_tensor, "first model.extra.weight"),
        (break_no_head, "no tensor lm_head.weight"),
        (break_tokenizer, "tokenizer.json: not valid JSON"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_unusable_folders_are_refused_and_nothing_is_left_behind(tmp_path, damage, message):
    qwen = make_qwen(tmp_path / "qwen")
    damage(qwen)
    with pytest.raises(ChatTSError, match=message):
        init_from_qwen(qwen, tmp_path / "base", **SMALL)

    assert os.listdir(tmp_path) == ["qwen"]


def test_the_result_of_itself_is_refused(qwen, tmp_path):
    with pytest.raises(ChatTSError, match="ChatTS base already"):
        init_from_qwen(init_from_qwen(qwen, tmp_path / "base", **SMALL), tmp_path / "again")


@pytest.mark.parametrize("setting", ["patch_size", "num_layers", "embedding_dim", "max_sequence_length"])
def test_settings_must_be_positive(qwen, tmp_path, setting):
    with pytest.raises(ChatTSError, match=f"{setting}: 0 is not positive"):
        init_from_qwen(qwen, tmp_path / "base", **{setting: 0})


def test_the_qwen_folder_is_never_replaced(tmp_path):
    qwen = make_qwen(tmp_path / "outer" / "qwen")
    (tmp_path / "outer" / "config.json").write_text("{}")
    before = sorted(os.listdir(qwen))
    for out in (qwen, tmp_path / "outer"):
        with pytest.raises(ChatTSError, match="not empty"):
            init_from_qwen(qwen, out, **SMALL)
        with pytest.raises(ChatTSError, match="would replace the Qwen folder"):
            init_from_qwen(qwen, out, overwrite=True, **SMALL)

    assert sorted(os.listdir(qwen)) == before
