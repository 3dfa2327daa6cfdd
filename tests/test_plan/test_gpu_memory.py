"""Predicted GPU memory against what runs on an H200 reserved (GiB; torch 2.11, docs/benchmarks.md)."""

import json
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from host_steps import load_all

from llamafactory_chatts.core.memory import GIB
from llamafactory_chatts.plan.memory.activations import SLICE, Pass
from llamafactory_chatts.plan.memory.base_model import PUBLISHED, EncoderShape, read_base
from llamafactory_chatts.plan.memory.gpu_memory import PARTS, estimate_gpu
from llamafactory_chatts.plan.memory.trained import count_trained
from llamafactory_chatts.plan.strategy import Strategy
from llamafactory_chatts.recipe.machine.planned import Machine, find_card
from llamafactory_chatts.recipe.reading import Recipe
from llamafactory_chatts.recipe.settings import DEFAULTS


LIGER, QLORA = {"enable_liger_kernel": True}, {"quantization_bit": 4}
FREE, OFFLOADED = {"disable_gradient_checkpointing": True}, {"use_unsloth_gc": True}
FULL = {"finetuning_type": "full", "pure_bf16": True, "bf16": False, "optim": "adamw_torch"}
SMALL = {"offload_embedding": True, "lm_head_8bit": True}
FP16, DROPOUT = {"fp16": True, "bf16": False}, {"lora_dropout": 0.05}
MEASURED = [
    # base, rows of a pass, tokens a row, settings, reserved GiB
    ("8B", 16, 365, {}, 19.07),
    ("8B", 16, 365, LIGER, 18.62),
    ("8B", 4, 365, LIGER | FREE, 21.17),
    ("8B", 16, 365, LIGER | FREE, 37.30),
    ("8B", 16, 365, LIGER | QLORA, 8.89),
    ("8B", 4, 365, LIGER | QLORA | FREE, 11.58),
    ("8B", 1, 365, {}, 15.8),
    ("8B", 8, 365, {}, 17.4),
    ("8B", 4, 365, {"lora_rank": 16, "lora_target": "all"}, 17.2),
    ("8B", 1, 365, QLORA, 6.3),
    ("8B", 4, 365, QLORA, 7.0),
    ("8B", 16, 365, QLORA, 9.5),
    ("14B", 1, 365, QLORA, 10.2),
    ("14B", 4, 365, QLORA, 11.1),
    ("14B", 5, 367, LIGER | QLORA, 11.18),
    ("14B", 5, 367, LIGER | QLORA | OFFLOADED, 10.34),
    ("14B", 5, 367, LIGER | QLORA | {"offload_embedding": True}, 9.71),
    ("14B", 5, 367, LIGER | QLORA | SMALL | OFFLOADED, 8.16),
    ("14B", 4, 367, LIGER | QLORA | FREE, 18.24),
    ("14B", 2, 866, LIGER | QLORA, 11.41),
    ("14B", 2, 866, LIGER | QLORA | OFFLOADED | {"lm_head_8bit": True}, 9.78),
    ("14B", 5, 367, LIGER | QLORA | OFFLOADED | {"lm_head_8bit": True}, 9.60),
    ("8B", 1, 1920, {}, 16.68),
    ("8B", 3, 1920, LIGER | FREE, 36.50),
    ("8B", 1, 2292, LIGER, 16.86),
    ("8B", 1, 4341, LIGER, 18.06),
    ("8B", 1, 6864, LIGER, 19.07),
    ("8B", 16, 367, LIGER | FULL, 78.74),
    ("14B", 11, 367, LIGER | {"lora_rank": 16, "lora_target": "all", "lora_dropout": 0.05}, 31.83),
    ("14B", 1, 367, FP16 | QLORA | SMALL | DROPOUT, 8.62),
    ("14B", 5, 367, FP16 | QLORA | SMALL | OFFLOADED | DROPOUT, 8.98),
    ("14B", 5, 367, FP16 | LIGER | QLORA, 14.02),
]


def recipe_of(base="8B", **settings):
    common = {"model_name_or_path": f"bytedance-research/ChatTS-{base}", "bf16": True, "optim": "adamw_torch_fused"}
    return Recipe({**common, "lora_target": "q_proj,k_proj,v_proj", **settings}, Path("r.yaml"))


def estimate(recipe, rows=4, tokens=365, card="H200", count=1, strategy=None, several=True):
    work = Pass(rows, rows * tokens, tokens, rows * 21, rows * 128, several)
    machine = Machine(find_card(card), count)
    return estimate_gpu(recipe, read_base(recipe), machine, strategy or Strategy(), work)


@pytest.mark.parametrize(("base", "rows", "tokens", "settings", "measured"), MEASURED)
def test_within_a_tenth_of_what_was_measured(base, rows, tokens, settings, measured):
    found = estimate(recipe_of(base, **settings), rows, tokens).peak / GIB
    assert found == pytest.approx(measured, rel=0.10)


@pytest.mark.parametrize(
    ("rows", "settings", "measured"), [(1, SMALL, 7.98), (5, SMALL | OFFLOADED, 8.43)], ids=["simple", "safe"]
)
def test_fp16_with_a_checkpoint_in_float16(tmp_path, rows, settings, measured):
    """Nothing is copied then, and what runs between the layers stays 16 bits."""
    config = {**PUBLISHED["bytedance-research/ChatTS-14B"], "dtype": "float16", "ts": {}, "ts_token_start_index": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = recipe_of(model_name_or_path=str(tmp_path), **FP16, **QLORA, **DROPOUT, **settings)
    assert estimate(recipe, rows, 367).peak / GIB == pytest.approx(measured, rel=0.05)


def test_on_average_much_closer():
    errors = [
        abs(estimate(recipe_of(base, **settings), rows, tokens).peak / GIB / measured - 1)
        for base, rows, tokens, settings, measured in MEASURED
    ]
    assert sum(errors) / len(errors) < 0.03


@pytest.mark.parametrize(
    ("base", "settings", "measured"), [("8B", {}, 15.41), ("8B", QLORA, 5.84), ("14B", QLORA, 9.58)]
)
def test_weights_are_what_a_load_reserves(base, settings, measured):
    parts = estimate(recipe_of(base, **settings)).parts
    found = sum(parts[name] for name in ("weights", "quantisation constants", "encoder")) / GIB
    assert found == pytest.approx(measured, rel=0.02)


class TestDirections:
    """What lowers memory, and what does not."""

    def test_the_parts_are_the_peak(self):
        found = estimate(recipe_of())
        assert tuple(found.parts) == PARTS and found.peak == pytest.approx(sum(found.parts.values()))
        assert found.needed > found.peak

    @pytest.mark.parametrize(
        "lower",
        [
            LIGER,
            QLORA,
            OFFLOADED,
            {"lora_rank": 4},
            {"train_timeseries_modules": False},
            {"optim": "paged_adamw_8bit"},
        ],
    )
    def test_settings_that_lower_it(self, lower):
        assert estimate(recipe_of(**lower), rows=16).peak < estimate(recipe_of(), rows=16).peak

    @pytest.mark.parametrize(
        "higher",
        [
            FREE,
            {"lora_target": "all"},
            {"timeseries_tuning": "full"},
            {"lora_dropout": 0.1, **FREE},
            {"eval_strategy": "steps", "per_device_eval_batch_size": 64},
            {"fp16": True, "bf16": False},
            {"finetuning_type": "full"},
            {"stage": "dpo"},
        ],
    )
    def test_settings_that_raise_it(self, higher):
        assert estimate(recipe_of(**higher), rows=16).peak > estimate(recipe_of(), rows=16).peak

    def test_attention_that_writes_out_its_scores(self):
        long = {"rows": 2, "tokens": 3000}
        flash = estimate(recipe_of(), **long).peak
        assert estimate(recipe_of(flash_attn="disabled"), **long).peak > flash + GIB
        assert estimate(recipe_of(), card="RTX 2080 Ti", **long).peak > flash + GIB

    def test_full_tuning_counts_what_adamw_keeps(self):
        base = read_base(recipe_of())
        pure = estimate(recipe_of(finetuning_type="full", pure_bf16=True, bf16=False))
        mixed = estimate(recipe_of(finetuning_type="full"))
        assert pure.peak > 8 * base.total and mixed.peak > 16 * base.total
        listed = estimate(recipe_of(finetuning_type="full", pure_bf16=True, bf16=False, optim="adamw_torch"))
        assert listed.moment == "optimizer step" and listed.peak > 10 * base.total

    def test_zero_shares_out(self):
        recipe = recipe_of(finetuning_type="full")
        peaks = [
            estimate(recipe, count=8, strategy=Strategy(stage, offload_optimizer=off, offload_param=off)).peak
            for stage, off in ((0, False), (1, False), (2, False), (3, False), (3, True))
        ]
        assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == 5


class TestCountsOfTheModel:
    def test_trained_parameters_are_peft_s(self, write_dataset, recipe, rows):
        """Against what the host makes trainable on the real (tiny) model."""
        write_dataset(rows(2))
        cases = [
            {"finetuning_type": "lora", "lora_target": "q_proj,v_proj"},
            {"finetuning_type": "lora", "lora_target": "all", "timeseries_tuning": "full"},
            {"finetuning_type": "lora", "lora_target": "all", "timeseries_tuning": "freeze"},
            {"finetuning_type": "full"},
            {"finetuning_type": "full", "freeze_language_model": True},
            {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
        ]
        for case in cases:
            settings = recipe(**case)
            real = sum(p.numel() for p in load_all(settings).model.parameters() if p.requires_grad)
            read = Recipe(settings, Path("r.yaml"))
            assert count_trained(read, read_base(read)).total == real, case

    def test_all_parameters(self, tiny_base, tiny_base_qwen2):
        from llamafactory_chatts.model import from_pretrained

        for folder in (tiny_base, tiny_base_qwen2):
            base = read_base(Recipe({"model_name_or_path": str(folder)}, Path("r.yaml")))
            assert base.total == sum(p.numel() for p in from_pretrained(str(folder)).parameters())
            assert base.element == 4


class TestFactsOfOtherRooms:
    """Values that stand here because a plan imports no torch."""

    def test_slice_of_the_loss(self):
        from llamafactory_chatts.model import loss

        assert loss.SLICE == SLICE

    def test_settings_of_the_encoder(self):
        from llamafactory_chatts.model.configuration_chatts import TS_DEFAULTS as real

        assert asdict(EncoderShape()).items() <= real.items()

    def test_defaults_of_the_host(self):
        from llamafactory.hparams import parser

        known = {field.name: field for cls in parser._TRAIN_ARGS for field in fields(cls)}
        wrong = {
            key: (value, known[key].default)
            for key, value in DEFAULTS.items()
            if key not in known
            or known[key].default not in (value, str(value))
            and str(known[key].default) != str(value)
        }
        assert not wrong

    def test_published_names_are_offered_by_the_host(self):
        from llamafactory.extras.constants import SUPPORTED_MODELS

        offered = {name for sources in SUPPORTED_MODELS.values() for name in sources.values()}
        assert set(PUBLISHED) <= offered
