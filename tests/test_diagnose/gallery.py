"""The gallery of failures (gallery.yaml and the logs in ``logs/``) as a page.

python tests/test_diagnose/gallery.py        # writes docs/failures.md
"""

from pathlib import Path

import yaml

from llamafactory_chatts.diagnose.log.diagnose import diagnose_log


LOGS = Path(__file__).parent / "logs"
PAGE = Path(__file__).parent.parent.parent / "docs" / "failures.md"

_TABLE = yaml.safe_load((Path(__file__).parent / "gallery.yaml").read_text(encoding="utf-8"))
PRODUCED: dict[str, list[str]] = _TABLE["produced"]
QUOTED: dict[str, list[str]] = _TABLE["quoted"]
HEALTHY: dict[str, str] = _TABLE["healthy"]

_HEAD = """# Failures, and what doctor says

`lmf-chatts doctor LOG` reads the log of a failed run (stdout and stderr, as the launchers of this project keep
them; a last line `exit code N` helps) and prints cause, evidence line and fix. This page is written by
`tests/test_diagnose/gallery.py` from the logs in `tests/test_diagnose/logs/`; a test compares both.

Signals: SIGHUP (1, exit code 129) is a closed terminal; SIGTERM (15, 143) comes from a scheduler, `kill`, or
torchrun, which ends the other ranks after a failure: then the first failure is named, not this. SIGKILL (9; -9,
137 or 247) is blamed on memory only when the log shows the kernel's out-of-memory killer; else doctor says where
to look.

An error that no rule knows is called "not recognised": the exception, or the last five lines; the innermost line of
your own code, the library that raised it with its version where the log shows it, and the three families of failures
that its words speak for most.

"""

_PRODUCED = """Each by a real run of the tiny base on a CPU (`tests/test_diagnose/produce_logs.py`). The machine that
made them allowed no memory limit for a run of its own (no systemd), so that the kernel's out-of-memory killer could
not be made to act: SIGKILL by hand and an address space limit stand in; the killer's own words are quoted below. What
wants another user or a full disk was made with root's rights. The last two are from NVIDIA H200 cards."""

_QUOTED = """These want a GPU or a cluster: the messages are worded as PyTorch, NCCL and the others word them, in logs
written by hand (seen in hiyouga/LlamaFactory#7396, pytorch/pytorch#149845, pytorch/pytorch#108861,
pytorch/ci-infra#490, vllm-project/vllm#20361, deepspeedai/DeepSpeed#3232, deepspeedai/DeepSpeedExamples#418 and
elsewhere, with numbers of their own)."""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def says(name: str) -> str:
    """Return what doctor says about a stored log, for the page."""
    found = diagnose_log(LOGS / f"{name}.log")
    return "<br>".join(
        f"**{_cell(item.cause)}**{'' if item.certainty == 'certain' else ' (likely)'}<br>{_cell(item.fix)}"
        for item in found
    )


def page() -> str:
    """Return docs/failures.md."""
    parts = [
        _HEAD,
        f"## Produced: {len(PRODUCED)}\n\n{_PRODUCED}\n\n| failure | how | doctor says |\n| --- | --- | --- |\n",
    ]
    parts += [f"| {_cell(what)} | {_cell(how)} | {says(name)} |\n" for name, (what, how, _, _) in PRODUCED.items()]
    parts.append(
        f"\n## Quoted, not produced here: {len(QUOTED)}\n\n{_QUOTED}\n\n| failure | doctor says |\n| --- | --- |\n"
    )
    parts += [f"| {_cell(what)} | {says(f'quoted_{name}')} |\n" for name, (what, _, _) in QUOTED.items()]
    parts.append(f"\n## No alarm: {len(HEALTHY)} healthy logs\n\n")
    parts += [f"- {what}\n" for what in HEALTHY.values()]
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
