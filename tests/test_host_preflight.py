"""The check at the start of a training: all mistakes at once, only for ChatTS, and it can be switched off."""

import os
import sys
import time
from types import ModuleType

import pytest
import warm
import yaml

from llamafactory_chatts.core.contract import PREFLIGHT_SWITCH
from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.host.start import preflight


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in (PREFLIGHT_SWITCH, "RANK", "WORLD_SIZE", "ALLOW_EXTRA_ARGS"):
        monkeypatch.delenv(name, raising=False)

    monkeypatch.setattr(sys, "argv", ["llamafactory-cli"])


@pytest.fixture
def started(monkeypatch):
    """Return (function, list): the patched ``_training_function``, and the configurations that reached the host."""
    reached = []
    tuner = ModuleType("tuner")
    tuner._training_function = lambda config: reached.append(config)
    preflight.check_before_start(tuner, "_training_function")
    return tuner._training_function, reached


@pytest.fixture
def wrong(recipe, write_dataset, rows):
    write_dataset(rows(2))
    return recipe(lora_rnk=8, flash_attn=False, dataset="dta")


def test_a_good_recipe_starts(started, recipe, write_dataset, rows):
    write_dataset(rows(2))
    function, reached = started
    config = {"args": recipe(), "callbacks": []}
    function(config)
    assert reached == [config] and reached[0] is config


def test_all_mistakes_at_once(started, wrong):
    function, reached = started
    with pytest.raises(ChatTSError) as caught:
        function({"args": wrong})

    message = str(caught.value)
    assert reached == [] and message.startswith("3 mistakes in this recipe\n")
    assert "lora_rnk: no setting" in message and "flash_attn: it takes no false" in message
    assert "Entries: data" in message and f"{PREFLIGHT_SWITCH}=0" in message


@pytest.mark.parametrize(
    "changes, environment",
    [
        ({}, {PREFLIGHT_SWITCH: "0"}),
        ({}, {"RANK": "1"}),
        ({"template": "qwen3"}, {}),
        ({"do_train": False}, {}),
    ],
    ids=["switched off", "second process", "another template", "no training"],
)
def test_left_alone(started, wrong, monkeypatch, changes, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    function, reached = started
    function({"args": {**wrong, **changes}})
    assert len(reached) == 1


def test_an_estimate_warns_and_stops_nothing(started, recipe, write_dataset, rows, monkeypatch, capsys):
    from llamafactory_chatts.recipe import rules as recipe_checks
    from llamafactory_chatts.recipe.finding import Finding

    write_dataset(rows(2))
    little = recipe_checks.Rule("host memory", lambda context: [Finding("warning", "deepspeed", "little")], warns=True)
    quiet = recipe_checks.Rule("other", lambda context: [Finding("warning", "other", "not now")])
    monkeypatch.setattr(recipe_checks, "RULES", (*recipe_checks.RULES, little, quiet))
    function, reached = started
    function({"args": recipe(), "callbacks": []})
    printed = capsys.readouterr().err
    assert len(reached) == 1 and "ChatTS: deepspeed: little." in printed and "not now" not in printed


def test_words_of_a_command_line(started, wrong):
    function, reached = started
    words = [part for key, value in wrong.items() for part in (f"--{key}", str(value))]
    with pytest.raises(ChatTSError, match="3 mistakes"):
        function({"args": words})


def test_it_is_fast(recipe, write_dataset, rows):
    from llamafactory_chatts.recipe.schema import schema

    write_dataset(rows(2))
    schema.cache_clear()
    begin = time.process_time()
    preflight.refuse_mistakes(recipe())
    assert time.process_time() - begin < 0.5


@pytest.mark.slow
def test_the_real_command_names_file_and_line(tmp_path, wrong):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(wrong, sort_keys=False))
    line = 1 + next(index for index, text in enumerate(path.read_text().splitlines()) if text.startswith("lora_rnk"))
    program = [sys.executable, "-m", "llamafactory.cli", "train", path, "flash_attn=False"]
    done = warm.run(program, {**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode != 0
    assert f"{path}:{line}: lora_rnk: no setting has this name" in done.stderr
    assert "command line: flash_attn: it takes no false" in done.stderr
    assert "Loading dataset" not in done.stderr and "loading configuration file" not in done.stderr
