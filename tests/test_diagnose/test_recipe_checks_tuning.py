"""Rules for what a training tunes, the adapters it loads and exports: found before anything is loaded."""

import json
import shutil

import pytest

from llamafactory_chatts.core.base_record import RECORD, lineage, write_record
from llamafactory_chatts.recipe.reading import Recipe
from llamafactory_chatts.recipe.rules import check_recipe


PAIRS = {"prompt": "input", "chosen": "output", "rejected": "bad", "timeseries": "timeseries"}
ZERO3 = {"zero_optimization": {"stage": 3}}
FROZEN = {"train_timeseries_modules": False}
ALONE = {"freeze_language_model": True}
SFT = {"adapter_name_or_path": "ADAPTER"}
DPO = {"stage": "dpo", "dataset": "pairs"}


@pytest.fixture
def adapter(tmp_path, tiny_base):
    """The folder of a LoRA adapter of the tiny base."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    shutil.copy(tiny_base / "model.safetensors", folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "init_lora_weights": true}')
    write_record(folder, lineage(tiny_base, [], False))
    return folder


@pytest.fixture
def find(recipe, write_dataset, rows, monkeypatch, adapter):
    """Return a function: (key, what, fix) of each error of the good recipe with changes; ADAPTER is its folder."""
    monkeypatch.delenv("LLAMABOARD_ENABLED", raising=False)
    write_dataset(rows(8))
    write_dataset([{**row, "bad": "no"} for row in rows(3)], name="pairs", ranking=True, columns=PAIRS)

    def look(changes, at_start=True, level="error"):
        changes = {
            key: value.replace("ADAPTER", str(adapter)) if isinstance(value, str) else value
            for key, value in changes.items()
        }
        found = check_recipe(Recipe(recipe(**changes)), at_start)
        return [(one.subject, one.what, one.fix) for one in found if one.level == level]

    return look


GOOD = {
    "a frozen encoder in both words": {"freeze_multi_modal_projector": True, **FROZEN},
    "frozen as the adapter's own": {"freeze_multi_modal_projector": True, "timeseries_tuning": "freeze"},
    "a trained one in both words": {"freeze_multi_modal_projector": False},
    "the encoder alone": ALONE,
    "the encoder alone, full": {**ALONE, "finetuning_type": "full"},
    "no layer, the encoder alone": {"finetuning_type": "freeze", "freeze_trainable_layers": 0},
    "another module alone": {**ALONE, **FROZEN, "additional_target": "embed_tokens"},
    "parts of layers": {"finetuning_type": "freeze", "freeze_trainable_modules": "self_attn,mlp"},
    "dpo from an adapter": {**DPO, **SFT},
    "a new one on it": {**SFT, "create_new_adapter": True},
    "a reference by name": {**DPO, **SFT, "ref_model": "ADAPTER", "ref_model_adapters": "ADAPTER"},
    "pissa": {"pissa_init": True, "pissa_convert": True},
    "pissa without a reference": {"pissa_init": True, "pref_loss": "orpo", **DPO},
    "zero-3": {"deepspeed": ZERO3, "additional_target": "embed_tokens"},
}

BAD = {
    # name -> changes, the key, words of what and fix
    "projector": (
        {"freeze_multi_modal_projector": True},
        "freeze_multi_modal_projector",
        "train_timeseries_modules: f",
    ),
    "projector of full": (
        {"freeze_multi_modal_projector": True, "finetuning_type": "full"},
        "freeze_multi_modal_projector",
        "the series encoder stands in the projector's place, and it would be trained",
    ),
    "both": (
        {"freeze_vision_tower": True, "freeze_multi_modal_projector": True, "quantization_bit": 4},
        "freeze_multi_modal_projector",
        "it would be trained",
    ),
    "not the projector": (
        {"freeze_multi_modal_projector": False, **FROZEN},
        "freeze_multi_modal_projector",
        "Remove one of the two",
    ),
    "nothing, lora": ({**ALONE, "timeseries_tuning": "freeze"}, "freeze_language_model", "nothing is trained"),
    "nothing, full": ({**ALONE, **FROZEN, "finetuning_type": "full"}, "freeze_language_model", "nothing is trained"),
    "nothing, freeze": ({**ALONE, **FROZEN, "finetuning_type": "freeze"}, "freeze_language_model", "nothing is tr"),
    "nothing, oft": ({**ALONE, **FROZEN, "finetuning_type": "oft"}, "freeze_language_model", "nothing is trained"),
    "no layers": (
        {"finetuning_type": "freeze", "freeze_trainable_layers": 0, **FROZEN},
        "freeze_trainable_layers",
        "nothing is trained: 0 layers",
    ),
    "blocks": ({"use_llama_pro": True, "freeze_trainable_layers": 0}, "freeze_trainable_layers", "divides the layers"),
    "parts": (
        {"finetuning_type": "freeze", "freeze_trainable_modules": "attention"},
        "freeze_trainable_modules",
        "self_attn",
    ),
    "other parts": (
        {"finetuning_type": "freeze", "freeze_extra_modules": "ts_encoder"},
        "freeze_extra_modules",
        "train_timeseries_modules",
    ),
    "lora+": ({"timeseries_sft_lr": 1e-5, "loraplus_lr_ratio": 16.0}, "timeseries_sft_lr", "loraplus_lr_ratio builds"),
    "galore": (
        {"timeseries_sft_lr": 1e-5, "use_galore": True, "finetuning_type": "full"},
        "timeseries_sft_lr",
        "use_galore builds its own parameter groups",
    ),
    "muon": ({"timeseries_sft_lr": 1e-5, "use_muon": True}, "timeseries_sft_lr", "use_muon builds"),
    "zero-3 and a head": (
        {"deepspeed": ZERO3, "additional_target": "lm_head"},
        "additional_target",
        "ZeRO-3",
    ),
    "new in 4 bits": ({**SFT, "create_new_adapter": True, "quantization_bit": 4}, "create_new_adapter", "export"),
    "new with zero-3": ({**SFT, "create_new_adapter": True, "deepspeed": ZERO3}, "create_new_adapter", "export"),
    "two with zero-3": (
        {"adapter_name_or_path": "ADAPTER,ADAPTER", "deepspeed": ZERO3},
        "adapter_name_or_path",
        "single adapter",
    ),
    "dora of 8 bits": ({"quantization_bit": 8, "use_dora": True}, "use_dora", "Write quantization_bit: 4"),
    "pissa of dpo": ({"pissa_init": True, **DPO}, "pissa_init", "is the reference of this stage"),
    "pissa of zero-3": ({"pissa_init": True, "deepspeed": ZERO3}, "pissa_init", "the whole 16-bit weights"),
    "pissa that goes on": ({"pissa_init": True, **SFT}, "pissa_init", "create_new_adapter: true"),
    "nothing to convert": ({"pissa_convert": True}, "pissa_convert", "Add pissa_init: true"),
    "reference's adapter": ({**DPO, "ref_model_adapters": "ADAPTER"}, "ref_model_adapters", "Add ref_model"),
    "reference's bits": ({**DPO, "ref_model_quantization_bit": 4}, "ref_model_quantization_bit", "Add ref_model"),
    "reference of zero-3": ({**DPO, **SFT, "deepspeed": ZERO3}, "adapter_name_or_path", "Name it in ref_model"),
    "reference that saves memory": (
        {**DPO, "ref_model": "ADAPTER", "quantization_bit": 4, "offload_embedding": True},
        "offload_embedding",
        "the reference is a second model",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_fine_is_let_through(find, name):
    assert find(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named(find, name):
    changes, key, words = BAD[name]
    found = [one for one in find(changes) if one[0] == key]
    assert any(words in f"{what}. {fix}" for _, what, fix in found), find(changes)


def test_llamaboards_boxes_for_vision_models_are_no_wish(find, monkeypatch):
    boxes = {"freeze_vision_tower": True, "freeze_multi_modal_projector": True}
    assert find(boxes) != []
    monkeypatch.setenv("LLAMABOARD_ENABLED", "1")
    assert find(boxes) == [] == find(boxes, at_start=False, level="warning")


def test_a_vision_tower_is_warned_of(find):
    ((key, what, _),) = [one for one in find({"freeze_vision_tower": True}, False, "warning") if "vision" in one[0]]
    assert key == "freeze_vision_tower" and "the series encoder is trained" in what


class TestAdapters:
    def test_another_base(self, find, adapter):
        record = json.loads((adapter / RECORD).read_text())
        record["base"] = {"fingerprint": "0" * 32, "name": "ChatTS-0B"}
        write_record(adapter, record)
        ((key, what, fix),) = find(SFT)
        assert key == "adapter_name_or_path" and "another base (ChatTS-0B)" in what and "Name that base" in fix
        found = find({"resume_from_checkpoint": "ADAPTER"})
        assert {key for key, _, _ in found} == {"resume_from_checkpoint"}
        assert any("another base (ChatTS-0B)" in what for _, what, _ in found)

    def test_twice(self, find):
        ((_, what, _),) = find({"adapter_name_or_path": "ADAPTER,ADAPTER"})
        assert "stands there twice" in what

    def test_an_older_one(self, find, adapter):
        (adapter / RECORD).unlink()
        assert find(SFT) == []
        assert any("not known which base" in what for _, what, _ in find(SFT, at_start=False, level="note"))

    @pytest.mark.parametrize(
        "config, changes, words",
        [
            ({"peft_type": "LORA"}, {"finetuning_type": "oft"}, "of the kind lora, finetuning_type is oft"),
            ({"init_lora_weights": "pissa_niter_16"}, {}, "from a random start"),
            ({"init_lora_weights": "pissa"}, {"quantization_bit": 4}, "needs the 16-bit weights"),
        ],
    )
    def test_one_that_is_not_loaded_as_it_was_trained(self, find, adapter, config, changes, words):
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        ((key, what, fix),) = find({**SFT, **changes})
        assert key == "adapter_name_or_path" and words in what and fix

    def test_oft_takes_its_own(self, find, adapter):
        (adapter / "adapter_config.json").write_text('{"peft_type": "OFT"}')
        assert find({**SFT, "finetuning_type": "oft"}) == [] == find(SFT)
        assert [key for key, _, _ in find({**SFT, "finetuning_type": "full"})] == ["adapter_name_or_path"]


@pytest.mark.parametrize(
    "changes, key",
    [
        ({}, None),
        ({"quantization_bit": 4}, "quantization_bit"),
        ({"adapter_name_or_path": "x/y", "quantization_bit": 4}, "quantization_bit"),
        ({"export_quantization_bit": 4, "export_quantization_dataset": "c4"}, "export_quantization_bit"),
    ],
)
def test_exports(tiny_base, changes, key):
    recipe = {"model_name_or_path": str(tiny_base), "template": "chatts", "export_dir": "out", **changes}
    found = [one for one in check_recipe(Recipe(recipe)) if one.level == "error"]
    assert [one.subject for one in found] == ([key] if key else []) and all(one.fix for one in found)
