"""``failure.json``: what a failed training writes, and what ``doctor`` says about the folder."""

import json
import os
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
import warm

from llamafactory_chatts.cli import main
from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.diagnose.run_folder import diagnose_run
from llamafactory_chatts.host.say.failure import record_failure


def fail(folder, error, template="chatts", cause=None):
    with pytest.raises(type(error)), record_failure({"template": template, "output_dir": str(folder)}) as recorder:
        recorder.loading = True
        raise error from cause


def test_the_fields_of_an_error_of_ours_are_there(tmp_path):
    fail(tmp_path / "out", ChatTSError("3 <ts><ts/> but 2 series", "a.jsonl:4", "Add a series"), cause=KeyError("x"))
    written = json.loads((tmp_path / "out" / "failure.json").read_text())
    first, last = written["exceptions"]
    assert (first["kind"], first["message"]) == ("KeyError", "'x'")
    assert (last["what"], last["where"], last["fix"]) == ("3 <ts><ts/> but 2 series", "a.jsonl:4", "Add a series")
    assert last["frames"][-1][2] == "fail" and Path(last["frames"][-1][0]).name == "test_host_failure.py"
    assert (written["rank"], written["processes"]) == (0, 1) and written["memory_gib"]["host_peak"] > 0.1
    assert written["versions"]["torch"] == metadata.version("torch")
    (found,) = diagnose_run(tmp_path / "out")
    assert found.cause.startswith("a.jsonl:4: 3 <ts><ts/> but 2 series") and found.fix == "Add a series."
    assert found.evidence.startswith(str(tmp_path / "out" / "failure.json"))


def test_errors_of_libraries_are_judged_as_in_a_log(tmp_path):
    text = "CUDA out of memory. Tried to allocate 276.00 MiB. GPU 0 has a total capacity of 23.65 GiB"
    fail(tmp_path, torch.OutOfMemoryError(text))
    (found,) = diagnose_run(tmp_path)
    assert "out of memory" in found.cause and text[:40] in found.evidence


def test_an_unknown_error_keeps_its_place(tmp_path):
    fail(tmp_path, RuntimeError("something that nobody has seen"))
    (found,) = diagnose_run(tmp_path)
    assert "not recognised" in found.cause and "something that nobody has seen" in found.evidence


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit(None)])
def test_an_end_that_is_none_leaves_nothing(tmp_path, error):
    fail(tmp_path, error)
    assert not list(tmp_path.iterdir())


def test_other_templates_are_left_alone(tmp_path):
    fail(tmp_path, ValueError("x"), template="qwen3")
    assert not list(tmp_path.iterdir())


def test_a_refused_start_makes_no_folder(tmp_path):
    with pytest.raises(ChatTSError), record_failure({"template": "chatts", "output_dir": str(tmp_path / "new")}):
        raise ChatTSError("a mistake")

    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_hides_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    fail(tmp_path / "file" / "out", KeyError("the real one"))


def test_the_next_start_removes_it(tmp_path):
    fail(tmp_path, KeyError("x"))
    with record_failure({"template": "chatts", "output_dir": str(tmp_path)}):
        pass

    assert not list(tmp_path.iterdir())


def test_ranks_that_are_no_more_leave_nothing(tmp_path):
    (tmp_path / "failure.rank1.json").write_text("{}")
    fail(tmp_path, KeyError("x"))
    assert [path.name for path in tmp_path.iterdir()] == ["failure.json"]


def test_the_first_of_several_processes_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    fail(tmp_path, FileNotFoundError(2, "No such file or directory", "/data/x.npy"))
    monkeypatch.setenv("RANK", "0")
    peer = "[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234"
    fail(tmp_path, RuntimeError(peer))
    assert {path.name for path in tmp_path.iterdir()} == {"failure.json", "failure.rank1.json"}
    (found,) = diagnose_run(tmp_path)
    assert "/data/x.npy" in found.cause + found.evidence


def test_torchrun_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    fail(tmp_path / "out", ValueError("for the summary"))
    assert "for the summary" in (tmp_path / "error.json").read_text()


class TestDoctor:
    def test_nothing_recorded(self, tmp_path, capsys):
        assert main(["doctor", str(tmp_path)]) == 2
        assert "no failure is recorded here" in capsys.readouterr().err

    def test_the_exit_code_of_a_log_is_not_that_of_a_folder(self, tmp_path, capsys):
        assert main(["doctor", str(tmp_path), "--exit-code", "137"]) == 2
        assert "--exit-code belongs to a log" in capsys.readouterr().err

    def test_a_training_that_was_saved(self, tmp_path, capsys):
        (tmp_path / "train_results.json").write_text("{}")
        assert main(["doctor", str(tmp_path)]) == 0

    @pytest.mark.parametrize("text", ["{", "[]", '{"exceptions": []}'])
    def test_a_record_that_is_none(self, tmp_path, text, capsys):
        (tmp_path / "failure.json").write_text(text)
        assert main(["doctor", str(tmp_path)]) == 2
        assert "failure.json: cannot be read" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_training(recipe, write_dataset, rows, tmp_path, capsys):
    write_dataset(rows(6))
    settings = recipe(max_steps=3, output_dir=str(tmp_path / "out"))
    (tmp_path / "settings").write_text(json.dumps(settings))
    program = """
import json, sys
from transformers import TrainerCallback
from llamafactory.train.tuner import run_exp

class Break(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            raise ConnectionError("the logger's server is gone")

run_exp(json.load(open(sys.argv[1])), callbacks=[Break()])
"""
    done = warm.run([sys.executable, "-c", program, tmp_path / "settings"], {**os.environ})
    assert done.returncode != 0 and "the logger's server is gone" in done.stderr
    written = json.loads((tmp_path / "out" / "failure.json").read_text())
    assert (written["step"], written["phase"]) == (2, "during training")
    assert main(["doctor", str(tmp_path / "out")]) == 1
    assert "during training, after step 2" in capsys.readouterr().out
