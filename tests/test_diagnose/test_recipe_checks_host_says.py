"""Whatever LLaMA-Factory's own argument checks refuse, doctor finds, too: read from the host's source."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest

from llamafactory_chatts.recipe.machine import gpus
from llamafactory_chatts.recipe.reading import Recipe
from llamafactory_chatts.recipe.rules import check_recipe


HOST = Path(importlib.util.find_spec("llamafactory").submodule_search_locations[0])
FILES = ("parser", "data_args", "model_args", "finetuning_args")
PAIRS = {"chosen": "chosen", "rejected": "rejected", "timeseries": "timeseries"}
DPO = {"stage": "dpo", "dataset": "pairs"}
FULL = {"finetuning_type": "full"}

SAID = {
    # the host's words -> settings that it says them to
    "`predict_with_generate` cannot be set as True except SFT.": {
        **DPO,
        "predict_with_generate": True,
        "val_size": 0.5,
    },
    "`neat_packing` cannot be set as True except SFT.": {**DPO, "neat_packing": True},
    "`train_on_prompt` or `mask_history` cannot be set as True except SFT.": {**DPO, "train_on_prompt": True},
    "Please enable `predict_with_generate` to save model predictions.": {"do_predict": True, "val_size": 0.5},
    "RM and PPO stages do not support `load_best_model_at_end`.": {
        **DPO, "stage": "rm", "load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1,
        "save_strategy": "steps", "save_steps": 1, "val_size": 0.5,
    },
    "Please specify `max_steps` in streaming mode.": {"streaming": True, "max_steps": -1},
    "Please specify dataset for training.": {"dataset": None},
    "Please make sure eval_dataset be provided or val_size >1e-6": {"do_eval": True},
    "Cannot use `predict_with_generate` and `compute_accuracy` together.": {
        "predict_with_generate": True, "compute_accuracy": True, "val_size": 0.5,
    },
    "Cannot use device map for quantized models in training.": {
        "quantization_bit": 4, "quantization_device_map": "auto",
    },
    "GaLore and APOLLO are incompatible with DeepSpeed yet.": {**FULL, "use_galore": True, "deepspeed": "DS2"},
    "FP8 training is not compatible with quantization. Please disable one of them.": {
        "fp8": True, "quantization_bit": 4,
    },
    "vLLM/SGLang backend is only available for API, CLI and Web.": {"infer_backend": "vllm"},
    "`pure_bf16` is incompatible with DeepSpeed ZeRO-3.": {**FULL, "pure_bf16": True, "deepspeed": "DS3"},
    "`predict_with_generate` is incompatible with DeepSpeed ZeRO-3.": {
        "predict_with_generate": True, "val_size": 0.5, "deepspeed": "DS3",
    },
    "Please use scripts/pissa_init.py to initialize PiSSA in DeepSpeed ZeRO-3.": {
        "pissa_init": True, "deepspeed": "DS3",
    },
    "Unsloth is incompatible with DeepSpeed ZeRO-3.": {"use_unsloth": True, "deepspeed": "DS3"},
    "KTransformers is incompatible with DeepSpeed ZeRO-3.": {"use_kt": True, "deepspeed": "DS3"},
    "Adapter is only valid for the LoRA method.": {**FULL, "adapter_name_or_path": "a/b"},
    "Quantization is only compatible with the LoRA or OFT method.": {**FULL, "quantization_bit": 4},
    "Please use scripts/pissa_init.py to initialize PiSSA for a quantized model.": {
        "quantization_bit": 4, "pissa_init": True,
    },
    "Cannot resize embedding layers of a quantized model.": {"quantization_bit": 4, "resize_vocab": True},
    "Cannot create new adapter upon a quantized model.": {
        "quantization_bit": 4, "adapter_name_or_path": "a/b", "create_new_adapter": True,
    },
    "Quantized model only accepts a single adapter. Merge them first.": {
        "quantization_bit": 4, "adapter_name_or_path": "a/b,c/d",
    },
    "PPO training does not support evaluation, use the SFT stage to evaluate models.": {
        "stage": "ppo", "reward_model": "a/b", "do_train": None, "do_eval": True, "val_size": 0.5,
    },
    "`reward_model` is necessary for PPO training.": {"stage": "ppo"},
    "Output directory already exists and is not empty. Please set `overwrite_output_dir`.": {"output_dir": "USED"},
    "Cannot specify `val_size` if `dataset` is None.": {"dataset": None, "val_size": 0.5},
    "Cannot specify `val_size` if `eval_dataset` is not None.": {"val_size": 0.5, "eval_dataset": "data"},
    "`interleave_probs` is only valid for interleaved mixing.": {"interleave_probs": "1.0"},
    "The length of dataset and interleave probs should be identical.": {
        "interleave_probs": "0.5,0.5", "mix_strategy": "interleave_under",
    },
    "The length of eval dataset and interleave probs should be identical.": {
        "interleave_probs": "1.0", "mix_strategy": "interleave_under", "eval_dataset": "data,data",
    },
    "Streaming mode should have an integer val size.": {"streaming": True, "val_size": 0.5},
    "`max_samples` is incompatible with `streaming`.": {"streaming": True, "max_samples": 5},
    "`mask_history` is incompatible with `train_on_prompt`.": {"mask_history": True, "train_on_prompt": True},
    "Please provide `model_name_or_path`.": {"model_name_or_path": None},
    "`dpo_label_smoothing` is only valid for sigmoid loss function.": {
        **DPO, "pref_loss": "ipo", "dpo_label_smoothing": 0.1,
    },
    "`use_llama_pro` is only valid for Freeze or LoRA training.": {**FULL, "use_llama_pro": True},
    "Cannot use LoRA with GaLore, APOLLO or BAdam together.": {"use_badam": True},
    "Cannot use GaLore, APOLLO or BAdam together.": {**FULL, "use_galore": True, "use_apollo": True},
    "Cannot use PiSSA for current training stage.": {**DPO, "pissa_init": True},
    "`loraplus_lr_ratio` is only valid for LoRA training.": {**FULL, "loraplus_lr_ratio": 16.0},
    "`use_rslora` is only valid for LoRA training.": {**FULL, "use_rslora": True},
    "`use_dora` is only valid for LoRA training.": {**FULL, "use_dora": True},
    "`pissa_init` is only valid for LoRA training.": {**FULL, "pissa_init": True},
}  # fmt: skip

NOT_FOR_US = {
    "Some specified arguments are not used by the HfArgumentParser: ": "every unknown key is an error",
    "`--project` must be specified when using Trackio.": "it has a default",
    "PPO training is incompatible with S^2-Attn.": "PPO is refused",
    "KTransformers does not support lora reward model.": "PPO is refused",
    "Unsloth does not support lora reward model.": "PPO is refused",
    "PPO only accepts wandb, tensorboard, or trackio logger.": "PPO is refused",
    "`reward_model_type` cannot be lora for Freeze/Full PPO training.": "PPO is refused",
    "`reward_model_type` cannot be oft for Freeze/Full PPO training.": "PPO is refused",
    "Please launch distributed training with `llamafactory-cli` or `torchrun`.": "about the command, not the recipe",
    "Please use `FORCE_TORCHRUN=1` to launch DeepSpeed training.": "about the command: a warning",
    "This device does not support `pure_bf16`.": "about the card",
    "Distributed training does not support layer-wise GaLore.": "with several processes: a test below",
    "Distributed training does not support layer-wise APOLLO.": "with several processes: a test below",
    "Radio-based BAdam does not yet support distributed training, use layer-wise BAdam.": "a test below",
    "Layer-wise BAdam only supports DeepSpeed ZeRO-3 training.": "a test below",
    "vLLM engine only supports auto-regressive models.": "chat",
    "vLLM engine does not support bnb quantization (GPTQ and AWQ are supported).": "chat",
    "vLLM engine does not support RoPE scaling.": "chat",
    "vLLM only accepts a single adapter. Merge them first.": "chat",
    "YAML config must be a dictionary mapping tokens to descriptions. Got: ": "a file of one's own",
    "`image_max_pixels` cannot be smaller than `image_min_pixels`.": "images",
    "`video_max_pixels` cannot be smaller than `video_min_pixels`.": "images",
    "Quantization dataset is necessary for exporting.": "export",
}


def messages():
    """Yield what the host's argument checks say."""
    for file in FILES:
        for node in ast.walk(ast.parse((HOST / "hparams" / f"{file}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                said = node.exc.args[0]
                parts = said.values if isinstance(said, ast.JoinedStr) else [said]
                yield "".join(str(part.value) for part in parts if isinstance(part, ast.Constant))


@pytest.fixture
def make(recipe, write_dataset, rows, tmp_path, monkeypatch):
    """Return a function: a good recipe with changes; DS2 and DS3 stand for DeepSpeed files, USED for a used folder."""
    for name in ("WORLD_SIZE", "NPROC_PER_NODE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    monkeypatch.setattr(gpus, "driver", lambda *args: gpus.Driver())
    write_dataset(rows(12))
    pairs = [{**row, "chosen": row["output"], "rejected": "no"} for row in rows(3)]
    write_dataset(pairs, name="pairs", ranking=True, columns={"prompt": "input", **PAIRS})
    for stage in (2, 3):
        zero = {"zero_optimization": {"stage": stage}, "train_micro_batch_size_per_gpu": "auto"}
        (tmp_path / f"DS{stage}").write_text(json.dumps(zero))

    (tmp_path / "USED").mkdir()
    (tmp_path / "USED" / "adapter_model.safetensors").write_bytes(b"")

    def build(**changes):
        own = {key: str(tmp_path / value) for key, value in changes.items() if value in ("DS2", "DS3", "USED")}
        return recipe(**{**changes, **own})

    return build


def test_nothing_that_the_host_says_is_forgotten():
    said = set(messages())
    assert len(said) > 55 and said == set(SAID) | set(NOT_FOR_US) and not set(SAID) & set(NOT_FOR_US)


def test_the_recipe_itself_is_good(make):
    assert [one for one in check_recipe(Recipe(make())) if one.level == "error"] == []
    assert [one for one in check_recipe(Recipe(make(**DPO))) if one.level == "error"] == []


@pytest.mark.parametrize("words", SAID)
def test_doctor_says_it_first(make, words):
    settings = make(**SAID[words])
    for at_start in (False, True):
        found = [one for one in check_recipe(Recipe(settings), at_start) if one.level == "error"]
        assert {one.subject for one in found} & {*SAID[words], "stage", "quantization_bit", "dataset", "val_size"}, (
            found
        )
        assert all(one.fix for one in found)


@pytest.mark.parametrize("words", [words for words, settings in SAID.items() if "deepspeed" not in settings])
def test_the_host_says_it_indeed(make, words):
    from llamafactory.hparams import get_train_args

    with pytest.raises(ValueError) as caught:
        get_train_args(dict(make(**SAID[words])))

    assert words in str(caught.value) or "PPO" in words or "reward_model" in words or "dataset" in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_galore": True, "galore_layerwise": True},
        {"use_apollo": True, "apollo_layerwise": True},
        {"use_badam": True, "badam_mode": "ratio"},
        {"use_badam": True},
    ],
)
def test_with_several_processes(make, monkeypatch, settings):
    recipe = Recipe(make(**FULL, **settings))
    assert not [one for one in check_recipe(recipe) if one.level == "error" and "process" in one.what]
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    assert [one.subject for one in check_recipe(recipe) if one.level == "error" and "process" in one.what]
