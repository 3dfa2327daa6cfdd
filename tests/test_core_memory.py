"""Memory by formula, and which settings free the most."""

from dataclasses import replace

import pytest

from llamafactory_chatts.core import memory
from llamafactory_chatts.core.memory import GIB, Shape
from llamafactory_chatts.core.memory_advice import Effect, Run, rank_effects


QWEN3_8B = Shape.of(
    {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    }
)


def test_a_config_object_is_read_like_a_mapping(tiny_base):
    from transformers import Qwen2Config

    shape = Shape.of(Qwen2Config(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, vocab_size=100))
    assert (shape.head_dim, shape.num_key_value_heads, shape.vocab_size) == (16, 2, 100)


def test_parameters_are_those_of_the_model(tiny_base):
    from llamafactory_chatts.model import from_pretrained

    model = from_pretrained(str(tiny_base))
    shape = Shape.of(model.config)
    linear = sum(p.numel() for n, p in model.model.layers.named_parameters() if p.dim() == 2)
    assert memory.count_linear_parameters(shape) == linear
    assert memory.count_embedding_parameters(shape) == model.lm_head.weight.numel()


def test_adapters_are_those_of_peft(tiny_base):
    from peft import LoraConfig, get_peft_model

    from llamafactory_chatts.model import from_pretrained

    model = from_pretrained(str(tiny_base))
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=4, target_modules=targets))
    trained = sum(param.numel() for param in model.parameters() if param.requires_grad)
    assert memory.count_adapter_parameters(Shape.of(model.config), 4) == trained


def test_the_measured_layers():
    """One decoder layer at 5,840 tokens on an H200: 1.05 GiB, with Liger's kernels 0.79 GiB."""
    for kernels, measured in ((False, 1.05), (True, 0.79)):
        found = memory.estimate_activations(QWEN3_8B, 5840, False, kernels) / QWEN3_8B.num_hidden_layers / GIB
        assert found == pytest.approx(measured, rel=0.06)


def test_weights_of_8b():
    assert memory.count_linear_parameters(QWEN3_8B) / 1e9 == pytest.approx(6.95, abs=0.01)
    assert memory.estimate_weights(QWEN3_8B) / GIB == pytest.approx(15.26, abs=0.02)
    assert memory.estimate_weights(QWEN3_8B, 4) / GIB == pytest.approx(5.8, abs=0.1)


def test_checkpointing_keeps_a_state_per_layer_and_one_layer():
    state, layer = 1000 * 2 * 4096, memory.estimate_activations(QWEN3_8B, 1000, False) / 36
    assert memory.estimate_activations(QWEN3_8B, 1000, True) == pytest.approx(36 * state + layer)
    assert memory.estimate_activations(QWEN3_8B, 1000, True, offloaded=True) == pytest.approx(layer)
    wide = memory.estimate_activations(QWEN3_8B, 1000, False, element=4) / 36
    assert 1.6 * layer < wide < 2 * layer  # PyTorch's own norms keep float32 either way
    kernels = [memory.estimate_activations(QWEN3_8B, 1000, False, kernels=True, element=size) for size in (2, 4)]
    assert kernels[1] == pytest.approx(2 * kernels[0], rel=0.001)


LORA = Run(QWEN3_8B, checkpointing=False, rows=16, tokens=6144, longest=430, accumulation=16)


def names(run, count=9):
    return [effect.setting for effect in rank_effects(run, count)]


class TestAdvice:
    def test_lora_with_large_passes(self):
        effects = rank_effects(LORA)
        assert [e.setting for e in effects] == [
            "disable_gradient_checkpointing: false",
            "tokens_per_batch: 3072",
            "enable_liger_kernel: true",
        ]
        assert [round(e.saved / GIB) for e in effects] == [36, 19, 11]

    def test_no_pass_below_the_longest_row(self):
        assert "tokens_per_batch: 6000" in names(replace(LORA, longest=6000))
        assert not any("tokens_per_batch" in name for name in names(replace(LORA, rows=1, longest=6144)))

    def test_where_tokens_per_batch_is_refused(self):
        found = names(replace(LORA, fills_passes=False, batch_size=4, accumulation=4))
        assert "per_device_train_batch_size: 2, gradient_accumulation_steps: 8" in found
        assert not any("tokens_per_batch" in name for name in found)

    def test_what_is_on_is_not_named_again(self):
        on = replace(LORA, checkpointing=True, offloaded=True, kernels=True, bits=4, offload_embedding=True)
        assert names(on) == ["tokens_per_batch: 3072"]

    def test_quantised(self):
        run = replace(LORA, bits=4, checkpointing=True, tokens=400, offload_embedding=False, lm_head_8bit=False)
        effects = {effect.setting: effect.saved / GIB for effect in rank_effects(run, 9)}
        assert effects["offload_embedding: true"] == pytest.approx(1.16, abs=0.01)
        assert effects["lm_head_8bit: true"] == pytest.approx(0.58, abs=0.01)
        assert "quantization_bit: 4" not in effects
        unknown = replace(run, offload_embedding=None, lm_head_8bit=None)
        assert not {"offload_embedding: true", "lm_head_8bit: true"} & set(names(unknown))

    def test_while_loading_only_weights_matter(self):
        assert names(replace(LORA, tokens=0, rows=0)) == ["quantization_bit: 4"]

    def test_full_tuning(self):
        full = replace(LORA, finetuning_type="full", tokens=0, rows=0, processes=4)
        assert names(full) == ["finetuning_type: lora", "deepspeed: (a ZeRO-3 config)", "pure_bf16: true"]
        assert names(replace(full, sharded=True)) == ["finetuning_type: lora"]

    def test_a_high_rank(self):
        assert "lora_rank: 8" in names(replace(LORA, lora_rank=64)) and "lora_rank: 8" not in names(LORA)

    def test_as_text(self):
        assert str(Effect("bf16: true", 3.14 * GIB)) == "`bf16: true` about -3.1 GiB"
        assert str(Effect("bf16: true", 0.0314 * GIB)) == "`bf16: true` about -0.031 GiB"
