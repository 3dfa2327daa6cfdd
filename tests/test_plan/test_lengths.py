"""Planned lengths against LLaMA-Factory's own preprocessing: token by token, label by label, pack by pack."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from host_steps import load_data

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.plan.memory.estimate import count
from llamafactory_chatts.plan.prompt_tokens import guess_tokens
from llamafactory_chatts.plan.training_rows import greedy_knapsack, select_rows
from llamafactory_chatts.recipe.reading import Recipe


TURNS = [
    {"from": "human", "value": "Look at <ts><ts/> and <ts><ts/>."},
    {"from": "gpt", "value": "One rises."},
    {"from": "human", "value": "Which one? 第一个还是第二个？"},
    {"from": "gpt", "value": "The first of the two, 12.5 % faster."},
]
TOOLS = json.dumps([{"name": "mean", "description": "of a series", "parameters": {"type": "object"}}])
CALL = json.dumps({"name": "mean", "arguments": {"series": 1}})
TOOL_TURNS = [
    {"from": "human", "value": "Mean of <ts><ts/>?"},
    {"from": "function_call", "value": CALL},
    {"from": "observation", "value": "3.25"},
    {"from": "gpt", "value": "It is 3.25."},
]
SERIES = [[0.5 * value for value in range(40)], [1e5, -2.0, 3.25]]
SHARED = {"formatting": "sharegpt", "columns": {"messages": "conversations", "timeseries": "timeseries"}}


def planned(settings):
    recipe = Recipe(settings, Path("recipe.yaml"))
    return select_rows(count(recipe).parts, recipe)


def compare(settings):
    """Assert equal lengths and labels, in order; return the planned rows."""
    found, host = planned(settings), load_data(settings).train
    tokens, labelled, *_ = found.items()
    real = [sum(mask > 0 for mask in row["attention_mask"]) for row in host]
    assert tokens.tolist() == real
    assert labelled.tolist() == [sum(label != -100 for label in row["labels"][1:]) for row in host]
    return found


def test_rows_of_the_demo(write_dataset, recipe, rows):
    write_dataset(rows(12))
    found = compare(recipe())
    assert found.rows.exact and (found.rows.patches > 0).all()


def test_a_tokenizer_in_the_files_of_older_checkpoints(write_dataset, recipe, rows, tiny_base, tmp_path):
    """As Qwen's: vocab.json and merges.txt, the tokens of ChatTS in tokenizer_config.json alone."""
    base = tmp_path / "older"
    shutil.copytree(tiny_base, base)
    model = json.loads((base / "tokenizer.json").read_text())["model"]
    (base / "tokenizer.json").unlink()
    (base / "vocab.json").write_text(json.dumps(model["vocab"]))
    (base / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    write_dataset(rows(12))
    found = compare(recipe(model_name_or_path=str(base)))
    assert found.rows.exact and found.items()[0].tolist() == planned(recipe()).items()[0].tolist()


def test_a_folder_without_a_tokenizer(write_dataset, recipe, rows, tiny_base, tmp_path):
    base = tmp_path / "bare"
    base.mkdir()
    shutil.copy(tiny_base / "config.json", base)
    write_dataset(rows(2))
    with pytest.raises(ChatTSError, match="no readable tokenizer") as error:
        planned(recipe(model_name_or_path=str(base)))

    assert error.value.fix


def test_text_only_rows_and_a_recipe_s_own_system_prompt(write_dataset, recipe, rows, monkeypatch):
    from llamafactory.data.template import TEMPLATES

    template = TEMPLATES["chatts"]
    monkeypatch.setattr(template, "default_system", template.default_system)  # the host writes into its table
    write_dataset([*rows(3), {"input": "Say 1.", "output": "1", "timeseries": []}])
    compare(recipe(default_system="Answer in one word."))


@pytest.mark.parametrize("setting", [{}, {"train_on_prompt": True}, {"mask_history": True}])
def test_turns(write_dataset, recipe, setting):
    second = {"conversations": [{"from": "system", "value": "Short."}, *TURNS[:2]], "timeseries": SERIES}
    write_dataset([{"conversations": TURNS, "timeseries": SERIES}, second], **SHARED)
    compare(recipe(**setting))


def test_tools_and_their_results(write_dataset, recipe):
    columns = {**SHARED["columns"], "tools": "tools"}
    rows = [{"conversations": TOOL_TURNS, "timeseries": SERIES[:1], "tools": TOOLS}]
    write_dataset(rows, **{**SHARED, "columns": columns})
    compare(recipe())


def test_alpaca_columns_with_history(write_dataset, recipe):
    columns = {"prompt": "q", "query": "more", "response": "a", "history": "old", "system": "s", "timeseries": "ts"}
    rows = [{"q": "Read <ts><ts/>", "more": "now", "a": "Up.", "old": [["Hi", "Yes?"]], "s": "", "ts": SERIES[:1]}]
    write_dataset(rows, columns=columns)
    compare(recipe())


def test_series_in_files(write_dataset, recipe, tmp_path):
    np.save(tmp_path / "one.npy", np.arange(100.0))
    write_dataset([{"input": "See <ts><ts/>", "output": "Up.", "timeseries": ["one.npy"]}])
    assert compare(recipe()).rows.patches.tolist() == [13]


def test_two_datasets_samples_and_a_validation_part(write_dataset, recipe, rows):
    write_dataset(rows(9), name="data")
    write_dataset(rows(7, seed=1), name="other")
    found = compare(recipe(dataset="data,other", max_samples=6, val_size=0.3))
    assert (len(found), found.validation) == (8, 4)


def test_a_sampled_dataset_has_the_rows_of_the_host(write_dataset, recipe, rows):
    write_dataset(rows(9), formatting="chatts", num_samples=5)
    compare(recipe())


def test_mixed_datasets(write_dataset, recipe, rows):
    write_dataset(rows(5), name="data")
    write_dataset(rows(9, seed=1), name="other")
    mixing = {"mix_strategy": "interleave_over", "interleave_probs": "0.3,0.7"}
    compare(recipe(dataset="data,other", **mixing))


class TestLongRows:
    def test_are_counted_and_left_out(self, write_dataset, recipe, rows):
        long = {"input": "x " * 400, "output": "y", "timeseries": []}
        write_dataset([*rows(20), long])
        found = compare(recipe(cutoff_len=300))
        assert (found.overlong, len(found), found.stops) == (1, 20, False)

    def test_too_many_stop_a_run(self, write_dataset, recipe, rows):
        write_dataset(rows(10))
        longest = int(planned(recipe()).samples.tokens.max())
        assert planned(recipe(cutoff_len=longest - 1)).overlong
        assert planned(recipe(cutoff_len=1)).stops


class TestPacking:
    @pytest.mark.parametrize("workers", [None, 3])
    def test_packs_are_the_host_s(self, write_dataset, recipe, rows, workers):
        write_dataset(rows(40))
        setting = {"packing": True, "cutoff_len": 700, "preprocessing_batch_size": 9}
        found = compare(recipe(**setting, preprocessing_num_workers=workers))
        assert len(found) < len(found.samples) == 40

    def test_long_rows_still_count_for_the_groups(self, write_dataset, recipe, rows):
        long = {"input": "x " * 500, "output": "y", "timeseries": []}
        write_dataset([long, *rows(30)])
        compare(recipe(packing=True, cutoff_len=500, preprocessing_batch_size=7))

    def test_the_knapsack_is_the_host_s(self):
        from llamafactory.data.processor.processor_utils import greedy_knapsack as host

        random = np.random.default_rng(0)
        for _ in range(20):
            lengths = random.integers(1, 90, 50).tolist()
            assert greedy_knapsack(lengths, 100) == host(list(lengths), 100)


class TestWithoutTheBase:
    def test_tokens_are_estimated(self, write_dataset, recipe, rows):
        write_dataset(rows(8))
        found = planned(recipe(model_name_or_path="bytedance-research/ChatTS-8B"))
        assert not found.rows.exact and (found.samples.tokens > found.samples.patches).all()

    def test_estimate_of_a_text(self):
        assert guess_tokens("Value 12.5") == 5  # a digit or a sign each


class TestBadInput:
    def test_rows_that_cannot_be_used_are_named(self, write_dataset, recipe, rows):
        broken = [{"input": "no series", "output": "x", "timeseries": [[1.0]]}, {"input": "x", "output": ""}]
        write_dataset([*rows(4), *broken])
        found = planned(recipe()).rows
        assert found.unusable_total == 2 and "data.jsonl:5: 0 <ts><ts/> but 1 series" in found.unusable[0]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"dataset": "none"}, "there is no entry 'none'"),
            ({"dataset": None}, "no dataset is named"),
            ({"dataset_dir": "nowhere"}, "dataset_dir"),
            ({"model_name_or_path": "/nowhere"}, "the folder does not exist"),
            ({"model_name_or_path": None}, "no base is named"),
            ({"model_name_or_path": "somebody/unknown"}, "neither a folder"),
            ({"template": "qwen"}, "template qwen is not planned for"),
            ({"stage": "ppo"}, "stage ppo is not planned for"),
        ],
    )
    def test_is_refused_with_the_change(self, write_dataset, recipe, rows, change, said):
        write_dataset(rows(2))
        with pytest.raises(ChatTSError, match=said) as error:
            planned(recipe(**change))

        assert error.value.fix

    def test_a_missing_file_of_a_dataset(self, write_dataset, recipe, rows, tmp_path):
        write_dataset(rows(2))
        (tmp_path / "data.jsonl").unlink()
        with pytest.raises(ChatTSError, match="the file does not exist"):
            planned(recipe())

    def test_no_row_can_be_used(self, write_dataset, recipe):
        write_dataset([{"input": "x", "output": "", "timeseries": []}])
        with pytest.raises(ChatTSError, match="lmf-chatts check data"):
            planned(recipe())

    def test_a_plain_qwen_is_no_base(self, write_dataset, recipe, rows, plain_qwen3):
        write_dataset(rows(2))
        with pytest.raises(ChatTSError, match="no ChatTS checkpoint"):
            planned(recipe(model_name_or_path=str(plain_qwen3)))
