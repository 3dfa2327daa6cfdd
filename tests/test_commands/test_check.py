"""lmf-chatts check: exit status, table, JSON, pictures and the page."""

import json
import math
from html.parser import HTMLParser

import pytest

from llamafactory_chatts.cli import main


WAVE = [round(math.sin(step / 5) * 10, 4) for step in range(100)]
MEAN = "<script>alert(1)</script>"


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def good(tmp_path):
    answer = '[{"interval": [10, 20], "type": "竖直尖峰"}]'
    rows = [
        {"input": f"{MEAN} {n} <ts><ts/>", "output": answer, "timeseries": [[value + n for value in WAVE]]}
        for n in range(4)
    ]
    return write(tmp_path / "good.jsonl", rows)


@pytest.fixture
def bad(tmp_path):
    rows = [{"input": "no place", "output": "[]", "timeseries": [WAVE]}, {"input": "<ts><ts/>", "output": "[]"}]
    return write(tmp_path / "bad.jsonl", rows)


def test_exit_status(good, bad, tmp_path, capsys):
    short = write(tmp_path / "short.jsonl", [{"input": "<ts><ts/>", "output": "[]", "timeseries": [WAVE[:20]]}])
    assert main(["check", good]) == 0
    assert "nothing wrong" in capsys.readouterr().out
    assert main(["check", short]) == 0
    assert "0 errors, 1 warnings" in capsys.readouterr().out
    assert main(["check", bad]) == 1
    printed = capsys.readouterr().out
    assert "placeholders" in printed and f"{bad}:1: 0 <ts><ts/> but 1 series" in printed
    assert main(["check", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_json(bad, capsys):
    assert main(["check", bad, "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["status"] == 1 and content["rows"] == 2 and content["totals"]["error"] == 2
    assert {item["code"] for item in content["findings"]} == {"placeholders", "structure"}


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for key, value in attributes if key in ("src", "href") and value]

    def handle_data(self, data):
        self.text += data


def test_pictures_and_page(good, tmp_path, capsys):
    out, page = tmp_path / "pictures", tmp_path / "check.html"
    assert main(["check", good, "--preview", "3", "--out", str(out), "--html", str(page), "--seed", "1"]) == 0
    pictures = sorted(out.iterdir())
    assert len(pictures) == 3 and all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    parsed = Page(page.read_text(encoding="utf-8"))
    assert "script" not in parsed.tags and MEAN in parsed.text  # escaped, shown as text
    assert parsed.links and all(link.startswith(("data:", "#")) for link in parsed.links)  # nothing is fetched
    assert sum(link.startswith("data:image/png") for link in parsed.links) == 3
    assert "4" in parsed.text and "good.jsonl" in parsed.text


def test_nothing_of_a_dataset_becomes_markup(tmp_path):
    """Names, texts, labels and details are shown as they are written."""
    folder = tmp_path / "a<i>b&amp;c"
    folder.mkdir()
    mark = '"><script>alert(1)</script>'
    answer = json.dumps([{"interval": [1, 500], "type": mark}])
    rows = [{"input": f"{mark} {n} <ts><ts/>", "output": answer, "timeseries": [WAVE]} for n in range(3)]
    path = write(folder / "x.jsonl", rows)
    assert main(["check", path, "--html", str(tmp_path / "page.html")]) == 1
    parsed = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not {"script", "i", "ts"} & set(parsed.tags)
    assert parsed.text.count(mark) >= 2 * 3 + 1 and path in parsed.text  # questions, answers, labels
    assert "3" in parsed.text and "and 0 more" not in parsed.text


def test_the_same_seed_draws_the_same_rows(good, tmp_path):
    names = []
    for folder, seed in (("a", "5"), ("b", "5")):
        main(["check", good, "--preview", "2", "--out", str(tmp_path / folder), "--seed", seed])
        names.append(sorted(path.name for path in (tmp_path / folder).iterdir()))

    assert names[0] == names[1] and len(names[0]) == 2


def test_the_interval_is_shaded(tmp_path):
    from llamafactory_chatts.data.check.preview import Sample, draw

    values = __import__("numpy").array(WAVE)
    plain, marked = (
        draw(Sample("x:1", "look", text, [values])) for text in ("[]", '[{"interval":[10,60],"type":"a"}]')
    )
    assert plain.png != marked.png


def test_a_font_installed_after_the_list_was_stored_is_found(tmp_path, monkeypatch):
    import shutil

    from matplotlib import font_manager

    from llamafactory_chatts.data.check import preview_fonts

    new = tmp_path / "New.ttf"
    shutil.copy(font_manager.findfont("DejaVu Sans Mono"), new)
    before = list(font_manager.fontManager.ttflist)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(new), str(tmp_path / "broken.ttf")])
    try:
        assert preview_fonts._installed_since() == {"DejaVu Sans Mono"}
    finally:
        font_manager.fontManager.ttflist[:] = before
