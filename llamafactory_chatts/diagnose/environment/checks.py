"""The checks of an installation and a machine, and the run over them."""

from collections.abc import Callable, Iterable

from ...core.errors import shorten
from ...recipe.finding import Finding
from ...recipe.machine.build_locks import extension_builds
from . import machine as machine_checks
from . import packages as package_checks
from .probes import Installation


Check = Callable[[Installation], Iterable[Finding]]

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


def check_environment(installation: Installation | None = None, more: dict[str, Check] | None = None) -> list[Finding]:
    """Run all checks; one that fails is reported and does not stop the others. Works without torch.

    Args:
        installation: the shared answers; one of its own if None.
        more: further checks, run last (the command adds the rows of the register, which this package may not import).

    Returns:
        the findings in the order of the table.
    """
    installation = installation or Installation()
    installation.ask_ahead()
    found: list[Finding] = []
    for name, check in {**CHECKS, **(more or {})}.items():
        try:
            found += check(installation)
        except Exception as error:
            what = f"this check failed ({type(error).__name__}: {shorten(error)})"
            found.append(Finding("warning", name, what, fix="Please report it"))

    return found
