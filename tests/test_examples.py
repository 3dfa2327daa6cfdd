"""Every recipe parses with LLaMA-Factory's own parser, every dataset entry loads. Globbed: nothing is forgotten."""

import dataclasses
import json
import os
import re
import sys
from pathlib import Path

import pytest
from host_steps import load_data


ROOT = Path(__file__).parent.parent
RECIPES = sorted(set((ROOT / "examples").glob("*.yaml")) - set((ROOT / "examples").glob("prepare_*.yaml")))
INFO_FILE = ROOT / "dataset_info" / "dataset_info.json"
ENTRIES = json.loads(INFO_FILE.read_text(encoding="utf-8"))
SECTIONS = ["model", "method", "dataset", "output", "train"]
LABELS = ("needs", "run", "memory", "time")
ABSOLUTE = re.compile(r"(?<![\w.:/])(?:~?/\w|[A-Za-z]:[\\/]\w)")

every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


def as_typed(monkeypatch, recipe, **overrides):
    """Return the dict that ``llamafactory-cli train RECIPE key=value ...`` makes, run from the repository's root."""
    from llamafactory.hparams import read_args

    words = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", str(recipe.relative_to(ROOT)), *words])
    return read_args()


@pytest.fixture
def on_cpu(monkeypatch, tiny_base, tmp_path):
    """Return a function: the settings of a recipe for the tiny base on a machine without a GPU."""

    def make(recipe, **overrides):
        here = {"model_name_or_path": str(tiny_base), "output_dir": str(tmp_path / "saves"), "use_cpu": True}
        off = {key: False for key in ("bf16", "fp16") if key in as_typed(monkeypatch, recipe)}
        settings = as_typed(monkeypatch, recipe, **here, **off, **overrides)
        config = settings.pop("deepspeed", None)  # the parser takes it in started workers only
        assert config is None or (ROOT / config).is_file()
        return settings

    return make


def header(recipe):
    """Return the first line and the labelled parts of a recipe's header, a dict of label -> text."""
    lines = []
    for line in recipe.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.startswith("### "):
            break
        lines.append(line)

    parts, label = {}, "before the first label"
    for line in lines[1:]:
        if found := re.match(r"# (\w+) {2,}(.+)", line):
            label = found[1]
            parts[label] = found[2]
        else:
            parts[label] = parts.get(label, "") + "\n" + line.lstrip("# ")

    return lines[0], parts


def test_there_is_something_to_read():
    assert len(RECIPES) >= 3 and len(ENTRIES) >= 2


@every_recipe
class TestRecipe:
    def test_the_real_parser_takes_it(self, recipe, on_cpu):
        from llamafactory.hparams import get_train_args

        settings = on_cpu(recipe)
        model, data, training, finetuning, _ = get_train_args(dict(settings))
        assert training.do_train and data.dataset == settings["dataset"].split(",")
        for arguments in (model, data, training, finetuning):
            for key in ("cutoff_len", "quantization_bit", "num_train_epochs", "learning_rate", "timeseries_sft_lr"):
                if key in settings and hasattr(arguments, key):
                    assert getattr(arguments, key) == pytest.approx(settings[key])

    def test_every_value_has_its_type(self, recipe, on_cpu):
        """A recipe's values are taken as they are; as flags they are checked."""
        from llamafactory.hparams import get_train_args

        words = [(f"--{key}", str(value)) for key, value in on_cpu(recipe).items()]
        get_train_args([word for pair in words for word in pair])

    def test_every_key_is_a_field(self, recipe, monkeypatch):
        from llamafactory import hparams

        kinds = ("Model", "Data", "Training", "Finetuning", "Generating")
        fields = {f.name for kind in kinds for f in dataclasses.fields(getattr(hparams, f"{kind}Arguments"))}
        assert set(as_typed(monkeypatch, recipe)) <= fields

    def test_sections_in_order(self, recipe):
        found = re.findall(r"^### (.+)$", recipe.read_text(encoding="utf-8"), re.MULTILINE)
        assert found in (SECTIONS, [*SECTIONS, "eval"])

    def test_every_section_has_settings(self, recipe):
        text = recipe.read_text(encoding="utf-8")
        head, *bodies = re.split(r"^### .+$", text, flags=re.MULTILINE)
        assert not re.search(r"^\w+:", head, re.MULTILINE), "settings before the first section"
        assert all(re.search(r"^\w+:", body, re.MULTILINE) for body in bodies)

    def test_header(self, recipe):
        title, parts = header(recipe)
        assert title.startswith("# ChatTS")
        assert tuple(parts) == LABELS, "the header says these four things, in this order"
        assert all(parts.values())

    def test_the_run_command_names_the_file_itself(self, recipe):
        name = f"examples/{recipe.name}"
        _, parts = header(recipe)
        assert re.search(rf"(llamafactory-cli train|-m llamafactory\.launcher \\\n) ?{re.escape(name)}", parts["run"])
        assert set(re.findall(r"examples/\w+\.yaml", recipe.read_text(encoding="utf-8"))) == {name}

    def test_no_absolute_path(self, recipe, monkeypatch):
        assert not ABSOLUTE.findall(recipe.read_text(encoding="utf-8"))
        values = as_typed(monkeypatch, recipe).values()
        assert not [value for value in values if isinstance(value, str) and os.path.isabs(value)]

    def test_template_and_dataset(self, recipe, monkeypatch):
        settings = as_typed(monkeypatch, recipe)
        assert settings["template"] == "chatts"
        assert ROOT / settings["dataset_dir"] == INFO_FILE.parent
        names = settings["dataset"].split(",") + [name for name in settings.get("eval_dataset", "").split(",") if name]
        for name in names:
            assert name in ENTRIES
            assert (INFO_FILE.parent / ENTRIES[name]["file_name"]).is_file()


@pytest.mark.parametrize("text, found", [("dir: /data", 1), ("~/models", 1), ("C:\\x", 1), ("'/mnt/x'", 1)])
def test_the_path_finder_finds(text, found):
    assert len(ABSOLUTE.findall(text)) == found


@pytest.mark.parametrize("text", ["RTX 3090 / 4090", "rows/s", "a/b-8B", "https://host/x", "./saves/a", "need: 4/8"])
def test_the_path_finder_leaves_alone(text):
    assert not ABSOLUTE.findall(text)


@pytest.mark.parametrize("name", ENTRIES)
@every_recipe
def test_every_entry_loads_and_keeps_its_rows(name, recipe, on_cpu):
    """Through the real ``get_dataset``, with every recipe's own settings."""
    file = INFO_FILE.parent / ENTRIES[name]["file_name"]
    rows = sum(bool(line.strip()) for line in file.read_text(encoding="utf-8").splitlines())
    run = load_data(on_cpu(recipe, dataset=name, overwrite_cache=True))
    assert 0.9 * rows <= len(run.train) <= rows
    assert all(len(row["input_ids"]) <= run.data_args.cutoff_len for row in run.train)
    assert any(row["audios"] for row in run.train)


def test_every_data_file_has_an_entry():
    files = {path.name for path in INFO_FILE.parent.iterdir() if not path.name.startswith("dataset_info.")}
    assert files == {entry["file_name"] for entry in ENTRIES.values()}
