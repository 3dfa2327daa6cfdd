"""Every finding of `check`: what triggers it, where it points, and what does not trigger it."""

import json
import math
from pathlib import Path

import pytest

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.data.check.dataset import check
from llamafactory_chatts.data.check.findings import CODES


WAVE = [round(math.sin(step / 5) * 10, 4) for step in range(100)]


def row(number: int = 0, **changes) -> dict:
    series = [round(value + number, 4) for value in WAVE]
    base = {
        "input": f"Row {number}: <ts><ts/>",
        "output": '[{"interval": [3, 9], "type": "spike"}]',
        "timeseries": [series],
    }
    return {**base, **changes}


def jsonl(path: Path, rows: list) -> Path:
    lines = [item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_sound_file_has_no_finding(tmp_path):
    findings = check(jsonl(tmp_path / "good.jsonl", [row(number) for number in range(5)]))
    assert (findings.rows, findings.series, findings.points) == (5, 5, 500)
    assert findings.found() == [] and findings.status == 0


LONG = [float(value % 97) for value in range(1100)]
CASES = {
    "unreadable": '{"input": "a',
    "structure": {"prompt": 3},
    "placeholders": row(7, input="two <ts><ts/> and <ts><ts/>"),
    "not-numbers": row(7, timeseries=[[1.0, "a", 2.0]]),
    "empty-series": row(7, timeseries=[[]]),
    "gaps": row(7, timeseries=[[1.0, None, 2.0]]),
    "too-long": row(7, timeseries=[LONG * 32]),
    "answer-empty": row(7, output=" "),
    "answer-python": row(7, output="[{'interval': [3, 9], 'type': 'spike'}]"),
    "answer-json": row(7, output='[{"interval": [3, 9], "type": "spike"}'),
    "answer-schema": row(7, output='[{"interval": [3, 9]}]'),
    "interval-outside": row(7, output='[{"interval": [3, 100], "type": "spike"}]'),
    "interval-reversed": row(7, output='[{"interval": [9, 3], "type": "spike"}]'),
    "constant": row(7, timeseries=[[5.0] * 100]),
    "vanished": row(7, timeseries=[[value * 1e-7 for value in WAVE]]),
    "short": row(7, timeseries=[WAVE[:63]], output="[]"),
    "long": row(7, timeseries=[LONG]),
    "many-series": row(7, input="<ts><ts/>" * 31, timeseries=[[value * n for value in WAVE] for n in range(1, 32)]),
    "duplicate": row(2),
    "contradiction": row(2, output="[]"),
    "text-only": {"input": "hello", "output": "hi", "timeseries": []},
    "answer-mixed": row(7, output="There is a spike."),
}


@pytest.mark.parametrize("code", CASES)
def test_each_finding_names_its_row(tmp_path, code):
    path = jsonl(tmp_path / "data.jsonl", [row(1), row(2), row(3), CASES[code]])
    findings = check(path)
    assert [item.code for item in findings.found() if item.level != "info" or code == "text-only"] == [code]
    finding = findings[code]
    assert finding.total >= 1 and finding.rows == 1
    assert finding.examples[0][0] == f"{path}:4"
    assert findings.status == (1 if CODES[code][0] == "error" else 0)


def test_edges_of_intervals_and_lengths_are_fine(tmp_path):
    rows = [
        row(1, output='[{"interval": [0, 99], "type": "x"}]'),
        row(2, output='[{"interval": [5, 5], "type": "x"}]'),
        row(3, timeseries=[WAVE[:64]], output="[]"),
        row(4, timeseries=[LONG[:1024]], output="[]"),
    ]
    assert check(jsonl(tmp_path / "edges.jsonl", rows)).found() == []


def test_totals_count_all_and_examples_are_few(tmp_path):
    findings = check(jsonl(tmp_path / "many.jsonl", [row(n, output=" ") for n in range(25)]))
    assert findings["answer-empty"].total == 25
    assert len(findings["answer-empty"].examples) == findings.shown == 10


def test_imbalance(tmp_path):
    common = [row(n) for n in range(55)]
    rare = [row(n, output='[{"interval": [3, 9], "type": "plateau"}]') for n in range(100, 103)]
    findings = check(jsonl(tmp_path / "labels.jsonl", common + rare))
    assert findings.labels == {"spike": 55, "plateau": 3}
    assert "'spike' 55 times" in findings["imbalance"].examples[0][1]
    balanced = [row(n, output=f'[{{"interval": [3, 9], "type": "{"ab"[n % 2]}"}}]') for n in range(60)]
    assert check(jsonl(tmp_path / "balanced.jsonl", balanced)).found() == []


def test_leakage_up_to_rounding(tmp_path):
    train = jsonl(tmp_path / "train.jsonl", [row(1), row(2)])
    shifted = [round(value, 3) for value in row(2)["timeseries"][0]]
    test = jsonl(tmp_path / "test.jsonl", [row(50), row(2, input="Other words: <ts><ts/>", timeseries=[shifted])])
    findings = check(test, against=train)
    assert findings["leakage"].total == 1 and findings.status == 1
    where, detail = findings["leakage"].examples[0]
    assert {where, detail.split("is in ")[1].split(",")[0]} == {f"{test}:2", f"{train}:2"}
    assert check(train, against=jsonl(tmp_path / "other.jsonl", [row(60)])).found() == []


def test_parts_of_a_split_are_compared(tmp_path):
    for part, rows in {"train": [row(1), row(2)], "test": [row(2, input="Again <ts><ts/>")]}.items():
        jsonl(tmp_path / f"plants_{part}.jsonl", rows)

    entries = {
        f"plants_{part}": {"file_name": f"plants_{part}.jsonl", "formatting": "chatts"} for part in ("train", "test")
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries))
    findings = check("plants", dataset_info=tmp_path)
    assert findings.rows == 3 and findings["leakage"].total == 1


def test_a_name_wins_over_a_folder_of_raw_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plants").mkdir()
    (tmp_path / "plants" / "labels.txt").write_text("raw")
    (tmp_path / "dataset_info").mkdir()
    jsonl(tmp_path / "dataset_info" / "plants_train.jsonl", [row(1)])
    entries = {"plants_train": {"file_name": "plants_train.jsonl", "formatting": "chatts"}}
    (tmp_path / "dataset_info" / "dataset_info.json").write_text(json.dumps(entries))
    assert check("plants").rows == 1
    (tmp_path / "other").mkdir()
    jsonl(tmp_path / "other" / "x.jsonl", [row(1), row(2)])
    assert check("other").rows == 2


def test_columns_come_from_dataset_info(tmp_path):
    jsonl(tmp_path / "own.jsonl", [{"q": "look <ts><ts/>", "a": "[]", "s": WAVE}, {"q": "look", "a": "[]", "s": WAVE}])
    columns = {"prompt": "q", "response": "a", "timeseries": "s"}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"own": {"file_name": "own.jsonl", "columns": columns}}))
    findings = check("own", dataset_info=tmp_path)
    assert [item.code for item in findings.found()] == ["placeholders"]
    assert findings["placeholders"].examples == [(f"{tmp_path / 'own.jsonl'}:2", "0 <ts><ts/> but 1 series")]


def test_parquet_and_json_as_jsonl(tmp_path):
    import pandas as pd

    rows = [row(1), row(2, timeseries=[[5.0] * 100]), row(3)]
    pd.DataFrame(rows).to_parquet(tmp_path / "x.parquet")
    (tmp_path / "x.json").write_text(json.dumps(rows))
    for name in ("x.parquet", "x.json"):
        findings = check(tmp_path / name)
        assert [(item.code, item.examples[0][0]) for item in findings.found()] == [
            ("constant", f"{tmp_path / name}:2")
        ]


def test_model_and_schema(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", [row(1, output='{"kind": 1}')])
    (tmp_path / "config.json").write_text(json.dumps({"ts": {"max_sequence_length": 90}}))
    assert check(path, model=tmp_path)["too-long"].total == 1
    schema = tmp_path / "answer.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"kind": {"type": "string"}}}))
    assert check(path, answer_schema=schema)["answer-schema"].total == 1


@pytest.mark.parametrize(
    "arguments",
    [{"dataset": "nowhere"}, {"dataset": "x.jsonl", "model": "."}, {"dataset": "x.jsonl", "against": "no"}],
)
def test_unusable_arguments(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "x.jsonl", [row(1)])
    with pytest.raises(ChatTSError):
        check(**arguments)


def entry(folder: Path, **keys) -> str:
    (folder / "dataset_info.json").write_text(json.dumps({"data": {"file_name": "data.jsonl", **keys}}))
    return "data"


TEXTS = {"prompt": "input", "response": "output"}
KTO = {"columns": {**TEXTS, "timeseries": "timeseries", "kto_tag": "label"}}


def codes(findings) -> list[str]:
    return [item.code for item in findings.found()]


class TestContradictions:
    GOOD, BAD = '[{"interval": [3, 9], "type": "spike"}]', "[]"

    def test_answers_of_kto_to_one_question(self, tmp_path):
        rows = [row(1, output=self.GOOD, label=True), row(1, output=self.BAD, label=False)]
        path = jsonl(tmp_path / "data.jsonl", rows)
        assert codes(check(path)) == []  # recognised by its columns
        assert codes(check(entry(tmp_path, **KTO), dataset_info=tmp_path)) == []

    def test_one_answer_both_good_and_bad(self, tmp_path):
        rows = [row(1, label=True), row(1, label=False), row(2, label=True), row(2, label=True)]
        jsonl(tmp_path / "data.jsonl", rows)
        found = check(entry(tmp_path, **KTO), dataset_info=tmp_path)
        assert codes(found) == ["duplicate", "contradiction"] and found["contradiction"].total == 1

    def test_other_tools_are_another_question(self, tmp_path):
        rows = [row(1, output=self.GOOD, tools="[]"), row(1, output=self.BAD, tools='[{"name": "max"}]')]
        jsonl(tmp_path / "data.jsonl", rows)
        columns = {**TEXTS, "timeseries": "timeseries", "tools": "tools"}
        assert codes(check(entry(tmp_path, columns=columns), dataset_info=tmp_path)) == []

    def test_without_the_tools_they_contradict(self, tmp_path):
        path = jsonl(tmp_path / "data.jsonl", [row(1, output=self.GOOD), row(1, output=self.BAD)])
        assert codes(check(path)) == ["contradiction"]

    def test_chosen_and_rejected_alike(self, tmp_path):
        rows = [{**row(n), "chosen": self.GOOD, "rejected": self.BAD if n else self.GOOD} for n in range(2)]
        path = jsonl(tmp_path / "data.jsonl", rows)
        found = check(path)
        assert codes(found) == ["answers-equal"] and found.status == 1
        assert found["answers-equal"].examples[0][0] == f"{path}:1"

    def test_several_pairs_to_one_prompt(self, tmp_path):
        answers = [self.GOOD, self.BAD, '[{"interval": [5, 9], "type": "spike"}]']
        pairs = [(0, 1), (0, 2), (2, 1)]
        rows = [{**row(1), "chosen": answers[one], "rejected": answers[other]} for one, other in pairs]
        assert codes(check(jsonl(tmp_path / "data.jsonl", rows))) == []

        rows.append({**row(1), "chosen": answers[1], "rejected": answers[0]})  # the first one, the other way round
        found = check(jsonl(tmp_path / "data.jsonl", rows))
        assert codes(found) == ["contradiction"] and found["contradiction"].total == 1

    def test_chosen_and_rejected_alike_but_for_space(self, tmp_path):
        path = jsonl(tmp_path / "data.jsonl", [{**row(1), "chosen": self.GOOD, "rejected": f"{self.GOOD} "}])
        assert codes(check(path)) == ["answers-equal"]

    @pytest.mark.parametrize("kind", [list, dict])
    def test_tools_of_openai_rows_as_objects(self, tmp_path, kind):
        def turns(answer):
            return [{"role": "user", "content": "Look <ts><ts/>"}, {"role": "assistant", "content": answer}]

        tools = [[{"name": "max"}], [{"name": "min"}]] if kind is list else [{"name": "max"}, {"name": "min"}]
        answers = (self.GOOD, self.BAD)
        rows = [{"messages": turns(a), "tools": t, "timeseries": row(1)["timeseries"]} for a, t in zip(answers, tools)]
        assert codes(check(jsonl(tmp_path / "data.jsonl", rows))) == []


class TestUnmappedSeries:
    def test_in_every_row(self, tmp_path):
        jsonl(tmp_path / "data.jsonl", [row(n, input=f"How is pump {n}?") for n in range(3)])
        found = check(entry(tmp_path, columns=TEXTS), dataset_info=tmp_path)
        assert codes(found) == ["series-unmapped"] and found.status == 1
        assert found["series-unmapped"].examples[0][1] == 'add "timeseries": "timeseries" to `columns`'

    def test_in_some_rows(self, tmp_path):
        rows = [row(1, input="How is it?"), {"input": "Hi", "output": "Hello"}]
        jsonl(tmp_path / "data.jsonl", rows)
        found = check(entry(tmp_path, columns=TEXTS), dataset_info=tmp_path)
        assert codes(found) == ["series-unmapped-some", "text-only"] and found.status == 0

    def test_times_in_a_column_called_ts(self, tmp_path):
        jsonl(tmp_path / "data.jsonl", [{"input": f"{n}?", "output": "b", "ts": f"2024-01-0{n}"} for n in (1, 2)])
        assert codes(check(entry(tmp_path, columns=TEXTS), dataset_info=tmp_path)) == ["text-only"]

    def test_beside_a_named_column_that_is_empty(self, tmp_path):
        jsonl(tmp_path / "data.jsonl", [{**row(n, input=f"{n}?", timeseries=[]), "ts_data": [[1, 2]]} for n in (1, 2)])
        columns = {**TEXTS, "timeseries": "timeseries"}
        found = check(entry(tmp_path, columns=columns), dataset_info=tmp_path)
        assert "series-unmapped" in codes(found) and found.status == 1

    def test_another_column_beside_a_named_one_that_is_used(self, tmp_path):
        jsonl(tmp_path / "data.jsonl", [{**row(n), "ts_raw": [[0.5] * 64]} for n in (1, 2)])
        columns = {**TEXTS, "timeseries": "timeseries"}
        assert codes(check(entry(tmp_path, columns=columns), dataset_info=tmp_path)) == []

    def test_placeholders_in_a_column_that_is_not_named(self, tmp_path):
        rows = [{"input": f"{n}?", "output": "b", "question": "See <ts><ts/>"} for n in (1, 2)]
        jsonl(tmp_path / "data.jsonl", rows)
        found = check(entry(tmp_path, columns=TEXTS), dataset_info=tmp_path)
        assert "placeholders-unmapped" in codes(found) and found.status == 1
