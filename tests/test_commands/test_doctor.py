"""``lmf-chatts doctor``: one command, three things to look at."""

import json

import pytest
import yaml

from llamafactory_chatts.cli import main
from llamafactory_chatts.commands import doctor
from llamafactory_chatts.diagnose.environment import checks as environment
from llamafactory_chatts.recipe.finding import Finding


@pytest.fixture
def file(tmp_path, recipe, write_dataset, rows):
    """Return a function that writes a good recipe with changes and returns its path."""
    write_dataset(rows(3))

    def write(**changes):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe(**changes)))
        return str(path)

    return write


class TestRecipe:
    def test_a_good_one(self, file, capsys):
        assert main(["doctor", file()]) == 0
        assert capsys.readouterr().out == "0 errors, 0 warnings\n"

    def test_a_wrong_one(self, file, capsys):
        path = file(lora_rnk=8)
        assert main(["doctor", path, "flash_attn=False", "save_steps=900", "save_strategy=steps"]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"error    {path}:") and "Write lora_rank" in lines[0]
        assert lines[1].startswith("error    command line: flash_attn") and lines[2].startswith("warning  ")
        assert lines[3] == "2 errors, 1 warning"

    def test_an_override_can_mend_it(self, file):
        path = file(flash_attn=False)
        assert main(["doctor", path]) == 1 and main(["doctor", path, "flash_attn=auto"]) == 0

    def test_for_machines(self, file, capsys):
        assert main(["doctor", "--json", file(lora_rnk=8)]) == 1
        (finding,) = json.loads(capsys.readouterr().out)["findings"]
        assert finding["level"] == "error" and finding["subject"] == "lora_rnk" and finding["fix"]

    @pytest.mark.parametrize("words", [["no.yaml"], ["flash_attn=False"]])
    def test_what_cannot_be_read(self, words, capsys):
        assert main(["doctor", *words]) == 2 and capsys.readouterr().err.count("\n") == 1

    def test_flags_are_explained(self, file, capsys):
        assert main(["doctor", file(), "flash_attn"]) == 2
        assert "key=value" in capsys.readouterr().err


class TestLog:
    def test_the_cause_is_printed(self, tmp_path, capsys):
        log = tmp_path / "train.log"
        log.write_text("Traceback (most recent call last):\nNotImplementedError: Unknown attention type: False\n")
        assert main(["doctor", str(log)]) == 1
        out = capsys.readouterr().out
        assert "flash_attn" in out and out.startswith("cause ") and "fix " in out

    def test_settings_are_refused(self, tmp_path, capsys):
        (tmp_path / "train.log").write_text("")
        assert main(["doctor", str(tmp_path / "train.log"), "a=b"]) == 2


class TestInstallation:
    @pytest.fixture
    def found(self, monkeypatch):
        """Return a list: the findings of the environment, asked without probes."""
        findings = [Finding("ok", "python", "3.11")]
        monkeypatch.setattr(environment, "check_environment", lambda installation, more: findings)
        monkeypatch.setattr(environment.Installation, "torch", {"torch": {}, "end": ""})
        return findings

    def test_findings_rows_and_totals(self, found, capsys):
        assert main(["doctor"]) == 0
        out = capsys.readouterr().out
        assert "ok       python: 3.11." in out and "0 missing, 0 conflicting" in out
        assert out.endswith("0 errors, 0 warnings\n")

    def test_an_error_sets_the_exit_code(self, found, capsys):
        found.append(Finding("error", "trl", "not installed", fix="Run: pip install trl"))
        assert main(["doctor", "--json"]) == 1
        content = json.loads(capsys.readouterr().out)
        assert content["findings"][1]["fix"] == "Run: pip install trl" and content["counts"]["missing"] == 0

    def test_a_warning_does_not(self, found):
        found.append(Finding("warning", "shm", "small", fix="More"))
        assert main(["doctor"]) == 0

    def test_a_row_that_is_not_applied_does(self, found, capsys, monkeypatch):
        row = {"state": "missing", "kind": "patch", "target": "x", "why": "y", "detail": "ImportError"}
        monkeypatch.setattr(doctor, "row_states", lambda: [row])
        assert main(["doctor"]) == 1 and "1 missing" in capsys.readouterr().out

    def test_switched_off(self, found, capsys, monkeypatch):
        monkeypatch.setenv("LLAMAFACTORY_CHATTS", "0")
        assert main(["doctor"]) == 1 and "unset it" in capsys.readouterr().out
