"""What the start-up file costs every Python process, and `llamafactory-cli version` as a whole.

    python benchmarks/startup.py
    python benchmarks/startup.py --imports 50 --commands 5

Imports: cumulative microseconds from `python -X importtime -c pass`, each in a process of its own; the row of
`llamafactory_chatts.autoload` holds that of the package. Commands: wall time, with the plug-in and with
LLAMAFACTORY_CHATTS=0 by turns, after one run of each that is not counted. Prints a Markdown table.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path


AUTOLOAD, PACKAGE = "llamafactory_chatts.autoload", "llamafactory_chatts"
SWITCH = "LLAMAFACTORY_CHATTS"
COMMAND = [str(Path(sys.executable).with_name("llamafactory-cli")), "version"]


def import_times(environment: dict[str, str]) -> dict[str, int]:
    """Return module -> cumulative microseconds of one start of Python."""
    command = [sys.executable, "-X", "importtime", "-c", "pass"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    rows = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines()]
    return {row[2].strip(): int(row[1]) for row in rows if len(row) == 3 and row[1].strip().isdigit()}


def wall_time(environment: dict[str, str]) -> float:
    """Return the seconds that the command takes."""
    start = time.perf_counter()
    subprocess.run(COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, env=environment)
    return time.perf_counter() - start


def row(what: str, values: list[float], unit: str, digits: int) -> str:
    """Return one row of the table."""
    cells = (f"{value:.{digits}f} {unit}" for value in (statistics.median(values), min(values), max(values)))
    return f"| {what} | {len(values)} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imports", type=int, default=50, help="starts of Python (default: 50)")
    parser.add_argument("--commands", type=int, default=5, help="runs of the command per setting (default: 5)")
    args = parser.parse_args()

    on = {key: value for key, value in os.environ.items() if key != SWITCH}
    off = {**on, SWITCH: "0"}

    import_times(on)  # files into the disk cache
    times = [import_times(on) for _ in range(args.imports)]
    if AUTOLOAD not in times[0]:
        sys.exit("the start-up file is not installed: pip install --no-deps .")

    seconds: dict[str, list[float]] = {"on": [], "off": []}
    for turn in range(args.commands + 1):
        for key, environment in (("on", on), ("off", off)):
            taken = wall_time(environment)
            if turn:
                seconds[key].append(taken)

    print("| what | runs | median | least | most |")
    print("| --- | --- | --- | --- | --- |")
    print(row(f"`import {AUTOLOAD}` at start-up", [run[AUTOLOAD] for run in times], "us", 0))
    print(row(f"of which `import {PACKAGE}`", [run[PACKAGE] for run in times], "us", 0))
    print(row("`llamafactory-cli version`", seconds["on"], "s", 2))
    print(row(f"`{SWITCH}=0 llamafactory-cli version`", seconds["off"], "s", 2))


if __name__ == "__main__":
    main()
