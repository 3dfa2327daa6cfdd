"""demo-data and dataset-info, as a user calls them."""

import json
from pathlib import Path

from llamafactory_chatts.cli import main


STORED = Path(__file__).parents[2] / "dataset_info"


def test_the_examples_of_the_help_write_the_stored_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["dataset-info", "generate"]) == 0
    hints = [line.split(": ")[1].split() for line in capsys.readouterr().out.splitlines() if "is not there" in line]
    assert len(hints) == 2 and all(hint[:2] == ["lmf-chatts", "demo-data"] for hint in hints)
    assert main(["dataset-info", "validate"]) == 2
    assert "2 mistakes" in capsys.readouterr().err

    assert main(["demo-data"]) == 0
    assert main(hints[1][1:]) == 0
    for name in ("chatts_demo.jsonl", "chatts_demo_eval.jsonl"):
        assert Path("dataset_info", name).read_bytes() == (STORED / name).read_bytes()

    assert main(["dataset-info", "validate"]) == 0
    assert capsys.readouterr().out.endswith("dataset_info/dataset_info.json: 2 entries, nothing wrong\n")


def test_demo_data_takes_its_settings(tmp_path, capsys):
    out = tmp_path / "new" / "a.jsonl"
    argv = ["demo-data", "--out", str(out), "--rows", "3", "--seed", "9", "--min-points", "40", "--max-points", "40"]
    assert main(argv) == 0
    assert capsys.readouterr().out == f"{out}: 3 rows\n"
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [len(series) for row in rows for series in row["timeseries"]].count(40) == sum(
        len(row["timeseries"]) for row in rows
    )
    assert len(rows) == 3


def test_demo_data_with_bad_settings(tmp_path, capsys):
    assert main(["demo-data", "--out", str(tmp_path / "a.jsonl"), "--min-points", "3"]) == 2
    assert "3 to 192 points is no usable range" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_generate_keeps_my_entries(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"mine": {"hf_hub_url": "me/mine"}}')
    assert main(["dataset-info", "generate", "--dir", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "dataset_info.json").read_text())
    assert list(content) == ["mine", "chatts_demo", "chatts_demo_eval"]
    assert (tmp_path / "dataset_info.schema.json").is_file()
