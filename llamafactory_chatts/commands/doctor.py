"""Say what is wrong with this installation, with a recipe, or with a run that failed.

Examples:

    $ lmf-chatts doctor                                  # this installation and this machine
    ok       torch: torch 2.11.0+cu128, torchvision 0.26.0+cu128, torchaudio 2.11.0+cu128; built for CUDA 12.8.
    warning  shm: /dev/shm: 0.06 GiB free of 0.06. Start the container with --shm-size=16g (docker) ...
    ...
    72 rows: 68 applied, 4 waiting, 0 missing, 0 conflicting

    $ lmf-chatts doctor examples/chatts_lora.yaml flash_attn=False lora_rnk=8
    error    command line: lora_rnk: no setting has this name, LLaMA-Factory refuses it. Write lora_rank, or remove it.
    error    command line: flash_attn: it takes no false. Write disabled (PyTorch's plain attention), sdpa or fa2.
    2 errors, 0 warnings

    $ lmf-chatts doctor saves/run                              # a failed run: cause, evidence and fix
    $ lmf-chatts doctor saves/run/train.log --exit-code 137    # the same from a log

What is looked at follows from the argument: nothing, a .yaml, .yml or .json file (with key=value behind it, as
llamafactory-cli takes them), the output folder of a training, or any other file. Exit code 0 when no error was found,
1 otherwise, 2 when the argument cannot be read. ``--json`` prints the findings for machines.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..recipe.finding import Finding


HELP_PACKAGES = ("llamafactory", "transformers", "torch", "peft", "trl", "datasets", "accelerate")
RECIPES = (".yaml", ".yml", ".json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "target", nargs="?", metavar="RECIPE|FOLDER|LOG", help="a recipe, a run or a log; without: the installation"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings put over those of the recipe")
    parser.add_argument("--full", action="store_true", help="recipe: also ask LLaMA-Factory's own parser (slow)")
    parser.add_argument("--exit-code", type=int, metavar="N", help="log: exit code of the run, if it is known")
    parser.add_argument("--output", default=".", metavar="DIR", help="installation: where results would be written")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Look at what the argument names; return 0 when no error was found, else 1."""
    from ..core.errors import ChatTSError

    if args.target is None:
        return _installation(args)

    if "=" in args.target and not Path(args.target).exists():
        raise ChatTSError("settings without a recipe", where=args.target, fix="Name the recipe in front of them")

    if Path(args.target).suffix.lower() in RECIPES:
        return _recipe(args)

    if args.overrides:
        raise ChatTSError("settings belong to a recipe", where=args.overrides[0], fix=f"Recipes end with {RECIPES[0]}")

    return _log(args)


STATES = ("applied", "waiting", "missing", "conflicting")


def row_states() -> list[dict[str, str]]:
    """Import the host and return kind, target, why and state of each row of the table.

    States: ``applied``; ``waiting`` (for its library, which nothing has imported yet); ``missing`` (the symbol is not
    there, or the row was not applied); ``conflicting`` (something else replaced our patch afterwards).
    """
    from .. import register
    from ..host import compat

    states = []
    for row in register.TABLE:
        if register.waits(row):
            states.append(_state(row, "waiting"))
            continue

        try:
            module = importlib.import_module(row.module)
            applied = register.is_applied(row)
            if row.kind != "registry" and applied:
                state = "applied" if compat.is_patched(module, row.name) else "conflicting"
            else:
                state = "applied" if applied else "missing"
            detail = ""
        except Exception as err:  # a broken package below the host raises what it likes
            state, detail = "missing", f"{'' if isinstance(err, ImportError) else type(err).__name__ + ': '}{err}"

        states.append(_state(row, state, detail))

    return states


def _state(row: Any, state: str, detail: str = "") -> dict[str, str]:
    return {"state": state, "kind": row.kind, "target": row.target, "why": row.why, "detail": detail}


def untested_versions(machine: object = None) -> Iterator["Finding"]:
    """What the start of LLaMA-Factory says of a version that this package was not tested with."""
    from .. import register
    from ..core.installs import install
    from ..host import gate
    from ..recipe.finding import Finding

    for one in gate.judge(register.REPLACED):
        if one.detail:
            level, fix = ("error", f"Run: {install(one.need)}") if one.need else ("warning", "")
            yield Finding(level, one.package, f"{one.version} was not tested with this package; {one.detail}", fix=fix)


def _versions() -> dict[str, str]:
    found = {}
    for package in HELP_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"

    return found


def _installation(args: argparse.Namespace) -> int:
    from ..autoload import switched_off
    from ..diagnose.environment.checks import Installation, check_environment
    from ..recipe.finding import has_errors

    installation = Installation(Path(args.output))
    findings = check_environment(installation, {} if switched_off() else {"host": untested_versions})
    importable = "error" not in installation.torch.get("torch", {"error": ""})
    states = row_states() if importable and not switched_off() else []
    active = "llamafactory" in sys.modules and not switched_off()
    counts = {
        key: sum(row["state"] == key for row in states) for key in ("applied", "waiting", "missing", "conflicting")
    }
    good = active and counts["applied"] + counts["waiting"] == len(states) and not has_errors(findings)
    if args.json:
        content = {
            "versions": _versions(),
            "active": active,
            "findings": [finding.as_dict() for finding in findings],
            "rows": states,
            "counts": counts,
        }
        print(json.dumps(content, indent=2))
        return 0 if good else 1

    print(", ".join(f"{package} {version}" for package, version in _versions().items()))
    _print(findings)
    if switched_off():
        print("turned off by LLAMAFACTORY_CHATTS=0; unset it to use ChatTS")
    elif not importable:
        print("torch cannot be imported, so the rows added to LLaMA-Factory were not looked at")

    for row in states:
        print(f"{row['state']:<12} {row['kind']:<9} {row['target']}  ({row['why']})")
        if row["detail"]:
            print(f"             {row['detail']}")

    if states:
        print(f"{len(states)} rows: " + ", ".join(f"{count} {key}" for key, count in counts.items()))

    _print_totals(findings)
    return 0 if good else 1


def _recipe(args: argparse.Namespace) -> int:
    from ..recipe.finding import has_errors
    from ..recipe.host_parser import ask_parser
    from ..recipe.reading import read_recipe
    from ..recipe.rules import check_recipe

    recipe = read_recipe(args.target, args.overrides)
    findings = check_recipe(recipe)
    if args.full and not has_errors(findings):
        findings += ask_parser(recipe)

    if args.json:
        print(json.dumps({"recipe": args.target, "findings": [finding.as_dict() for finding in findings]}, indent=2))
    else:
        _print(findings)
        _print_totals(findings)

    return 1 if has_errors(findings) else 0


def _log(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ..core.errors import ChatTSError
    from ..diagnose.log.diagnose import diagnose_log
    from ..diagnose.run_folder import diagnose_run

    target = Path(args.target)
    if target.is_dir() and args.exit_code is not None:
        raise ChatTSError(
            "--exit-code belongs to a log", where=args.target, fix="Name the log of the run, or leave it out"
        )

    found = diagnose_run(target) if target.is_dir() else diagnose_log(target, args.exit_code)
    if args.json:
        print(json.dumps({"log": args.target, "findings": [asdict(one) for one in found]}, indent=2))
    elif not found:
        print("no failure found here")
    else:
        for one in found:
            print(f"cause     {one.cause}{'' if one.certainty == 'certain' else ' (likely)'}")
            print(f"evidence  {one.evidence}")
            print(f"fix       {one.fix}\n")

    return 1 if found else 0


def _print(findings: list) -> None:
    for finding in findings:
        print(f"{finding.level:<8} {finding.line()}")


def _print_totals(findings: list) -> None:
    counts = [sum(finding.level == level for finding in findings) for level in ("error", "warning")]
    words = [f"{count} {level}{'' if count == 1 else 's'}" for count, level in zip(counts, ("error", "warning"))]
    print(", ".join(words))
