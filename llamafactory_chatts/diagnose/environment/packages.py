"""Checks of the installed packages: versions, builds that belong together, what is optional."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.installs import OURS, SUPPORTED, TESTED, install, requirements, ruling, supports
from ...recipe.finding import Finding
from ...recipe.machine import gpus
from .probes import FAMILY, Installation, reply, version_of


if TYPE_CHECKING:
    from packaging.requirements import Requirement

WITHOUT_THEM = {
    "liger-kernel": "enable_liger_kernel then uses PyTorch's own operations, about a quarter slower",
    "bitsandbytes": "needed for quantization_bit: 4 or 8",
    "deepspeed": "needed for ZeRO",
    "setuptools": "needed for DeepSpeed (ZeRO) from Python 3.12 on",
}
"""Packages that a training can do without."""


def python(installation: Installation) -> Iterator[Finding]:
    """The interpreter is in the supported range and is that of the commands on PATH."""
    from packaging.specifiers import SpecifierSet

    shown = ".".join(map(str, sys.version_info[:3]))
    try:
        wanted = importlib.metadata.metadata(OURS).get("Requires-Python") or ""
    except importlib.metadata.PackageNotFoundError:
        wanted = ""

    if wanted and not SpecifierSet(wanted).contains(shown):
        yield Finding("error", "python", f"{shown}, needed is {wanted}", fix="Make an environment with a newer Python")
    else:
        yield Finding("ok", "python", f"{shown} in {sys.prefix}")

    here = Path(sys.executable).parent
    for command in ("llamafactory-cli", "torchrun"):  # the host starts torchrun by name
        found = shutil.which(command)
        if found is None:
            fix = f'Run: export PATH="{here}:$PATH"   (or activate the environment)'
            yield Finding("warning", "python", f"{command} is not on PATH", fix=fix)
        elif Path(found).parent.resolve() != here.resolve():
            what = f"{command} on PATH is {found}, of another environment than this Python ({here})"
            yield Finding("warning", "python", what, fix=f'Run: export PATH="{here}:$PATH"')


def supported_ranges(installation: Installation) -> Iterator[Finding]:
    """Each package that this one requires is there, in the range that it names."""
    wanted = requirements()
    if not wanted:
        what = f"{OURS} is not installed, so the supported ranges are not known"
        yield Finding("warning", "versions", what, fix=f"Run: pip install {OURS}")
        return

    fine = []
    for requirement in wanted:
        found = version_of(requirement.name)
        if found is None:
            missing = WITHOUT_THEM.get(requirement.name)
            level = "warning" if requirement.name == "liger-kernel" else "note" if missing else "error"
            what = "not installed" + (f": {missing}" if missing else "")
            yield Finding(level, requirement.name, what, fix=f"Run: {install(requirement.name)}")
        elif not _is_admitted(requirement, found):
            what = f"{found} is installed, supported is {SUPPORTED.get(requirement.name, requirement.specifier)}"
            yield Finding("error", requirement.name, what, fix=f"Run: {install(requirement.name)}")
        else:
            fine.append(f"{requirement.name} {found}")

    yield Finding("ok", "versions", "supported: " + ", ".join(fine))


def _is_admitted(requirement: "Requirement", version: str) -> bool:
    """Tell whether a version is in the range; of what is judged when LLaMA-Factory starts: whether it is let in."""
    if requirement.name in TESTED:
        return ruling(requirement.name, version) != "unsupported"

    return requirement.specifier.contains(version, prereleases=True)


def _build(version: str) -> str:
    """Return the local part of a version: ``cu128`` of ``2.11.0+cu128``, "" of ``2.11.0``."""
    return version.partition("+")[2]


def torch_family(installation: Installation) -> Iterator[Finding]:
    """torch, torchvision and torchaudio are builds of one release, for one CUDA, and can be imported together."""
    versions = {name: version_of(name) for name in FAMILY}
    if versions["torch"] is None:
        yield Finding("error", "torch", "not installed", fix=_together("0"))
        return

    answer = reply(installation.torch, "torch")
    if "error" in answer:
        what = f"{versions['torch']} cannot be imported: {answer['error']}"
        yield Finding("error", "torch", what, fix=_together(versions["torch"]))
        return

    release = re.match(r"2\.(\d+)", versions["torch"])
    bad = False
    for name in FAMILY[1:]:
        version, companion = versions[name], reply(installation.torch, name)
        if version is None:
            continue

        minor = int(release[1]) if release else 0
        expected = f"0.{minor + 15}" if name == "torchvision" else f"2.{minor}"
        builds = {_build(versions["torch"]), _build(version)} - {""}
        if release and not version.startswith(expected + "."):
            what = f"{version} does not belong to torch {versions['torch']}, {expected}.* does"
        elif len(builds) > 1:
            what = f"{version} is built for another CUDA than torch {versions['torch']}"
        elif "error" in companion:
            what = f"{version} cannot be imported: {companion['error']}"
        else:
            continue

        bad = True
        yield Finding("error", name, what, fix=_together(versions["torch"]))

    if not bad:
        shown = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        cuda = f"CUDA {answer['cuda']}" if answer["cuda"] else "ROCm" if answer.get("hip") else "no CUDA"
        yield Finding("ok", "torch", f"{shown}; built for {cuda}")


def _together(torch: str) -> str:
    """Return the command that installs the three from one place; of a torch out of range, those of the range."""
    if not supports("torch", torch):
        return f"Run: {install(*FAMILY, options='--force-reinstall')}"

    plain, build = torch.partition("+")[0], _build(torch)
    minor = plain.split(".")[1]
    vision = f"0.{int(minor) + 15}.*" if minor.isdigit() else "*"
    index = f" (builds for {build}: their --index-url is on PyTorch's install page)" if build else ""
    return f"Run: pip install --force-reinstall 'torch=={plain}' 'torchvision=={vision}' 'torchaudio=={plain}'{index}"


def bitsandbytes(installation: Installation) -> Iterator[Finding]:
    """4-bit quantisation really works here, there and back."""
    version = version_of("bitsandbytes")
    if version is None:
        return  # said with the ranges

    answer = reply(installation.quantise, "bitsandbytes", "torch")
    if "error" in answer:
        what = f"{version} cannot quantise: {answer['error']}"
        yield Finding("error", "bitsandbytes", what, fix="Run: pip install -U 'bitsandbytes>=0.49'")
        return

    # NF4 of normal numbers is off by 0.07 on average, zeros or garbage by 0.8 and more
    wrong = max(answer["error_quantised"], answer["error_layer"])
    if wrong > 0.15:
        what = f"{version} quantises wrongly on {answer['device']}: numbers are off by {wrong:.2f} on average"
        yield Finding("error", "bitsandbytes", what, fix="Run: pip install -U 'bitsandbytes>=0.49'")
    elif answer["device"] == "cpu" and gpus.driver().cards:
        what = f"{version} quantises on the CPU only, there is a GPU: see torch above"
        yield Finding("warning", "bitsandbytes", what)
    else:
        what = f"{version}: 4 bits there and back on {answer['device']}, off by {wrong:.2f} on average as expected"
        yield Finding("ok", "bitsandbytes", what)


def vllm(installation: Installation) -> Iterator[Finding]:
    """A vllm that pins another torch takes turns with this one at every ``pip install``."""
    version = version_of("vllm")
    if version is None:
        return

    from packaging.requirements import Requirement

    for line in importlib.metadata.requires("vllm") or []:
        pin = Requirement(line)
        found = version_of(pin.name)
        if pin.name not in (*FAMILY, "transformers") or found is None or pin.marker and not pin.marker.evaluate():
            continue

        if not pin.specifier.contains(found.partition("+")[0], prereleases=True):
            what = f"{version} was built for {pin.name}{pin.specifier}, installed is {found}"
            fix = "Run: pip uninstall vllm   (training does not use it; serve from an environment of its own)"
            yield Finding("warning", "vllm", what, fix=fix)


def deepspeed(installation: Installation) -> Iterator[Finding]:
    """DeepSpeed can be imported, and what it compiles when it is used: the CPU optimizer of ZeRO with offload."""
    version = version_of("deepspeed")
    if version is None:
        return

    error = installation.torch.get("deepspeed", {}).get("error")
    if error:
        lost = "No module named 'distutils'" in error  # not in Python 3.12 any more; setuptools brings it
        again = f"deepspeed=={version}" if supports("deepspeed", version) else "deepspeed"
        fix = "pip install setuptools" if lost else install(again, options="--force-reinstall --no-deps")
        yield Finding("error", "deepspeed", f"{version} cannot be imported: {error}", fix=f"Run: {fix}")
        return

    missing = [name for name in ("g++", "ninja") if not shutil.which(name) and not importlib.util.find_spec(name)]
    cuda = reply(installation.torch, "torch").get("cuda")
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    if cuda and gpus.driver().cards and shutil.which("nvcc") is None and not Path(home, "bin", "nvcc").exists():
        missing.append("nvcc")

    if missing:
        what = f"{version}: without {', '.join(missing)} its CPU Adam (ZeRO with offload) cannot be built"
        commands = {
            "g++": "apt-get install g++",
            "ninja": "pip install ninja",
            "nvcc": f"install the CUDA toolkit {cuda} and set CUDA_HOME",
        }
        fix = "Run: " + "; ".join(commands[name] for name in missing)
        yield Finding("warning", "deepspeed", what, fix=fix)
    else:
        yield Finding("ok", "deepspeed", f"{version}: compiler and ninja for its CPU Adam are there")


def flash_attn(installation: Installation) -> Iterator[Finding]:
    """flash-attn is optional; a broken one is worse than none."""
    version = version_of("flash-attn")
    if version is None:
        what = "not installed, not needed: training uses PyTorch's own variable-length attention"
        yield Finding("ok", "flash-attn", what)
        return

    answer = reply(installation.torch, "flash_attn")
    if "error" in answer:
        what = f"{version} cannot be imported: {answer['error']}"
        yield Finding("error", "flash-attn", what, fix="Run: pip uninstall flash-attn   (it is not needed)")
    else:
        yield Finding("ok", "flash-attn", f"{version}, used only with flash_attn: fa2")
