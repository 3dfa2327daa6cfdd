"""The one place that words ``pip install``: what is advised stays in the ranges that this package supports."""

import functools

from .environment_packages import requirements


STACK = ("transformers", "peft", "trl", "datasets", "accelerate")
"""Packages that LLaMA-Factory calls, and that call each other."""


@functools.cache
def _ranges() -> dict[str, str]:
    wanted = requirements(("quantization", "deepspeed", "metrics"))
    return {one.name.lower(): ",".join(sorted(map(str, one.specifier), reverse=True)) for one in wanted}


def is_ours(package: str) -> bool:
    """Tell whether a package's supported range is known."""
    return package.lower().replace("_", "-") in _ranges()


def install(*packages: str, options: str = "") -> str:
    """Return the command that installs packages, each in its supported range; others as they are named.

    Args:
        packages: names; a version behind the name of a package with a supported range is replaced by that range.
        options: of ``pip install``, put in front.
    """
    words = [f"'{name}{_ranges()[name]}'" if (name := _name(one)) in _ranges() else _quoted(one) for one in packages]
    return " ".join(["pip install", *filter(None, [options]), *words])


def _name(requirement: str) -> str:
    head = requirement.split("[")[0]
    for mark in "<>=!~ ;":
        head = head.split(mark)[0]

    return head.lower().replace("_", "-")


def _quoted(requirement: str) -> str:
    return f"'{requirement}'" if set(requirement) & set("<>=![]~ ") else requirement
