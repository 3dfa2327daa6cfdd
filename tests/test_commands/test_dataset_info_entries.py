"""lmf-chatts dataset-info add | list | remove: only the named entry changes, and no writer loses another's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llamafactory_chatts.cli import main
from llamafactory_chatts.core import locking
from llamafactory_chatts.rows import dataset_info


OTHERS = '{\n  "mine": {"file_name": "mine.json",   "odd spacing": true},\n  "中文": {"hf_hub_url": "a/b"}\n}\n'


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "dataset_info.json").write_text(OTHERS, encoding="utf-8")
    (tmp_path / "plant.jsonl").write_text('{"input": "a <ts><ts/>", "output": "b", "timeseries": [[1, 2]]}\n')
    return tmp_path


def text(folder: Path) -> str:
    return (folder / "dataset_info.json").read_text(encoding="utf-8")


def test_add_list_remove(folder, capsys):
    assert main(["dataset-info", "add", "plant", "plant.jsonl", "--dir", str(folder)]) == 0
    entry = json.loads(text(folder))["plant"]
    assert entry == {
        "file_name": "plant.jsonl",
        "columns": {"prompt": "input", "response": "output", "timeseries": "timeseries"},
    }
    assert list(json.loads(text(folder))) == ["mine", "中文", "plant"] and '"中文"' in text(folder)
    assert main(["dataset-info", "list", "--dir", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "plant  plant.jsonl  alpaca  timeseries: timeseries" in printed and "中文  a/b" in printed
    assert main(["dataset-info", "remove", "plant", "--dir", str(folder)]) == 0
    assert list(json.loads(text(folder)).items()) == list(json.loads(OTHERS).items())
    assert (folder / "plant.jsonl").exists()


@pytest.mark.parametrize(
    "form",
    [
        {"indent": 2},
        {"indent": 4, "ensure_ascii": False},
        {"indent": "\t"},
        {"indent": 0},
        {},
    ],
)
@pytest.mark.parametrize("newline, end", [("\n", "\n"), ("\r\n", ""), ("\n", "")])
def test_the_file_keeps_its_form(tmp_path, form, newline, end):
    entries = {"泵": {"file_name": "a.json", "columns": {"prompt": "q"}}, "b": {"file_name": "b.json"}}
    path = tmp_path / "dataset_info.json"
    before = json.dumps(entries, **form).replace("\n", newline) + end
    path.write_bytes(before.encode())
    dataset_info.write(path, {"new": {"file_name": "温度.json", "tags": {}}})
    added = json.dumps({**entries, "new": {"file_name": "温度.json", "tags": {}}}, **form)
    assert path.read_bytes() == (added.replace("\n", newline) + end).encode()
    dataset_info.write(path, {"b": {"file_name": "c.json"}})  # in its place
    assert list(json.loads(path.read_text(encoding="utf-8"))) == ["泵", "b", "new"]
    dataset_info.write(path, {"b": entries["b"]})
    dataset_info.remove(path, "new")
    assert path.read_bytes() == before.encode()


@pytest.mark.parametrize("entry", [5, None, {"file_name": "x.json", "columns": None}])
def test_list_survives_an_entry_of_the_wrong_kind(tmp_path, capsys, entry):
    content = {"odd": entry, "fine": {"file_name": "y.json"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(content))
    assert main(["dataset-info", "list", "--dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "odd  not a usable entry" in printed and "fine  y.json" in printed


def test_formats(folder):
    row = {"messages": [], "input": "a", "good": "b", "bad": "c", "timeseries": [[1, 2]]}
    (folder / "plant.jsonl").write_text(json.dumps(row) + "\n")
    arguments = ["dataset-info", "add", "turns", "plant.jsonl", "--dir", str(folder), "--formatting", "sharegpt"]
    assert main([*arguments, "--messages", "messages", "--timeseries", ""]) == 0
    assert json.loads(text(folder))["turns"]["columns"] == {"messages": "messages"}
    pairs = ["dataset-info", "add", "pairs", "plant.jsonl", "--dir", str(folder), "--ranking"]
    assert main([*pairs, "--chosen", "good", "--rejected", "bad"]) == 0
    assert json.loads(text(folder))["pairs"] == {
        "file_name": "plant.jsonl",
        "ranking": True,
        "columns": {"prompt": "input", "chosen": "good", "rejected": "bad", "timeseries": "timeseries"},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "plant"], "needs a name and a file"),
        (["add", "plant", "none.jsonl"], "none.jsonl: the data file is missing"),
        (["add", "mine", "plant.jsonl"], "the name is taken"),
        (["add", "pairs", "plant.jsonl", "--ranking"], "chosen"),
        (["remove", "plant"], "there is no such entry"),
        (["remove"], "needs a name"),
    ],
)
def test_refused_and_nothing_changed(folder, capsys, arguments, message):
    assert main(["dataset-info", *arguments, "--dir", str(folder)]) == 2
    assert message in capsys.readouterr().err
    assert text(folder) == OTHERS


def test_file_outside_the_folder(folder, tmp_path_factory, capsys):
    outside = tmp_path_factory.mktemp("outside") / "x.jsonl"
    outside.write_text("{}\n")
    assert main(["dataset-info", "add", "x", str(outside), "--dir", str(folder)]) == 2
    assert "is not below" in capsys.readouterr().err


def test_replace(folder):
    (folder / "mine.json").write_text("[]")
    assert main(["dataset-info", "add", "mine", "mine.json", "--replace", "--dir", str(folder)]) == 0
    assert "columns" in json.loads(text(folder))["mine"]


def test_writers_at_the_same_time_lose_nothing(folder):
    script = (
        "import sys; from llamafactory_chatts.rows import dataset_info as d\n"
        "for i in range(15): d.write(sys.argv[1] + '/dataset_info.json', {sys.argv[2] + str(i): {'file_name': 'x'}})"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(folder), letter]) for letter in "abc"]
    assert [process.wait(timeout=900) for process in running] == [0, 0, 0]
    assert len(json.loads(text(folder))) == 2 + 45
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".tmp") == []


def test_another_writer_is_waited_for_and_then_named(folder, capsys, monkeypatch):
    script = (
        "import sys, time; from llamafactory_chatts.core import locking as d\n"
        "with d.locked(sys.argv[1]): print('held', flush=True); time.sleep(600)"
    )
    path = folder / "dataset_info.json"
    holder = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(locking, "TIMEOUT", 0.2)
        assert main(["dataset-info", "remove", "mine", "--dir", str(folder)]) == 2
        said = capsys.readouterr().err
        assert f"{path}: another process has been writing for 0.2 seconds. Wait for it" in said
        assert text(folder) == OTHERS
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()

    assert main(["dataset-info", "remove", "mine", "--dir", str(folder)]) == 0  # killed: its lock is gone, too


class TestColumns:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (
                ["--prompt", "question"],
                "no row has the column question (prompt); there are: input, output, time",
            ),
            (["--kto-tag", "liked"], "Name it with --kto-tag COLUMN"),
            (["--timeseries", "ts"], "Add --timeseries '' if these are texts alone, or --timeseries COLUMN"),
        ],
    )
    def test_a_column_that_is_not_there(self, folder, capsys, words, said):
        assert main(["dataset-info", "add", "plant", "plant.jsonl", "--dir", str(folder), *words]) == 2
        assert said in capsys.readouterr().err
        assert text(folder) == OTHERS

    def test_one_row_with_it_is_enough(self, folder):
        rows = [{"input": "a", "output": "b"}, {"input": "a", "output": "b", "rules": "c", "timeseries": []}]
        (folder / "plant.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert main(["dataset-info", "add", "plant", "plant.jsonl", "--dir", str(folder), "--system", "rules"]) == 0

    def test_files_that_only_the_host_reads(self, folder):
        (folder / "plant.csv").write_text("input,output\na,b\n")
        assert main(["dataset-info", "add", "plant", "plant.csv", "--dir", str(folder), "--timeseries", ""]) == 0

    def test_help_names_the_options(self, capsys):
        with pytest.raises(SystemExit):
            main(["dataset-info", "--help"])

        printed = capsys.readouterr().out
        assert "--kto-tag COLUMN" in printed and "default: input" in printed


class TestPretraining:
    ROW = '{"text": "Pumps move water."}\n'

    def entry(self, folder, name):
        return json.loads(text(folder))[name]

    def test_texts_alone_are_recognised(self, folder):
        (folder / "corpus.jsonl").write_text(self.ROW)
        assert main(["dataset-info", "add", "corpus", "corpus.jsonl", "--dir", str(folder)]) == 0
        assert self.entry(folder, "corpus") == {"file_name": "corpus.jsonl", "columns": {"prompt": "text"}}

    def test_a_text_file(self, folder):
        (folder / "corpus.txt").write_text("Pumps move water.\n")
        assert main(["dataset-info", "add", "corpus", "corpus.txt", "--dir", str(folder)]) == 0
        assert self.entry(folder, "corpus")["columns"] == {"prompt": "text"}

    def test_named_columns(self, folder):
        (folder / "corpus.jsonl").write_text('{"content": "Pumps move water.", "id": 1}\n')
        command = ["dataset-info", "add", "corpus", "corpus.jsonl", "--dir", str(folder), "--prompt", "content"]
        assert main([*command, "--response", "", "--timeseries", ""]) == 0
        assert self.entry(folder, "corpus")["columns"] == {"prompt": "content"}

    def test_the_refusal_says_how(self, folder, capsys):
        (folder / "corpus.jsonl").write_text('{"content": "Pumps move water."}\n')
        command = ["dataset-info", "add", "corpus", "corpus.jsonl", "--dir", str(folder), "--prompt", "content"]
        assert main(command) == 2
        assert "Add --response '' if these are texts to pre-train on" in capsys.readouterr().err
