"""Output that appears at once, and goes on after an interruption."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.data.prepare import row_writing, writers
from llamafactory_chatts.data.prepare.row_writing import Row


def opened(folder, fingerprint="f", framed=()):
    files = {"train": folder / "a.jsonl", "rejects": folder / "r.jsonl"}
    return writers.Output(files, folder / "a.part.state", fingerprint, frozenset(framed))


def row(number, points=(5, 3)):
    texts = [{"role": "user", "content": f"问{number}"}, {"role": "assistant", "content": "[]"}]
    return Row(texts, [np.arange(length) + number / 3 for length in points])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_appear_at_the_end(tmp_path):
    output = opened(tmp_path)
    output.append("train", b"one\n")
    output.checkpoint(lambda: {"n": 1}, now=True)
    assert names(tmp_path) == ["a.jsonl.part", "a.part.state", "r.jsonl.part"]
    output.checkpoint(dict, finished=True, now=True)
    output.finish({"train": True, "rejects": False}, False)
    assert names(tmp_path) == ["a.jsonl"] and (tmp_path / "a.jsonl").read_bytes() == b"one\n"


def test_what_came_after_the_last_note_is_cut_off(tmp_path):
    first = opened(tmp_path)
    first.append("train", b"one\n")
    first.checkpoint(lambda: {"n": 1}, now=True)
    first.append("train", b"half a li")
    first.close()

    second = opened(tmp_path)
    assert second.resumed and second.memory == {"n": 1} and second.earlier_bytes("train") == b"one\n"
    second.append("train", b"two\n")
    second.finish({"train": True, "rejects": True}, False)
    assert (tmp_path / "a.jsonl").read_bytes() == b"one\ntwo\n" and (tmp_path / "r.jsonl").read_bytes() == b""


@pytest.mark.parametrize("how", ["other recipe", "part gone", "part short", "state broken", "state of a list"])
def test_an_earlier_run_that_does_not_fit_is_not_continued(tmp_path, how):
    first = opened(tmp_path)
    first.append("train", b"one\n")
    first.checkpoint(dict, now=True)
    first.close()
    if how == "part gone":
        (tmp_path / "a.jsonl.part").unlink()
    elif how == "part short":
        (tmp_path / "a.jsonl.part").write_bytes(b"on")
    elif how.startswith("state"):
        (tmp_path / "a.part.state").write_text("[]" if "list" in how else '{"fingerp')

    second = opened(tmp_path, "g" if how == "other recipe" else "f")
    assert not second.resumed
    second.append("train", b"new\n")
    second.finish({"train": True, "rejects": False}, False)
    assert (tmp_path / "a.jsonl").read_bytes() == b"new\n"


def test_interrupted_between_two_files(tmp_path):
    first = opened(tmp_path)
    first.append("train", b"one\n")
    first.append("rejects", b"bad\n")
    first.checkpoint(lambda: {"n": 1}, finished=True, now=True)
    first.close()
    (tmp_path / "a.jsonl.part").rename(tmp_path / "a.jsonl")

    second = opened(tmp_path)
    assert second.finished and second.memory == {"n": 1}
    second.finish({"train": True, "rejects": True}, False)
    assert names(tmp_path) == ["a.jsonl", "r.jsonl"] and (tmp_path / "r.jsonl").read_bytes() == b"bad\n"


@pytest.mark.skipif(not writers.Path("/dev/full").exists(), reason="needs /dev/full")
def test_disk_full(tmp_path):
    (tmp_path / "a.jsonl.part").symlink_to("/dev/full")
    output = writers.Output.__new__(writers.Output)
    output.files, output.framed = {"train": tmp_path / "a.jsonl"}, frozenset()
    part = writers.PartFile.__new__(writers.PartFile)
    part.offset, part._stream = 0, open("/dev/full", "wb", buffering=0)
    output._open = {"train": part}
    with pytest.raises(ChatTSError, match="No space left on device.*goes on where it stopped"):
        output.append("train", b"x" * 100)

    part._stream.close()


def test_no_permission_or_a_folder_in_the_way(tmp_path):
    (tmp_path / "a.jsonl.part").mkdir()
    with pytest.raises(ChatTSError, match="cannot be written"):
        opened(tmp_path)


@pytest.mark.parametrize("messages", [False, True])
class TestRows:
    def test_a_line_of_json(self, messages):
        line = json.loads(row_writing.json_line(row(1), messages))
        assert list(line) == (["messages", "timeseries"] if messages else ["input", "output", "timeseries"])
        assert [len(values) for values in line["timeseries"]] == [5, 3]
        assert line["timeseries"][0][1] == 1 + 1 / 3  # to the last bit

    def test_parquet(self, tmp_path, messages, monkeypatch):
        monkeypatch.setattr(writers, "GROUP_ROWS", 4)
        rows = [row(number, (number,) if number else ()) for number in range(10)]
        output = opened(tmp_path, framed=["train"])
        for start in range(0, 10, 3):
            batch = row_writing.arrow_batch(rows[start : start + 3], messages)
            output.append("train", row_writing.to_ipc(batch))

        output.finish({"train": True, "rejects": False}, messages)
        file = pq.ParquetFile(tmp_path / "a.jsonl")
        assert file.num_row_groups == 2 and file.schema_arrow.equals(row_writing.arrow_schema(messages))
        back = file.read().to_pylist()
        assert [len(item["timeseries"]) for item in back] == [0] + [1] * 9
        assert np.allclose(back[7]["timeseries"][0], np.arange(7) + 7 / 3)
        assert (back[7]["messages"] == rows[7].texts) if messages else back[7]["input"] == "问7"


@pytest.mark.parametrize("parquet", [False, True])
def test_keep_rows(parquet):
    payload, sizes = row_writing.payload_of([row(number) for number in range(4)], parquet, False)
    kept = row_writing.keep_rows(payload, parquet, sizes, [True, False, False, True])
    if parquet:
        assert row_writing.from_ipc(kept).column(0).to_pylist() == ["问0", "问3"]
    else:
        assert [json.loads(line)["input"] for line in kept.splitlines()] == ["问0", "问3"]

    assert row_writing.keep_rows(payload, parquet, sizes, [True] * 4) is payload
    assert row_writing.keep_rows(payload, parquet, sizes, [False] * 4) == b""
