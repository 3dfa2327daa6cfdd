"""The tiny random base: loads by every road, is reproducible, and never half written."""

import os

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, AutoTokenizer

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.model import Qwen2TSForCausalLM, Qwen3TSForCausalLM, from_pretrained, load_processor
from llamafactory_chatts.model.bases.fresh_folder import fresh_folder
from llamafactory_chatts.model.bases.tiny_base import init_tiny


CORPUS = [f"Find the spike at point {i} of a long series, 找出竖直尖峰和阶跃突变。" for i in range(40)]
CLASSES = {"qwen2": Qwen2TSForCausalLM, "qwen3": Qwen3TSForCausalLM}
TYPES = {"qwen2": "chatts", "qwen3": "qwen3ts"}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def tiny(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases") / request.param
    assert init_tiny(folder, CORPUS, backbone=request.param) == folder
    return request.param, folder


def test_loads_by_our_own_functions_and_by_the_auto_classes(tiny):
    backbone, folder = tiny
    model, processor = from_pretrained(folder), load_processor(folder)
    assert type(model) is CLASSES[backbone] and model.dtype == torch.float32
    assert type(AutoModelForCausalLM.from_pretrained(folder)) is CLASSES[backbone]
    auto = AutoProcessor.from_pretrained(folder)
    assert type(auto) is type(processor)
    assert (auto.patch_size, auto.max_sequence_length) == (8, 4096)
    config = AutoConfig.from_pretrained(folder)
    assert (config.model_type, config.architectures) == (TYPES[backbone], [CLASSES[backbone].__name__])


def test_generates_from_a_chat_with_a_series(tiny):
    _, folder = tiny
    model, processor = from_pretrained(folder), load_processor(folder)
    chat = [{"role": "user", "content": "Find the spike: <ts><ts/>"}]
    text = processor.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nFind the spike: <ts><ts/><|im_end|>\n<|im_start|>assistant\n"
    )
    batch = processor(text=[text], timeseries=[[0.0] * 50 + [9.0]])
    output = model.generate(**batch, max_new_tokens=4, min_new_tokens=4)
    assert output.shape[1] == batch["input_ids"].shape[1] + 4


def test_special_tokens_and_padded_vocabulary(tiny):
    _, folder = tiny
    tokenizer, model = AutoTokenizer.from_pretrained(folder), from_pretrained(folder)
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<ts>", "<ts/>"]
    ids = tokenizer.convert_tokens_to_ids(names)
    assert ids == list(range(len(tokenizer) - 5, len(tokenizer)))
    assert tokenizer.encode("".join(names)) == ids
    rows = model.get_input_embeddings().weight.shape[0]
    assert len(tokenizer) % 64 != 0, "choose other texts for CORPUS"
    assert rows % 64 == 0 and len(tokenizer) < rows < len(tokenizer) + 64
    assert model.generation_config.eos_token_id == [ids[2], ids[0]]
    assert model.generation_config.pad_token_id == ids[0]


def test_tokenizer_writes_any_text_back(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny[1])
    for text in ("Find 竖直尖峰 at 12.5\n", "naïve 😀 \t x", "[offset=-1.2500|scaling=1.0000]"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_same_arguments_give_the_same_bytes(tiny, tmp_path):
    backbone, folder = tiny
    torch.manual_seed(123)  # the seed of the process has no say, and is left as it was
    state = torch.get_rng_state()
    again = init_tiny(tmp_path / "again", CORPUS, backbone=backbone)
    assert torch.equal(torch.get_rng_state(), state)
    assert contents(again) == contents(folder)
    other = contents(init_tiny(tmp_path / "other", CORPUS, seed=1, backbone=backbone))
    assert other["model.safetensors"] != contents(folder)["model.safetensors"]
    assert other["tokenizer.json"] == contents(folder)["tokenizer.json"]


def test_files_are_small_and_readable_as_the_umask_allows(tmp_path):
    old = os.umask(0o027)
    try:
        folder = init_tiny(tmp_path / "base", CORPUS)
    finally:
        os.umask(old)

    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}
    assert folder.stat().st_mode & 0o777 == 0o750


def test_unknown_backbone(tmp_path):
    with pytest.raises(ChatTSError, match="unknown backbone 'llama'. Use one of: qwen2, qwen3"):
        init_tiny(tmp_path / "base", CORPUS, backbone="llama")


def test_a_folder_with_content_is_refused_then_replaced(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    init_tiny(folder, CORPUS)  # an empty folder is fine
    (folder / "stale.txt").write_text("x")
    before = contents(folder)
    with pytest.raises(ChatTSError, match="not empty. Name another folder, or pass --overwrite"):
        init_tiny(folder, CORPUS, seed=1)

    assert contents(folder) == before
    init_tiny(folder, CORPUS, seed=1, overwrite=True)
    assert "stale.txt" not in contents(folder) and contents(folder)["model.safetensors"] != before["model.safetensors"]
    assert os.listdir(tmp_path) == ["base"]


def test_overwrite_replaces_model_folders_only(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ChatTSError, match="no model folder and is not replaced"):
        init_tiny(tmp_path, CORPUS, overwrite=True)
    with pytest.raises(ChatTSError, match="this is a file"):
        init_tiny(tmp_path / "thesis.tex", CORPUS, overwrite=True)

    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path):
    def stops():
        yield "some text"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        init_tiny(tmp_path / "new", stops())

    assert os.listdir(tmp_path) == []
    folder = init_tiny(tmp_path / "base", CORPUS)
    before = contents(folder)
    with pytest.raises(KeyboardInterrupt):
        init_tiny(folder, stops(), overwrite=True)

    assert os.listdir(tmp_path) == ["base"] and contents(folder) == before


def test_a_folder_filled_meanwhile_is_kept(tmp_path):
    with pytest.raises(ChatTSError, match="not empty"), fresh_folder(tmp_path / "base") as partial:
        (partial / "mine").write_text("x")
        (tmp_path / "base").mkdir()
        (tmp_path / "base" / "theirs").write_text("x")

    assert os.listdir(tmp_path) == ["base"] and os.listdir(tmp_path / "base") == ["theirs"]
