"""Text in another encoding than UTF-8: the encoding that is named converts it back, and damage is seen."""

import shlex
import subprocess

import pytest

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.files import text_files


CHINESE = '{"input": "请分析时间序列，找出异常", "output": "无"}\n' * 3
WESTERN = '{"input": "Außentemperatur 21 °C, Größe", "output": "température"}\n' * 3


UNICODE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *((CHINESE, encoding) for encoding in ("gbk", "gb18030", *UNICODE)),
        *((WESTERN, encoding) for encoding in ("cp1252", "latin-1", *UNICODE)),
    ],
)
def test_the_advice_gives_the_text_back(tmp_path, text, encoding):
    file = tmp_path / "data file.jsonl"
    file.write_bytes(text.encode(encoding))
    with pytest.raises(ChatTSError) as caught:
        text_files.check_utf8(file)

    command = caught.value.fix.removeprefix("Convert it: ").replace("NEW_FILE", shlex.quote(f"{file}.new"))
    subprocess.run(command, shell=True, check=True)
    assert (tmp_path / "data file.jsonl.new").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("text", ["", "plain", CHINESE, WESTERN, "😀" * 50])
@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_utf8_passes(tmp_path, monkeypatch, text, chunk):
    monkeypatch.setattr(text_files, "CHUNK", chunk)
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "x.jsonl").write_text(text, encoding=encoding)
        text_files.check_utf8(tmp_path / "x.jsonl")
        text_files.check_utf8(tmp_path / "x.jsonl", limit=5)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"input": "' + b"a" * 200 + b'\0b"}\n', ":1: it holds a zero byte"),
        (b'{"a": 1}\n{"input": "\0"}\n', ":2: it holds a zero byte"),
        ('{"a": 1}\n{"b": "请'.encode()[:-1], ":2: the last character is cut"),
    ],
)
def test_damage(tmp_path, data, said):
    (tmp_path / "x.jsonl").write_bytes(data)
    with pytest.raises(ChatTSError) as caught:
        text_files.check_utf8(tmp_path / "x.jsonl")

    assert f"x.jsonl{said}" in str(caught.value)
