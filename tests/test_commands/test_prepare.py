"""prepare, as a user calls it."""

import json
from pathlib import Path

import plants
import pytest
import yaml

from llamafactory_chatts.cli import main


EXAMPLE = str(Path(__file__).parents[2] / "examples" / "prepare_plants.yaml")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("field")
    plants.write(folder, seed=3, share=0.1)
    return folder


@pytest.fixture
def here(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(small / "examples", target_is_directory=True)
    return tmp_path


def test_the_example_as_it_stands(here, capsys):
    assert main(["prepare", EXAMPLE, "--workers", "1"]) == 0
    out = capsys.readouterr().out
    for text in (
        "gdsh",
        "total",
        "ambiguous",
        "dataset_info/plants_train.jsonl: ",
        "plants.rejects.jsonl: 52 rejected",
    ):
        assert text in out

    info = json.loads((here / "dataset_info" / "dataset_info.json").read_text(encoding="utf-8"))
    assert info["plants_train"] == {
        "file_name": "plants_train.jsonl",
        "columns": {"prompt": "input", "response": "output", "timeseries": "timeseries"},
    }
    assert main(["dataset-info", "validate"]) == 0


def test_arguments_override_the_recipe(here, capsys):
    recipe = yaml.safe_load(Path(EXAMPLE).read_text(encoding="utf-8"))
    Path("mine.yaml").write_text(yaml.safe_dump({**recipe, "answers": "keep", "deduplicate": "off"}), encoding="utf-8")
    arguments = [
        "prepare",
        "mine.yaml",
        "--workers",
        "1",
        "--json",
        "--output",
        "other/p.parquet",
        "--answers",
        "json",
    ]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == sum(source["written"] for source in report["sources"])
    assert "answer" in report["sources"][0]["reasons"] and Path("other/p_train.parquet").exists()


def test_exact_only(here, capsys):
    assert main(["prepare", EXAMPLE, "--workers", "1", "--exact-only", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {s["name"]: s["written"] > 0 for s in report["sources"]} == {
        "gdsh": False,
        "hbsn": True,
        "whlj": False,
        "zhlh": False,
    }
    assert report["dataset_info"] == "" and not (here / "dataset_info" / "dataset_info.json").exists()


def test_no_row_could_be_used(here, capsys):
    Path("labels.json").write_text("[1]", encoding="utf-8")
    Path("mine.yaml").write_text("output: o.jsonl\ndeduplicate: off\nsources: [{labels: labels.json}]\n")
    assert main(["prepare", "mine.yaml", "--workers", "1"]) == 1
    assert "no row could be used, nothing was written" in capsys.readouterr().out
    assert not Path("o.jsonl").exists() and json.loads(Path("o.rejects.jsonl").read_text())["row"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the recipe is missing"),
        ("output: [", "not readable as YAML"),
        ("- a", "no recipe"),
        ("output: o.jsonl", "sources is missing. Add it."),
    ],
)
def test_a_wrong_recipe(here, capsys, content, message):
    if content is not None:
        Path("mine.yaml").write_text(content, encoding="utf-8")

    assert main(["prepare", "mine.yaml"]) == 2
    assert message in capsys.readouterr().err
