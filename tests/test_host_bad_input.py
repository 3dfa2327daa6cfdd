"""Bad input: one error that names file and row and the change to make, before any weights are loaded."""

import json
import shutil

import numpy as np
import pytest
from host_steps import load_all, load_data, parse

from llamafactory_chatts.core.errors import ChatTSError


ALPACA = {"columns": {"prompt": "input", "response": "output", "timeseries": "timeseries"}}
SHAREGPT = {"formatting": "sharegpt", "columns": {"messages": "conversations", "timeseries": "timeseries"}}
A = [1.0, 2.0, 3.0]
ONE = "Look <ts><ts/>"


def row(series, text=ONE, answer="ok", **more):
    return {"input": text, "output": answer, "timeseries": series, **more}


GOOD = row([A])


def error(settings):
    with pytest.raises(ChatTSError) as caught:
        load_data(settings)
    return str(caught.value)


@pytest.fixture
def refused(write_dataset, recipe):
    """Write rows, load them, return the error."""

    def load(rows, settings=None, **entry):
        write_dataset(rows, **(entry or ALPACA))
        return error(recipe(**(settings or {})))

    return load


class TestPlaceholders:
    def test_all_wrong_rows_are_listed_with_totals(self, refused, tmp_path):
        rows = [GOOD, row([A, A]), GOOD, row([A], "Look <ts><ts/> <ts><ts/> <ts><ts/>"), row([], ONE)]
        text = refused(rows)
        file = tmp_path / "data.jsonl"
        assert text.startswith(f"{file}: 3 of 5 rows cannot be used\n")
        assert f"{file}:2: 1 <ts><ts/> but 2 series. Add a series or remove a placeholder." in text
        assert f"{file}:4: 3 <ts><ts/> but 1 series." in text
        assert f"{file}:5: 1 <ts><ts/> but 0 series." in text
        assert "totals: 3 x # <ts><ts/> but # series" in text
        assert text.endswith("Nothing was trained; correct or remove these rows.")

    def test_only_the_first_rows_are_shown(self, refused):
        text = refused([row([A, A])] * 400 + [row([[]])] * 2)
        assert "402 of 402 rows" in text and "... and 392 more" in text
        assert "400 x # <ts><ts/> but # series; 2 x a series is empty" in text
        assert len(text) < 3000

    @pytest.mark.parametrize("text", ["Look <ts>", "Look <ts/>", "<ts><ts><ts/>", "<ts> <ts/>", "<ts/><ts>"])
    def test_lone_tokens(self, refused, text):
        found = refused([GOOD, row([A], text)])
        assert "data.jsonl:2: a lone <ts> or <ts/> in the user text" in found and "Write <ts><ts/> where" in found

    def test_in_an_answer(self, refused):
        text = refused([row([A], "Look", "It is <ts><ts/>")])
        assert "data.jsonl:1: " in text and "<ts><ts/>" in text

        text = refused([row([A], ONE, "It is <ts><ts/>")])
        assert "data.jsonl:1: <ts><ts/> in the assistant text. Put series into a user turn." in text

    def test_in_a_system_prompt(self, refused):
        columns = {**ALPACA["columns"], "system": "system"}
        text = refused([row([A], "Look", system=f"Know {ONE}")], columns=columns)
        assert "data.jsonl:1: <ts><ts/> in the system text. Put series into a user turn." in text

    def test_in_an_earlier_answer(self, refused):
        turns = [("human", "Hi"), ("gpt", ONE), ("human", "So?"), ("gpt", "ok")]
        rows = [{"conversations": [{"from": r, "value": v} for r, v in turns], "timeseries": [A]}]
        assert "<ts><ts/> in the assistant text" in refused(rows, **SHAREGPT)


class TestSeries:
    @pytest.mark.parametrize(
        "cell, what",
        [
            ([[]], "a series is empty"),
            ([A, []], "a series is empty"),
            ([[1.0, None, 3.0]], "a series holds null at point 1"),
            ([1.0, None], "a series holds null at point 1"),
            ([None], "a series holds null at point 0"),
            ([["1.0", "2.0"]], "a series holds str at point 0 (1.0)"),
            ([[[1.0], [2.0]]], "a series holds a list at point 0"),
            (5.0, "the timeseries cell is float (5.0)"),
            (True, "the timeseries cell is bool"),
            ([True, False], "a series holds bool at point 0"),
            ({"a": A}, "the timeseries cell is dict"),
            ([A, None], "series 2 is null (None) among lists"),
            ([[1e400]], "a series holds an infinite value at point 0"),
        ],
    )
    def test_wrong_values(self, refused, cell, what):
        text = refused([row(cell, "Look " + "<ts><ts/>" * (len(cell) if what.startswith("series 2") else 1))])
        assert f"data.jsonl:1: {what}" in text
        assert "1 of 1 rows cannot be used" in text

    @pytest.mark.parametrize("literal, name", [("NaN", "NaN"), ("Infinity", "an infinite value")])
    def test_json_literals(self, refused, literal, name):
        bad = json.dumps(GOOD).replace("2.0", literal)
        text = refused(f"{json.dumps(GOOD)}\n{bad}\n{bad}\n")
        assert f"data.jsonl:2: a series holds {name} at point 1" in text and "data.jsonl:3:" in text
        assert "2 of 3 rows" in text and "Fill or remove gaps before training" in text

    def test_json_literals_in_an_array(self, write_dataset, recipe):
        bad = json.dumps(GOOD).replace("2.0", "NaN")
        write_dataset(f"[{json.dumps(GOOD)},\n{bad}]", file="data.json", **ALPACA)
        assert "data.json:2: a series holds null at point 1" in error(recipe())  # as the host reads it

    def test_flat_and_nested_cells_in_one_file(self, refused):
        text = refused([row([A]), row([A]), row(A)])
        assert "the timeseries cells are of different kinds" in text
        assert "data.jsonl:1 holds a list of lists" in text and "data.jsonl:3 holds one flat list" in text
        assert "Write every cell as a list of lists" in text

    def test_paths_and_lists_in_one_file(self, refused, tmp_path):
        np.save(tmp_path / "a.npy", np.array(A))
        text = refused([row([A]), row("a.npy")])
        assert "data.jsonl:1 holds a list of lists" in text and "data.jsonl:2 holds paths" in text

    def test_text_among_numbers(self, refused):
        text = refused([GOOD, row([[1.0, "2.0"]])])
        assert "data.jsonl:2: a series holds str at point 1" in text

    def test_longer_than_the_base_takes(self, refused):
        text = refused([GOOD, row([A, [0.5] * 4097], "<ts><ts/> <ts><ts/>")])
        assert "data.jsonl:2: series 2 has 4097 points, the base takes 4096" in text
        assert "`ts.max_sequence_length`" in text


class TestFiles:
    def test_a_broken_line(self, refused):
        text = refused(f'{json.dumps(GOOD)}\n{{"input": "x", \n{json.dumps(GOOD)}\n')
        assert "data.jsonl:2: this is no JSON" in text and "1 of 3 rows" in text

    def test_a_row_that_is_no_object(self, refused):
        assert "data.jsonl:2: a row must be an object, not list" in refused(f"{json.dumps(GOOD)}\n[1, 2]\n")

    def test_a_broken_array(self, write_dataset, recipe):
        write_dataset('[{"input": "x"},\n {"input": }]', file="data.json", **ALPACA)
        assert "data.json:2: this is no JSON" in error(recipe())

    def test_an_empty_file(self, refused):
        assert "data.jsonl: the file has no rows" in refused("")

    def test_columns_of_mixed_types(self, refused):
        text = refused([row([A], note=1), row([A], note="one")])
        assert "the column 'note' holds values of different types in rows 1 to 2" in text

    @pytest.fixture
    def media(self, tmp_path):
        folder = tmp_path / "media"
        folder.mkdir()
        (tmp_path / "outside.csv").write_text("value\n1\n2\n")
        (folder / "link.csv").symlink_to(tmp_path / "outside.csv")
        (folder / "words.csv").write_text("name\nx\ny\n")
        (folder / "empty.csv").write_text("")
        (folder / "only_names.csv").write_text("value\n")
        (folder / "gap.csv").write_text("value\n1\n\n3\n\n")
        (folder / "word.csv").write_text("value\n1\n2\nx\n")
        (folder / "nan.csv").write_text("value,other\n1,1\n,2\n3,3\n")
        (folder / "broken.parquet").write_text("no parquet")
        (folder / "objects.npy").write_bytes(b"")
        np.save(folder / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
        np.save(folder / "cube.npy", np.zeros((2, 2, 2)))
        np.save(folder / "point.npy", np.float64(1))
        (folder / "notes.txt").write_text("1 2 3")
        return folder

    @pytest.mark.parametrize(
        "cell, what",
        [
            ("gone.csv", "the series file gone.csv does not exist"),
            ("../outside.csv", "the series file ../outside.csv lies outside media_dir"),
            ("link.csv", "the series file link.csv lies outside media_dir"),
            ("notes.txt", "the series file notes.txt is of a kind that is not read. Use one of .csv, .npy, .parquet"),
            ("words.csv", "words.csv, column name: a series holds str at point 0"),
            ("empty.csv", "the series file empty.csv cannot be read"),
            ("only_names.csv", "the series file only_names.csv has no numeric column"),
            ("gap.csv", "gap.csv, column value: a series holds NaN at point 1"),
            ("word.csv", "word.csv, column value: a series holds str at point 2 (x)"),
            ("nan.csv", "nan.csv, column value: a series holds NaN at point 1"),
            ("broken.parquet", "the series file broken.parquet cannot be read"),
            ("objects.npy", "the series file objects.npy cannot be read"),
            ("cube.npy", "cube.npy, row 0: a series holds a list at point 0"),
            ("point.npy", "the series file point.npy cannot be read"),
            ("", "the series file  does not exist"),
        ],
    )
    def test_series_files(self, refused, media, cell, what):
        text = refused([row(cell), row(cell)], settings={"media_dir": str(media)})
        assert f"data.jsonl:1: {what}" in text and "data.jsonl:2:" in text

    def test_an_absolute_path(self, refused, media, tmp_path):
        text = refused([row(str(tmp_path / "outside.csv"))], settings={"media_dir": str(media)})
        assert "lies outside media_dir. Move it below media_dir" in text


class TestColumnsAndTurns:
    def test_the_series_column_is_missing(self, refused):
        columns = {"prompt": "input", "response": "output", "timeseries": "series"}
        text = refused([GOOD], columns=columns)
        assert "data.jsonl:1: there is no column 'series', the row has 'input', 'output', 'timeseries'" in text
        assert "Correct columns.timeseries" in text

    def test_a_text_column_is_missing(self, refused):
        columns = {"prompt": "question", "response": "output", "timeseries": "timeseries"}
        text = refused([GOOD], columns=columns)
        assert "data.jsonl:1: there is no column or role 'question'" in text and "dataset_info.json" in text

    @pytest.mark.parametrize(
        "answer, what",
        [(None, "there is no answer"), ({"type": "spike"}, "is dict"), ([1], "is list"), ("", "the answer is empty")],
    )
    def test_the_answer_is_no_text(self, refused, answer, what):
        text = refused([row([A], answer=answer)])
        assert "data.jsonl:1: the" in text and what in text

    def test_some_answers_are_objects(self, refused):
        text = refused([GOOD, row([A], answer={"type": "spike"})])
        assert "data.jsonl:2: the answer 'output' is dict. Write it as a string" in text

    @pytest.mark.parametrize(
        "roles", [["gpt", "human"], ["human", "human", "gpt"], ["human"], [], ["human", "gpt", "human"]]
    )
    def test_turns_in_the_wrong_order(self, refused, roles):
        good = {"conversations": [{"from": "human", "value": ONE}, {"from": "gpt", "value": "x"}], "timeseries": [A]}
        bad = {"conversations": [{"from": role, "value": ONE} for role in roles], "timeseries": [A]}
        text = refused([good, bad], **SHAREGPT)
        assert "data.jsonl:2: the turns do not alternate between user and assistant" in text and "check `tags`" in text

    def test_an_unknown_role(self, refused):
        messages = [{"role": "user", "content": ONE}, {"role": "bot", "content": "x"}]
        entry = {
            "formatting": "openai",
            "columns": {"messages": "messages", "timeseries": "timeseries"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
        }
        text = refused([{"messages": messages, "timeseries": [A]}], **entry)
        assert "data.jsonl:1: there is no column or role 'bot'" in text and "`tags`" in text

    def test_messages_that_are_no_list(self, refused):
        text = refused([{"conversations": "Hi", "timeseries": [A]}], **SHAREGPT)
        assert "data.jsonl:1: the text columns hold something else than text" in text

    @pytest.mark.parametrize("kind", ["images", "videos", "audios"])
    def test_other_media(self, refused, kind):
        columns = {**ALPACA["columns"], kind: "media"}
        text = refused([{**GOOD, "media": ["a.png"]}], columns=columns)
        assert f"data.jsonl:1: ChatTS reads no {kind}. Remove columns.{kind}" in text

    def test_an_empty_media_column_is_harmless(self, write_dataset, recipe):
        write_dataset([{**GOOD, "media": []}], columns={**ALPACA["columns"], "images": "media"})
        assert len(load_data(recipe()).train) == 1

    def test_preferences(self, refused):
        columns = {"prompt": "input", "chosen": "good", "rejected": "bad", "timeseries": "timeseries"}
        rows = [{"input": ONE, "good": "yes", "bad": None, "timeseries": [A]}]
        text = refused(rows, settings={"stage": "dpo"}, ranking=True, columns=columns)
        assert "data.jsonl:1: 'good' and 'bad' do not both hold an answer" in text
        text = refused([{**rows[0], "bad": "see <ts><ts/>"}], settings={"stage": "dpo"}, ranking=True, columns=columns)
        assert "data.jsonl:1: <ts><ts/> in the assistant text" in text

    def test_kto_labels(self, refused):
        columns = {**ALPACA["columns"], "kto_tag": "good"}
        text = refused([{**GOOD, "good": "yes"}], settings={"stage": "kto"}, columns=columns)
        assert "data.jsonl:1: the column 'good' (kto_tag) does not hold true or false" in text
        text = refused([{**GOOD, "good": True}], columns=columns)
        assert "data.jsonl:1: the row is for preference training. Set stage: kto" in text

    def test_prompts_alone_are_enough_to_predict(self, write_dataset, recipe, monkeypatch):
        monkeypatch.setattr("llamafactory.hparams.parser.check_version", lambda *args, **kwargs: None)  # its metrics
        write_dataset([{"input": ONE, "timeseries": [A]}, {"input": ONE, "timeseries": [A]}], **ALPACA)
        settings = recipe(do_train=False, do_predict=True, predict_with_generate=True, dataset=None, max_steps=None)
        assert len(load_data({**settings, "eval_dataset": "data"}).eval) == 2

    def test_rows_keep_their_numbers_among_workers(self, refused):
        rows = [row([A, A], ONE) if i in (2, 17) else GOOD for i in range(20)]
        text = refused(rows, settings={"preprocessing_num_workers": 3})
        assert "2 of 20 rows" in text and "data.jsonl:3: 1 <ts>" in text and "data.jsonl:18: 1 <ts>" in text

    def test_control_characters_in_the_data(self, refused):
        assert "a lone <ts> or <ts/> in the user text" in refused([row([A], "a\x1fb\x1f <ts>")])

    def test_streaming_names_the_row_when_it_meets_it(self, write_dataset, recipe):
        write_dataset([GOOD, row([A, A])], **ALPACA)
        with pytest.raises(ChatTSError, match=r"data\.jsonl:2: 1 <ts><ts/> but 2 series"):
            list(load_data(recipe(streaming=True, buffer_size=1)).train)


class TestBaseAndTemplate:
    def test_template_chatts_needs_a_chatts_base(self, refused, plain_qwen3):
        text = refused([GOOD], settings={"model_name_or_path": str(plain_qwen3)})
        assert text.startswith(f"{plain_qwen3}: template chatts needs a ChatTS base")
        assert "lmf-chatts init-base" in text

    @pytest.mark.parametrize("template", ["qwen3_nothink", "qwen2_vl", "qwen2_audio", "default", None])
    @pytest.mark.parametrize("base", ["tiny_base", "plain_qwen3"])
    def test_series_need_the_template(self, refused, request, template, base):
        settings = {"template": template, "model_name_or_path": str(request.getfixturevalue(base))}
        text = refused([GOOD], settings=settings)
        assert "has a timeseries column" in text and "Set template: chatts" in text

    def test_formatting_chatts_counts_as_series(self, refused):
        assert "Set template: chatts" in refused([GOOD], settings={"template": "qwen3_nothink"}, formatting="chatts")

    def test_a_tokenizer_without_the_tokens(self, refused, tiny_base, plain_qwen3, tmp_path):
        base = tmp_path / "base"
        shutil.copytree(tiny_base, base)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(plain_qwen3 / name, base / name)

        text = refused([GOOD], settings={"model_name_or_path": str(base)})
        assert text.startswith(f"{base}: the tokenizer writes <ts> as") and "the config says" in text

    def test_pretraining_would_leave_the_series_out(self, refused):
        assert refused([GOOD], settings={"stage": "pt"}) == (
            "stage: stage pt trains on plain text and would leave the series out. Write stage: sft."
        )

    def test_pretraining_on_text_needs_no_answers(self, write_dataset, recipe):
        write_dataset([{"text": "Some text. " * 20}] * 3, columns={"prompt": "text"})
        assert len(load_data(recipe(stage="pt", cutoff_len=16)).train) > 3

    def test_nothing_is_loaded_before(self, write_dataset, recipe, monkeypatch):
        from llamafactory.train.sft import workflow
        from llamafactory.train.tuner import run_exp

        def load_model(*args, **kwargs):
            raise AssertionError("the weights were loaded")

        monkeypatch.setattr(workflow, "load_model", load_model)
        write_dataset([row([A, A])], **ALPACA)
        with pytest.raises(ChatTSError, match="1 <ts><ts/> but 2 series"):
            run_exp(recipe())


class TestSettings:
    @pytest.mark.parametrize(
        "settings, where, what",
        [
            ({"timeseries_sft_lr": 0.0}, "timeseries_sft_lr", "must be above 0"),
            ({"timeseries_sft_lr": -1e-4}, "timeseries_sft_lr", "must be above 0"),
            ({"timeseries_sft_lr": 1e-4, "train_timeseries_modules": False}, "timeseries_sft_lr", "is not trained"),
            ({"timeseries_sft_lr": 1e-4, "timeseries_tuning": "freeze"}, "timeseries_sft_lr", "is not trained"),
            (
                {"timeseries_sft_lr": 1e-4, "use_galore": True, "finetuning_type": "full"},
                "timeseries_sft_lr",
                "galore",
            ),
            (
                {"timeseries_sft_lr": 1e-4, "use_apollo": True, "finetuning_type": "full"},
                "timeseries_sft_lr",
                "apollo",
            ),
            ({"timeseries_sft_lr": 1e-4, "use_badam": True, "finetuning_type": "full"}, "timeseries_sft_lr", "badam"),
            ({"timeseries_sft_lr": 1e-4, "use_adam_mini": True}, "timeseries_sft_lr", "adam_mini"),
            ({"timeseries_sft_lr": 1e-4, "use_muon": True}, "timeseries_sft_lr", "muon"),
            ({"timeseries_sft_lr": 1e-4, "loraplus_lr_ratio": 16.0}, "timeseries_sft_lr", "loraplus_lr_ratio"),
            ({"timeseries_tuning": "full", "finetuning_type": "full"}, "timeseries_tuning", "adapter methods"),
            ({"timeseries_tuning": "lora", "finetuning_type": "freeze"}, "timeseries_tuning", "adapter methods"),
            ({"timeseries_tuning": "full", "train_timeseries_modules": False}, "timeseries_tuning", "contradicts"),
            ({"timeseries_tuning": "lora", "additional_target": "ts_encoder"}, "additional_target", "contradicts"),
            ({"timeseries_tuning": "freeze", "additional_target": "ts_encoder"}, "additional_target", "contradicts"),
        ],
    )
    def test_contradictions(self, recipe, settings, where, what):
        with pytest.raises(ChatTSError) as caught:
            parse(recipe(**settings))
        assert str(caught.value).startswith(f"{where}: ") and what in str(caught.value)
        assert caught.value.fix

    def test_an_unknown_way_of_tuning(self, recipe):
        with pytest.raises(ValueError, match="timeseries_tuning"):
            parse(recipe(timeseries_tuning="all"))

    def test_a_rate_in_quotes(self, recipe):
        assert parse(recipe(timeseries_sft_lr="2e-5")).finetuning_args.timeseries_sft_lr == 2e-5
        with pytest.raises(ChatTSError, match="timeseries_sft_lr: 'fast' is not a number"):
            parse(recipe(timeseries_sft_lr="fast"))

    @pytest.mark.parametrize("target", ["nothing", "q_proj,nothing"])
    def test_a_target_that_matches_no_layer(self, write_dataset, recipe, target):
        write_dataset([GOOD], **ALPACA)
        with pytest.raises(ChatTSError, match="lora_target: no layer is called nothing. Use all, or names such as"):
            load_all(recipe(lora_target=target))

    def test_a_rate_for_a_model_without_encoder(self, recipe, plain_qwen3, write_dataset):
        write_dataset([{"instruction": "Hi", "input": "", "output": "ho"}], formatting="alpaca")
        settings = recipe(model_name_or_path=str(plain_qwen3), template="qwen3_nothink", timeseries_sft_lr=1e-4)
        with pytest.raises(ChatTSError, match="timeseries_sft_lr: this model has no series encoder"):
            load_all(settings)

    @pytest.mark.parametrize("key", ["use_asft_loss", "use_unsloth", "mixture_of_depths"])
    def test_what_cannot_work_with_the_encoder(self, recipe, key):
        with pytest.raises(ChatTSError, match=f"^{key}: .* Remove it"):
            parse(recipe(**{key: True}))

    def test_label_smoothing(self, write_dataset, recipe):
        write_dataset([GOOD], **ALPACA)
        assert "label_smoothing_factor: " in error(recipe(label_smoothing_factor=0.1))
