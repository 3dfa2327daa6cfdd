"""Print every addition to LLaMA-Factory and whether it is in place.

Example:

    $ lmf-chatts doctor
    llamafactory 0.9.5, transformers 5.5.4, ...
    applied      registry  llamafactory.data.template:chatts  (template: chatts)
    ...
    36 rows: 36 applied, 0 missing, 0 conflicting

Exit code 0 when every row is applied, 1 otherwise. ``--json`` prints the rows for machines.
"""

import argparse
import importlib
import json
import sys
from importlib import metadata


HELP_PACKAGES = ("llamafactory", "transformers", "torch", "peft", "trl", "datasets", "accelerate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def row_states() -> list[dict[str, str]]:
    """Import the host and return kind, target, why and state of each row of the table.

    States: ``applied``; ``missing`` (the symbol is not there, or the row was not applied);
    ``conflicting`` (something else replaced our patch afterwards).
    """
    from .. import register
    from ..host import compat

    states = []
    for row in register.TABLE:
        try:
            module = importlib.import_module(row.module)
            applied = register.is_applied(row)
            if row.kind != "registry" and applied:
                state = "applied" if compat.is_patched(module, row.name) else "conflicting"
            else:
                state = "applied" if applied else "missing"
            detail = ""
        except ImportError as err:
            state, detail = "missing", str(err)

        states.append({"state": state, "kind": row.kind, "target": row.target, "why": row.why, "detail": detail})

    return states


def _versions() -> dict[str, str]:
    found = {}
    for package in HELP_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"

    return found


def run(args: argparse.Namespace) -> int:
    """Print the rows; return 0 when all are applied."""
    from ..autoload import switched_off

    states = [] if switched_off() else row_states()
    active = "llamafactory" in sys.modules and not switched_off()
    counts = {key: sum(row["state"] == key for row in states) for key in ("applied", "missing", "conflicting")}
    if args.json:
        print(json.dumps({"versions": _versions(), "active": active, "rows": states, "counts": counts}, indent=2))
        return 0 if active and counts["applied"] == len(states) else 1

    versions = ", ".join(f"{package} {version}" for package, version in _versions().items())
    if switched_off():
        print(f"{versions}\nturned off by LLAMAFACTORY_CHATTS=0; unset it to use ChatTS")
        return 1

    print(versions)
    for row in states:
        print(f"{row['state']:<12} {row['kind']:<9} {row['target']}  ({row['why']})")
        if row["detail"]:
            print(f"             {row['detail']}")

    print(f"{len(states)} rows: " + ", ".join(f"{count} {key}" for key, count in counts.items()))
    return 0 if counts["applied"] == len(states) else 1
