"""Broken or mismatched installations: a package that is missing, or built for another one."""

import re

from ....core.installs import STACK, install, is_ours
from ..cause import rule


_MEND = "`lmf-chatts doctor` checks the whole environment and shows the command"
_TORCH = install("torch", "torchvision", "torchaudio", options="--force-reinstall")
_HOST_OF = {name: ("llamafactory",) for name in STACK}
"""What is installed along with a package: the host that asks for another range of it is itself out of range."""

_MODULES = {
    "bs4": "beautifulsoup4", "cv2": "opencv-python", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml",
    "rouge_chinese": "rouge-chinese", "flash_attn": "flash-attn", "liger_kernel": "liger-kernel",
    "pkg_resources": "setuptools",
    "distutils": "setuptools", "google.protobuf": "protobuf", "sentencepiece": "sentencepiece",
}  # fmt: skip
"""Modules whose package has another name."""


def _missing_package(match: re.Match[str]) -> str:
    return install(match["need"] or match["name"] or match["dist"])


def _missing_module(match: re.Match[str]) -> str:
    name = match["name"]
    top = name.split(".")[0]
    package = _MODULES.get(name) or _MODULES.get(top) or top
    command = (
        f"`{install(package)}`"
        if is_ours(package) or package in _MODULES.values()
        else f"the package that holds {name}"
    )
    return f"Activate the environment in which everything is installed (`which python`), or install it: {command}"


def _missing_name(match: re.Match[str]) -> str:
    top = match["where"].split(".")[0]
    command = install(top) if is_ours(top) else install(*STACK)
    return f"One of the two packages is too old or too new: `{command}`; {_MEND}"


CAUSES = (
    rule(
        r"llamafactory-chatts needs (?P<need>\S+), but (?:(?P<found>\S+) is installed|is not installed)",
        lambda match: (
            f"the plug-in needs {match['need']}, "
            + (f"installed is {match['found']}" if match["found"] else "it is not installed")
        ),
        lambda match: install(match["need"]),
    ),
    rule(
        r"llamafactory-chatts relies on (?P<name>\S+), which this (?P<package>[-\w]+) does not have",
        "this {package} has no {name}, which the plug-in relies on",
        install("llamafactory"),
    ),
    rule(
        r"llamafactory-chatts cannot add (?P<name>\S+) to this LLaMA-Factory: (?P<why>.+)",
        "the plug-in cannot add {name} to this LLaMA-Factory: {why}",
        f"{install('llamafactory', *STACK)}; `lmf-chatts doctor` lists every addition",
    ),
    rule(
        r"(?P<name>\S+) was imported before llamafactory-chatts could add to it",
        "{name} was imported before the plug-in could add to it",
        "Call llamafactory_chatts.register.register() before that import, or leave LLAMAFACTORY_CHATTS unset",
    ),
    rule(
        r"(?P<need>(?P<name>[\w-]+)(?:[<>=!][^ ]*)?) is required for a normal functioning of this module, but found "
        r"(?P<found>\S+?)\.?(?:\s|$)",
        "LLaMA-Factory or transformers needs {need}, installed is {found}",
        lambda match: f"{install(*_HOST_OF.get(match['name'].lower(), ()), match['need'])}; {_MEND}",
    ),
    rule(
        r"operator torchvision::nms does not exist|Couldn't load custom C\+\+ ops|torchvision.*compiled with "
        r"different CUDA|torchvision has no attribute 'extension'|partially initialized module 'torchvision'",
        "torchvision was built for another torch version",
        f"Install the torchvision that belongs to the installed torch; {_MEND}",
        needles=("operator torchvision::nms does not exist",),
    ),
    rule(
        r"torchaudio\S*\.so[^\n]*undefined symbol|Could not load this library: \S*torchaudio|torchaudio has CUDA "
        r"version|PyTorch has CUDA version \S+ whereas TorchAudio",
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
        r"flash_attn\S*\.so[^\n]*undefined symbol|flash_attn_2_cuda\S*: undefined symbol|DLL load failed while "
        r"importing flash_attn",
        "flash-attn was built for another torch version",
        "`pip uninstall flash-attn` (flash_attn: sdpa needs none), or build it again for the installed torch",
    ),
    rule(
        r"lib(?:cu\w+|nvJitLink|nvrtc|nccl|torch_cuda|torch_cpu|c10_cuda)[\w.-]*\.so[^\n]*(?:undefined symbol|"
        r"version [`'].*' not found)|undefined symbol: (?:__?nv[Jj]it[Ll]ink|cublasLt|cublas|cudnn|nccl|cusparse|"
        r"cudaGraph)\w*|Could not load library libcud?nn|Unable to load any of \{?libcudnn|cannot load symbol cudnn|"
        r"Invalid handle\. Cannot load symbol",
        "a CUDA library (cuBLAS, cuDNN, nvJitLink, NCCL) of another version is loaded in place of the one that torch "
        "brings",
        f"`unset LD_LIBRARY_PATH` (a system CUDA or a module stands in front); if it stays, reinstall torch with its "
        f"libraries: {_TORCH}",
        needles=("Could not load library libcudnn",),
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
        "libGL and libglib: `apt install libgl1 libglib2.0-0`; libcuda: the driver (in a container `--gpus all`); "
        "other CUDA "
        f"libraries come with torch: {_TORCH}",
    ),
    rule(
        r"DLL load failed while importing (?P<name>\w+)|\[WinError 126\][^\n]*|\[WinError 127\][^\n]*|\[WinError "
        r"1114\][^\n]*",
        "a library of Windows that a package needs is missing, or belongs to another version",
        f"Install the Microsoft Visual C++ Redistributable; reinstall torch: {_TORCH}",
    ),
    rule(
        r"No package metadata was found for (?:The '(?P<need>[^']+)' distribution|(?P<name>[\w-]+))|The "
        r"'(?P<dist>[^']+)' distribution was not found",
        lambda match: f"the package {match['need'] or match['name'] or match['dist']} is not installed",
        _missing_package,
    ),
    rule(
        r"(?P<who>\w+) requires (?P<name>[\w-]+) to be installed",
        "{who} needs the package {name}, which is not installed",
        lambda match: f"{install(match['name'])}, or remove it from report_to",
    ),
    rule(
        r"No module named 'flash_attn|FlashAttention2 has been toggled on, but it cannot be used|flash_attn seems to "
        r"be not installed|the package flash_attn .*not installed",
        "flash_attn: fa2 is set, but the package flash-attn is not installed",
        "Set flash_attn: sdpa, which needs no package",
    ),
    rule(
        r"ModuleNotFoundError: No module named 'distutils",
        "a package (DeepSpeed 0.18 is one) uses distutils, which Python has no more from 3.12 on",
        f"{install('setuptools')}, which brings it",
    ),
    rule(
        r"ModuleNotFoundError: No module named 'llamafactory(?P<which>_chatts)?\b",
        "LLaMA-Factory or the plug-in is not installed in this environment: another Python runs than the one it was "
        "installed for",
        "Activate the environment that holds it (`which python llamafactory-cli torchrun` name the same folder), or "
        "install "
        f"into this one: {install('llamafactory')}",
    ),
    rule(
        r"module 'pkgutil' has no attribute 'ImpImporter'|'collections' has no attribute '(?:Mapping|MutableMapping)'",
        "a package (an old pip, setuptools or numpy) is too old for this Python",
        "Make an environment with Python 3.11: `pip install -r requirements.lock`, then `pip install --no-deps .`",
    ),
    rule(
        r"(?:requires|requires a different) Python[:>= ]+(?P<need>[^;\n]+)|unsupported operand type\(s\) for \|: "
        r"'\w+' and '(?:NoneType|type)'|cannot import name 'StrEnum' from 'enum'|cannot import name '(?:Self|"
        r"NotRequired)' from 'typing'|No module named 'tomllib'",
        "this Python is too old",
        "Make an environment with Python 3.11 or newer and install into it",
    ),
    rule(
        r"Failed (?:building wheel for|to build)(?: installable wheels for some pyproject\.toml based projects)? "
        r"\(?(?P<name>flash[-_]attn)|flash[-_]attn[^\n]*(?:subprocess-exited-with-error|metadata-generation-failed)",
        "flash-attn could not be built here",
        "Leave it out: flash_attn: sdpa needs no package, and ChatTS packs without it",
        needles=("flash-attn", "flash_attn"),
    ),
    rule(
        r"Failed (?:building wheel for|to build)(?: installable wheels for some pyproject\.toml based projects)? "
        r"\(?(?P<name>[\w-]+)|metadata-generation-failed|subprocess-exited-with-error",
        "pip could not build a package on this machine",
        "Use Python 3.11 with `pip install -r requirements.lock`, which has wheels; else read the compiler's first "
        "error above (build-essential, python3-dev)",
        "likely",
        needles=("Failed building wheel", "Failed to build", "metadata-generation-failed"),
    ),
    rule(
        r"(?P<cmd>llamafactory-cli|lmf-chatts|torchrun|deepspeed|accelerate)['\"]?: (?:command )?not found|command "
        r"not found: (?P<zsh>[\w-]+)|'(?P<cmdexe>[\w-]+)' (?:is not recognized as|不是内部或外部命令)",
        lambda m: f"the command {m['cmd'] or m['zsh'] or m['cmdexe']} was not found",
        "Activate the environment in which it is installed (source VENV/bin/activate), or install it there",
        needles=("command not found", ": not found", "is not recognized as"),
    ),
    rule(
        r"unsloth",
        "use_unsloth is set; unsloth replaces the model's classes and cannot train ChatTS",
        "Remove use_unsloth; enable_liger_kernel: true and use_unsloth_gc: true save memory without it",
        frame=r"llamafactory|unsloth|version|metadata|^$",
        general=True,
    ),
    rule(
        r"ResolutionImpossible|Cannot install [^\n]+ because these package versions have conflicting dependencies|No "
        r"matching distribution found for (?P<name>\S+)|Could not find a version that satisfies the requirement "
        r"(?P<want>\S+)",
        "pip found no versions that go together (or none for this Python and platform)",
        "Start from an empty environment with Python 3.11: `pip install -r requirements.lock`, then `pip install "
        "--no-deps .`",
        needles=("ResolutionImpossible", "No matching distribution found for"),
    ),
    rule(
        r"Distributed package doesn't have NCCL|use_libuv was requested but PyTorch was built without",
        "several processes on Windows: its PyTorch has no NCCL (and no libuv)",
        "Train in WSL2 or on Linux; or one process: CUDA_VISIBLE_DEVICES=0; for libuv set USE_LIBUV=0",
    ),
    rule(
        r"(?:ModuleNotFoundError|ImportError): No module named '(?P<name>[\w.]+)'",
        "the Python module {name} is not installed in this environment",
        _missing_module,
        general=True,
    ),
    rule(
        r"cannot import name '(?P<name>\w+)' from (?:partially initialized module )?'(?P<where>[\w.]+)'",
        "versions do not fit: {where} has no {name}",
        _missing_name,
        general=True,
    ),
    rule(
        r"ImportError: (?:Using |Loading |\w+ )?[`'\"]?(?P<what>[\w -]+?)[`'\"]? (?:requires|needs) (?:the "
        r")?[`'\"]?(?P<name>[a-z][\w-]+)[`'\"]?(?: library| package)?|Please install it (?:with|via|using) "
        r"[`'\"]?pip install (?:-U )?(?P<pip>[\w-]+)",
        lambda match: (
            f"the package {match['name'] or match['pip']} is missing or too old"
            + (f": {match['what']} needs it" if match["what"] else "")
        ),
        lambda match: install(match["name"] or match["pip"]),
        "likely",
        general=True,
    ),
)
