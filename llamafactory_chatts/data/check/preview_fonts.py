"""A font for Chinese, Japanese and Korean text in pictures; without one such text is written another way."""

from collections.abc import Iterable
from contextlib import suppress
from functools import cache

from ..synthesize.demo_prompts import LANGUAGES


FAMILIES = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "SimHei",
    "SimSun",
    "PingFang SC",
    "Hiragino Sans GB",
    "Heiti SC",
    "STHeiti",
    "Droid Sans Fallback",
    "AR PL UMing CN",
    "AR PL UKai CN",
    "Arial Unicode MS",
)
"""Families with Chinese characters, the better ones first."""

BASE = "DejaVu Sans"
"""The font that matplotlib brings along."""

KNOWN = {name: kind for language in LANGUAGES for kind, name in language.names.items()}
"""Chinese name of an anomaly -> English one, for a machine without such a font."""

HINT = "no font with Chinese characters was found: pictures show them translated or as codes. "
HINT += "Install one, e.g. Debian's package fonts-noto-cjk"


@cache
def families() -> tuple[str, ...]:
    """Return the font families to draw with: matplotlib's own, then one with Chinese characters if there is one."""
    from matplotlib import font_manager

    there = {font.name for font in font_manager.fontManager.ttflist}
    if not there & set(FAMILIES):
        there |= _installed_since()

    return (BASE, *[name for name in FAMILIES if name in there][:1])


def _installed_since() -> set[str]:
    """Return the families of fonts that matplotlib's stored list does not know yet, and make them known."""
    from matplotlib import font_manager

    manager = font_manager.fontManager
    known = {font.fname for font in manager.ttflist}
    count = len(manager.ttflist)
    for path in font_manager.findSystemFonts():
        if path not in known:
            with suppress(Exception):  # a font file that cannot be read is no font
                manager.addfont(path)

    return {font.name for font in manager.ttflist[count:]}


@cache
def _characters(names: tuple[str, ...]) -> frozenset[int]:
    from matplotlib import font_manager

    found: set[int] = set()
    for name in names:
        path = font_manager.findfont(name)
        found |= set(font_manager.get_font(path).get_charmap())

    return frozenset(found)


def drawable(text: str, names: Iterable[str] | None = None) -> tuple[str, bool]:
    """Return a text that can be drawn, and whether it is the text itself.

    A name of an anomaly that is known is translated; any other character that no font has becomes ``\\uXXXX``.

    Args:
        names: font families; those of :func:`families` if None.
    """
    there = _characters(tuple(names) if names is not None else families())
    text = " ".join(text.split())
    if all(ord(letter) in there for letter in text):
        return text, True

    if text in KNOWN:
        return KNOWN[text], False

    return "".join(
        letter if ord(letter) in there else letter.encode("unicode_escape").decode("ascii") for letter in text
    ), False
