"""Write the launchers and their recipes from one table, so that no two of them can drift apart.

    python shell/generate.py            write shell/train_chatts_*.sh and examples/train_chatts_*.yaml
    python shell/generate.py --check    write nothing; exit code 1 and the names of the files that differ

The table is shell/launchers.yaml; what all launchers share is in shell/parts and is copied into each, so that
a launcher can be read, and taken elsewhere, alone.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml


ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "shell" / "launchers.yaml"
MADE_BY = "# made by shell/generate.py from shell/launchers.yaml: change the table, then `make launchers`"
LAUNCHER_MODULE = "llamafactory.launcher"


def written(value: Any) -> str:
    """Return a value as a recipe writes it; small numbers as 1.0e-4, which every YAML reader takes for a number."""
    if isinstance(value, bool):
        return str(value).lower()

    if isinstance(value, float) and 0 < abs(value) < 0.01:
        digits, _, exponent = f"{value:.1e}".partition("e")
        return f"{digits}e{int(exponent)}"

    return str(value)


def section_lines(keys: list[str], settings: dict[str, Any], notes: dict[str, str]) -> list[str]:
    """Return a section's settings, notes in one column behind them."""
    pairs = [(f"{key}: {written(settings[key])}", notes.get(key)) for key in keys if key in settings]
    column = max((len(line) for line, note in pairs if note), default=0) + 2
    return [f"{line:<{column}}# {note}" if note else line for line, note in pairs]


def recipe_text(name: str, recipe: dict[str, Any], table: dict[str, Any]) -> str:
    """Return a recipe file.

    Raises:
        ValueError: a setting that stands in no section.
    """
    settings, file = recipe["settings"], f"examples/{name}.yaml"
    homeless = set(settings) - {key for keys in table["sections"].values() for key in keys}
    if homeless:
        raise ValueError(f"{TABLE.name}: {name}: no section for {', '.join(sorted(homeless))}")

    notes = {**table["notes"], **recipe.get("notes", {})}
    owner = next((launcher for launcher in table["launchers"] if name in recipes_of(launcher, table)), None)
    plain = " ".join(part for part in (recipe.get("run"), f"llamafactory-cli train {file}") if part)
    run = [f"{recipe['command']} \\", f"    {file}"] if "command" in recipe else [plain]
    if owner is not None:
        run = [f"shell/{owner}.sh        with checks, log and PID file (docs/launchers.md), or plain:", *run]

    plan = f'lmf-chatts plan {file} --gpu "{recipe["card"]}"'
    lines = [
        f"# {recipe['title'].replace(';', ':', 1)}",
        f"# needs   {recipe['needs']}",
        *(f"# {'run' if at == 0 else '':<7} {line}" for at, line in enumerate(run)),
        f"# memory  {' '.join(filter(None, [plan, recipe.get('plan')]))}",
        "# time    the same command says it for your data",
        MADE_BY,
    ]
    for section, keys in table["sections"].items():
        lines += ["", f"### {section}", *section_lines(keys, settings, notes)]

    return "\n".join(lines) + "\n"


def recipes_of(launcher: str, table: dict[str, Any]) -> list[str]:
    """Return the names of a launcher's recipes, in the order they run."""
    return list(table["launchers"][launcher].get("stages", {"": launcher}).values())


def variables(name: str, launcher: dict[str, Any], table: dict[str, Any]) -> list[str]:
    """Return the lines with what a user may set."""
    stages = launcher.get("stages")
    settings = table["recipes"][name]["settings"]
    output = str(Path(settings["output_dir"]).parent) if stages else settings["output_dir"]
    nodes, node = launcher.get("nodes"), "$NODE" if launcher.get("nodes") else ""
    rows = [
        (f"GPUS=${{GPUS:-{launcher['gpus']}}}", "as nvidia-smi numbers them; DEVICE=cpu: one process each"),
        (f"MODEL=${{MODEL:-{settings['model_name_or_path']}}}", "folder or name on a hub"),
        (f"DATASET_DIR=${{DATASET_DIR:-{settings['dataset_dir']}}}", "folder of dataset_info.json"),
        (f"DATASET=${{DATASET:-{settings['dataset']}}}", "names in it, commas between"),
        (f"OUTPUT=${{OUTPUT:-{output}/$(date +%Y%m%d_%H%M%S)}}", "an earlier run's folder resumes it"),
        (f"LOG=${{LOG:-$OUTPUT{node}.log}}", ""),
        (f"PID_FILE=${{PID_FILE:-$OUTPUT{node}.pid}}", ""),
        ("MASTER_PORT=${MASTER_PORT:-}", "empty: 29500 + first GPU: runs on other GPUs do not meet"),
        ("DEVICE=${DEVICE:-cuda}", "cpu: no GPU, no 16 bits"),
        ("EXTRA=${EXTRA:-}", "more settings: 'max_steps=100 learning_rate=5.0e-5'"),
    ]
    recipes = [f"RECIPE=${{RECIPE:-examples/{name}.yaml}}"]
    if stages:
        recipes.insert(0, f"ALIGN_RECIPE=${{ALIGN_RECIPE:-examples/{stages['align']}.yaml}}")
        rows.append(("STAGES=${STAGES:-align sft}", "align | sft | align sft; sft alone starts from MODEL"))

    rows += [(recipe, "") for recipe in recipes]
    several = [
        ("NNODES=${NNODES:-1}", "machines; start this script on each, OUTPUT on a shared disk"),
        ("NODE_RANK=${NODE_RANK:-0}", "0 on the first machine, 1 on the next, ..."),
        ("MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}", "address of the first machine"),
    ]
    ahead = several if nodes else []
    column = max(len(line) for line, _ in [*ahead, *rows] if len(line) < 55)
    lines = [f"{line:<{column}} # {note}" if note else line for line, note in [*ahead, *rows]]
    if nodes:
        lines[len(ahead) : len(ahead)] = [
            'NODE=$( ((NNODES == 1)) || echo ".node$NODE_RANK") # logs and PID files of several machines side by side',
            '((NNODES == 1)) || : "${OUTPUT:?must be set, and be the same on every machine, when NNODES is above 1}"',
        ]

    return lines if nodes else [*lines, "NODE_RANK=0"]


def command_lines(launcher: dict[str, Any]) -> list[str]:
    """Return the lines that build the command."""
    if "stages" in launcher:
        return (ROOT / "shell" / "parts" / "full.bash").read_text(encoding="utf-8").splitlines()

    start, lines = launcher["starts"], []
    if start == "llamafactory-cli":
        command = ["llamafactory-cli train"]
    elif start == "torchrun":
        nodes, address = "", "127.0.0.1"
        if launcher.get("nodes"):
            nodes, address = ' --nnodes "$NNODES" --node_rank "$NODE_RANK"', '"$MASTER_ADDR"'

        command = [f'torchrun{nodes} --nproc_per_node "$PROCESSES"']
        command.append(f'    --master_addr {address} --master_port "$MASTER_PORT" -m {LAUNCHER_MODULE}')
    else:
        lines = [
            'WHERE=(--include "localhost:$GPUS")',
            'if [[ $DEVICE == cpu ]]; then WHERE=(--num_accelerators "$PROCESSES"); fi',
        ]
        command = ['deepspeed "${WHERE[@]}" --master_port "$MASTER_PORT" --no_local_rank']
        command.append(f"    --module {LAUNCHER_MODULE}")

    command[0] = f"COMMAND=({command[0]}"
    settings = '    "$RECIPE" "model_name_or_path=$MODEL" "output_dir=$OUTPUT" "${SETTINGS[@]}")'
    return [*lines, *command, settings, 'STEPS=(COMMAND) RECIPES=("$RECIPE")']


def launcher_text(name: str, launcher: dict[str, Any], table: dict[str, Any]) -> str:
    """Return a launcher."""
    recipe = table["recipes"][name]
    parts = {
        part: (ROOT / "shell" / "parts" / f"{part}.bash").read_text(encoding="utf-8") for part in ("settings", "run")
    }
    title = launcher.get("title", recipe["title"]).replace(";", ":", 1)
    lines = [
        "#!/usr/bin/env bash",
        f"# {title}",
        f"# needs   {recipe['needs'].split(';')[0]}",
        f"# use     shell/{name}.sh [key=value ...]         key=value changes a setting of the recipe",
        f"#         GPUS=1 MODEL=DIR DATASET_DIR=DIR DATASET=NAME shell/{name}.sh max_steps=100",
        "#         DRY_RUN=1 shows the command, FOREGROUND=0 returns at once, PREFLIGHT=0 skips the checks",
        "# more    docs/launchers.md",
        MADE_BY,
        "# shellcheck disable=SC2034,SC2329 # some are used by name",
        "set -euo pipefail",
        'cd "${ROOT:-$(dirname "${BASH_SOURCE[0]}")/..}" # the paths below are relative to the repository',
        "",
        "### what to run",
        *variables(name, launcher, table),
        f"PROGRAM={launcher['starts']}",
        "",
        *parts["settings"].splitlines(),
        "",
        "### the command",
        *command_lines(launcher),
        "",
        parts["run"].rstrip(),
    ]
    return "\n".join(lines) + "\n"


def build() -> dict[str, str]:
    """Return the path (relative to the repository) and the text of each generated file."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    files = {f"examples/{name}.yaml": recipe_text(name, recipe, table) for name, recipe in table["recipes"].items()}
    files |= {f"shell/{name}.sh": launcher_text(name, entry, table) for name, entry in table["launchers"].items()}
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    differ = []
    for path, text in build().items():
        file = ROOT / path
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            differ.append(path)
            if not check:
                file.write_text(text, encoding="utf-8")

            if not check and file.suffix == ".sh":
                file.chmod(0o755)

    print("\n".join(differ) or "all as the table says")
    return 1 if check and differ else 0


if __name__ == "__main__":
    sys.exit(main())
