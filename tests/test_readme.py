"""The two READMEs say the same, and every command, file and setting they name exists."""

import argparse
import ast
import dataclasses
import importlib
import inspect
import json
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path

import pytest

from llamafactory_chatts.cli import COMMANDS, main


ROOT = Path(__file__).parent.parent
LANGUAGES = ("README.md", "README_zh.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
TABLE = re.compile(r"(?:^\|.*\|\n)+", re.MULTILINE)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text):
    """Return a text without its fenced blocks."""
    return FENCE.sub("", text)


def blocks(text):
    """Return language and lines of each fenced block, without comments."""
    found = []
    for language, body in FENCE.findall(text):
        lines = [re.sub(r"(^|\s+)# .*$", "", line).rstrip() for line in body.splitlines()]
        found.append((language, lines))

    return found


def tables(text):
    """Return the tables, each a list of rows, each a list of cells; header and rule included."""
    rows = [table.strip().splitlines() for table in TABLE.findall(prose(text))]
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in table] for table in rows]


def sections(text):
    """Return the texts between the headings."""
    text = FENCE.sub(lambda found: found[0].replace("\n#", "\n"), text)  # a comment is no heading
    return HEADING.split(text)[::3]


def links(text):
    """Return the addresses that are linked; the link to the other language counts as the same."""
    return sorted("OTHER" if link in LANGUAGES else link for link in LINK.findall(prose(text)))


def inline_code(text):
    return Counter(re.findall(r"`([^`\n]+)`", prose(text)))


def numbers(text):
    return Counter(re.findall(r"\d+(?:\.\d+)*", LINK.sub("]", text)))


def commands(name):
    """Return each command line of the fenced and inline code that starts with ``name``, split into words."""
    text = read("README.md")
    lines = [line for language, body in blocks(text) if language == "bash" for line in body]
    lines += inline_code(text)
    return [shlex.split(line) for line in lines if line.split()[:1] == [name] and len(line.split()) > 1]


def argument_fields():
    """Return the names of all fields of LLaMA-Factory's training arguments, ours included."""
    from llamafactory import hparams

    kinds = ("Model", "Data", "Training", "Finetuning", "Generating")
    return {field.name for kind in kinds for field in dataclasses.fields(getattr(hparams, f"{kind}Arguments"))}


class TestLanguages:
    ENGLISH, CHINESE = (read(name) for name in LANGUAGES)

    def both(self, function):
        return function(self.ENGLISH), function(self.CHINESE)

    def test_headings(self):
        english, chinese = self.both(lambda text: [len(level) for level, _ in HEADING.findall(prose(text))])
        assert english == chinese and len(english) > 5

    def test_code_blocks(self):
        english, chinese = self.both(blocks)
        assert english == chinese and len(english) > 5

    def test_comments_are_translated_one_by_one(self):
        english, chinese = self.both(lambda text: [len(body.split("# ")) for _, body in FENCE.findall(text)])
        assert english == chinese

    def test_tables(self):
        english, chinese = self.both(lambda text: [[len(row) for row in table] for table in tables(text)])
        assert english == chinese and len(english) >= 3

    def test_links(self):
        english, chinese = self.both(links)
        assert english == chinese and "OTHER" in english

    def test_each_names_the_other_before_its_first_section(self):
        for name, other in (LANGUAGES, LANGUAGES[::-1]):
            assert f"]({other})" in read(name).split("\n## ")[0]

    def test_names_in_code_and_numbers_section_by_section(self):
        for read_out in (inline_code, numbers):
            english, chinese = self.both(lambda text, read_out=read_out: [read_out(part) for part in sections(text)])
            assert english == chinese

    def test_first_column_of_settings_and_files(self):
        english, chinese = self.both(
            lambda text: [row[0] for table in tables(text) for row in table if "`" in row[0] or "](" in row[0]]
        )
        assert [LINK.findall(cell) or inline_code(cell) for cell in english] == [
            LINK.findall(cell) or inline_code(cell) for cell in chinese
        ]


@pytest.mark.parametrize("name", LANGUAGES)
def test_linked_files_exist(name):
    local = [link for link in LINK.findall(prose(read(name))) if "://" not in link]
    assert local
    assert not [link for link in local if not (ROOT / link.split("#")[0]).exists()]


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
    named = {word for line in commands("make") for word in line[1:]}
    assert {"demo", "test"} <= named <= targets


def test_chatts_verbs_take_the_named_arguments():
    modules = {command: module for command, _, module in COMMANDS}
    lines = commands("lmf-chatts")
    assert lines
    for _, command, *arguments in lines:
        assert command in modules
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(modules[command]).add_arguments(parser)
        parser.parse_args(arguments)


def test_llamafactory_verbs_recipes_and_settings_exist():
    from llamafactory import launcher

    known = set(re.findall(r'command == "(\w+)"', inspect.getsource(launcher.launch)))
    fields, lines = argument_fields(), commands("llamafactory-cli")
    assert {"train", "export"} <= {line[1] for line in lines} <= known
    for _, command, *arguments in lines:
        recipes = [word for word in arguments if "=" not in word]
        assert len(recipes) == (command == "train")
        assert all((ROOT / recipe).is_file() and recipe.startswith("examples/") for recipe in recipes)
        assert {word.split("=")[0] for word in arguments if "=" in word} <= fields


def test_every_recipe_is_in_the_table():
    named = [link for table in tables(read("README.md")) for row in table for link in LINK.findall(row[0])]
    assert sorted(named) == sorted(f"examples/{path.name}" for path in (ROOT / "examples").glob("chatts_*.yaml"))


def test_settings_in_the_table_are_fields():
    table = next(table for table in tables(read("README.md")) if table[0][0] == "setting")
    settings = [re.fullmatch(r"`(\w+)(?:: \w+)?`", row[0])[1] for row in table[2:]]
    assert "timeseries_sft_lr" in settings
    assert set(settings) <= argument_fields()


def test_every_added_setting_is_in_the_table():
    from llamafactory.hparams import DataArguments, FinetuningArguments

    added = set()
    for kind in (DataArguments, FinetuningArguments):
        original = {field.name for field in dataclasses.fields(kind.__mro__[1])}
        added |= {field.name for field in dataclasses.fields(kind)} - original

    table = next(table for table in tables(read("README.md")) if table[0][0] == "setting")
    assert added and added <= {row[0].strip("`") for row in table}


def test_json_blocks_are_json_and_fit_each_other():
    row, info = (json.loads("".join(lines)) for language, lines in blocks(read("README.md")) if language == "json")
    (entry,) = info.values()
    assert set(entry["columns"].values()) == set(row)
    assert row["input"].count("<ts><ts/>") == len(row["timeseries"])
    json.loads(row["output"])


def test_python_blocks_import_what_is_there():
    for language, lines in blocks(read("README.md")):
        if language == "python":
            tree = ast.parse("\n".join(lines))
            for node in (node for node in tree.body if isinstance(node, ast.ImportFrom)):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)


def test_the_prepare_block_runs_as_it_is(tmp_path, monkeypatch, capsys):
    """On the sample plants of this repository; the demo's entries stay in dataset_info.json."""
    for name in ("examples", "dataset_info"):
        shutil.copytree(ROOT / name, tmp_path / name)

    monkeypatch.chdir(tmp_path)
    block = next(body for language, body in blocks(read("README.md")) if "lmf-chatts prepare" in "\n".join(body))
    lines = [shlex.split(line)[1:] for line in block if line.startswith("lmf-chatts")]
    assert len(lines) >= 4
    for words in lines:
        assert main(words) == 0, words

    printed = capsys.readouterr().out
    assert "plants_train.jsonl: 18 rows" in printed and "nothing wrong" in printed
    assert {"chatts_demo", "plants_train"} <= json.loads(Path("dataset_info/dataset_info.json").read_text()).keys()
    assert len(Path("dataset_info/plants.rejects.jsonl").read_text().splitlines()) == 1
    assert Path("check.html").stat().st_size > 10_000
