"""The one place that words ``pip install``: what is advised stays in the ranges that this package supports."""

import functools
import importlib.metadata
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal


if TYPE_CHECKING:
    from packaging.requirements import Requirement

Ruling = Literal["tested", "untested", "unsupported"]
OURS = "llamafactory-chatts"
EXTRAS = ("quantization", "deepspeed")
STACK = ("transformers", "peft", "trl", "datasets", "accelerate")
"""Packages that LLaMA-Factory calls, and that call each other."""

TESTED = {"llamafactory": "0.9.5", "transformers": "5.5"}
"""Releases that this package was tested with; one of two numbers stands for all of its patch releases."""

SUPPORTED = {"llamafactory": ">=0.9.5,<0.10", "transformers": ">=5.5,<5.6"}
"""The ranges of pyproject.toml for them."""

_LATER_TRANSFORMERS = ">=5.6,!=5.6.0"  # flash attention of 5.6.0 fails in every pass (huggingface/transformers#45588)


def ruling(package: str, version: str) -> Ruling:
    """Tell what is known of an installed version of a package in ``TESTED``.

    ``untested``: a later patch release of llamafactory, or a later transformers that the installed llamafactory asks
    for (5.6.0 never). Whether it works depends on the names that we rely on, which ``host/gate.py`` compares.
    """
    release = re.fullmatch(r"(\d+(?:\.\d+)*)(?:\+.*)?", version)
    if release and f"{release[1]}.".startswith(f"{TESTED[package]}."):
        return "tested"

    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    allowed = [SpecifierSet(SUPPORTED[package])]
    if package == "transformers":
        try:
            lines = importlib.metadata.requires("llamafactory") or []
        except importlib.metadata.PackageNotFoundError:
            return "unsupported"

        wanted = [one for one in map(Requirement, lines) if one.name == package and one.marker is None]
        allowed = [SpecifierSet(_LATER_TRANSFORMERS), *(one.specifier for one in wanted)]

    plain = version.partition("+")[0]
    return "untested" if all(one.contains(plain, prereleases=True) for one in allowed) else "unsupported"


def requirements(extras: tuple[str, ...] = EXTRAS) -> "list[Requirement]":
    """Return what this package requires, read by ``packaging``: from its metadata, or the pyproject.toml beside it.

    The metadata are the one home of the supported ranges. Empty when the package lies on a path without either.
    """
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires(OURS) or []
        read = [Requirement(line) for line in lines]
        wanted = [{"extra": extra} for extra in ("", *extras)]
        return [one for one in read if one.marker is None or any(map(one.marker.evaluate, wanted))]
    except importlib.metadata.PackageNotFoundError:
        pass

    import tomllib

    file = Path(__file__).parents[2] / "pyproject.toml"
    if not file.is_file():
        return []

    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + [one for name in extras for one in project["optional-dependencies"][name]]
    return [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate()]


@functools.cache
def _ranges() -> dict[str, str]:
    wanted = requirements(("quantization", "deepspeed", "excel", "metrics"))
    return {_name(one.name): ",".join(sorted(map(str, one.specifier), reverse=True)) for one in wanted}


def is_ours(package: str) -> bool:
    """Tell whether a package's supported range is known."""
    return _name(package) in _ranges()


def supports(package: str, version: str) -> bool:
    """Tell whether a version is in a package's supported range; True where no range is known."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(_ranges().get(package, "")).contains(version.partition("+")[0], prereleases=True)


def install(*packages: str, options: str = "") -> str:
    """Return the command that installs packages, each in its supported range; others as they are named.

    Args:
        packages: names; a range behind the name of a package with a supported one is replaced by that; one version
            (``==``) stays if it is supported.
        options: of ``pip install``, put in front.
    """
    return " ".join(["pip install", *filter(None, [options]), *map(_supported, packages)])


def _supported(requirement: str) -> str:
    name, _, version = requirement.partition("==")
    if version and supports(name, version):
        return requirement

    name = _name(requirement)
    return f"'{name}{_ranges()[name]}'" if name in _ranges() else _quoted(requirement)


def _name(requirement: str) -> str:
    head = requirement.split("[")[0]
    for mark in "<>=!~ ;":
        head = head.split(mark)[0]

    return re.sub(r"[-_.]+", "-", head).lower()  # ruamel.yaml is ruamel-yaml


def _quoted(requirement: str) -> str:
    return f"'{requirement}'" if set(requirement) & set("<>=![]~ ") else requirement
