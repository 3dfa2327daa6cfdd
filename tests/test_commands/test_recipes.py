"""lmf-chatts recipes: what comes with the package, shown and copied; copies run from their folder."""

from pathlib import Path

import pytest

from llamafactory_chatts.cli import main
from llamafactory_chatts.commands import recipes
from llamafactory_chatts.recipe.reading import read_recipe
from llamafactory_chatts.recipe.rules import check_recipe


def test_list_names_each_with_its_first_line(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list((recipes.home() / "examples").glob("*.yaml"))) >= 10
    assert any(line.startswith("chatts_qlora ") and "QLoRA" in line for line in lines)


def test_show_prints_the_file(capsys):
    assert main(["recipes", "show", "chatts_lora"]) == 0
    assert capsys.readouterr().out == (recipes.home() / "examples" / "chatts_lora.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [(["show", "none"], "there is no recipe 'none'. Use one of: chatts_demo"), (["copy"], "copy needs a folder")],
)
def test_refusals(words, said, capsys):
    assert main(["recipes", *words]) == 2
    assert said in capsys.readouterr().err


class TestCopy:
    def test_every_recipe_finds_its_files_there(self, tmp_path, monkeypatch, capsys):
        assert main(["recipes", "copy", str(tmp_path / "plant")]) == 0
        assert "examples/ and dataset_info/" in capsys.readouterr().out
        monkeypatch.chdir(tmp_path / "plant")
        files = sorted(path for path in Path("examples").glob("*.yaml") if "prepare" not in path.name)
        assert len(files) >= 10
        for path in files:
            wrong = [one for one in check_recipe(read_recipe(path)) if one.level == "error"]
            paths = [one for one in wrong if one.subject in ("dataset", "dataset_dir", "deepspeed")]
            assert not paths, path

    def test_again_it_writes_nothing(self, tmp_path, capsys):
        assert main(["recipes", "copy", str(tmp_path)]) == main(["recipes", "copy", str(tmp_path)]) == 0
        assert "0 files written" in capsys.readouterr().out

    def test_a_changed_file_is_never_replaced(self, tmp_path, capsys):
        (tmp_path / "examples").mkdir()
        (tmp_path / "examples" / "chatts_lora.yaml").write_text("mine")
        assert main(["recipes", "copy", str(tmp_path)]) == 2
        assert "chatts_lora.yaml: it is there and differs" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "examples").iterdir()] == ["chatts_lora.yaml"]
