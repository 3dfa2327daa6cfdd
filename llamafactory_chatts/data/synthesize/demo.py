"""Seeded samples of one task - find the anomalies of a series - in the format ChatTS is trained on.

The wording is in :mod:`.demo_prompts`. A row depends on its number and the seed only, so the first rows of a
longer file are those of a shorter one.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ...core.atomic import write_text
from ...core.contract import COLUMN, PLACEHOLDER
from ...core.errors import ChatTSError
from ...core.series import encode
from ...rows import dataset_info
from ...rows.entries import FILE, SCHEMA_FILE, schema_text
from .demo_prompts import KINDS, LANGUAGES, Language


SHIPPED = {"chatts_demo": (240, 0), "chatts_demo_eval": (24, 1)}
"""Name of each stored file -> rows and seed."""

SHIPPED_POINTS = (64, 192)
SHORTEST = 32
"""Fewest points that leave room for two anomalies and normal data around them."""

NORMAL_SHARE, PAIR_SHARE = 0.2, 0.25
"""Share of series without an anomaly, and of the others the share with two."""

SEVERAL_SHARE = 0.1
"""Share of rows with two or three series."""


def _background(rng: np.random.Generator, points: int) -> tuple[np.ndarray, float, float]:
    """Return a normal series of unit amplitude, its noise level, and its period in points (0 when it has none)."""
    time = np.arange(points)
    shape = rng.choice(["flat", "wave", "two waves", "pulses", "drift"], p=[0.2, 0.35, 0.15, 0.15, 0.15])
    period = float(rng.integers(12, max(13, points // 4)))
    phase = rng.uniform(0, 2 * np.pi)
    noise = rng.uniform(0.03, 0.08)
    if shape == "wave":
        base = np.sin(2 * np.pi * time / period + phase)
    elif shape == "two waves":
        base = 0.7 * np.sin(2 * np.pi * time / period + phase) + 0.3 * np.sin(4 * np.pi * time / period)
    elif shape == "pulses":
        base = np.where((time + phase * period) % period < 0.3 * period, 1.0, -0.4)
    elif shape == "drift":
        base, period = np.linspace(0, rng.uniform(-1.5, 1.5), points), 0.0
    else:
        base, period = np.zeros(points), 0.0

    return base + rng.normal(0, noise, points), noise, period


def _sign(rng: np.random.Generator) -> float:
    return float(rng.choice([-1.0, 1.0]))


def _spike(rng: np.random.Generator, values: np.ndarray, start: int, end: int, period: float) -> None:
    values[start : end + 1] += _sign(rng) * rng.uniform(3.0, 5.0)


def _level_shift(rng: np.random.Generator, values: np.ndarray, start: int, end: int, period: float) -> None:
    values[start : end + 1] += _sign(rng) * rng.uniform(2.5, 4.5)


def _plateau(rng: np.random.Generator, values: np.ndarray, start: int, end: int, period: float) -> None:
    level = values.mean() + _sign(rng) * rng.uniform(2.5, 4.0)
    values[start : end + 1] = level + rng.normal(0, 0.02, end + 1 - start)


def _pattern_change(rng: np.random.Generator, values: np.ndarray, start: int, end: int, period: float) -> None:
    time = np.arange(end + 1 - start)
    if period and rng.random() < 0.5:  # the rhythm is lost
        values[start : end + 1] = values.mean() + rng.normal(0, 0.05, len(time))
    else:  # another rhythm, faster than any background
        values[start : end + 1] += 1.4 * np.sin(2 * np.pi * time / rng.uniform(4.0, 7.0))


Anomaly = Callable[[np.random.Generator, np.ndarray, int, int, float], None]
DRAW: dict[str, Anomaly] = dict(zip(KINDS, (_spike, _level_shift, _plateau, _pattern_change)))


def _width(rng: np.random.Generator, kind: str, room: int) -> int:
    """Return the number of points of an anomaly that has ``room`` points to itself."""
    if kind == "spike":
        return int(rng.integers(1, 4))

    return int(rng.integers(max(6, room // 4), max(7, room // 2)))


def _series(rng: np.random.Generator, points: int) -> tuple[list[float], list[dict[str, object]]]:
    """Return one series, four decimals, and its anomalies: ``interval`` (both ends included) and ``kind``.

    A level shift lasts to the end of the series, and so does its interval.
    """
    values, _, period = _background(rng, points)
    wanted = 0 if rng.random() < NORMAL_SHARE else 2 if rng.random() < PAIR_SHARE else 1
    found = []
    for index in range(wanted):  # each in its own half, so that they never touch
        room = points // wanted
        kind = KINDS[int(rng.integers(len(KINDS)))]
        if kind == "level shift" and index + 1 < wanted:
            kind = "spike"  # a shift lasts to the end, so nothing can follow it

        width = _width(rng, kind, room)
        first, last = index * room + room // 8, (index + 1) * room - room // 8 - width
        start = int(rng.integers(first, last + 1))
        end = points - 1 if kind == "level shift" else start + width - 1
        DRAW[kind](rng, values, start, end, period)
        found.append({"interval": [start, end], "kind": kind})

    scale = float(10 ** rng.uniform(0.3, 3.0))
    values = values * scale + scale * rng.uniform(-2.0, 8.0)
    return [float(value) for value in np.round(values, 4)], found


def _prompt(language: Language, rng: np.random.Generator, lengths: list[int]) -> tuple[str, int]:
    """Return the prompt, and which of the series it asks about."""
    if len(lengths) == 1:
        text = str(rng.choice(language.single))
        return text.format(series=PLACEHOLDER, length=lengths[0], kinds=language.kinds, form=language.form), 0

    names = [str(name) for name in rng.permutation(language.metrics)[: len(lengths)]]
    lines = [language.line.format(name=n, length=k, series=PLACEHOLDER) for n, k in zip(names, lengths)]
    asked = int(rng.integers(len(lengths)))
    text = str(rng.choice(language.several))
    return text.format(
        lines="\n".join(lines), name=names[asked], count=len(lengths), kinds=language.kinds, form=language.form
    ), asked


def _row(rng: np.random.Generator, min_points: int, max_points: int) -> dict[str, object]:
    language = LANGUAGES[int(rng.integers(len(LANGUAGES)))]
    count = int(rng.integers(2, 4)) if rng.random() < SEVERAL_SHARE else 1
    drawn = [_series(rng, int(rng.integers(min_points, max_points + 1))) for _ in range(count)]
    prompt, asked = _prompt(language, rng, [len(values) for values, _ in drawn])
    answer = [{"interval": item["interval"], "type": language.names[item["kind"]]} for item in drawn[asked][1]]
    return {
        "input": prompt,
        "output": json.dumps(answer, ensure_ascii=False),
        COLUMN: [values for values, _ in drawn],
    }


def generate(n: int, seed: int = 0, min_points: int = 64, max_points: int = 256) -> Iterator[dict[str, object]]:
    """Yield samples of anomaly detection, half Chinese and half English, some without an anomaly.

    Args:
        n: rows.
        seed: of all rows; another seed shares none with it.
        min_points, max_points: range of a series' length, both included.

    Yields:
        ``input`` with one ``<ts><ts/>`` per series, ``output`` (a JSON list of ``interval`` and ``type``, both ends
        included, counted from 0), ``timeseries`` (a list of lists, four decimals).

    Raises:
        ChatTSError: a setting out of range.
    """
    if n < 0:
        raise ChatTSError(f"{n} is negative", where="rows", fix="Give a number from 0")

    if seed < 0:
        raise ChatTSError(f"{seed} is negative", where="seed", fix="Give a number from 0")

    if not SHORTEST <= min_points <= max_points:
        raise ChatTSError(
            f"{min_points} to {max_points} points is no usable range",
            where="min_points, max_points",
            fix=f"Give at least {SHORTEST}, the smaller number first",
        )

    return (_row(np.random.default_rng([seed, index]), min_points, max_points) for index in range(n))


def dumps(rows: Iterator[dict[str, object]]) -> str:
    """Return rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def shipped(name: str) -> str:
    """Return the content of a stored demo file, ``chatts_demo`` or ``chatts_demo_eval``."""
    rows, seed = SHIPPED[name]
    return dumps(generate(rows, seed, *SHIPPED_POINTS))


def write(path: str | os.PathLike, rows: int, seed: int, min_points: int, max_points: int) -> None:
    """Write a demo file at once, or not at all; arguments as for :func:`generate`."""
    write_text(path, dumps(generate(rows, seed, min_points, max_points)))


def shipped_entries() -> dict[str, dict[str, object]]:
    """Return the entries of the demo data."""
    columns = {"prompt": "input", "response": "output", COLUMN: COLUMN}
    return {name: {"file_name": f"{name}.jsonl", "columns": dict(columns)} for name in SHIPPED}


def write_entries(folder: str | os.PathLike) -> list[str]:
    """Write the shipped entries and the schema into a folder; returns the names of data files it lacks."""
    dataset_info.write(Path(folder, FILE), shipped_entries())
    write_text(Path(folder, SCHEMA_FILE), schema_text())
    files = [entry["file_name"] for entry in shipped_entries().values()]
    return [name for name in files if not Path(folder, name).exists()]


def corpus(n: int = 400, seed: int = 0) -> Iterator[str]:
    """Yield texts that a tokenizer for this task can be trained on: prompts, answers and headers of series."""
    for row in generate(n, seed):
        yield row["input"]
        yield row["output"]
        yield from (encode(series).header for series in row[COLUMN])
