"""One HTML page with the findings of a check and pictures of samples. It needs no other file and asks no server."""

import base64
import os
from html import escape

from ... import __version__
from ...core.atomic import write_text
from ...core.errors import shorten
from .findings import Findings
from .preview import Picture


MOST_LABELS = 30
LONGEST_TEXT = 4000
"""Characters of a question or an answer that the page shows."""

STYLE = """
body { font: 15px/1.45 system-ui, "Noto Sans CJK SC", "Microsoft YaHei", sans-serif;
  color: #1c2733; background: #f6f7f9;
  margin: 0 auto; max-width: 1080px; padding: 24px 20px 60px; }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere; } h2 { font-size: 18px; margin: 34px 0 10px; }
p.sub { color: #5b6875; margin: 0 0 18px; }
.verdict { display: inline-block; padding: 4px 12px; border-radius: 14px; font-weight: 600; margin-bottom: 12px; }
.verdict.error, .level.error { background: #fbdcdc; color: #8f1414; }
.verdict.warning, .level.warning { background: #fdeccb; color: #7a4b00; }
.verdict.good { background: #d9f0de; color: #14602a; } .level.info { background: #dfe9f5; color: #1f4e79; }
.facts { display: flex; flex-wrap: wrap; gap: 10px; margin: 6px 0; padding: 0; list-style: none; }
.facts li { background: #fff; border: 1px solid #dde2e8; border-radius: 8px; padding: 8px 16px; }
.facts b { display: block; font-size: 20px; } .facts span { color: #5b6875; font-size: 13px; }
table { border-collapse: collapse; width: 100%; background: #fff; border: 1px solid #dde2e8; }
th, td { text-align: left; vertical-align: top; padding: 7px 10px; border-top: 1px solid #e7ebef;
  overflow-wrap: anywhere; }
th { font-size: 13px; color: #5b6875; border-top: 0; } td.number, th.number { text-align: right; white-space: nowrap; }
.level { border-radius: 9px; padding: 1px 9px; font-size: 13px; white-space: nowrap; }
.code, .where { font-family: ui-monospace, monospace; font-size: 13px; } .fix { color: #5b6875; font-size: 13px; }
details { margin-top: 4px; } summary { cursor: pointer; color: #1f4e79; } details li { margin: 2px 0; }
.bar { background: #7fa8d1; height: 12px; border-radius: 3px; min-width: 2px; } .labels td { padding: 4px 10px; }
figure { background: #fff; border: 1px solid #dde2e8; border-radius: 8px; margin: 0 0 18px; padding: 12px 16px; }
figure img { max-width: 100%; height: auto; display: block; } figcaption { font-weight: 600; margin-bottom: 6px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f7f9; border-radius: 6px;
  padding: 8px 10px; margin: 6px 0 0;
  max-height: 220px; overflow: auto; font-size: 13px; }
.note { background: #fdeccb; border-radius: 6px; padding: 8px 12px; }
"""


def page(findings: Findings, pictures: list[Picture], note: str = "") -> str:
    """Return the page as text.

    Args:
        findings: what a check returned.
        pictures: samples to show, in this order.
        note: a remark above the pictures.
    """
    title = f"Check of {findings.dataset}"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        # the browser itself refuses whatever a dataset might smuggle in
        """<meta http-equiv="Content-Security-Policy" """
        """content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">""",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">{_sources(findings)}</p>',
        _verdict(findings),
        _facts(findings),
        "<h2>Findings</h2>",
        _table(findings),
        _labels(findings),
        _samples(pictures, note),
        f'<p class="sub">lmf-chatts {escape(__version__)}</p>',
        "</body>",
        "</html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def write(path: str | os.PathLike, findings: Findings, pictures: list[Picture], note: str = "") -> None:
    """Write the page at once, or not at all; see :func:`page`."""
    write_text(path, page(findings, pictures, note).encode("utf-8", "replace").decode("utf-8"))


def _sources(findings: Findings) -> str:
    files = ", ".join(f"{name} ({rows:,} rows)" for name, rows in findings.parts)
    compared = f"; compared with {', '.join(findings.compared)}" if findings.compared else ""
    return escape(files + compared)


def _verdict(findings: Findings) -> str:
    errors, warnings = findings.total("error"), findings.total("warning")
    if errors:
        return f'<div class="verdict error">{_count(errors, "error")}, {_count(warnings, "warning")}</div>'

    if warnings:
        return f'<div class="verdict warning">no errors, {_count(warnings, "warning")}</div>'

    return '<div class="verdict good">nothing wrong</div>'


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _facts(findings: Findings) -> str:
    shortest, median, longest = findings.length_range()
    facts = (
        (f"{findings.rows:,}", "rows"),
        (f"{findings.series:,}", "series"),
        (f"{findings.points:,}", "points"),
        (f"{shortest:,} / {median:,} / {longest:,}", "points: shortest, median, longest"),
    )
    return (
        '<ul class="facts">'
        + "".join(f"<li><b>{value}</b><span>{name}</span></li>" for value, name in facts)
        + "</ul>"
    )


def _table(findings: Findings) -> str:
    if not findings.found():
        return "<p>None.</p>"

    rows = []
    for item in findings.found():
        examples = "".join(
            f'<li><span class="where">{escape(where)}</span> {escape(detail)}</li>' for where, detail in item.examples
        )
        rows.append(
            f'<tr><td><span class="level {item.level}">{item.level}</span></td>'
            f'<td class="number">{item.total:,}</td><td class="number">{item.rows:,}</td>'
            f'<td>{escape(item.title)} <span class="code">({escape(item.code)})</span>'
            f'<div class="fix">{escape(item.fix)}</div>'
            f"<details><summary>first examples</summary><ul>{examples}</ul></details></td></tr>"
        )

    head = '<tr><th>Level</th><th class="number">Total</th><th class="number">Rows</th><th>Finding</th></tr>'
    return f"<table>{head}{''.join(rows)}</table>"


def _labels(findings: Findings) -> str:
    if not findings.labels:
        return ""

    top = findings.labels.most_common(MOST_LABELS)
    rows = [
        f'<tr><td>{escape(shorten(label))}</td><td class="number">{count:,}</td>'
        f'<td width="60%"><div class="bar" style="width:{100 * count / top[0][1]:.1f}%"></div></td></tr>'
        for label, count in top
    ]
    more = f"<p>and {len(findings.labels) - len(top)} more</p>" if len(findings.labels) > len(top) else ""
    return f'<h2>Labels</h2><table class="labels">{"".join(rows)}</table>{more}'


def _samples(pictures: list[Picture], note: str) -> str:
    if not pictures:
        return ""

    remark = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<h2>Samples</h2>{remark}" + "".join(map(_figure, pictures))


def _figure(picture: Picture) -> str:
    sample = picture.sample
    source = base64.b64encode(picture.png).decode("ascii")
    question = escape(shorten(sample.question, LONGEST_TEXT).replace("\\n", "\n"))
    answer = escape(shorten(sample.answer, LONGEST_TEXT).replace("\\n", "\n"))
    return (
        f'<figure><figcaption class="where">{escape(sample.where)}</figcaption>'
        f'<img alt="series of {escape(sample.where)}" src="data:image/png;base64,{source}">'
        f"<pre>{question}</pre><pre>{answer}</pre></figure>"
    )
