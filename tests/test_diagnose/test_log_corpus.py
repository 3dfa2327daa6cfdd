"""Logs written after public threads (corpus/): doctor names the cause, or shows where the user's own code failed."""

import re
from pathlib import Path

import pytest
import yaml

from llamafactory_chatts.diagnose.log.diagnose import diagnose_log


CORPUS = Path(__file__).parent / "corpus"
LOGS = yaml.safe_load((CORPUS / "expected.yaml").read_text(encoding="utf-8"))


def holds(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE | re.DOTALL) is not None


def test_every_log_has_its_entry():
    assert sorted(entry["log"] for entry in LOGS) == sorted(path.name for path in CORPUS.glob("*.log"))
    assert len(LOGS) > 60


@pytest.mark.parametrize("entry", LOGS, ids=lambda entry: entry["name"])
def test_what_doctor_says(entry):
    found = diagnose_log(CORPUS / entry["log"])
    if entry.get("healthy"):
        assert found == []
        return

    known = [item for item in found if "not recognised" not in item.cause]
    if entry.get("unrecognised"):
        said = "\n".join(f"{item.cause}\n{item.evidence}\n{item.fix}" for item in found)
        assert not known and all(holds(pattern, said) for pattern in entry["must"]), found
        return

    fixes = "\n".join(item.fix for item in known)
    said = "\n".join(item.cause for item in known) + "\n" + fixes
    assert known and all(holds(pattern, said) for pattern in entry["must"]), found
    assert any(holds(pattern, fixes) for pattern in entry["must_fix"]), found
    assert not any(holds(pattern, said) for pattern in entry["wrong"]), found


def test_no_paths_or_names_of_a_machine():
    for path in CORPUS.glob("*.log"):
        found = re.findall(r"/(?:work|tmp|root)/\S*", path.read_text(encoding="utf-8", errors="replace"))
        assert not found, f"{path.name}: {found[:3]}"
