"""Labels of every format and file, and the rows of them that cannot be read."""

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.data.labels.sources import LabelRow, open_source


A, B = [1.0, 2.5, 3.0], [4, 5]
ANSWER = "[{'interval': [741, 780], 'type': '竖直尖峰'}]"


def picture_row(name="/home/plots/gdsh_second_1X.PV.jpg", **changes):
    turns = [{"from": "human", "value": "图中<image>有异常吗？"}, {"from": "gpt", "value": ANSWER}]
    return {"image": name, "conversations": turns, **changes}


def dump(row):
    return json.dumps(row, ensure_ascii=False)


@pytest.fixture
def read(tmp_path):
    """Return a function: write rows (or text, or bytes) into a label file and read it as a source."""

    def write_and_read(content, name="标签.jsonl", encoding="utf-8", **config):
        if not isinstance(content, (str, bytes)):
            lines = [dump(row) for row in content]
            content = "\n".join(lines) + "\n" if name.endswith(".jsonl") else "[" + ",\n".join(lines) + "]"

        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return list(open_source({"labels": name, **config}, tmp_path))

    return write_and_read


def one(rows):
    [row] = rows
    assert isinstance(row, LabelRow) and row.problem is None
    return row


class TestFormats:
    @pytest.mark.parametrize("form", ["auto", "sharegpt_image"])
    def test_pictures(self, read, form):
        row = one(read([picture_row(id=7)], format=form))
        assert (row.file, row.row, row.name) == ("标签.jsonl", 1, "/home/plots/gdsh_second_1X.PV.jpg")
        assert (row.prompt, row.answer) == ("图中<ts><ts/>有异常吗？", ANSWER)
        assert (row.series, row.messages, row.extra) == (None, None, {"id": 7})

    def test_pictures_in_other_forms(self, read):
        for key, value in [("images", ["a.jpg"]), ("image", ["a.jpg"]), ("image", {"bytes": None, "path": "a.jpg"})]:
            row = picture_row()
            row.pop("image")
            assert one(read([{**row, key: value}])).name == "a.jpg"

    def test_pictures_in_several_turns(self, read):
        turns = [
            *picture_row()["conversations"],
            {"from": "user", "value": "why?"},
            {"from": "assistant", "value": "x"},
        ]
        row = one(read([picture_row(conversations=turns)]))
        assert row.prompt is None and [text["role"] for text in row.messages] == ["user", "assistant"] * 2
        assert row.messages[0]["content"] == "图中<ts><ts/>有异常吗？" and row.messages[3]["content"] == "x"

    @pytest.mark.parametrize("form", ["auto", "chatts"])
    @pytest.mark.parametrize(
        "cell, series", [([A, B], [A, B]), (A, [A]), ([], []), (None, []), ([[1, None]], [[1, None]])]
    )
    def test_chatts(self, read, form, cell, series):
        row = one(read([{"input": "q", "output": "a", "timeseries": cell, "id": 1}], format=form))
        assert (row.prompt, row.answer, row.series, row.extra) == ("q", "a", series, {"id": 1})

    @pytest.mark.parametrize("cell", ["a.csv", ["a.csv"]])
    def test_chatts_with_a_file(self, read, cell):
        row = one(read([{"input": "q", "output": "a", "timeseries": cell}]))
        assert row.name == "a.csv" and row.series is None

    @pytest.mark.parametrize("form", ["auto", "chatts_eval"])
    def test_evaluation_sets(self, read, form):
        base = {"answer": "up", "timeseries": [A, B], "cols": ["CPU", "disk"], "ability_types": ["trend"]}
        row = one(read([{**base, "question": "Is <ts><ts/> above <ts><ts/>?"}], format=form))
        assert (row.prompt, row.answer, row.series) == ("Is <ts><ts/> above <ts><ts/>?", "up", [A, B])
        assert row.extra == {"cols": ["CPU", "disk"], "ability_types": ["trend"]}
        row = one(read([{**base, "question": "Which is higher?"}], format=form))
        assert row.prompt == "CPU: <ts><ts/>\ndisk: <ts><ts/>\nWhich is higher?"

    @pytest.mark.parametrize("form", ["auto", "opentslm"])
    def test_opentslm(self, read, form):
        content = {
            "pre_prompt": "Two sensors.\n",
            "time_series_text": ["The first:", "The second:"],
            "time_series": [A, B],
            "post_prompt": "Answer:",
            "answer": "x",
        }
        row = one(read([content], format=form))
        assert row.prompt == "Two sensors.\nThe first: <ts><ts/>\nThe second: <ts><ts/>\nAnswer:"
        assert (row.answer, row.series) == ("x", [A, B])
        row = one(read([{**content, "time_series_text": "It:", "time_series": A}], format=form))
        assert row.prompt.count("<ts><ts/>") == 1 and row.series == [A]

    @pytest.mark.parametrize("form", ["auto", "alpaca"])
    def test_alpaca(self, read, form):
        row = one(read([{"instruction": "Add", "input": "1 and 2", "output": "3"}], format=form))
        assert (row.prompt, row.answer, row.series, row.name) == ("Add\n1 and 2", "3", None, None)
        row = one(
            read([{"instruction": "Hi", "output": "Hello", "history": [["a", "b"]], "system": "s"}], format=form)
        )
        roles, texts = zip(*((text["role"], text["content"]) for text in row.messages))
        assert roles == ("system", "user", "assistant", "user", "assistant") and texts == (
            "s",
            "a",
            "b",
            "Hi",
            "Hello",
        )

    @pytest.mark.parametrize("form", ["auto", None])
    def test_conversations(self, read, form):
        chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
        chat.append({"role": "assistant", "content": "a"})
        row = one(read([{"messages": chat}], format=form or "openai"))
        assert row.messages == chat and row.prompt is None and row.series is None
        turns = [{"from": "human", "value": "q <ts><ts/>"}, {"from": "gpt", "value": "a"}]
        row = one(read([{"conversations": turns, "timeseries": [A]}], format=form or "sharegpt"))
        assert (row.prompt, row.answer, row.series) == ("q <ts><ts/>", "a", [A])

    def test_every_row_for_itself(self, read):
        rows = [picture_row(), {"instruction": "x", "output": "y"}, {"input": "q", "output": "a", "timeseries": [A]}]
        found = read(rows)
        assert [row.problem for row in found] == [None] * 3
        assert [row.name is None for row in found] == [False, True, True] and [row.row for row in found] == [1, 2, 3]

    def test_answers_keep_their_type(self, read):
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": [{"interval": [1, 2]}]}]
        assert one(read([picture_row(conversations=turns)])).answer == [{"interval": [1, 2]}]


class TestProblems:
    @pytest.mark.parametrize(
        "row, problem",
        [
            ([1], "a row must be an object with keys, this is list"),
            ({"a": 1}, "the keys 'a' belong to no known format; set format to one of"),
            (picture_row(image=["a.jpg", "b.jpg"]), "the row names 2 pictures; one per row is read"),
            (picture_row(image=""), "the row names no picture"),
            (picture_row(image=None), "turn 1 shows an <image>, but the row names no picture"),
            (picture_row(conversations="hi"), "'conversations' is str, not a list (hi)"),
            (picture_row(conversations=[]), "the turns of 'conversations' do not go user, assistant"),
            (picture_row(conversations=[{"from": "gpt", "value": "x"}]), "do not go user, assistant, ... (assistant)"),
            (picture_row(conversations=[{"from": "bot", "value": "x"}]), "turn 1 has the role 'bot', known: human"),
            (picture_row(conversations=[{"value": "x"}]), "turn 1 of 'conversations' has no 'from' and 'value'"),
            (picture_row(conversations=[{"from": "human", "value": 5}]), "turn 1 of 'conversations' is int, not text"),
            ({"input": 5, "output": "a", "timeseries": [A]}, "'input' is int, not text"),
            ({"input": "q", "output": "a", "timeseries": 5}, "'timeseries' is int, not a list (5)"),
            ({"input": "q", "output": "a", "timeseries": [A, 5]}, "'timeseries' mixes series and single values"),
            ({"input": "q", "output": "a", "timeseries": ["a", "b"]}, "'timeseries' names 2 files"),
            (
                {"time_series": [A], "time_series_text": [], "answer": "x"},
                "0 texts in 'time_series_text' for 1 series",
            ),
            ({"instruction": "x", "history": ["ab"]}, "'history' is str, not a list"),
        ],
    )
    def test_a_row_that_cannot_be_read_says_why(self, read, row, problem):
        good = picture_row()
        found = read([good, row, good])
        assert [item.problem is None for item in found] == [True, False, True]
        assert problem in found[1].problem and (found[1].file, found[1].row) == ("标签.jsonl", 2)

    def test_a_row_of_another_format(self, read):
        [row] = read([{"instruction": "x", "output": "y"}], format="sharegpt_image")
        assert "sharegpt_image rows need 'conversations'" in row.problem
        [row] = read([{"input": "q", "output": "a"}], format="chatts")
        assert "chatts rows need 'timeseries'" in row.problem


class TestFiles:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "utf-16"])
    @pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
    def test_encodings(self, read, encoding, name):
        rows = read([picture_row("x" * 10), picture_row("泵.jpg")], name=name, encoding=encoding)
        assert [row.name for row in rows] == ["x" * 10, "泵.jpg"]
        assert rows[1].prompt == "图中<ts><ts/>有异常吗？" and rows[0].file == name

    def test_gbk_behind_a_megabyte_of_ascii(self, read):
        filler = {"instruction": "x" * 1000, "output": "y"}
        rows = read([filler] * 1100 + [picture_row("泵.jpg")], encoding="gbk")
        assert len(rows) == 1101 and rows[-1].name == "泵.jpg"

    @pytest.mark.parametrize("encoding", ["utf-8", "gbk"])
    def test_a_line_in_another_encoding(self, read, encoding):
        good = dump(picture_row("泵.jpg")).encode(encoding) + b"\n"
        rows = read(good * 5 + b'{"image": "\xff\xfe"}\n' + good)
        assert [row.row for row in rows if row.problem] == [6] and len(rows) == 7
        assert "not UTF-8" in rows[5].problem and rows[6].name == "泵.jpg"

    def test_broken_lines(self, read):
        good = dump(picture_row())
        rows = read(f'{good}\n\n{good[:-3]}\n{good}\n{{"a": }}\n{good[:50]}')
        assert [(row.row, row.problem is None) for row in rows] == [(1, 1), (3, 0), (4, 1), (5, 0), (6, 0)]
        assert "broken JSON" in rows[1].problem and "truncated" in rows[4].problem

    @pytest.mark.parametrize("cut, message", [(-1, "does not end"), (-40, "truncated")])
    def test_a_truncated_array(self, read, cut, message):
        text = "[" + ",\n".join(dump(picture_row()) for _ in range(3)) + "]"
        rows = read(text[:cut], name="a.json")
        assert message in rows[-1].problem and sum(row.problem is None for row in rows) == (3 if cut == -1 else 2)

    def test_an_object_around_the_rows(self, read):
        for indent in (None, 2):
            text = json.dumps({"version": 1, "data": [picture_row(), picture_row()]}, indent=indent)
            rows = read(text, name="a.json")
            assert [row.row for row in rows] == [1, 2] and not any(row.problem for row in rows)

        assert one(read(json.dumps(picture_row(), indent=2), name="a.json")).name.endswith("PV.jpg")

    def test_lines_under_the_name_json(self, read):
        assert len(read(dump(picture_row()) + "\n" + dump(picture_row()), name="a.json")) == 2

    def test_several_files(self, tmp_path):
        for name in ("a.jsonl", "b.jsonl"):
            (tmp_path / name).write_text(dump(picture_row()))

        rows = list(open_source({"labels": ["b.jsonl", str(tmp_path / "a.jsonl")]}, tmp_path))
        assert [row.file for row in rows] == ["b.jsonl", str(tmp_path / "a.jsonl")]

    @pytest.mark.parametrize(
        "config, message",
        [
            ({"labels": "gone.json"}, "gone.json: the file does not exist"),
            ({"labels": "folder"}, "folder: a folder stands where a label file should be"),
            ({"labels": "loop.json"}, "loop.json: the file cannot be read"),
            ({"labels": "empty.json"}, "empty.json: the label file is empty"),
            ({"labels": "a.doc"}, "a.doc: files of this kind hold no labels. Use one of .jsonl"),
            ({"labels": None}, "labels: None is no path"),
            ({}, "labels: None is no path"),
            ({"labels": "a.doc", "format": "voc"}, "format: 'voc' is no format. Use one of auto, hf, opentslm"),
        ],
    )
    def test_refused_at_once(self, tmp_path, config, message):
        (tmp_path / "folder").mkdir()
        (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
        (tmp_path / "empty.json").touch()
        (tmp_path / "a.doc").write_text("x")
        with pytest.raises(ChatTSError, match=message):
            open_source(config, tmp_path)

    def test_no_permission(self, tmp_path, monkeypatch):
        def refuse(path, *args, **options):  # taking the right away does not stop root
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

        (tmp_path / "a.json").write_text("[]")
        monkeypatch.setattr("builtins.open", refuse)
        with pytest.raises(ChatTSError, match="a.json: no permission to read the file"):
            open_source({"labels": "a.json"}, tmp_path)

    @pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
    def test_memory_stays_flat(self, tmp_path, name):
        """40 MB of labels take no more memory than their largest row."""
        line = dump({"input": "q", "output": "a", "timeseries": [[float(i) / 7 for i in range(500)]]})
        edges = ("[", ",\n", "]") if name == "a.json" else ("", "\n", "")
        (tmp_path / name).write_text(edges[0] + edges[1].join([line] * (40_000_000 // len(line))) + edges[2])
        script = (
            "import resource, sys\n"
            "from llamafactory_chatts.data.labels.sources import open_source\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "before = peak()\n"
            f"count = sum(row.problem is None for row in open_source({{'labels': {name!r}}}, sys.argv[1]))\n"
            "print(count, (peak() - before) // 1024)\n"
        )
        run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
        count, grown = map(int, run.stdout.split())
        assert count == 40_000_000 // len(line) and grown < 25


class TestHuggingFace:
    ROWS = [{"input": f"q{i} <ts><ts/>", "output": "a", "timeseries": [[float(i), 2.0]]} for i in range(150)]

    @pytest.fixture
    def saved(self, tmp_path):
        """A folder as ``DatasetDict.save_to_disk`` writes it, with two shards in one split."""
        folder = tmp_path / "hf"
        for split, parts in (("train", (self.ROWS[:100], self.ROWS[100:])), ("test", (self.ROWS[:3],))):
            (folder / split).mkdir(parents=True)
            names = [f"data-{index:05d}-of-{len(parts):05d}.arrow" for index in range(len(parts))]
            for name, rows in zip(names, parts):
                table = pa.Table.from_pylist(rows)
                with pa.ipc.new_stream(str(folder / split / name), table.schema) as writer:
                    writer.write_table(table)

            state = {"_data_files": [{"filename": name} for name in names], "_split": split}
            (folder / split / "state.json").write_text(json.dumps(state))
            (folder / split / "dataset_info.json").write_text("{}")

        (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
        return folder

    @pytest.mark.parametrize("form", ["auto", "hf"])
    def test_dataset_dict(self, saved, tmp_path, form):
        rows = list(open_source({"labels": "hf", "format": form}, tmp_path))
        assert len(rows) == 153 and not any(row.problem for row in rows)
        assert (rows[120].file, rows[120].row) == ("hf/train/data-00001-of-00002.arrow", 21)
        assert (rows[120].prompt, rows[120].series) == ("q120 <ts><ts/>", [[120.0, 2.0]])
        assert len(list(open_source({"labels": "hf", "split": "test"}, tmp_path))) == 3
        with pytest.raises(ChatTSError, match="there is no split 'dev'. Use: train, test"):
            list(open_source({"labels": "hf", "split": "dev"}, tmp_path))

    def test_one_split(self, saved, tmp_path):
        assert len(list(open_source({"labels": "hf/train/"}, tmp_path))) == 150

    def test_what_the_library_itself_writes(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        made = datasets.Dataset.from_list(self.ROWS)
        made.save_to_disk(str(tmp_path / "one"), num_shards=2)
        datasets.DatasetDict(train=made.select(range(9, 4, -1))).save_to_disk(str(tmp_path / "dict"))
        (tmp_path / "files").mkdir()
        made.to_parquet(str(tmp_path / "files" / "part.parquet"))
        found = {name: list(open_source({"labels": name}, tmp_path)) for name in ("one", "dict", "files")}
        assert [len(rows) for rows in found.values()] == [150, 5, 150]
        assert [row.prompt[:2] for row in found["dict"]] == ["q9", "q8", "q7", "q6", "q5"]
        for rows in (found["one"], found["files"]):
            np.testing.assert_array_equal([row.series[0] for row in rows], [row["timeseries"][0] for row in self.ROWS])

    def test_parquet(self, tmp_path):
        (tmp_path / "p" / "data").mkdir(parents=True)
        pd.DataFrame(self.ROWS[:5]).to_parquet(tmp_path / "p" / "data" / "b.parquet")
        (tmp_path / "p" / "data" / "a.parquet").write_text("no parquet")
        rows = list(open_source({"labels": "p"}, tmp_path))
        assert [row.file for row in rows] == ["p/data/a.parquet", *["p/data/b.parquet"] * 5]
        assert "no Parquet file" in rows[0].problem and rows[5].prompt == "q4 <ts><ts/>"
        shutil.copy(tmp_path / "p" / "data" / "b.parquet", tmp_path / "b.parquet")
        assert len(list(open_source({"labels": "b.parquet"}, tmp_path))) == 5

    def test_missing_and_broken_shards(self, saved, tmp_path):
        first, second = sorted((saved / "train").glob("*.arrow"))
        first.unlink()
        second.write_bytes(second.read_bytes()[: second.stat().st_size // 2])
        rows = list(open_source({"labels": "hf"}, tmp_path))
        problems = [row.problem for row in rows if row.problem]
        assert "is missing" in problems[0] and "broken Arrow file" in problems[1] and len(problems) == 2
        assert sum(row.problem is None for row in rows) == 3

    def test_broken_descriptions(self, saved, tmp_path):
        (saved / "train" / "state.json").write_text("{")
        with pytest.raises(ChatTSError, match="state.json: not readable as JSON"):
            list(open_source({"labels": "hf"}, tmp_path))

    def test_a_shard_name_leads_nowhere_else(self, saved, tmp_path):
        shutil.copy(saved / "test" / "data-00000-of-00001.arrow", tmp_path / "secret.arrow")
        (saved / "test" / "state.json").write_text('{"_data_files": [{"filename": "../../secret.arrow"}]}')
        [row] = open_source({"labels": "hf/test"}, tmp_path)
        assert row.problem == "the file secret.arrow is missing"
