"""The one place that words ``pip install``: what is advised stays in the ranges that this package supports."""

import functools
import importlib.metadata
from pathlib import Path
from typing import Any


OURS = "llamafactory-chatts"
EXTRAS = ("quantization", "deepspeed")
STACK = ("transformers", "peft", "trl", "datasets", "accelerate")
"""Packages that LLaMA-Factory calls, and that call each other."""


def requirements(extras: tuple[str, ...] = EXTRAS) -> list[Any]:
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
    return {one.name.lower(): ",".join(sorted(map(str, one.specifier), reverse=True)) for one in wanted}


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

    return head.lower().replace("_", "-")


def _quoted(requirement: str) -> str:
    return f"'{requirement}'" if set(requirement) & set("<>=![]~ ") else requirement
