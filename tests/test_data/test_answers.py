"""Python literals and JSON become the JSON the prompt asks for; anything else is refused."""

import json

import pytest

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.data.labels import answers


ONE = [{"interval": [741, 780], "type": "竖直尖峰"}]


@pytest.mark.parametrize(
    "text",
    [
        "{'interval': [741, 780], 'type': '竖直尖峰'}",
        "[{'interval': [741, 780], 'type': '竖直尖峰'}]",
        "[{'interval': (741, 780), 'type': '竖直尖峰'},]",
        '[{"interval": [741, 780], "type": "竖直尖峰"}]',
        '  {"type": "竖直尖峰", "interval": [741.0, 780]}\n',
        {"interval": [741, 780], "type": "竖直尖峰"},
        ONE,
    ],
)
def test_what_is_converted(text):
    value = answers.normalise(text)
    assert value == ONE and all(type(end) is int for end in value[0]["interval"])
    assert json.loads(answers.dumps(value)) == ONE and "竖直尖峰" in answers.dumps(value)


@pytest.mark.parametrize("text", ["[]", "()", []])
def test_no_anomaly(text):
    assert answers.normalise(text) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("该序列在741处出现尖峰", "neither JSON nor a Python literal"),
        ("", "neither JSON nor a Python literal"),
        ("```json\n[]\n```", "neither JSON nor a Python literal"),
        ("[{'interval': [1, 2], 'type': 'x'}", "neither JSON nor a Python literal"),
        ("__import__('os').system('true')", "neither JSON nor a Python literal"),
        ("[i for i in range(3)]", "neither JSON nor a Python literal"),
        ("(" * 5000, "neither JSON nor a Python literal"),
        ("'x' * 3", "neither JSON nor a Python literal"),
        ("[" * 200_000, "is not parsed"),
        ("{1, 2}", "JSON has no set"),
        ("{1: 2}", "JSON has no dict"),
        ("b'x'", "JSON has no bytes"),
        ("[NaN]", "JSON has no float"),
        ("[1e400]", "JSON has no float"),
        ("None", "does not match the schema"),
        ("741", "does not match the schema"),
        ("'spike'", "does not match the schema"),
        ("[[741, 780]]", "does not match the schema"),
        ("[{'interval': [741], 'type': 'x'}]", "does not match the schema"),
        ("[{'interval': [741, 780, 790], 'type': 'x'}]", "does not match the schema"),
        ("[{'interval': [741.5, 780], 'type': 'x'}]", "does not match the schema"),
        ("[{'interval': [True, 780], 'type': 'x'}]", "does not match the schema"),
        ("[{'interval': ['741', '780'], 'type': 'x'}]", "does not match the schema"),
        ("[{'interval': [-1, 780], 'type': 'x'}]", "does not match the schema"),
        ("[{'interval': [741, 780]}]", "does not match the schema"),
        ("[{'interval': [741, 780], 'type': ''}]", "does not match the schema"),
        ("[{'interval': [741, 780], 'type': 'x', 'note': 'y'}]", "does not match the schema"),
        (None, "does not match the schema"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ChatTSError, match=message):
        answers.normalise(text)


def test_a_schema_of_ones_own(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"type": "array", "items": {"type": "string"}}', encoding="utf-8")
    mine = answers.validator(str(file))
    assert answers.normalise("['a', 'b']", mine) == ["a", "b"]
    with pytest.raises(ChatTSError, match="does not match"):
        answers.normalise("[1]", mine)


@pytest.mark.parametrize("content", ["{", '{"type": "nothing"}'])
def test_no_schema(tmp_path, content):
    (tmp_path / "mine.json").write_text(content, encoding="utf-8")
    with pytest.raises(ChatTSError, match="not a JSON schema"):
        answers.validator(str(tmp_path / "mine.json"))


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        ([9, 3], "reversed"),
        ([0, 100], "outside the series of 100 points"),
        ([-2, 3], "outside"),
        ([120, 130], "outside"),
    ],
)
def test_intervals_that_cannot_be(interval, message):
    with pytest.raises(ChatTSError, match=message):
        answers.check_intervals([(0, 99), tuple(interval)], 100)


def test_intervals():
    assert answers.intervals(ONE) == [(741, 780)]
    assert answers.intervals([]) == []
    assert answers.intervals([{"type": "x"}]) is None
    assert answers.intervals(["x"]) is None
