"""All that read a recipe agree about it: the parser, the preflight, ``plan`` and ``doctor``, over random recipes."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.plan.memory.estimate import COUNTED, count, make_plan
from llamafactory_chatts.recipe.machine.planned import Card, Machine
from llamafactory_chatts.recipe.reading import Recipe
from llamafactory_chatts.recipe.rules import check_recipe


ON = [True, False]
POOL = {
    # methods and weights
    "finetuning_type": ["lora", "oft", "full", "freeze"],
    "quantization_bit": [3, 4, 8, None],
    "quantization_method": ["bnb", "hqq", "gptq"],
    "use_dora": ON,
    "use_rslora": ON,
    "pissa_init": ON,
    "pissa_convert": ON,
    "loraplus_lr_ratio": [None, 16.0],
    "use_badam": ON,
    "use_muon": ON,
    "use_adam_mini": ON,
    "additional_target": ["lm_head", "embed_tokens", "ts_encoder"],
    "freeze_language_model": ON,
    "freeze_trainable_layers": [0, 1, 2],
    "resize_vocab": ON,
    "pure_bf16": ON,
    "bf16": ON,
    # of this package
    "timeseries_tuning": ["lora", "full", "freeze", None],
    "train_timeseries_modules": ON,
    "timeseries_sft_lr": [1e-5, "1e-5", 0, None],
    "tokens_per_batch": [900, None],
    "loss_normalization": ["token", "batch"],
    "offload_embedding": ON,
    "lm_head_8bit": ON,
    # data, evaluation, what is learnt from
    "packing": ON,
    "neat_packing": ON,
    "streaming": ON,
    "max_steps": [10, -1],
    "max_samples": [5, None],
    "mask_history": ON,
    "train_on_prompt": ON,
    "mix_strategy": ["concat", "interleave_under"],
    "interleave_probs": ["1.0", "0.4,0.6", "many", None],
    "label_smoothing_factor": [0.0, 0.1],
    "use_dft_loss": ON,
    "use_asft_loss": ON,
    "use_unsloth": ON,
    "val_size": [0.0, 0.2],
    "eval_strategy": ["no", "steps", "epoch"],
    "save_strategy": ["no", "steps", "epoch"],
    "load_best_model_at_end": ON,
    "early_stopping_steps": [None, 3],
    "predict_with_generate": ON,
    "compute_accuracy": ON,
    "prediction_loss_only": ON,
    "lr_scheduler_type": ["cosine", "cosine_with_min_lr", "reduce_lr_on_plateau"],
    "auto_find_batch_size": ON,
    "gradient_accumulation_steps": [1, 2],
    "dataloader_prefetch_factor": [None, 2],
    "stage": ["sft", "dpo", "rm", "pt", "ppo"],
    "ref_model_quantization_bit": [None, 4, 5],
    "dpo_label_smoothing": [0.0, 0.1],
    "pref_loss": ["sigmoid", "orpo", "hinge"],
}
"""Keys that the table of refusals, the host's parser or a plan looks at, and values that people write."""

RECIPES = st.dictionaries(st.sampled_from(sorted(POOL)), st.none(), max_size=6).flatmap(
    lambda drawn: st.fixed_dictionaries({key: st.sampled_from(POOL[key]) for key in drawn})
)


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_base, plant_rows):
    """A folder with data for each stage, and the keys that every recipe has."""
    folder = tmp_path_factory.mktemp("verdicts")
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plant_rows))
    pairs = [{**row, "chosen": row["output"], "rejected": "no"} for row in plant_rows]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    columns = {"prompt": "input", "timeseries": "timeseries", "chosen": "chosen", "rejected": "rejected"}
    entries = {
        "data": {"file_name": "data.jsonl", "formatting": "chatts"},
        "pairs": {"file_name": "pairs.jsonl", "ranking": True, "columns": columns},
    }
    (folder / "dataset_info.json").write_text(json.dumps(entries))
    return {
        "model_name_or_path": str(tiny_base), "template": "chatts", "dataset": "data", "dataset_dir": str(folder),
        "output_dir": str(folder / "out"), "do_train": True, "use_cpu": True, "report_to": "none", "cutoff_len": 2048,
        "optim": "adamw_torch",
    }  # fmt: skip


def recipe_with(base, changes):
    """Return a recipe's keys and values; None, which people write as an empty value, leaves the key out."""
    data = {"dataset": "pairs"} if changes.get("stage") in ("dpo", "rm") else {}
    return {key: value for key, value in {**base, **data, **changes}.items() if value is not None}


def refused_by_host(values):
    """Return what the host's real parser, our rows in it, says against a recipe; "" when it takes it."""
    from llamafactory.hparams import get_train_args

    try:
        get_train_args(dict(values))
    except Exception as error:  # the host and transformers raise all kinds
        return f"{type(error).__name__}: {error}"

    return ""


def errors(values, **how):
    return [(one.subject, one.what) for one in check_recipe(Recipe(dict(values)), **how) if one.level == "error"]


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(changes=RECIPES)
def test_readers_agree(base, changes):
    values = recipe_with(base, changes)
    doctor, preflight, host = errors(values), errors(values, at_start=True), refused_by_host(values)
    assert set(preflight) <= set(doctor), "the preflight refuses what doctor calls right"
    assert not host or preflight, f"refused only by the parser, so one mistake at a time: {host}"
    if host.startswith("ChatTSError"):
        assert any(what in host for _, what in doctor), f"in other words than doctor: {host}"


@pytest.fixture(scope="module")
def counted(base):
    return count(Recipe(dict(base)).typed())


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(changes=RECIPES)
def test_a_plan_counts_nothing_that_is_refused(base, counted, changes):
    """Where a training refuses a setting that the plan counts with, the plan says so, in the same words."""
    values = recipe_with(base, changes)
    wanted = [what for subject, what in errors(values, elsewhere=True) if subject in COUNTED]
    try:
        recipe = Recipe(values).typed()
    except ChatTSError:
        return  # a value of another kind: named before anything is counted

    try:
        make_plan(recipe, Machine(Card("H100", 80.0), 1, 64.0), counted)
    except ChatTSError as error:
        assert wanted and any(what in str(error) for what in wanted), str(error)
    else:
        assert not wanted
