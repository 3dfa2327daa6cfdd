"""Generated anomaly-detection samples: K series of N points, a Chinese prompt, about 20 labelled tokens."""

import json
from collections.abc import Iterator
from pathlib import Path


KINDS = ["竖直尖峰", "阶跃突变", "异常平台", "模式变化"]
TASK = (
    "，找出异常区间和异常类型。\n\n"
    "异常类型：\n1. 竖直尖峰 - 数据在极短时间内急剧突变\n2. 阶跃突变 - 数据快速跃迁到新水平\n"
    "3. 异常平台 - 在不该稳定的地方出现平缓区间\n4. 模式变化 - 整体特征发生结构性转折\n\n"
    '输出必须是标准JSON格式：\n\n[{"interval":[start,end],"type":"类型"}]\n\n若无异常：\n[]\n\n请精确标注起止索引。'
)


def prompt_for(points: int, series: int) -> str:
    """Return the prompt for ``series`` series of ``points`` points, one ``<ts><ts/>`` each."""
    if series == 1:
        subject = f"这段长度为{points}的单变量时序数据<ts><ts/>"
    else:
        places = "，".join(f"指标{number}<ts><ts/>" for number in range(1, series + 1))
        subject = f"这段长度为{points}的{series}个指标的多变量时序数据：{places}"

    return f"你是一位工业时间序列异常检测专家。请分析{subject}{TASK}"


def make_rows(rows: int, points: int, series: int, seed: int = 0) -> Iterator[dict]:
    """Yield rows with ``input``, ``output`` and ``timeseries``; the anomaly is in the first series.

    Raises:
        ValueError: fewer than 64 points, which have no room for the anomaly.
    """
    import numpy as np

    if points < 64:
        raise ValueError(f"--points {points}: at least 64 are needed")

    rng = np.random.default_rng(seed)
    prompt = prompt_for(points, series)
    for _ in range(rows):
        values = 24.2 + 0.3 * rng.standard_normal((series, points))
        first = int(rng.integers(0, points - 60))
        last, kind = first + int(rng.integers(5, 50)), int(rng.integers(0, 4))
        values[0, first:last] += rng.uniform(3, 20)
        answer = json.dumps([{"interval": [first, last], "type": KINDS[kind]}], ensure_ascii=False)
        yield {"input": prompt, "output": answer, "timeseries": values.round(6).tolist()}


def write_rows(folder: Path, blocks: list[tuple[int, int, int]]) -> None:
    """Write ``bench.jsonl`` and its dataset_info.json.

    Args:
        folder: is made when it is missing.
        blocks: (rows, points, series), one block after the other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "bench.jsonl").open("w", encoding="utf-8") as file:
        for seed, (rows, points, series) in enumerate(blocks):
            for row in make_rows(rows, points, series, seed):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    entry = {"file_name": "bench.jsonl", "formatting": "chatts"}
    (folder / "dataset_info.json").write_text(json.dumps({"bench": entry}))


def cutoff_for(points: int, series: int) -> int:
    """Return a ``cutoff_len`` that no such row reaches: 3 tokens a character, 1 a patch, 100 a header."""
    bound = 3 * len(prompt_for(points, series)) + 200 + series * (-(-points // 8) + 100)
    return max(4096, -(-bound // 1024) * 1024)


def corpus() -> list[str]:
    """Return the texts the base's tokenizer is trained on; the same for all rows, so a base fits all of them."""
    shapes = [(1024, 1)] * 40 + [(256, 14), (5000, 1), (1024, 30), (32768, 1)]
    return [row["input"] + row["output"] for seed, (points, series) in enumerate(shapes)
            for row in make_rows(1, points, series, seed)]  # fmt: skip
