"""Failures by kind: several spellings of each (kinds.yaml), however the log was copied."""

import re
from pathlib import Path

import pytest
import yaml

from llamafactory_chatts.diagnose.log.diagnose import diagnose_log


HEAD = (
    "Traceback (most recent call last):\n"
    '  File "/home/user/run/my_train.py", line 12, in <module>\n    main()\n'
    '  File "/home/user/env/lib/python3.11/site-packages/llamafactory/train/tuner.py", line 117, in run_exp\n'
    "    _training_function(config)\n"
)
KINDS = yaml.safe_load((Path(__file__).parent / "kinds.yaml").read_text(encoding="utf-8"))
CASES = [
    pytest.param(kind, log, id=f"{kind['kind']} {number}") for kind in KINDS for number, log in enumerate(kind["logs"])
]


def written(log: str, head: str = HEAD) -> str:
    """Return a log of the table with its tracebacks written out."""
    log = re.sub(r"\{at ([^}]+)\}", r'  File "\1", line 41, in call\n    call()\n', log)
    return log.replace("{trace}", head) + "\n"


@pytest.fixture
def diagnose(tmp_path):
    def run(text: str):
        path = tmp_path / "run.log"
        path.write_text(text, encoding="utf-8")
        return diagnose_log(path)

    return run


def agrees(found, kind) -> bool:
    return (
        bool(found) and bool(re.search(kind["cause"], found[0].cause)) and bool(re.search(kind["fix"], found[0].fix))
    )


@pytest.mark.parametrize(("kind", "log"), CASES)
class TestKinds:
    def test_cause_and_fix(self, diagnose, kind, log):
        found = diagnose(written(log) + "exit code 1\n")
        assert agrees(found, kind), found
        assert "?" not in found[0].cause

    def test_a_tail_without_head_or_exit_code(self, diagnose, kind, log):
        found = diagnose(written(log, head=""))
        assert agrees(found, kind), found

    def test_with_ranks_and_times(self, diagnose, kind, log):
        lines = written(log).splitlines()
        text = "".join(f"2025-11-25 10:00:{n % 60:02d} [rank1]: {line}\n" for n, line in enumerate(lines))
        assert agrees(diagnose(text + "exit code 1\n"), kind), diagnose(text)
