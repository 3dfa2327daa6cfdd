"""init-base, as a user calls it."""

import json

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from llamafactory_chatts.cli import main
from llamafactory_chatts.data.synthesize.demo import generate
from llamafactory_chatts.model import from_pretrained, load_processor
from llamafactory_chatts.model.bases.tiny_base import save_tokenizer, train_tokenizer


def test_a_tiny_base_reads_the_demo_data(tmp_path, capsys):
    folder = tmp_path / "tiny"
    assert main(["init-base", "--tiny", str(folder)]) == 0
    assert f"{folder}: " in capsys.readouterr().out  # DeepSpeed may print at its first import
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
    model, processor = from_pretrained(folder), load_processor(folder)
    assert model.config.model_type == "qwen3ts" and 900 < len(processor.tokenizer) < 2100
    row = next(row for row in generate(100) if len(row["timeseries"]) > 1)
    batch = processor(text=[row["input"]], timeseries=row["timeseries"])
    assert batch["input_ids"].shape[1] < 400  # words are tokens, though the tokenizer is small
    assert torch.isfinite(model(**batch).logits).all()


def test_backbone_seed_and_overwrite(tmp_path, capsys):
    argv = ["init-base", "--tiny", str(tmp_path / "tiny"), "--backbone", "qwen2"]
    assert main(argv) == 0
    assert json.loads((tmp_path / "tiny" / "config.json").read_text())["model_type"] == "chatts"
    weights = (tmp_path / "tiny" / "model.safetensors").read_bytes()
    assert main(argv) == 2
    assert "not empty" in capsys.readouterr().err
    assert main([*argv, "--overwrite"]) == 0
    assert (tmp_path / "tiny" / "model.safetensors").read_bytes() == weights
    assert main([*argv, "--overwrite", "--seed", "1"]) == 0
    assert (tmp_path / "tiny" / "model.safetensors").read_bytes() != weights


def test_from_a_qwen_folder_with_settings(tmp_path):
    qwen = tmp_path / "qwen"
    qwen.mkdir()
    save_tokenizer(train_tokenizer(["some text"] * 3), qwen)
    config = Qwen3Config(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    Qwen3ForCausalLM(config).save_pretrained(qwen)
    argv = ["init-base", str(qwen), str(tmp_path / "base"), "--patch-size", "16", "--num-layers", "2"]
    assert main([*argv, "--embedding-dim", "3", "--max-sequence-length", "99"]) == 0
    model = from_pretrained(tmp_path / "base")
    assert model.ts_encoder.mlp[0].weight.shape == (16, 16 + 16 * 3)
    assert model.ts_encoder.position_embedding.weight.shape == (100, 3)
    assert len([key for key in model.ts_encoder.state_dict() if key.endswith("bias")]) == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "QWEN_DIR and OUT are needed"),
        (["qwen"], "QWEN_DIR and OUT are needed"),
        (["qwen", "out", "--backbone", "qwen2"], "--backbone belongs to --tiny"),
        (["qwen", "--tiny", "out"], "--tiny does not take qwen_dir"),
        (["--tiny", "out", "--patch-size", "4"], "--tiny does not take --patch-size"),
        (["qwen", "out"], "qwen: there is no config.json"),
    ],
)
def test_wrong_use(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert main(["init-base", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
