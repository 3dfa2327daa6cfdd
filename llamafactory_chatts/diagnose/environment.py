"""The checks of an installation and a machine, and the run over them."""

import functools
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import shorten
from . import environment_machine as machine_checks
from . import environment_packages as package_checks
from . import probes
from .build_locks import extension_builds
from .environment_packages import FAMILY, version_of
from .finding import Finding


@dataclass
class Machine:
    """What the checks share: answers of torch and bitsandbytes, asked at once in processes of their own.

    Attributes:
        output: folder that results would go to.
    """

    output: Path = field(default_factory=Path.cwd)

    def ask_ahead(self) -> None:
        """Start the probes; the checks wait for them where they need them."""
        _ = self._torch_probe, self._quantise_probe

    @functools.cached_property
    def _torch_probe(self) -> subprocess.Popen:
        companions = {**{name: name for name in FAMILY[1:]}, "flash-attn": "flash_attn", "deepspeed": "deepspeed"}
        return probes.start(probes.TORCH, *(module for name, module in companions.items() if version_of(name)))

    @functools.cached_property
    def _quantise_probe(self) -> subprocess.Popen:
        return probes.start(probes.QUANTISE)

    @functools.cached_property
    def torch(self) -> dict[str, Any]:
        """Answers of :data:`probes.TORCH`."""
        return probes.answers(self._torch_probe)

    @functools.cached_property
    def quantise(self) -> dict[str, Any]:
        """Answers of :data:`probes.QUANTISE`."""
        return probes.answers(self._quantise_probe)


Check = Callable[[Machine], Iterable[Finding]]

CHECKS: dict[str, Check] = {
    "python": package_checks.python,
    "versions": package_checks.supported_ranges,
    "torch": package_checks.torch_family,
    "gpu": machine_checks.gpu,
    "bitsandbytes": package_checks.bitsandbytes,
    "flash-attn": package_checks.flash_attn,
    "deepspeed": package_checks.deepspeed,
    "vllm": package_checks.vllm,
    "memory": machine_checks.memory,
    "shm": machine_checks.shared_memory,
    "folders": machine_checks.folders,
    "locks": machine_checks.lock_files,
    "builds": extension_builds,
}
"""Name -> check; the order is that of the output. A check yields findings and never changes anything."""


def check_environment(machine: Machine | None = None, more: dict[str, Check] | None = None) -> list[Finding]:
    """Run all checks; one that fails is reported and does not stop the others. Works without torch.

    Args:
        machine: the shared answers; one of its own if None.
        more: further checks, run last (the verb adds the rows of the register, which this room may not import).

    Returns:
        the findings in the order of the table.
    """
    machine = machine or Machine()
    machine.ask_ahead()
    found: list[Finding] = []
    for name, check in {**CHECKS, **(more or {})}.items():
        try:
            found += check(machine)
        except Exception as error:
            what = f"this check failed ({type(error).__name__}: {shorten(error)})"
            found.append(Finding("warning", name, what, fix="Please report it"))

    return found
