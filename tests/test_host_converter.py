"""From files to rows with LLaMA-Factory's own loader: every format, every way to write a series, every option."""

import json

import numpy as np
import pandas as pd
import pytest
from host_steps import load_data, series_of

from llamafactory_chatts.core.contract import DEFAULT_SYSTEM


A, B = [float(i % 7) for i in range(20)], [1.5, 2.5, 3.5]
TEXT = "Compare <ts><ts/> with <ts><ts/>."
ALPACA = {"columns": {"prompt": "input", "response": "output", "timeseries": "timeseries"}}
TURNS = {
    "messages": [
        {"role": "user", "content": "First <ts><ts/>"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "Second <ts><ts/>?"},
        {"role": "assistant", "content": "two"},
    ],
    "timeseries": [A, B],
}
OPENAI = {
    "formatting": "openai",
    "columns": {"messages": "messages", "timeseries": "timeseries"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
        "observation_tag": "tool",
        "function_tag": "call",
    },
}


def row(series, text=TEXT, answer="ok"):
    return {"input": text, "output": answer, "timeseries": series}


def text_of(run, index=0):
    return run.tokenizer.decode(run.train[index]["input_ids"])


def check_two(run, index=0):
    assert series_of(run.train[index]) == [A, B]
    text = text_of(run, index)
    assert text.count("<ts>") == 3 + 1 and "<ts/>" not in text
    assert text.count("length=20|") == 1 and text.count("length=3|") == 1


class TestFormats:
    def test_chatts_needs_no_columns(self, write_dataset, recipe):
        write_dataset([row([A, B])], formatting="chatts")
        check_two(load_data(recipe()))

    def test_chatts_with_columns_of_its_own(self, write_dataset, recipe):
        rows = [{"q": TEXT, "a": "ok", "s": [A, B], "h": [["before", "said"]], "y": "Be short."}]
        columns = {"prompt": "q", "response": "a", "timeseries": "s", "history": "h", "system": "y"}
        write_dataset(rows, formatting="chatts", columns=columns)
        run = load_data(recipe())
        check_two(run)
        assert "Be short." in text_of(run) and text_of(run).index("said") < text_of(run).index("Compare")

    def test_alpaca_without_formatting_key(self, write_dataset, recipe):
        write_dataset([row([A, B])], **ALPACA)
        check_two(load_data(recipe()))

    def test_json_array(self, write_dataset, recipe):
        write_dataset([row([A, B])], file="data.json", **ALPACA)
        check_two(load_data(recipe()))

    def test_parquet_file(self, write_dataset, recipe, tmp_path):
        write_dataset([], file="data.parquet", **ALPACA)
        pd.DataFrame([row([A, B]), row([B, A])]).to_parquet(tmp_path / "data.parquet")
        check_two(load_data(recipe()))

    def test_sharegpt_with_series_in_two_turns(self, write_dataset, recipe):
        names = {"user": "human", "assistant": "gpt"}
        turns = [{"from": names[m["role"]], "value": m["content"]} for m in TURNS["messages"]]
        columns = {"messages": "conversations", "timeseries": "timeseries"}
        write_dataset([{"conversations": turns, "timeseries": [A, B]}], formatting="sharegpt", columns=columns)
        run = load_data(recipe())
        check_two(run)
        text = text_of(run)
        assert text.index("length=20|") < text.index("one<|im_end|>") < text.index("length=3|") < text.index("two<|")

    def test_openai_with_series_in_two_turns(self, write_dataset, recipe):
        write_dataset([TURNS], **OPENAI)
        run = load_data(recipe())
        check_two(run)
        assert text_of(run).startswith(f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n")
        assert "detailed thinking" not in text_of(run)

    def test_openai_keeps_its_own_system_prompt(self, write_dataset, recipe):
        system = {"role": "system", "content": "You watch turbines."}
        write_dataset([{**TURNS, "messages": [system, *TURNS["messages"]]}], **OPENAI)
        assert text_of(load_data(recipe())).startswith("<|im_start|>system\nYou watch turbines.<|im_end|>\n")

    def test_openai_tool_turns(self, write_dataset, recipe):
        call = {"function": {"name": "read", "arguments": "{}"}}
        messages = [
            {"role": "user", "content": "Read it: <ts><ts/>"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "value <ts><ts/>"},
            {"role": "assistant", "content": "done"},
        ]
        write_dataset([{"messages": messages, "timeseries": [A, B]}], **OPENAI)
        run = load_data(recipe())
        check_two(run)
        assert "<tool_response>\nvalue [offset" in text_of(run)


class TestCells:
    @pytest.mark.parametrize(
        "cell, found",
        [([A, B], [A, B]), ([A], [A]), (A, [A]), ([], []), (None, []), ([[1, 2.5]], [[1.0, 2.5]]), ([3], [[3.0]])],
    )
    def test_lists(self, write_dataset, recipe, cell, found):
        text = "Look: " + "<ts><ts/> " * len(found)
        write_dataset([row(cell, text)], **ALPACA)
        assert series_of(load_data(recipe()).train[0]) == found

    def test_whole_numbers_before_fractions(self, write_dataset, recipe):
        one = "Look <ts><ts/>"
        write_dataset([row([[1, 2, 3]], one), row([[0.5, 1]], one), row([[10**12, 1]], one)], **ALPACA)
        run = load_data(recipe())
        assert [series_of(r) for r in run.train] == [[[1, 2, 3]], [[0.5, 1]], [[1e12, 1]]]

    @pytest.fixture
    def media(self, tmp_path):
        folder = tmp_path / "media"
        (folder / "sub").mkdir(parents=True)
        pd.DataFrame({"time": ["a", "b", "c"], "value": B, "other": [9, 9, 9]}).to_csv(folder / "v.csv", index=False)
        pd.DataFrame({"x": A[:3], "name": list("abc"), "y": B}).to_csv(folder / "two.CSV", index=False)
        np.save(folder / "one.npy", np.array(A))
        np.save(folder / "sub" / "rows.npy", np.array([B, A[:3]], dtype=np.float32))
        pd.DataFrame({"value": B}).to_parquet(folder / "v.parquet")
        (folder / "bare.csv").write_text("1.5\n2.5\n3.5\n")
        pd.DataFrame({"load": B}).to_csv(folder / "numbered.csv")
        return folder

    @pytest.mark.parametrize(
        "cell, found",
        [
            ("v.csv", [B]),
            (["v.csv"], [B]),
            ("two.CSV", [A[:3], B]),
            (["one.npy", "v.parquet"], [A, B]),
            ("sub/rows.npy", [B, A[:3]]),
            (["v.csv", "two.CSV"], [B, A[:3], B]),
            ("bare.csv", [B]),
            ("numbered.csv", [B]),
        ],
    )
    def test_paths_below_media_dir(self, write_dataset, recipe, media, cell, found):
        write_dataset([row(cell, "Look: " + "<ts><ts/> " * len(found))], **ALPACA)
        assert series_of(load_data(recipe(media_dir=str(media))).train[0]) == found

    def test_media_dir_is_the_dataset_folder_by_default(self, write_dataset, recipe, media):
        write_dataset([row("media/v.csv", "Look <ts><ts/>")], **ALPACA)
        assert series_of(load_data(recipe()).train[0]) == [B]

    def test_a_changed_file_is_read_again(self, write_dataset, recipe, media):
        write_dataset([row("v.csv", "Look <ts><ts/>")], **ALPACA)
        settings = recipe(media_dir=str(media))
        assert series_of(load_data(settings).train[0]) == [B]
        pd.DataFrame({"value": [7.0, 8.0]}).to_csv(media / "v.csv", index=False)
        run = load_data(settings)
        assert series_of(run.train[0]) == [[7.0, 8.0]] and "length=2|" in text_of(run)

    def test_an_unchanged_file_comes_from_the_cache(self, write_dataset, recipe, media, monkeypatch):
        write_dataset([row("v.csv", "Look <ts><ts/>")], **ALPACA)
        settings = recipe(media_dir=str(media))
        load_data(settings)
        from llamafactory_chatts.rows import cells

        monkeypatch.setattr(cells, "read_series_file", None)  # would fail if it were called
        assert series_of(load_data(settings).train[0]) == [B]


class TestPreferences:
    def test_ranking_rows_keep_their_series(self, write_dataset, recipe):
        columns = {"prompt": "input", "chosen": "good", "rejected": "bad", "timeseries": "timeseries"}
        rows = [{"input": TEXT, "good": "yes", "bad": "no", "timeseries": [A, B]}]
        write_dataset(rows, ranking=True, columns=columns)
        run = load_data(recipe(stage="dpo"))
        assert series_of(run.train[0]) == [A, B]
        texts = [run.tokenizer.decode(run.train[0][f"{key}_input_ids"]) for key in ("chosen", "rejected")]
        assert [text.count("<ts>") for text in texts] == [4, 4]
        assert texts[0].endswith("yes<|im_end|>\n") and texts[1].endswith("no<|im_end|>\n")

    def test_ranking_sharegpt(self, write_dataset, recipe):
        columns = {"messages": "talk", "chosen": "good", "rejected": "bad", "timeseries": "timeseries"}
        rows = [
            {
                "talk": [{"from": "human", "value": TEXT}],
                "good": {"from": "gpt", "value": "yes"},
                "bad": {"from": "gpt", "value": "no"},
                "timeseries": [A, B],
            }
        ]
        write_dataset(rows, formatting="sharegpt", ranking=True, columns=columns)
        assert series_of(load_data(recipe(stage="dpo")).train[0]) == [A, B]

    def test_kto_rows_keep_their_series(self, write_dataset, recipe):
        rows = [{**row([A, B], answer=f"answer {i}"), "good": i % 2 == 0} for i in range(4)]
        write_dataset(rows, columns={**ALPACA["columns"], "kto_tag": "good"})
        run = load_data(recipe(stage="kto"))
        assert [r["kto_tags"] for r in run.train] == [True, False, True, False]
        assert all(series_of(r) == [A, B] for r in run.train)
        kl = [run.tokenizer.decode(r["kl_input_ids"]) for r in run.train]
        assert all(text.count("<ts>") == 4 for text in kl) and "answer 3" in kl[0] and "answer 0" in kl[1]


class TestTextOnlyRows:
    def test_among_rows_with_series(self, write_dataset, recipe):
        plain = {"input": "Hello", "output": "Hi"}
        write_dataset([row([A, B]), {**plain, "timeseries": []}, {**plain, "timeseries": None}, plain], **ALPACA)
        run = load_data(recipe())
        assert [len(series_of(r)) for r in run.train] == [2, 0, 0, 0]

    @pytest.mark.parametrize("empty", [{"timeseries": []}, {"timeseries": None}, {}], ids=["list", "null", "absent"])
    def test_fifteen_hundred_before_the_first_series(self, write_dataset, recipe, empty):
        plain = [{"input": f"Hello {i}", "output": "Hi", **empty} for i in range(1500)]
        write_dataset([*plain, row([A, B])], **ALPACA)
        run = load_data(recipe())
        assert len(run.train) == 1501
        check_two(run, 1500)

    @pytest.mark.parametrize("first", [[], None, [[1, 2]]], ids=["list", "null", "whole numbers"])
    @pytest.mark.parametrize("file", ["data.jsonl", "data.json"])
    def test_more_such_rows_than_the_reader_looks_at(self, write_dataset, recipe, first, file):
        """The host's reader fixes the column types from the first 10 MB of a file."""
        one = "Look <ts><ts/>"
        rows = [{**row(first, one if first else "Hello"), "note": "x" * 450_000} for _ in range(25)]
        write_dataset([*rows, {**row([B], one), "note": "", "id": 7}], file=file, **ALPACA)
        run = load_data(recipe())
        assert len(run.train) == 26 and series_of(run.train[25]) == [B]
        assert series_of(run.train[0]) == ([[1, 2]] if first else [])

    def test_a_text_only_dataset_mixed_in_front(self, write_dataset, recipe):
        write_dataset([{"instruction": "Hello", "input": "you", "output": "Hi"}] * 3, name="talk", formatting="alpaca")
        write_dataset([row([A, B])] * 2, **ALPACA)
        for settings in (
            recipe(dataset="talk,data"),
            recipe(dataset="talk,data", mix_strategy="interleave_under", interleave_probs="0.5,0.5"),
        ):
            run = load_data(settings)
            assert {len(series_of(r)) for r in run.train} == {0, 2}

    def test_only_text(self, write_dataset, recipe):
        write_dataset([{"instruction": "Hello", "input": "", "output": "Hi"}] * 3, formatting="alpaca")
        run = load_data(recipe())
        assert [series_of(r) for r in run.train] == [[], [], []]


class TestOptions:
    def test_streaming(self, write_dataset, recipe):
        write_dataset([row([A, B]), {"input": "Hello", "output": "Hi", "timeseries": []}] * 4, **ALPACA)
        run = load_data(recipe(streaming=True, buffer_size=1))
        assert [len(series_of(r)) for r in run.train] == [2, 0] * 4

    def test_two_workers(self, write_dataset, recipe):
        rows = [row([[float(i)] * 9], "Look <ts><ts/>") for i in range(12)]
        write_dataset(rows, **ALPACA)
        run = load_data(recipe(preprocessing_num_workers=2))
        assert [series_of(r)[0][0] for r in run.train] == list(range(12))

    def test_validation_split_and_evaluation_set(self, write_dataset, recipe):
        write_dataset([row([A, B])] * 10, **ALPACA)
        run = load_data(recipe(val_size=0.2, do_eval=True))
        assert (len(run.train), len(run.eval)) == (8, 2) and series_of(run.eval[0]) == [A, B]
        write_dataset([row([B, A])] * 3, name="other", **ALPACA)
        run = load_data(recipe(eval_dataset="other", do_eval=True))
        assert (len(run.train), len(run.eval)) == (10, 3) and series_of(run.eval[0]) == [B, A]

    def test_max_samples(self, write_dataset, recipe):
        write_dataset([row([A, B])] * 5, **ALPACA)
        assert len(load_data(recipe(max_samples=2)).train) == 2

    def test_sampled_rows_keep_their_row_number(self, write_dataset, recipe):
        rows = [row([A, B], "too few <ts><ts/>" if i == 6 else TEXT) for i in range(9)]
        write_dataset(rows, num_samples=9, **ALPACA)
        with pytest.raises(ValueError, match=r"data\.jsonl:7: 1 <ts><ts/> but 2 series"):
            load_data(recipe())

    def test_data_saved_as_tokens(self, write_dataset, recipe, tmp_path):
        write_dataset([row([A, B])] * 3, **ALPACA)
        settings = recipe(tokenized_path=str(tmp_path / "tokens"))
        check_two(load_data(settings))
        (tmp_path / "dataset_info.json").unlink()
        check_two(load_data(settings))

    def test_remote_json_of_the_entry_is_kept(self, write_dataset, recipe, tmp_path):
        """Entries with keys that LLaMA-Factory knows go on working."""
        write_dataset([row([A, B])] * 4, split="train[:50%]", **ALPACA)
        assert len(load_data(recipe()).train) == 2

    def test_a_cell_of_one_dataset_is_not_read_from_another(self, write_dataset, recipe, tmp_path):
        write_dataset([row([A, B])], **ALPACA)
        check_two(load_data(recipe()))
        (tmp_path / "data.jsonl").write_text(json.dumps(row([B, B])) + "\n")
        assert series_of(load_data(recipe()).train[0]) == [B, B]
