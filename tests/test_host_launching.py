"""A recipe, or an installation, whose path has a space in it, started with several processes."""

import subprocess
import sys

import pytest


@pytest.fixture
def launched(monkeypatch):
    """Return a function: what ``llamafactory-cli WORDS`` would start with two processes."""
    from llamafactory import launcher

    class Done(SystemExit):
        pass

    def launch(*words, file=launcher.__file__, **environment):
        for name, value in {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", **environment}.items():
            monkeypatch.setenv(name, value)

        seen = []
        monkeypatch.setattr(sys, "argv", ["llamafactory-cli", *words])
        monkeypatch.setattr(launcher, "__file__", file)
        monkeypatch.setattr(
            subprocess, "run", lambda command, **options: seen.append(command) or subprocess.CompletedProcess([], 7)
        )
        with pytest.raises(SystemExit) as caught:
            launcher.launch()

        assert caught.value.code == 7 and launcher.subprocess is subprocess
        (command,) = seen
        return command

    return launch


@pytest.mark.parametrize("environment", [{}, {"RDZV_ID": "7"}], ids=["plain", "elastic"])
@pytest.mark.parametrize(
    "words",
    [
        ["my runs/a recipe.yaml", "output_dir=two words", "learning_rate=1e-4"],
        ["a.yaml", "default_system=one  two"],
        ["plain.yaml"],
    ],
)
def test_words_stay_whole(launched, words, environment):
    command = launched("train", *words, **environment)
    assert command[-len(words) :] == words and command[-len(words) - 1].endswith("launcher.py")
    assert command[0] == "torchrun" and command.count("--nproc_per_node") + command.count("--nproc-per-node") == 1


def test_an_installation_below_a_folder_with_a_space(launched):
    command = launched("train", "a b.yaml", file="/my tools/launcher.py")
    assert command[-2:] == ["/my tools/launcher.py", "a b.yaml"] and command[-4] == "--master_port"
