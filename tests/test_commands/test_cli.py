"""The command itself: its table, its help, its errors."""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import llamafactory_chatts
from llamafactory_chatts import cli


ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "llamafactory", "datasets", "pandas")
PROBE = f"""
import contextlib, io, json, sys
from llamafactory_chatts.cli import main
text = io.StringIO()
with contextlib.redirect_stdout(text):
    try:
        status = main(sys.argv[1:])
    except SystemExit as stop:
        status = stop.code
loaded = [name for name in {HEAVY!r} if name in sys.modules]
commands = [name for name in sys.modules if name.startswith("llamafactory_chatts.commands.")]
print(json.dumps([status, text.getvalue(), loaded, commands]))
"""


def probe(*argv):
    done = subprocess.run([sys.executable, "-c", PROBE, *argv], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_help_lists_the_verbs_and_imports_none_of_them():
    status, text, loaded, commands = probe("--help")
    assert status == 0 and loaded == [] and commands == []
    for command, line, _ in cli.COMMANDS:
        assert re.search(rf"^  {command} +{re.escape(line)}$", text, re.MULTILINE)


@pytest.mark.parametrize(("command", "module"), [(command, module) for command, _, module in cli.COMMANDS])
def test_help_of_a_command_shows_its_examples_and_imports_nothing_heavy(command, module):
    status, text, loaded, commands = probe(command, "--help")
    assert status == 0 and loaded == [] and commands == [module]
    assert text.startswith(f"usage: lmf-chatts {command} ")
    examples = re.split(r"(?i)\bexamples?:", import_module(module).__doc__, maxsplit=1)[1]
    assert f"lmf-chatts {command}" in examples
    for line in examples.strip().splitlines()[1:]:
        assert line in text


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])

    assert stop.value.code == 0
    assert capsys.readouterr().out == f"lmf-chatts {llamafactory_chatts.__version__}\n"


def test_unknown_verb_lists_the_verbs(capsys):
    assert cli.main(["initbase"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "unknown command 'initbase'" in message
    assert message.rstrip(".\n").endswith(", ".join(command for command, _, _ in cli.COMMANDS))


def test_no_verb_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([])

    assert stop.value.code == 2 and "usage: lmf-chatts" in capsys.readouterr().err


def test_an_error_is_one_line_on_stderr(tmp_path, capsys):
    assert cli.main(["dataset-info", "validate", "--dir", str(tmp_path)]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert output.err.startswith(f"{tmp_path}/dataset_info.json: the file is missing. ")


def test_the_module_can_be_run():
    done = subprocess.run(
        [sys.executable, "-m", "llamafactory_chatts.cli", "nothing"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "unknown command 'nothing'" in done.stderr
