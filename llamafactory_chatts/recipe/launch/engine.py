"""LLaMA-Factory's other engines: they load or train along ways that our table does not touch, so series are lost."""

import os
from collections.abc import Iterator

from ..context import Context
from ..finding import Finding
from ..refusals.series import LOST
from .packages import is_installed


ENVIRONMENT = {
    "USE_V1": f"it starts LLaMA-Factory's second engine (v1), {LOST}",
    "USE_MCA": f"it starts Megatron (mcore_adapter), {LOST}",
    "USE_MEGATRON_BRIDGE": f"it starts Megatron, {LOST}",
    "USE_KT": f"it starts KTransformers, {LOST}",
}
"""Variables of the environment that start another engine; a test lists all that the host reads."""


def is_on(name: str) -> bool:
    """Tell whether a variable is set to one of the words that the host's engines take for yes."""
    return os.environ.get(name, "0").strip().lower() in ("true", "yes", "on", "t", "y", "1")


def other_engines(context: Context) -> Iterator[Finding]:
    """Engines that go round this package. Ray does not: its workers import the host, and with it our table."""
    if not context.is_chatts:
        return

    for name, what in ENVIRONMENT.items():
        if is_on(name):
            yield Finding("error", name, what, "environment", f"Run: unset {name}")

    if is_on("USE_RAY") and context.trains and not context.elsewhere and not is_installed("ray"):
        fix = "Run: unset USE_RAY (or pip install 'ray[default]', if Ray is meant)"
        yield Finding("error", "USE_RAY", "ray is not installed", "environment", fix)
