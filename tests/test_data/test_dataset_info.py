"""dataset_info.json: the shipped file, and what the check says about wrong entries."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.data.synthesize import demo
from llamafactory_chatts.rows import dataset_info, entries


SHIPPED = Path(__file__).parents[2] / "dataset_info"
TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
GOOD = {
    "plain": {"file_name": "data.json"},
    "series": {"file_name": "data.json", "columns": {"prompt": "input", "response": "output", "timeseries": "ts"}},
    "own": {"file_name": "data.json", "formatting": "chatts"},
    "own columns": {"file_name": "data.json", "formatting": "chatts", "columns": {"timeseries": "curves"}},
    "chat": {
        "file_name": "data.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "timeseries": "timeseries"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
    "openai": {"file_name": "data.json", "formatting": "openai", "columns": {"messages": "messages"}},
    "pairs": {
        "file_name": "data.json",
        "ranking": True,
        "columns": {"prompt": "q", "chosen": "good", "rejected": "bad", "timeseries": "ts"},
    },
    "hub": {"hf_hub_url": "a/b", "ms_hub_url": "a/b", "subset": "en", "folder": None, "split": "test"},
    "drawn": {"script_url": "data.json", "num_samples": 5},
    "cloud": {"cloud_file_name": "s3://bucket/data.json"},
}


def write(folder, content):
    path = folder / entries.FILE
    path.write_text(json.dumps(content), encoding="utf-8")
    (folder / "data.json").write_text("[]")
    return path


def test_shipped_files_are_the_generated_ones(tmp_path):
    missing = demo.write_entries(tmp_path)
    assert missing == ["chatts_demo.jsonl", "chatts_demo_eval.jsonl"]
    for name in (entries.FILE, entries.SCHEMA_FILE):
        assert (SHIPPED / name).read_bytes() == (tmp_path / name).read_bytes()


def test_shipped_file_has_nothing_wrong():
    assert dataset_info.validate(SHIPPED / entries.FILE) == len(demo.shipped_entries()) == 2


def test_the_schema_is_a_schema():
    Draft202012Validator.check_schema(json.loads(entries.schema_text()))


def test_good_entries_of_every_kind_pass(tmp_path):
    assert dataset_info.validate(write(tmp_path, GOOD)) == len(GOOD)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"file_name": "data.json", "file_nam": "x"},
            "unknown key 'file_nam'. Write 'file_name'; known are: fil",
        ),
        ({"formatting": "alpaca"}, "bad: something is missing. Say where the data is: file_name"),
        (
            {"file_name": "data.json", "formatting": "chat"},
            "bad.formatting: 'chat' is not known. Write 'chatts'; known",
        ),
        ({"file_name": "data.json", "columns": {"series": "x", "prompt": "p"}}, "bad.columns: unknown key 'series'"),
        ({"file_name": "data.json", "columns": {"prompt": 3}}, "bad.columns.prompt: 3 is not a JSON string"),
        ({"file_name": "data.json", "columns": {"timeseries": "ts"}}, "bad.columns: .* column of the prompt"),
        ({"file_name": "data.json", "formatting": "openai", "columns": {"timeseries": "x"}}, "messages is missing"),
        ({"file_name": "data.json", "formatting": "sharegpt", "columns": {"prompt": "x"}}, "messages is missing"),
        ({"file_name": "data.json", "ranking": True}, "columns is missing"),
        (
            {"file_name": "data.json", "ranking": True, "columns": {"prompt": "p", "chosen": "c"}},
            "bad.columns: rejected is missing",
        ),
        ({"file_name": "data.json", "ranking": "yes"}, "bad.ranking: 'yes' is not a JSON boolean"),
        ({"file_name": "data.json", "num_samples": 0}, "bad.num_samples: 0 is less than the minimum of 1"),
        (
            {"file_name": "data.json", "formatting": "sharegpt", "tags": {**TAGS, "user": "u"}},
            "tags: unknown key 'user'",
        ),
        ({"file_name": "data.json", "formatting": "ShareGPT"}, "'ShareGPT' is not known. Write 'sharegpt'"),
        ({"file_name": "data.json", "formatting": "chats"}, "bad.formatting: 'chats' is not known. Write 'chatts'"),
        (
            {"file_name": "data.json", "formatting": "sharegpt", "tags": {"role_tag": "role"}},
            "bad.tags: content_tag, user_tag, assistant_tag is missing. Add it .once `tags` is there, none is assumed",
        ),
        (
            {"file_name": "data.json", "columns": {"messages": "m", "prompt": "p"}},
            "bad.columns: `messages` is read in formatting",
        ),
        (
            {"file_name": "data.json", "tags": TAGS},
            'bad: `tags` are read in formatting sharegpt and openai only. Add "formatting": "sharegpt"',
        ),
        ({"file_name": "lost.jsonl"}, "bad.file_name: .*lost.jsonl does not exist"),
        (
            {"file_name": "data.json", "columns": {"prompt": "p", "chosen": "c", "rejected": "r"}},
            "bad: `chosen` and `rejected` are read with `ranking` only",
        ),
        (
            {"file_name": "data.json", "formatting": "sharegpt", "columns": {"messages": "m", "prompt": "p"}},
            "bad.columns: the texts of sharegpt and openai rows are in `messages`",
        ),
        ([], r"bad: \[\] is not a JSON object"),
    ],
)
def test_a_wrong_entry_is_reported_with_file_and_key(tmp_path, entry, message):
    path = write(tmp_path, {**GOOD, "bad": entry})
    with pytest.raises(ChatTSError, match=message) as caught:
        dataset_info.validate(path)

    assert caught.value.where.startswith(f"{path}: bad")


def test_all_mistakes_are_reported_at_once(tmp_path):
    path = write(tmp_path, {"a": {"file_name": "lost.jsonl"}, "b": {"file_name": "data.json", "typo": 1}, "c": 5})
    with pytest.raises(ChatTSError, match="3 mistakes") as caught:
        dataset_info.validate(path)

    for key in ("a.file_name", "b", "c"):
        assert f"{path}: {key}: " in str(caught.value)

    assert not str(caught.value).endswith("..")


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not readable as JSON"), ("[]", "not a JSON object"), (None, "the file is missing")]
)
def test_files_that_cannot_be_read(tmp_path, text, message):
    path = tmp_path / entries.FILE
    if text is not None:
        path.write_text(text)

    with pytest.raises(ChatTSError, match=message):
        dataset_info.validate(path)


def test_other_entries_and_a_broken_file_stay_untouched(tmp_path):
    mine = {"zebra": {"note": "斑马"}, "chatts_demo": {"file_name": "old"}, "ant": {"x": [1, None]}}
    path = tmp_path / entries.FILE
    path.write_text(json.dumps(mine, ensure_ascii=False), encoding="utf-8")
    demo.write_entries(tmp_path)
    new = json.loads(path.read_text(encoding="utf-8"))
    assert list(new) == ["zebra", "chatts_demo", "ant", "chatts_demo_eval"]
    assert {key: new[key] for key in ("zebra", "ant")} == {key: mine[key] for key in ("zebra", "ant")}
    assert new["chatts_demo"] == demo.shipped_entries()["chatts_demo"]
    assert "斑马" in path.read_text(encoding="utf-8")

    path.write_text("{ half")
    with pytest.raises(ChatTSError, match="not readable as JSON"):
        demo.write_entries(tmp_path)

    assert path.read_text() == "{ half"


def test_the_schema_knows_every_key_that_llamafactory_reads():
    """Read from the source of its parser, so that nothing heavy is imported."""
    folder = importlib.util.find_spec("llamafactory").submodule_search_locations[0]
    tree = ast.parse(Path(folder, "data", "parser.py").read_text(encoding="utf-8"))
    join = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "join")
    lists = {"column_names": set(), "tag_names": set()}
    for node in ast.walk(join):
        if isinstance(node, (ast.Assign, ast.AugAssign)) and isinstance(node.value, ast.List):
            name = (node.targets[0] if isinstance(node, ast.Assign) else node.target).id
            lists[name] |= {item.value for item in node.value.elts}

    top = {
        node.args[0].value
        for node in ast.walk(join)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") == "set_attr"
        and isinstance(node.args[0], ast.Constant)
    }
    urls = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and (node.value.endswith("_url") or node.value.endswith("file_name"))
    }
    schema = json.loads(entries.schema_text())["$defs"]
    assert schema["columns"]["properties"].keys() == lists["column_names"] | {"timeseries"}
    assert schema["tags"]["properties"].keys() == lists["tag_names"]
    assert schema["entry"]["properties"].keys() == top | urls | {"columns", "tags"}
