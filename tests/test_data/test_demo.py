"""The demo data: what is stored is what is generated, and every row is a usable sample."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llamafactory_chatts.core.contract import ADVISED_POINTS, ADVISED_SERIES, PLACEHOLDER
from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.core.series import encode
from llamafactory_chatts.data.synthesize import demo
from llamafactory_chatts.data.synthesize.demo_prompts import CHINESE, ENGLISH, KINDS


STORED = Path(__file__).parents[2] / "dataset_info"
KIND = {text: kind for language in (CHINESE, ENGLISH) for kind, text in language.names.items()}


@pytest.fixture(scope="module")
def rows():
    return list(demo.generate(600, seed=7))


def asked(row):
    """The series a row asks about: the only one, or the one whose name stands in quotes."""
    if len(row["timeseries"]) == 1:
        return row["timeseries"][0]

    name = re.search(r"“(.+?)”|\"([^\"{}\[\]]+)\"", row["input"])
    name = name.group(1) or name.group(2)
    lines = [line for line in row["input"].split("\n") if PLACEHOLDER in line]
    hits = [index for index, line in enumerate(lines) if line.startswith(name)]
    assert len(lines) == len(row["timeseries"]) and len(hits) == 1
    return row["timeseries"][hits[0]]


@pytest.mark.parametrize("name", demo.SHIPPED)
def test_stored_files_are_what_the_generator_writes(name):
    stored = (STORED / f"{name}.jsonl").read_bytes()
    assert stored.decode("utf-8") == demo.shipped(name)
    assert len(stored) < 700_000
    assert stored.count(b"\n") == demo.SHIPPED[name][0]


def test_evaluation_rows_are_not_in_the_training_data():
    train, held_out = (set(demo.shipped(name).splitlines()) for name in ("chatts_demo", "chatts_demo_eval"))
    assert len(train) == 240 and len(held_out) == 24 and not train & held_out


def test_rows_have_the_published_form(rows):
    for row in rows:
        assert list(row) == ["input", "output", "timeseries"]
        assert 1 <= len(row["timeseries"]) <= min(3, ADVISED_SERIES)
        assert row["input"].count(PLACEHOLDER) == row["input"].count("<ts>") == len(row["timeseries"])
        assert not re.search(r"\{[a-z]+\}", row["input"])  # no field of a template is left
        for series in row["timeseries"]:
            assert ADVISED_POINTS[0] <= len(series) <= 256
            assert all(type(value) is float and round(value, 4) == value for value in series)
            assert not encode(series).vanished

        assert json.loads(json.dumps(row)) == row


def test_answers_name_intervals_inside_the_series(rows):
    for row in rows:
        language = CHINESE if "时" in row["input"] or "异常" in row["input"] else ENGLISH
        assert language.kinds in row["input"] and language.form in row["input"]
        answer = json.loads(row["output"])
        assert json.dumps(answer, ensure_ascii=False) == row["output"]
        last = -1
        for item in answer:
            assert list(item) == ["interval", "type"] and item["type"] in language.names.values()
            start, end = item["interval"]
            assert last < start <= end < len(asked(row))
            last = end


def test_answers_are_true_of_the_series(rows):
    for row in rows:
        series = np.array(asked(row))
        for item in json.loads(row["output"]):
            (start, end), kind = item["interval"], KIND[item["type"]]
            inside, size = series[start : end + 1], np.ptp(series)
            jump = abs(series[start] - series[start - 1]) / size
            if kind == "spike":
                assert len(inside) <= 3 and jump > 0.2
            elif kind == "level shift":
                assert end == len(series) - 1 and jump > 0.15
            elif kind == "plateau":
                assert np.std(inside) < 0.05 * size and jump > 0.05
            else:
                assert len(inside) >= 6


def test_all_kinds_languages_and_shapes_occur(rows):
    kinds = Counter(KIND[item["type"]] for row in rows for item in json.loads(row["output"]))
    assert kinds.keys() == set(KINDS) and min(kinds.values()) > 60
    anomalies = Counter(len(json.loads(row["output"])) for row in rows)
    assert 60 < anomalies[0] < 200 and anomalies[1] > 300 and anomalies[2] > 60
    series = Counter(len(row["timeseries"]) for row in rows)
    assert series[1] > 500 and series[2] > 10 and series[3] > 10
    chinese = sum(CHINESE.form in row["input"] for row in rows)
    assert 240 < chinese < 360


def test_a_row_depends_on_its_number_and_seed_only(rows):
    assert list(demo.generate(5, seed=7)) == rows[:5]
    assert next(demo.generate(1, seed=8)) != rows[0]


def test_lengths_follow_the_settings():
    lengths = {len(s) for row in demo.generate(60, min_points=32, max_points=34) for s in row["timeseries"]}
    assert lengths == {32, 33, 34}
    assert list(demo.generate(0)) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": -1}, "rows: -1 is negative"),
        ({"n": 1, "seed": -1}, "seed: -1 is negative"),
        ({"n": 1, "min_points": 8}, "8 to 256 points is no usable range. Give at least 32"),
        ({"n": 1, "min_points": 100, "max_points": 99}, "100 to 99 points"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(settings, message):
    with pytest.raises(ChatTSError, match=message):
        demo.generate(**settings)


def test_corpus_holds_prompts_answers_and_headers():
    row = next(demo.generate(1))
    texts = list(demo.corpus(1))
    assert texts == [row["input"], row["output"], *(encode(series).header for series in row["timeseries"])]
