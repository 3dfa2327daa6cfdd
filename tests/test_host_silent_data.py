"""Wrong entries, encodings, series that nobody maps, held-out rows, stored tokens: named, never passed over."""

import json

import pytest
from host_steps import load_data

from llamafactory_chatts.core.errors import ChatTSError


SERIES = [float(value) for value in range(20)]
TEXTS = {"prompt": "input", "response": "output"}
TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def text_row(**more):
    return {"input": "How is the pump?", "output": "Fine.", **more}


def row(**more):
    return text_row(input="Look <ts><ts/>", timeseries=[SERIES], **more)


def error(settings):
    with pytest.raises(ChatTSError) as caught:
        load_data(settings)
    return str(caught.value)


@pytest.fixture
def said(monkeypatch):
    """Return the lines that the host's loader logs on the first process."""
    from llamafactory.data import loader

    lines = []
    for level in ("info_rank0", "warning_rank0"):
        monkeypatch.setattr(loader.logger, level, lambda text, *rest: lines.append(str(text)), raising=False)
    return lines


class TestEntries:
    @pytest.mark.parametrize(
        ("entry", "words"),
        [
            ({"formatting": "chats"}, "data.formatting: 'chats' is not known. Write 'chatts'; known are: alpaca"),
            ({"formatting": "ShareGPT", "columns": {"messages": "m"}}, "Write 'sharegpt'"),
            ({"columns": {**TEXTS, "time_series": "timeseries"}}, "unknown key 'time_series'. Write 'timeseries'"),
            ({"columns": {"messages": "conversations"}}, "`messages` is read in formatting sharegpt and openai only"),
            (
                {"formatting": "sharegpt", "columns": {"messages": "m"}, "tags": {"user_tag": "u", "role_tag": "r"}},
                "data.tags: content_tag, assistant_tag is missing",
            ),
            ({"columns": TEXTS, "tags": TAGS}, "`tags` are read in formatting sharegpt and openai only"),
            ({"columns": {"prompt": 1}}, "data.columns.prompt: 1 is not a JSON string"),
            ({"ranking": True, "columns": TEXTS}, "data.columns: chosen, rejected is missing"),
            ({"formating": "chatts", "columns": TEXTS}, "unknown key 'formating'. Write 'formatting'"),
        ],
    )
    def test_named_with_its_key_before_anything_is_read(self, write_dataset, recipe, entry, words):
        folder = write_dataset([row()], **entry)
        text = error(recipe())
        assert text.startswith(f"{folder / 'dataset_info.json'}: data") and words in text

    def test_entries_of_other_datasets_do_not_matter(self, write_dataset, recipe):
        write_dataset([row()], name="other", formatting="chats")
        write_dataset([row()])
        assert len(load_data(recipe()).train) == 1

    def test_entries_within_the_recipe(self, write_dataset, recipe):
        write_dataset([row()])
        assert "dataset_dir: data.formatting" in error(
            recipe(dataset_dir={"data": {"file_name": "x", "formatting": "x"}})
        )

    def test_the_converter_knows_no_other_formatting(self):
        from llamafactory.data.parser import DatasetAttr

        from llamafactory_chatts.host.rows.converter import ChatTSDatasetConverter

        with pytest.raises(ChatTSError, match="there is no formatting 'chats'. Use one of: alpaca, sharegpt"):
            ChatTSDatasetConverter(DatasetAttr("file", "x", formatting="chats"), None)


class TestEncodings:
    LINE = json.dumps({**row(), "input": "看这个序列 <ts><ts/> 有没有异常"}, ensure_ascii=False)

    @pytest.mark.parametrize(
        ("encoding", "name", "guess"),
        [
            ("gbk", "data.jsonl", "it looks like GBK. Convert it: iconv -f GB18030 -t UTF-8"),
            ("gbk", "data.json", "it looks like GBK"),
            ("utf-16", "data.jsonl", "it looks like UTF-16"),
            ("utf-16-le", "data.json", "it looks like UTF-16LE"),
        ],
    )
    def test_another_encoding_is_named_with_its_line(self, write_dataset, recipe, tmp_path, encoding, name, guess):
        write_dataset([row()], file=name)
        lines = [json.dumps(row()), self.LINE]
        text = f"[{lines[0]},\n{lines[1]}]" if name.endswith(".json") else "\n".join(lines) + "\n"
        (tmp_path / name).write_bytes(text.encode(encoding))
        line = ":2" if encoding == "gbk" else ""
        found = error(recipe())
        assert found.startswith(f"{tmp_path / name}{line}: the file is not UTF-8; ") and guess in found

    def test_csv_in_western_europe(self, write_dataset, recipe, tmp_path):
        write_dataset([text_row()], file="data.csv", columns=TEXTS)
        (tmp_path / "data.csv").write_bytes("input,output\nTemp\xe9rature \xe0 20,ok\n".encode("cp1252"))
        assert "data.csv:2: the file is not UTF-8; it looks like" in error(recipe())

    @pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
    def test_a_byte_order_mark_is_read_over(self, write_dataset, recipe, tmp_path, name):
        write_dataset([row(), row()], file=name)
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
        assert len(load_data(recipe()).train) == 2

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"\xef\xbb\xbf{}", "begins with a byte order mark"),
            ('{"数据": {}}'.encode("gbk"), "it looks like GBK"),
            (b'{"data": ', "not readable as JSON"),
        ],
    )
    def test_dataset_info_itself(self, write_dataset, recipe, tmp_path, data, words):
        write_dataset([row()])
        (tmp_path / "dataset_info.json").write_bytes(data)
        text = error(recipe())
        assert text.startswith(str(tmp_path / "dataset_info.json")) and words in text


class TestUnmappedSeries:
    @pytest.mark.parametrize("name", ["timeseries", "ts", "Time_Series", "pressure_curves"])
    def test_in_every_row(self, write_dataset, recipe, tmp_path, name):
        write_dataset([text_row(**{name: [SERIES]})] * 3, columns=TEXTS)
        text = error(recipe())
        assert text.startswith(f"{tmp_path / 'data.jsonl'}: all 3 rows hold series in {name!r}, which `columns`")
        assert f'Add "timeseries": "{name}" to `columns` of this entry in dataset_info.json' in text

    def test_one_flat_list(self, write_dataset, recipe):
        write_dataset([text_row(signal=SERIES)], columns=TEXTS)
        assert "hold series in 'signal'" in error(recipe())

    def test_streamed(self, write_dataset, recipe):
        write_dataset([text_row(timeseries=[SERIES])] * 3, columns=TEXTS)
        assert "hold series in 'timeseries'" in error(recipe(streaming=True))

    def test_in_some_rows_is_said(self, write_dataset, recipe, said):
        write_dataset([text_row(timeseries=[]), text_row(timeseries=[SERIES])], columns=TEXTS)
        assert len(load_data(recipe()).train) == 2
        assert any("1 of 2 rows hold series in 'timeseries'" in line for line in said)

    def test_other_numbers_are_no_series(self, write_dataset, recipe):
        more = {"intervals": [[3, 9], [11, 12]], "box": [0.0, 0.0, 4.0, 4.0], "score": 0.5, "id": "7"}
        write_dataset([text_row(**more)] * 2, columns=TEXTS)
        assert len(load_data(recipe()).train) == 2

    @pytest.mark.parametrize(
        "more",
        [
            {"ts": "2024-01-01 08:00"},
            {"ts": 1700000000},
            {"series": "Game of Thrones"},
            {"ts": ["one", "two"]},
            {"embedding": [0.5] * 64},
            {"input_ids": list(range(64))},
            {"token_logprobs": [[-0.5] * 64]},
        ],
        ids=str,
    )
    def test_times_texts_and_vectors_are_no_series(self, write_dataset, recipe, more):
        write_dataset([text_row(**more)] * 2, columns=TEXTS)
        assert len(load_data(recipe()).train) == 2

    @pytest.mark.parametrize(
        ("name", "cell"),
        [("time-series", [[1, 2, 3]]), ("signals", [[1, 2, 3]]), ("ts", "a.csv"), ("series", ["a.npy", "b.npy"])],
        ids=str,
    )
    def test_other_names_and_paths(self, write_dataset, recipe, name, cell):
        write_dataset([text_row(**{name: cell})] * 2, columns=TEXTS)
        assert f"all 2 rows hold series in {name!r}" in error(recipe())

    def test_a_named_column_without_a_series_beside_one_that_has_them(self, write_dataset, recipe):
        columns = {**TEXTS, "timeseries": "timeseries"}
        write_dataset([text_row(timeseries=[], ts_data=[SERIES])] * 3, columns=columns)
        assert 'Add "timeseries": "ts_data" to `columns`' in error(recipe())

    def test_placeholders_in_a_column_that_is_not_named(self, write_dataset, recipe):
        write_dataset([text_row(question="Look <ts><ts/>")] * 3, columns=TEXTS)
        text = error(recipe())
        assert "all 3 rows hold <ts><ts/> in 'question', which `columns` does not name" in text

    def test_a_named_column_of_a_fixed_length_is_not_empty(self):
        import pyarrow as pa
        from datasets import Dataset

        from llamafactory_chatts.host.rows.series_counts import with_series

        cells = pa.array([[[1.0, 2.0]], None], pa.list_(pa.list_(pa.float64()), 1))
        assert with_series(Dataset(pa.table({"timeseries": cells})), "timeseries") == 1

    def test_behind_the_first_rows(self, write_dataset, recipe, said):
        write_dataset([text_row(timeseries=None)] * 100 + [text_row(timeseries=[SERIES])], columns=TEXTS)
        assert len(load_data(recipe()).train) == 101
        assert any("1 of 101 rows hold series in 'timeseries'" in line for line in said)

    def test_streamed_first_rows_differ(self, write_dataset, recipe, said):
        write_dataset([text_row(timeseries=[SERIES]), text_row(timeseries=[])] * 3, columns=TEXTS)
        next(iter(load_data(recipe(streaming=True)).train))
        assert any("3 of 6 rows hold series in 'timeseries'" in line for line in said)


class TestCounts:
    def test_rows_with_and_without(self, write_dataset, recipe, said):
        pair = text_row(input="<ts><ts/><ts><ts/>", timeseries=[SERIES, SERIES])
        folder = write_dataset([row(), pair, text_row(timeseries=[])])
        load_data(recipe())
        assert f"ChatTS: {folder / 'data.jsonl'}: 2 of 3 rows carry series (up to 2), 1 without." in said

    def test_all_and_none(self, write_dataset, recipe, said):
        write_dataset([row()] * 2)
        write_dataset([text_row()], name="texts", columns=TEXTS)
        load_data(recipe(dataset="data,texts"))
        assert [line.split("jsonl: ")[1] for line in said if "rows carry" in line or "none with" in line] == [
            "2 of 2 rows carry series (1 each).",
            "1 rows, none with series.",
        ]

    def test_streamed(self, write_dataset, recipe, said):
        write_dataset([row()] * 2)
        load_data(recipe(streaming=True))
        assert any("is streamed, series in 'timeseries'; rows with series are not counted" in line for line in said)


class TestPairs:
    def test_the_same_answer_twice(self, write_dataset, recipe):
        rows = [{**row(), "chosen": "a", "rejected": "b"}, {**row(), "chosen": "a", "rejected": "a"}]
        columns = {"prompt": "input", "chosen": "chosen", "rejected": "rejected", "timeseries": "timeseries"}
        write_dataset(rows, ranking=True, columns=columns)
        assert "data.jsonl:2: 'chosen' and 'rejected' are the same answer (a)" in error(recipe(stage="dpo"))

    @pytest.mark.parametrize("rejected", ["ok ", "\nok"])
    def test_the_same_answer_but_for_space(self, write_dataset, recipe, rejected):
        columns = {"prompt": "input", "chosen": "chosen", "rejected": "rejected"}
        write_dataset([{"input": "Hi", "chosen": "ok", "rejected": rejected}], ranking=True, columns=columns)
        assert "are the same answer" in error(recipe(stage="dpo"))


class TestHeldOut:
    @pytest.mark.parametrize("value", [1.0, 3, 7, 0.99])
    def test_nothing_left(self, write_dataset, recipe, value):
        write_dataset([row()] * 3)
        text = error(recipe(val_size=value, eval_strategy="no"))
        assert text.startswith(f"val_size: {value:g}: it holds out ") and "none is left to train on" in text

    @pytest.mark.parametrize(("value", "left"), [(2, 1), (0.34, 1), (0.1, 2), (0.0, 3)])
    def test_some_left(self, write_dataset, recipe, value, left):
        write_dataset([row()] * 3)
        assert len(load_data(recipe(val_size=value)).train) == left

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"val_size": 3}, "it holds out 3 of 3 rows"),
            ({"val_size": 1.0}, "it holds out the whole dataset"),
            ({"val_size": 0.1, "streaming": True, "max_steps": 2}, "no length to take a share of"),
        ],
    )
    def test_doctor(self, write_dataset, recipe, changes, words):
        from llamafactory_chatts.recipe.reading import Recipe
        from llamafactory_chatts.recipe.rules import check_recipe

        write_dataset([row()] * 3)
        found = [one for one in check_recipe(Recipe(recipe(**changes))) if one.level == "error"]
        assert [one.subject for one in found] == ["val_size"] and words in found[0].what


class TestTokenizedPath:
    @pytest.fixture
    def stored(self, write_dataset, recipe, tmp_path):
        """Tokenised data of three rows; returns their settings."""
        write_dataset([row()] * 3)
        write_dataset([row()] * 2, name="other")
        settings = recipe(tokenized_path=str(tmp_path / "tokens"), cutoff_len=512)
        load_data(settings)
        return settings

    def test_the_same_recipe_takes_them(self, stored):
        assert len(load_data(stored).train) == 3

    def test_a_recipe_that_leaves_settings_open_takes_them(self, stored):
        bare = {key: value for key, value in stored.items() if key != "cutoff_len"}
        assert len(load_data(bare).train) == 3

    def test_packed(self, write_dataset, recipe, tmp_path):
        from llamafactory_chatts.recipe.reading import Recipe
        from llamafactory_chatts.recipe.rules import check_recipe

        write_dataset([row()] * 3)
        settings = recipe(tokenized_path=str(tmp_path / "tokens"), cutoff_len=512, packing=True)
        load_data(settings)
        assert load_data(settings).train is not None
        assert [one for one in check_recipe(Recipe(settings)) if one.subject == "tokenized_path"] == []

    def test_files_that_are_gone_do_not_matter(self, stored, tmp_path):
        (tmp_path / "data.jsonl").unlink()
        assert len(load_data(stored).train) == 3

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"dataset": "other"}, "dataset is other, the data were made of data"),
            ({"dataset": "data,other"}, "dataset is data, other, the data were made of data"),
            ({"cutoff_len": 256}, "cutoff_len is 256, it was 512"),
            ({"train_on_prompt": True}, "train_on_prompt is True, it was False"),
            ({"packing": True}, "packing is True"),
            ({"stage": "dpo"}, "stage is rm, it was sft"),
            ({"val_size": 1}, "val_size is 1"),
        ],
    )
    def test_another_recipe_is_refused_here_and_by_doctor(self, stored, changes, words, tmp_path):
        from llamafactory_chatts.recipe.reading import Recipe
        from llamafactory_chatts.recipe.rules import check_recipe

        text = error({**stored, **changes})
        assert text.startswith(f"tokenized_path: {tmp_path / 'tokens'}: these tokenised data were made otherwise: ")
        assert words in text
        found = [one.what for one in check_recipe(Recipe({**stored, **changes})) if one.subject == "tokenized_path"]
        assert any(words in what for what in found)

    def test_a_changed_file(self, stored, write_dataset):
        write_dataset([row(), row()])
        assert "the file of data has changed" in error(stored)

    def test_another_base(self, stored, tiny_base_qwen2, tmp_path):
        import shutil

        shutil.copytree(tiny_base_qwen2, tmp_path / "base")
        config = json.loads((tmp_path / "base" / "config.json").read_text())
        config["ts"]["max_sequence_length"] = config["ts"]["max_length"] = 2048
        (tmp_path / "base" / "config.json").write_text(json.dumps(config))
        assert "other settings of series" in error({**stored, "model_name_or_path": str(tmp_path / "base")})

    def test_a_folder_without_a_record_is_said(self, stored, tmp_path, said):
        (tmp_path / "tokens" / "chatts_tokenized.json").unlink()
        assert len(load_data(stored).train) == 3
        assert any("does not say what it was made from" in line for line in said)
