"""What doctor says about real logs: failures produced on purpose, quoted ones, and healthy runs."""

import re
import sys
from pathlib import Path

import pytest

from llamafactory_chatts.diagnose.log.diagnose import diagnose_log


sys.path.insert(0, str(Path(__file__).parent))
from gallery import HEALTHY, LOGS, PAGE, PRODUCED, QUOTED, page  # noqa: E402


EXPECTED = {
    **{name: entry[2:] for name, entry in PRODUCED.items()},
    **{f"quoted_{name}": entry[1:] for name, entry in QUOTED.items()},
}
ENDS_WELL = {"nan_loss", "nan_unfiltered"}
NO_RULE = {"torchrun_rank_raises"}
ABOUT_MEMORY = {
    "memory_limited", "cuda_oom_limited", "cuda_oom_others",
    "quoted_cuda_oom", "quoted_cuda_oom_other_process", "quoted_oom_killer_slurm",
    "quoted_nccl_shared_memory", "quoted_shared_memory", "quoted_cuda_illegal_access",
}  # fmt: skip


def text_of(name: str) -> str:
    return (LOGS / f"{name}.log").read_bytes().decode("utf-8", errors="surrogateescape")


def test_every_log_is_in_the_gallery_and_there_are_enough():
    assert {path.stem for path in LOGS.glob("*.log")} == set(EXPECTED) | set(HEALTHY)
    assert len(PRODUCED) >= 25 and len(HEALTHY) >= 10


@pytest.mark.parametrize("name", EXPECTED)
class TestFailures:
    def test_cause_evidence_and_fix(self, name):
        found = diagnose_log(LOGS / f"{name}.log")
        cause, evidence = EXPECTED[name]
        assert found and cause in found[0].cause and evidence in found[0].evidence, found
        assert ("not recognised" in found[0].cause) == (name in NO_RULE)
        assert len(found[0].fix) > 10 and "\n" not in found[0].cause + found[0].evidence
        assert "?" not in found[0].cause, "a field of the message was not found"

    def test_the_evidence_stands_in_the_line_that_is_named(self, name):
        evidence = diagnose_log(LOGS / f"{name}.log")[0].evidence
        number, shown = re.match(r"line (\d+): (?:\[rank \d+\] )?(.*?)(?:\.\.\.)?$", evidence).groups()
        line = " ".join(text_of(name).split("\n")[int(number) - 1].split())
        assert shown in line

    def test_times_in_front_of_the_lines_change_nothing(self, name, tmp_path):
        lines = text_of(name).split("\n")
        stamped = "\n".join(f"2026-11-21 08:51:{n % 60:02d} {line}" if line else line for n, line in enumerate(lines))
        path = tmp_path / "stamped.log"
        path.write_bytes(stamped.encode("utf-8", errors="surrogateescape"))
        before, after = diagnose_log(LOGS / f"{name}.log"), diagnose_log(path)
        assert [(item.cause, item.fix, item.certainty) for item in before] == [
            (item.cause, item.fix, item.certainty) for item in after
        ]

    def test_memory_is_blamed_only_with_evidence(self, name):
        if name not in ABOUT_MEMORY:
            assert "memory" not in diagnose_log(LOGS / f"{name}.log")[0].cause

    def test_a_code_of_zero_silences_all_but_nan(self, name):
        assert bool(diagnose_log(LOGS / f"{name}.log", 0)) == (name in ENDS_WELL)


@pytest.mark.parametrize("name", HEALTHY)
class TestHealthy:
    def test_no_alarm(self, name):
        assert text_of(name).rstrip().endswith("exit code 0")
        assert diagnose_log(LOGS / f"{name}.log") == []

    def test_no_alarm_without_the_exit_code(self, name, tmp_path):
        path = tmp_path / "log"
        without = re.sub(r"\nexit code 0\s*$", "\n", text_of(name))
        path.write_bytes(without.encode("utf-8", errors="surrogateescape"))
        assert diagnose_log(path) == []

    def test_the_same_run_ended_by_hand_is_a_finding(self, name):
        assert diagnose_log(LOGS / f"{name}.log", 137)


def test_the_page_is_what_doctor_says():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tests/test_diagnose/gallery.py"


def test_no_paths_of_a_machine():
    for path in LOGS.glob("*.log"):
        found = re.findall(r"/(?:work|tmp|root)/\S*", text_of(path.stem))
        assert not found, f"{path.name}: {found[:3]}"
