"""Broken or mismatched installations."""

import re

from .causes import rule


_MEND = "`lmf-chatts doctor` checks the whole environment and shows the command"


def _not_compiled(match: re.Match[str]) -> str:
    name = match["name"] or match["op"]
    missing = re.search(r"(\S+): (?:command )?not found", match.string)
    return f"DeepSpeed could not compile its operation {name}" + (f": {missing[1]} is not there" if missing else "")


CAUSES = (
    rule(
        r"llamafactory-chatts needs (?P<need>\S+), but (?P<found>\S+) is installed",
        "the plug-in needs {need}, installed is {found}",
        "pip install '{need}'",
    ),
    rule(
        r"llamafactory-chatts relies on (?P<name>\S+), which this LLaMA-Factory does not have",
        "this LLaMA-Factory has no {name}, which the plug-in relies on",
        "pip install 'llamafactory>=0.9.5,<0.9.6'",
    ),
    rule(
        r"(?P<need>[\w.-]+[<>=!][^ ]*) is required for a normal functioning of this module, but found "
        r"(?P<found>\S+?)\.?(?:\s|$)",
        "LLaMA-Factory needs {need}, installed is {found}",
        "pip install '{need}'",
    ),
    rule(
        r"operator torchvision::nms does not exist|Couldn't load custom C\+\+ ops|torchvision.*compiled with "
        r"different CUDA",
        "torchvision was built for another torch version",
        f"Install the torchvision that belongs to the installed torch; {_MEND}",
        needles=("operator torchvision::nms does not exist",),
    ),
    rule(
        r"torchaudio\S*\.so[^\n]*undefined symbol|Could not load this library: \S*torchaudio|"
        r"torchaudio has CUDA version|PyTorch has CUDA version \S+ whereas TorchAudio",
        "torchaudio was built for another torch version",
        f"Install torchaudio of the same version as torch; {_MEND}",
    ),
    rule(
        r"vllm\S*\.so[^\n]*undefined symbol|vllm/_C",
        "vllm was built for another torch version",
        "ChatTS trains without vllm: `pip uninstall vllm`, or give it an environment of its own",
        needles=("vllm/_C",),
        benign=True,
    ),
    rule(
        r"flash_attn\S*\.so[^\n]*undefined symbol",
        "flash-attn was built for another torch version",
        "`pip uninstall flash-attn` (flash_attn: sdpa needs none), or build it again for the installed torch",
    ),
    rule(
        r"(?P<file>[\w./+-]+\.so[\w.]*): undefined symbol: (?P<symbol>\S+)",
        "{file} was built against another version of the library it uses",
        f"Install package and torch from the same build again; {_MEND}",
        general=True,
    ),
    rule(
        r"(?P<lib>lib[\w.+-]+\.so[\w.]*): cannot open shared object file",
        "the library {lib} is missing",
        f"Install the package that brings it (CUDA libraries come with the torch wheel: install torch again); {_MEND}",
    ),
    rule(
        r"GLIBC(?:XX)?_[\d.]+'? not found",
        "a binary needs a newer C or C++ library than this system has",
        "Use a newer system or container image, or `conda install -c conda-forge libstdcxx-ng`",
    ),
    rule(
        r"bitsandbytes.*(?:without (?:GPU|CUDA) support|compiled without)|Configured CUDA binary not found|"
        r"Required library version not found: libbitsandbytes|libbitsandbytes_\w+\.so: cannot open|"
        r"'NoneType' object has no attribute 'cquantize",
        "bitsandbytes has no library for this CUDA version",
        f"pip install --upgrade bitsandbytes (0.49 or later); {_MEND}",
    ),
    rule(
        r"No package metadata was found for (?:The '(?P<need>[^']+)' distribution|(?P<name>[\w-]+))|"
        r"The '(?P<dist>[^']+)' distribution was not found",
        lambda match: f"the package {match['need'] or match['name'] or match['dist']} is not installed",
        lambda match: f"pip install '{match['need'] or match['name'] or match['dist']}'",
    ),
    rule(
        r"(?P<who>\w+) requires (?P<name>[\w-]+) to be installed",
        "{who} needs the package {name}, which is not installed",
        "pip install {name}, or remove it from report_to",
    ),
    rule(
        r"FlashAttention2 has been toggled on, but it cannot be used|flash_attn seems to be not installed|"
        r"the package flash_attn .*not installed",
        "flash_attn: fa2 is set, but the package flash-attn is not installed",
        "Set flash_attn: sdpa, which needs no package",
    ),
    rule(
        r"ModuleNotFoundError: No module named 'distutils",
        "a package (DeepSpeed 0.18 is one) uses distutils, which Python has no more from 3.12 on",
        "pip install setuptools, which brings it",
    ),
    rule(
        r"ModuleNotFoundError: No module named '(?P<name>[\w.]+)'",
        "the Python module {name} is not installed in this environment",
        "Activate the right environment, or pip install the package that holds {name}",
        general=True,
    ),
    rule(
        r"ImportError: cannot import name '(?P<name>\w+)' from '(?P<where>[\w.]+)'",
        "versions do not fit: {where} has no {name}",
        f"One of the two packages is too old or too new; {_MEND}",
        general=True,
    ),
    rule(
        r"CUDA_HOME does not exist|CUDA_HOME environment variable is not set",
        "DeepSpeed wants to compile a CUDA operation, but there is no CUDA toolkit (nvcc)",
        "Install the toolkit of torch's CUDA version and set CUDA_HOME; or take the offload to the CPU out of the "
        "DeepSpeed file, then nothing is compiled",
    ),
    rule(
        r"Ninja is required to load C\+\+ extensions|due to ninja not being installed",
        "DeepSpeed compiles an operation at start and has no ninja",
        "pip install ninja",
    ),
    rule(
        r"does not match the version torch was compiled with|CUDAMismatchException|"
        r"The detected CUDA version \(.*?\) mismatches",
        "the CUDA toolkit (nvcc) is of another version than the one torch was built with",
        "Install the toolkit of the same major version, or set DS_SKIP_CUDA_CHECK=1 for the CPU Adam",
    ),
    rule(
        r"Error building extension '(?P<name>\w+)'|Unable to JIT load the (?P<op>\w+) op",
        _not_compiled,
        "Look at the compiler's first error above; install g++ and ninja (and nvcc for GPU operations), delete "
        "~/.cache/torch_extensions and try again",
    ),
    rule(
        r"'DeepSpeedCPUAdam' object has no attribute 'ds_opt_adam'",
        "the CPU Adam of DeepSpeed was not built; this message only follows from that",
        "Look for the compiler's error above; delete ~/.cache/torch_extensions and try again",
        general=True,
    ),
)
