"""Recipes that a plan writes: comments and order stay, the values are the plan's."""

from pathlib import Path

import pytest
import yaml

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.recipe.edit import edit_text, write_recipe
from llamafactory_chatts.recipe.reading import Recipe, read_recipe


TEXT = """# a header that stays
### model
model_name_or_path: bases/x  # a folder

### train
per_device_train_batch_size: 4   # memory; halve it: see below
gradient_accumulation_steps: 4
deepspeed:
  stage: 3
learning_rate: 1.0e-4
note: "a # is no comment here"  # but this is
bf16: true
"""


def test_values_change_and_comments_stay():
    changes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "bf16": False, "fp16": True}
    text = edit_text(TEXT, changes)
    assert yaml.safe_load(text) == {**yaml.safe_load(TEXT), **changes}
    assert "per_device_train_batch_size: 1  # memory; halve it: see below; lmf-chatts plan: was 4" in text
    lines = text.splitlines()
    assert lines[:4] == TEXT.splitlines()[:4]
    assert lines[lines.index("bf16: false  # lmf-chatts plan: was true") + 1] == "fp16: true  # lmf-chatts plan: added"


def test_a_new_key_stands_beside_its_kin():
    lines = edit_text(TEXT, {"quantization_bit": 4, "lm_head_8bit": True, "something_new": [1, 2]}).splitlines()
    at = lines.index("model_name_or_path: bases/x  # a folder")
    assert lines[at + 1].startswith("quantization_bit: 4") and lines[at + 2].startswith("lm_head_8bit: true")
    assert lines[-1].startswith("something_new: [1, 2]")


def test_a_value_of_several_lines_and_a_quoted_one():
    text = edit_text(TEXT, {"deepspeed": "ds.json", "note": "b"})
    assert yaml.safe_load(text)["deepspeed"] == "ds.json" and "stage: 3" not in text
    assert "note: b  # but this is; lmf-chatts plan: was" in text


def test_every_shipped_recipe_can_be_edited():
    for path in sorted((Path(__file__).parents[2] / "examples").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        changes = {"per_device_train_batch_size": 3, "fp16": True, "lm_head_8bit": True}
        assert yaml.safe_load(edit_text(text, changes)) == {**yaml.safe_load(text), **changes}
        before = [line for line in text.splitlines() if line.strip().startswith("#")]
        assert [line for line in edit_text(text, changes).splitlines() if line.strip().startswith("#")] == before


class TestWriting:
    @pytest.mark.parametrize("name", ["r.yaml", "r.json"])
    def test_the_file_holds_plan_and_command_line(self, tmp_path, name):
        source = tmp_path / name
        source.write_text(TEXT if name.endswith("yaml") else '{"bf16": true, "cutoff_len": 5}')
        read = read_recipe(source, ["cutoff_len=9", "dataset=d"])
        out = write_recipe(read, {"bf16": False}, tmp_path / f"o{name}")
        found = read_recipe(out)
        assert (found["bf16"], found["cutoff_len"], found["dataset"]) == (False, 9, "d")

    def test_a_file_that_is_there_is_not_overwritten(self, tmp_path):
        (tmp_path / "r.yaml").write_text(TEXT)
        with pytest.raises(ChatTSError, match="the file is there already"):
            write_recipe(read_recipe(tmp_path / "r.yaml"), {}, tmp_path / "r.yaml")

    def test_a_folder_that_is_not_there(self, tmp_path):
        (tmp_path / "r.yaml").write_text(TEXT)
        with pytest.raises(ChatTSError, match="cannot be written"):
            write_recipe(read_recipe(tmp_path / "r.yaml"), {}, tmp_path / "none" / "r.yaml")

    def test_a_form_that_cannot_be_edited(self, tmp_path):
        (tmp_path / "r.yaml").write_text("{bf16: true}\n")
        with pytest.raises(ChatTSError, match="cannot be edited|no YAML"):
            write_recipe(read_recipe(tmp_path / "r.yaml"), {"bf16": False}, tmp_path / "o.yaml")


class TestReading:
    def test_numbers_and_booleans_as_the_host_reads_them(self, tmp_path):
        (tmp_path / "r.yaml").write_text("learning_rate: 1e-5\nbf16: 'True'\nmax_steps: '7'\nnum_train_epochs: 2\n")
        found = read_recipe(tmp_path / "r.yaml", ["cutoff_len=77", "fp16=false"]).typed()
        assert (found["learning_rate"], found["bf16"], found["max_steps"]) == (1e-5, True, 7)
        assert (found["num_train_epochs"], found["cutoff_len"], found["fp16"]) == (2.0, 77, False)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("cutoff_len: many", "Write a whole number"),
            ("cutoff_len: 0", "Write at least 1"),
            ("bf16: perhaps", "Write true or false"),
            ("finetuning_type: dora", "Write one of: lora"),
            ("quantization_bit: 5", "Write one of: 4, 8"),
            ("- a\n- b", "is a mapping of keys"),
            ("a: [", "this is no readable YAML"),
        ],
    )
    def test_values_that_cannot_be_used(self, tmp_path, text, said):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(ChatTSError, match=said):
            read_recipe(tmp_path / "r.yaml").typed()

    def test_no_file_and_no_setting(self, tmp_path):
        with pytest.raises(ChatTSError, match="none.yaml"):
            read_recipe(tmp_path / "none.yaml")

        (tmp_path / "r.yaml").write_text("bf16: true\n")
        with pytest.raises(ChatTSError, match="key=value"):
            read_recipe(tmp_path / "r.yaml", ["word"])

    def test_names_as_a_list_or_with_commas(self):
        for value in ("a, b", ["a", "b"]):
            assert Recipe({"dataset": value}, Path("r")).names("dataset") == ["a", "b"]
