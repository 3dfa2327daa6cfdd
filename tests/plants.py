"""A replica of the field: four plants, each with a label file that points at pictures, and CSVs of other names.

``write(folder)`` makes ``examples/plants/SITE/labels.json`` and ``examples/plants/SITE/csv/`` for the sites of
``examples/prepare_plants.yaml``, and returns what should happen to every label. Everything is made up and depends on
the seed only.
"""

import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np


SITES = {"gdsh": 130, "hbsn": 95, "whlj": 140, "zhlh": 85}
"""Site -> labels."""

KINDS = ("竖直尖峰", "阶跃突变", "异常平台", "模式变化")
TAGS = ("主汽压力", "给水流量", "炉膛负压", "ポンプ振動", "Température", "CWA", "氧量", "轴承温度")
PROMPT = (
    '<image>\n请分析上图中的时间序列，找出异常区间。只输出JSON列表，例如 [{"interval":[起点,终点],"type":"类型"}]，'
    "没有异常时输出 []。"
)

BROKEN = {
    "missing": "no file",
    "two files": "ambiguous",
    "empty": "series file",
    "names only": "series file",
    "binary": "series file",
    "text": "series file",
    "gap at start": "gaps",
    "reversed": "interval",
    "outside": "interval",
    "prose": "answer",
    "wrong key": "answer",
    "no answer": "",
    "again": "duplicate",
}
"""What is wrong -> reason it must be rejected for ("": any)."""

QUIRKS = ("gaps", "some text", "gbk", "bom", "semicolon", "tab", "several columns")
"""What only looks wrong; these labels must be in the output."""


@dataclass(frozen=True)
class Label:
    """One label of the replica; ``reason`` is None where it must be written, ``rule`` names the expected kind."""

    site: str
    row: int
    problem: str
    reason: str | None
    quirk: str
    exact: bool


def names(site: str, stem: str, turn: int) -> tuple[str, str, bool]:
    """Return the picture a label points at, the name of its CSV, and whether the two are equal."""
    home = f"/home/user/{site}_图片/"
    if site == "gdsh":
        files = (f"gdsh_second_{stem}.PV.csv", f"gdsh_second_{stem}.csv", f"{stem}.PV.csv", f"{stem}.csv")
        return f"{home}gdsh_second_{stem}.PV.jpg", files[turn % 4], False

    if site == "hbsn":
        if turn % 3 == 0:
            return f"{home}{stem}.csv", f"{stem}.csv", True

        return (
            (f"{home}{stem}.jpg", f"{stem}.csv", False)
            if turn % 3 == 1
            else (
                f"{home}{stem}.PV.jpg",
                f"{stem.upper()}.CSV",
                False,
            )
        )

    if site == "whlj":
        picture = f"D:\\标注\\{site}\\{stem}.jpg" if turn % 2 else f"{home}{stem}.jpg"
        file = f"数据集whlj_ljsj_{stem}.csv" if turn % 3 else f"数据集{stem}.csv"
        return picture, unicodedata.normalize("NFD", file) if turn % 4 == 0 else file, False

    picture = f"{home}数据集{stem}.PV.jpg"
    return picture, f"{stem}-导出.csv" if turn % 5 == 0 else f"{stem}.csv", False


def _series(rng: np.random.Generator) -> tuple[np.ndarray, list[dict]]:
    points = int(rng.integers(1000, 5001))
    values = np.sin(np.arange(points) * rng.uniform(0.01, 0.1)) * 4 + rng.normal(0, 0.3, points) + rng.uniform(-5, 90)
    found = []
    for number in range(int(rng.integers(0, 3))):
        start = int(points * (0.1 + 0.45 * number) + rng.integers(0, points // 5))
        end = start + int(rng.integers(1, points // 10))
        values[start : end + 1] += rng.uniform(5, 12)
        found.append({"interval": [start, end], "type": KINDS[int(rng.integers(len(KINDS)))]})

    return np.round(values, 3), found


def _answer(rng: np.random.Generator, found: list[dict]) -> str:
    form = int(rng.integers(4))
    if form == 0:
        return json.dumps(found, ensure_ascii=False)

    if form == 1 and len(found) == 1:
        return str(found[0])  # a single dict, as Python writes it

    return str(found)


def _csv(path: Path, values: np.ndarray, quirk: str, problem: str, rng: np.random.Generator) -> None:
    cells = [f"{value:.3f}" for value in values]
    if quirk == "gaps" or problem == "gap at start":
        for at in rng.integers(50, len(cells) - 50, 12):
            cells[at] = ""

    if problem == "gap at start":
        cells[:3] = ["", "", ""]

    if quirk == "some text":
        for at in rng.integers(50, len(cells) - 50, 4):
            cells[at] = "Bad Input"

    if problem == "text":
        cells = ["I/O Timeout"] * len(cells)

    start = np.datetime64("2024-03-01T00:00:00")
    times = [str(start + np.timedelta64(60 * row, "s")).replace("T", " ") for row in range(len(cells))]
    mark, decimal = {"semicolon": (";", ","), "tab": ("\t", ".")}.get(quirk, (",", "."))
    head = ["时间", "value"]
    lines = [[time, cell.replace(".", decimal)] for time, cell in zip(times, cells)]
    if quirk == "several columns":
        head, lines = ["时间", "温度", "压力"], [[*line, f"{row % 50}.5"] for row, line in enumerate(lines)]

    if problem in ("empty", "names only"):
        lines = []

    text = "\n".join(mark.join(line) for line in [head, *lines]) + "\n"
    encoding = {"gbk": "gbk", "bom": "utf-8-sig"}.get(quirk, "utf-8")
    content = b"" if problem == "empty" else text.encode(encoding)
    path.write_bytes(b"\x00\xff\xfe\x81\x00\x01" * 200 if problem == "binary" else content)


def _spoil(answer: str, found: list[dict], points: int, problem: str) -> str | None:
    span = {"reversed": [points // 2, points // 3], "outside": [points - 5, points + 40]}.get(problem)
    if span:
        return str([{"interval": span, "type": KINDS[0]}])

    other = {"prose": "该序列在741到780之间出现竖直尖峰。", "wrong key": "[{'range': [3, 9], 'type': '尖峰'}]"}
    return None if problem == "no answer" else other.get(problem, answer)


def write(folder: Path, seed: int = 0, share: float = 1.0) -> list[Label]:
    """Write the four plants below ``folder``.

    Args:
        seed: of everything.
        share: of the labels, for a smaller replica; the broken ones come first and are always there.

    Returns:
        the labels with what must become of them, in the order of the files.
    """
    labels = []
    for number, (site, count) in enumerate(SITES.items()):
        rng = np.random.default_rng([seed, number])
        csvs = folder / "examples" / "plants" / site / "csv"
        csvs.mkdir(parents=True, exist_ok=True)
        problems = [*BROKEN, *["" for _ in range(max(len(QUIRKS) * 2, int(count * share) - len(BROKEN)))]]
        rows = []
        for row, problem in enumerate(problems, 1):
            values, found = _series(rng)
            stem = f"{row % 7 + 1}号机组_{TAGS[row % len(TAGS)]}_{site}{row:04d}x{int(rng.integers(1e6)):06d}"
            picture, file, exact = names(site, stem, row)
            quirk = "" if problem else QUIRKS[row % len(QUIRKS)] if row % 2 else ""
            if quirk == "gbk" and "é" in stem:
                quirk = "bom"

            path = csvs / f"{row % 3}#" / file  # folders inside the folder, too
            path.parent.mkdir(exist_ok=True)
            answer = _spoil(_answer(rng, found), found, len(values), problem)
            if problem == "again":  # the first good label, once more
                rows.append(None)
            else:
                turns = [{"from": "human", "value": PROMPT}]
                turns += [{"from": "gpt", "value": answer}] if answer is not None else []
                rows.append({"id": f"{site}-{row}", "image": picture, "conversations": turns})
                if problem != "missing":
                    _csv(path, values, quirk, problem, rng)

                if problem == "two files":
                    other = csvs / "备份"
                    other.mkdir(exist_ok=True)
                    _csv(other / file, values + 1, quirk, problem, rng)

            labels.append(Label(site, row, problem, BROKEN.get(problem) if problem else None, quirk, exact))

        first_good = problems.index("")
        again = problems.index("again")
        rows[again] = rows[first_good]  # the later of the two is the one rejected
        spot = len(labels) - len(problems)
        good, doubled = labels[spot + first_good], labels[spot + again]
        labels[spot + again] = Label(site, doubled.row, "", None, good.quirk, good.exact)
        labels[spot + first_good] = Label(site, good.row, "again", "duplicate", good.quirk, good.exact)
        text = json.dumps(rows, ensure_ascii=False, indent=1)
        (folder / "examples" / "plants" / site / "labels.json").write_text(text, encoding="utf-8")

    return labels
