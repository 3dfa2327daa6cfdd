"""A file is replaced at once or not at all."""

import os

import pytest

from llamafactory_chatts.core.atomic import write_text
from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.data.synthesize import demo


def test_writes_utf8_with_plain_newlines_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "尖峰\n")
    write_text(path, "平台\n")
    assert path.read_bytes() == "平台\n".encode()
    assert os.listdir(path.parent) == ["b.txt"]


def test_a_reader_never_sees_half_of_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with path.open() as reader:
        write_text(path, "after")
        assert reader.read() == "before"

    assert path.read_text() == "after"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ChatTSError, match="file/b.txt: cannot be written"):
        write_text(tmp_path / "file" / "b.txt", "y")

    (tmp_path / "folder").mkdir()
    with pytest.raises(ChatTSError, match="folder: cannot be written"):
        write_text(tmp_path / "folder", "y")

    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_what_was_there_stays_when_the_text_cannot_be_written(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half" * 10_000 + "\ud800")

    assert path.read_text() == "before" and os.listdir(tmp_path) == ["a.txt"]


def test_demo_data_with_bad_settings_touch_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("before")
    with pytest.raises(ChatTSError):
        demo.write(path, 5, 0, 8, 4)

    assert path.read_text() == "before"
