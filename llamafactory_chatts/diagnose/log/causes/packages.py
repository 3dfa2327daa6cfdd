"""Installations: a package is missing, was built for another one, or is older or newer than what calls it."""

import re

from ....core.installs import STACK, install, is_ours
from ..row import Row


_MODULES = {
    "bs4": "beautifulsoup4", "cv2": "opencv-python", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml",
    "rouge_chinese": "rouge-chinese", "flash_attn": "flash-attn", "liger_kernel": "liger-kernel",
    "pkg_resources": "setuptools", "distutils": "setuptools", "google.protobuf": "protobuf",
    "sentencepiece": "sentencepiece",
}  # fmt: skip
"""Modules whose package has another name."""

_RENAMED = {
    "evaluation_strategy": "eval_strategy", "tokenizer": "processing_class", "torch_dtype": "dtype",
    "no_cuda": "use_cpu", "per_gpu_train_batch_size": "per_device_train_batch_size",
}  # fmt: skip
"""Arguments of transformers by their former names."""


def _refused(match: re.Match[str]) -> tuple[str, str]:
    """Install the host as well when one of its stack is refused: a host that wants another range is out of range."""
    host = ["llamafactory"] if match["name"].lower() in STACK else []
    return (
        f"LLaMA-Factory or transformers needs {match['need']}, installed is {match['found']}",
        f"{install(*host, match['need'])}; `lmf-chatts doctor` checks the whole environment and shows the command",
    )


def _missing_module(match: re.Match[str]) -> tuple[str, str]:
    name, top = match["name"], match["name"].split(".")[0]
    package = _MODULES.get(name) or _MODULES.get(top) or top
    known = is_ours(package) or package in _MODULES.values()
    command = f"`{install(package)}`" if known else f"the package that holds {name}"
    return (
        f"the Python module {name} is not installed in this environment",
        f"Activate the environment in which everything is installed (`which python`), or install it: {command}",
    )


def _missing_name(match: re.Match[str]) -> tuple[str, str]:
    top = match["where"].split(".")[0]
    command = install(top) if is_ours(top) else install(*STACK)
    return (
        f"versions do not fit: {match['where']} has no {match['name']}",
        f"One of the two packages is too old or too new: `{command}`; `lmf-chatts doctor` checks the whole "
        "environment and shows the command",
    )


def _unexpected(match: re.Match[str]) -> tuple[str, str]:
    call, name = match["call"] or match["other"], match["name"] or match["more"]
    new = _RENAMED.get(name)
    today = f" (its name today is {new})" if new else ""
    head = f"Write {new} if the name stands in your own code or recipe; otherwise install" if new else "Install"
    return (
        f"versions do not fit: {call}() does not know the argument {name}{today}",
        f"{head} versions that belong together: {install('llamafactory', *STACK)}; `lmf-chatts doctor` shows what is "
        f"installed; if {call} is your own code, let it take **kwargs or the new argument",
    )


# fmt: off
ROWS = (
    Row(r"llamafactory-chatts needs (?P<need>\S+), but (?:(?P<found>\S+) is installed|(?P<none>is not installed))",
        "the plug-in needs {need}, [installed is {found}][which {none}]",
        "{pip {need}}"),
    Row(r"llamafactory-chatts relies on (?P<name>\S+), which this (?P<package>[-\w]+) does not have",
        "this {package} has no {name}, which the plug-in relies on",
        "{pip llamafactory}"),
    Row(r"llamafactory-chatts cannot add (?P<name>\S+) to this LLaMA-Factory: (?P<why>.+)",
        "the plug-in cannot add {name} to this LLaMA-Factory: {why}",
        "{stack}; `lmf-chatts doctor` lists every addition"),
    Row(r"(?P<name>\S+) was imported before llamafactory-chatts could add to it",
        "{name} was imported before the plug-in could add to it",
        "Call llamafactory_chatts.register.register() before that import, or leave LLAMAFACTORY_CHATTS unset"),
    Row(r"(?P<need>(?P<name>[\w-]+)(?:[<>=!][^ ]*)?) is required for a normal functioning of this module, but found "
        r"(?P<found>\S+?)\.?(?:\s|$)",
        _refused),
    Row(r"operator torchvision::nms does not exist|Couldn't load custom C\+\+ ops|torchvision.*compiled with "
        r"different CUDA|torchvision has no attribute 'extension'|partially initialized module 'torchvision'",
        "torchvision was built for another torch version",
        "Install the torchvision that belongs to the installed torch; `lmf-chatts doctor` checks the whole "
        "environment and shows the command", lines=("operator torchvision::nms does not exist",)),
    Row(r"torchaudio\S*\.so[^\n]*undefined symbol|Could not load this library: \S*torchaudio|torchaudio has CUDA "
        r"version|PyTorch has CUDA version \S+ whereas TorchAudio",
        "torchaudio was built for another torch version",
        "Install torchaudio of the same version as torch; `lmf-chatts doctor` checks the whole environment and shows "
        "the command"),
    Row(r"vllm\S*\.so[^\n]*undefined symbol|vllm/_C",
        "vllm was built for another torch version",
        "ChatTS trains without vllm: `pip uninstall vllm`, or give it an environment of its own", lines=("vllm/_C",),
        benign=True),
    Row(r"flash_attn\S*\.so[^\n]*undefined symbol|flash_attn_2_cuda\S*: undefined symbol|DLL load failed while "
        r"importing flash_attn",
        "flash-attn was built for another torch version",
        "`pip uninstall flash-attn` (flash_attn: sdpa needs none), or build it again for the installed torch"),
    Row(r"lib(?:cu\w+|nvJitLink|nvrtc|nccl|torch_cuda|torch_cpu|c10_cuda)[\w.-]*\.so[^\n]*(?:undefined symbol|version "
        r"[`'].*' not found)|undefined symbol: (?:__?nv[Jj]it[Ll]ink|cublasLt|cublas|cudnn|nccl|cusparse|"
        r"cudaGraph)\w*|Could not load library libcud?nn|Unable to load any of \{?libcudnn|cannot load symbol cudnn|"
        r"Invalid handle\. Cannot load symbol",
        "a CUDA library (cuBLAS, cuDNN, nvJitLink, NCCL) of another version is loaded in place of the one that torch "
        "brings",
        "`unset LD_LIBRARY_PATH` (a system CUDA or a module stands in front); if it stays, reinstall torch with its "
        "libraries: {pip --force-reinstall torch torchvision torchaudio}", lines=("Could not load library libcudnn",)),
    Row(r"(?P<file>[\w./+-]+\.so[\w.]*): undefined symbol: (?P<symbol>\S+)",
        "{file} was built against another version of the library it uses",
        "Install package and torch from the same build again; `lmf-chatts doctor` checks the whole environment and "
        "shows the command", general=True),
    Row(r"(?P<lib>lib[\w.+-]+\.so[\w.]*): cannot open shared object file",
        "the library {lib} is missing",
        "libGL and libglib: `apt install libgl1 libglib2.0-0`; libcuda: the driver (in a container `--gpus all`); "
        "other CUDA libraries come with torch: {pip --force-reinstall torch torchvision torchaudio}"),
    Row(r"DLL load failed while importing (?P<name>\w+)|\[WinError 126\]|\[WinError 127\]|\[WinError 1114\]",
        "a library of Windows that a package needs is missing, or belongs to another version",
        "Install the Microsoft Visual C++ Redistributable; reinstall torch: {pip --force-reinstall torch torchvision "
        "torchaudio}"),
    Row(r"No package metadata was found for (?:The '(?P<need>[^']+)' distribution|(?P<name>[\w-]+))|The "
        r"'(?P<dist>[^']+)' distribution was not found",
        "the package {need|name|dist} is not installed",
        "{pip {need|name|dist}}"),
    Row(r"(?P<who>\w+) requires (?P<name>[\w-]+) to be installed",
        "{who} needs the package {name}, which is not installed",
        "{pip {name}}, or remove it from report_to"),
    Row(r"No module named 'flash_attn|FlashAttention2 has been toggled on, but it cannot be used|flash_attn seems to "
        r"be not installed|the package flash_attn .*not installed",
        "flash_attn: fa2 is set, but the package flash-attn is not installed",
        "Set flash_attn: sdpa, which needs no package"),
    Row(r"ModuleNotFoundError: No module named 'distutils",
        "a package (DeepSpeed 0.18 is one) uses distutils, which Python has no more from 3.12 on",
        "{pip setuptools}, which brings it"),
    Row(r"ModuleNotFoundError: No module named 'llamafactory(?P<which>_chatts)?\b",
        "LLaMA-Factory or the plug-in is not installed in this environment: another Python runs than the one it was "
        "installed for",
        "Activate the environment that holds it (`which python llamafactory-cli torchrun` name the same folder), or "
        "install into this one: {pip llamafactory}"),
    Row(r"module 'pkgutil' has no attribute 'ImpImporter'|'collections' has no attribute '(?:Mapping|MutableMapping)'",
        "a package (an old pip, setuptools or numpy) is too old for this Python",
        "Make an environment with Python 3.11: `pip install -r requirements.lock`, then `pip install --no-deps .`"),
    Row(r"(?:requires|requires a different) Python[:>= ]+(?P<need>[^;\n]+)|unsupported operand type\(s\) for \|: "
        r"'\w+' and '(?:NoneType|type)'|cannot import name 'StrEnum' from 'enum'|cannot import name '(?:Self|"
        r"NotRequired)' from 'typing'|No module named 'tomllib'",
        "this Python is too old",
        "Make an environment with Python 3.11 or newer and install into it"),
    Row(r"Failed (?:building wheel for|to build)(?: installable wheels for some pyproject\.toml based projects)? "
        r"\(?(?P<name>flash[-_]attn)|flash[-_]attn[^\n]*(?:subprocess-exited-with-error|metadata-generation-failed)",
        "flash-attn could not be built here",
        "Leave it out: flash_attn: sdpa needs no package, and ChatTS packs without it",
        lines=("flash-attn", "flash_attn")),
    Row(r"Failed (?:building wheel for|to build)(?: installable wheels for some pyproject\.toml based projects)? "
        r"\(?(?P<name>[\w-]+)|metadata-generation-failed|subprocess-exited-with-error",
        "pip could not build a package on this machine",
        "Use Python 3.11 with `pip install -r requirements.lock`, which has wheels; else read the compiler's first "
        "error above (build-essential, python3-dev)", likely=True,
        lines=("Failed building wheel", "Failed to build", "metadata-generation-failed")),
    Row(r"(?P<cmd>llamafactory-cli|lmf-chatts|torchrun|deepspeed|accelerate)['\"]?: (?:command )?not found|command "
        r"not found: (?P<zsh>[\w-]+)|'(?P<cmdexe>[\w-]+)' (?:is not recognized as|不是内部或外部命令)",
        "the command {cmd|zsh|cmdexe} was not found",
        "Activate the environment in which it is installed (source VENV/bin/activate), or install it there",
        lines=("command not found", ": not found", "is not recognized as")),
    Row(r"unsloth",
        "use_unsloth is set; unsloth replaces the model's classes and cannot train ChatTS",
        "Remove use_unsloth; enable_liger_kernel: true and use_unsloth_gc: true save memory without it",
        frame=r"llamafactory|unsloth|version|metadata|^$", general=True),
    Row(r"ResolutionImpossible|Cannot install [^\n]+ because these package versions have conflicting dependencies|No "
        r"matching distribution found for (?P<name>\S+)|Could not find a version that satisfies the requirement "
        r"(?P<want>\S+)",
        "pip found no versions that go together (or none for this Python and platform)",
        "Start from an empty environment with Python 3.11: `pip install -r requirements.lock`, then `pip install "
        "--no-deps .`", lines=("ResolutionImpossible", "No matching distribution found for")),
    Row(r"Distributed package doesn't have NCCL|use_libuv was requested but PyTorch was built without",
        "several processes on Windows: its PyTorch has no NCCL (and no libuv)",
        "Train in WSL2 or on Linux; or one process: CUDA_VISIBLE_DEVICES=0; for libuv set USE_LIBUV=0"),
    Row(r"(?:ModuleNotFoundError|ImportError): No module named '(?P<name>[\w.]+)'",
        _missing_module, general=True),
    Row(r"cannot import name '(?P<name>\w+)' from (?:partially initialized module )?'(?P<where>[\w.]+)'",
        _missing_name, general=True),
    Row(r"ImportError: (?:Using |Loading |\w+ )?[`'\"]?(?P<what>[\w -]+?)[`'\"]? (?:requires|needs) (?:the "
        r")?[`'\"]?(?P<name>[a-z][\w-]+)[`'\"]?(?: library| package)?|Please install it (?:with|via|using) [`'\"]?pip "
        r"install (?:-U )?(?P<pip>[\w-]+)",
        "the package {name|pip} is missing or too old[: {what} needs it]",
        "{pip {name|pip}}", likely=True, general=True),
    Row(r"(?:serious )?vulnerability issue in `?torch\.load|require users to upgrade torch to at least v?2\.6",
        "this torch is too old (before 2.6): transformers loads no .bin or .pt file with it",
        "{pip torch torchvision torchaudio}; or convert the weights to safetensors"),
    Row(r"Weights only load failed|WeightsUnpickler error|Unsupported (?:global|class|operand)",
        "torch.load refuses a checkpoint's file with weights_only: it holds more than tensors, as files of an older "
        "torch, numpy or DeepSpeed do",
        "Read it with the versions that wrote it, or with the supported ones: {pip torch torchvision torchaudio}. "
        "rng_state*.pth of a checkpoint may be deleted; files whose origin you trust may be loaded with "
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"),
    Row(r"PyTorch >= (?P<need>[\d.]+) is required but found|requires the PyTorch library but it was not found|PyTorch "
        r"was not found|Disabling PyTorch because|Unable to import required dependencies:[^\n]*torch",
        "transformers does without torch here: it is not installed, or older than transformers allows",
        "{pip torch torchvision torchaudio}; `lmf-chatts doctor` checks the environment",
        lines=("Disabling PyTorch because", "PyTorch was not found"), benign=True,
        explains=r"torch|NameError: name|requires the PyTorch|Could not import module|Failed to import"),
    Row(r"module 'torch(?:\.[\w.]+)?' has no attribute '(?P<name>\w+)'|cannot import name '(?P<other>\w+)' from "
        r"'(?P<where>torch(?:\.[\w.]+)?)'|No module named '(?P<module>torch\.[\w.]+)'|infer_schema\(func\)|"
        r"'torch\._C\.\w+' object has no attribute '(?P<c>\w+)'",
        "torch and the package that calls it do not fit: this torch has no {name|other|module|c|such function}, it is "
        "too old (or too new)",
        "{pip torch torchvision torchaudio}; `lmf-chatts doctor` shows what is installed"),
    Row(r"A module that was compiled using NumPy 1\.x|_ARRAY_API not found|numpy\.dtype size changed|Numpy is not "
        r"available|numpy\.core\.multiarray failed to import|`np\.\w+` was removed in the NumPy 2|module 'numpy' has "
        r"no attribute|No module named 'numpy\._core|numpy\.ufunc size changed",
        "numpy is of another major version than the one that a package was built for",
        "{pip --upgrade torch pandas pyarrow}; update the package that the message names, too"),
    Row(r"Descriptors cannot (?:not )?be created directly|'MessageFactory' object has no attribute|cannot import name "
        r"'builder' from 'google\.protobuf",
        "protobuf is of another version than the code made with it (tensorboard, sentencepiece)",
        "{pip --upgrade tensorboard}; or set PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python"),
    Row(r"TypeError: (?P<call>[A-Z]\w*(?:\.[\w<>]+)*|[\w.<>]+\.[\w<>]+)\(\) got (?:an unexpected keyword argument|"
        r"multiple values for argument) '(?P<name>\w+)'|(?P<other>[A-Z]\w+) got unexpected keyword argument "
        r"'?(?P<more>\w+)",
        _unexpected),
    Row(r"TypeError: (?P<call>\w+)\(\) got (?:an unexpected keyword argument|multiple values for argument) "
        r"'(?P<name>\w+)'(?P<other>)(?P<more>)",
        _unexpected, frame=r"(?:site|dist)-packages|llamafactory|^$"),
    Row(r"TypeError: (?P<call>[\w.<>]+?)\(\) (?:missing \d+ required (?:positional|keyword-only) arguments?: "
        r"(?P<names>[^\n]+)|takes (?P<takes>[^\n]*positional arguments? but \d+ (?:was|were) given))",
        "versions do not fit: {call}() [also wants {names}][takes {takes}]",
        "Install versions that belong together: {stack}; `lmf-chatts doctor` shows what is installed", likely=True,
        frame=r"(?:site|dist)-packages|llamafactory|^$", general=True),
    Row(r"'(?P<owner>(?:Seq2Seq|SFT|DPO|KTO|PPO|Reward)?Trainer|TrainingArguments|DynamicCache|Accelerator)' object "
        r"has no attribute '(?P<name>\w+)'",
        "versions do not fit: {owner} has no {name}",
        "Install versions that belong together: {stack}; if the line is in your own code, correct it there: "
        "Trainer.tokenizer is processing_class today", likely=True, general=True),
    Row(r"AttributeError: (?:type object )?'(?P<owner>\w*(?:Trainer|Config|Cache|Arguments|Args|Tokenizer\w*|"
        r"Processor|Model|CausalLM|State|Optimizer|Scheduler|Layer|Attention))' object has no attribute "
        r"'(?P<name>\w+)'|module '(?P<module>(?:transformers|trl|peft|accelerate|datasets|deepspeed|llamafactory|"
        r"liger_kernel)[\w.]*)' has no attribute '(?P<what>\w+)'",
        "versions do not fit: {owner|module} has no {name|what}",
        "Install versions that belong together: {stack}; `lmf-chatts doctor` shows what is installed", likely=True,
        frame=r"(?:site|dist)-packages|llamafactory|^$", general=True),
    Row(r"Loading a dataset cached in a LocalFileSystem is not supported|'\*\*' can only be an entire path component|"
        r"Feature type '\w+' not found|must be called with a dataclass type or instance",
        "datasets (or fsspec) is of another version than the one that wrote the cache or is called",
        "{pip datasets}; then delete the dataset's cache (HF_DATASETS_CACHE, ~/.cache/huggingface/datasets) and "
        "tokenized_path"),
    Row(r"cannot import name '(?P<name>\w+)' from (?:partially initialized module )?'(?P<where>(?:transformers|trl|"
        r"peft|accelerate|datasets|huggingface_hub|tokenizers|llamafactory)[\w.]*)'",
        "versions do not fit: {where} has no {name}",
        "Install versions that belong together: {stack}; `lmf-chatts doctor` shows what is installed"),
)
# fmt: on
