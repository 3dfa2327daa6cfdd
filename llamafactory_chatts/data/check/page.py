"""One HTML page with the findings of a check and pictures of samples. It needs no other file and asks no server."""

import base64
import os
from importlib import resources

from ... import __version__
from ...core.atomic import write_text
from ...core.errors import shorten
from .findings import Findings
from .preview import Picture


TEMPLATE = "page.html.jinja"
MOST_LABELS = 30
LONGEST_TEXT = 4000
"""Characters of a question or an answer that the page shows."""


def page(findings: Findings, pictures: list[Picture], note: str = "") -> str:
    """Return the page as text.

    Args:
        findings: what a check returned.
        pictures: samples to show, in this order.
        note: a remark above the pictures.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(
        number="{:,}".format,
        count_of=_count,
        shorten=shorten,
        text=_text,
        base64=lambda content: base64.b64encode(content).decode("ascii"),
    )
    source = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    labels = findings.labels.most_common(MOST_LABELS)
    return environment.from_string(source).render(
        findings=findings, pictures=pictures, note=note, labels=labels, version=__version__
    )


def write(path: str | os.PathLike, findings: Findings, pictures: list[Picture], note: str = "") -> None:
    """Write the page at once, or not at all; see :func:`page`."""
    write_text(path, page(findings, pictures, note).encode("utf-8", "replace").decode("utf-8"))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _text(text: str) -> str:
    """Return a question or an answer, cut where it is long, with its own line breaks."""
    return shorten(text, LONGEST_TEXT).replace("\\n", "\n")
