"""Packages that are newer or older than what calls them."""

import re

from ....core.installs import STACK, install
from ..cause import rule


_STACK = install("llamafactory", *STACK)
_TORCH = install("torch", "torchvision", "torchaudio")
_RENAMED = {
    "evaluation_strategy": "eval_strategy", "tokenizer": "processing_class", "torch_dtype": "dtype",
    "no_cuda": "use_cpu", "per_gpu_train_batch_size": "per_device_train_batch_size",
}  # fmt: skip
"""Arguments of transformers by their former names."""


def _unexpected(match: re.Match[str]) -> str:
    name = match["name"] or match["more"]
    new = f" (its name today is {_RENAMED[name]})" if name in _RENAMED else ""
    return f"versions do not fit: {match['call'] or match['other']}() does not know the argument {name}{new}"


def _unexpected_fix(match: re.Match[str]) -> str:
    name = match["name"] or match["more"]
    new = (
        f"Write {_RENAMED[name]} if the name stands in your own code or recipe; otherwise install"
        if name in _RENAMED
        else "Install"
    )
    own = f"; if {match['call'] or match['other']} is your own code, let it take **kwargs or the new argument"
    return f"{new} versions that belong together: {_STACK}; `lmf-chatts doctor` shows what is installed{own}"


CAUSES = (
    rule(
        r"(?:serious )?vulnerability issue in `?torch\.load|require users to upgrade torch to at least v?2\.6",
        "this torch is too old (before 2.6): transformers loads no .bin or .pt file with it",
        f"{_TORCH}; or convert the weights to safetensors",
    ),
    rule(
        r"Weights only load failed|WeightsUnpickler error|Unsupported (?:global|class|operand)[^\n]*",
        "torch.load refuses a checkpoint's file with weights_only: it holds more than tensors, as files of an older "
        "torch, numpy or DeepSpeed do",
        f"Read it with the versions that wrote it, or with the supported ones: {_TORCH}. rng_state*.pth of a "
        "checkpoint may be deleted; files whose origin you trust may be loaded with "
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1",
        frame=r"",
    ),
    rule(
        r"PyTorch >= (?P<need>[\d.]+) is required but found|requires the PyTorch library but it was not found|"
        r"PyTorch was not found|Disabling PyTorch because|Unable to import required dependencies:[^\n]*torch",
        "transformers does without torch here: it is not installed, or older than transformers allows",
        f"{_TORCH}; `lmf-chatts doctor` checks the environment",
        needles=("Disabling PyTorch because", "PyTorch was not found"),
        benign=True,
        explains=r"torch|NameError: name|requires the PyTorch|Could not import module|Failed to import",
    ),
    rule(
        r"module 'torch(?:\.[\w.]+)?' has no attribute '(?P<name>\w+)'|cannot import name '(?P<other>\w+)' from "
        r"'(?P<where>torch(?:\.[\w.]+)?)'|No module named '(?P<module>torch\.[\w.]+)'|infer_schema\(func\)|"
        r"'torch\._C\.\w+' object has no attribute '(?P<c>\w+)'",
        lambda m: (
            f"torch and the package that calls it do not fit: this torch has no "
            f"{m['name'] or m['other'] or m['module'] or m['c'] or 'such function'}, it is too old (or too new)"
        ),
        f"{_TORCH}; `lmf-chatts doctor` shows what is installed",
    ),
    rule(
        r"A module that was compiled using NumPy 1\.x|_ARRAY_API not found|numpy\.dtype size changed|Numpy is not "
        r"available|numpy\.core\.multiarray failed to import|`np\.\w+` was removed in the NumPy 2|module 'numpy' has "
        r"no attribute|No module named 'numpy\._core|numpy\.ufunc size changed",
        "numpy is of another major version than the one that a package was built for",
        f"{install('torch', 'pandas', 'pyarrow', options='--upgrade')}; update the package that the "
        "message names, too",
    ),
    rule(
        r"Descriptors cannot (?:not )?be created directly|'MessageFactory' object has no attribute|cannot import "
        r"name 'builder' from 'google\.protobuf",
        "protobuf is of another version than the code made with it (tensorboard, sentencepiece)",
        f"{install('tensorboard', options='--upgrade')}; or set PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python",
    ),
    rule(
        r"TypeError: (?P<call>[A-Z]\w*(?:\.[\w<>]+)*|[\w.<>]+\.[\w<>]+)\(\) got (?:an unexpected keyword argument|"
        r"multiple values for argument) '(?P<name>\w+)'|(?P<other>[A-Z]\w+) got unexpected keyword argument "
        r"'?(?P<more>\w+)",
        _unexpected,
        _unexpected_fix,
    ),
    rule(
        r"TypeError: (?P<call>\w+)\(\) got (?:an unexpected keyword argument|multiple values for argument) "
        r"'(?P<name>\w+)'(?P<other>)(?P<more>)",
        _unexpected,
        _unexpected_fix,
        frame=r"(?:site|dist)-packages|llamafactory|^$",
    ),
    rule(
        r"TypeError: (?P<call>[\w.<>]+?)\(\) (?:missing \d+ required (?:positional|keyword-only) arguments?: "
        r"(?P<names>[^\n]+)|takes (?P<takes>[^\n]*positional arguments? but \d+ (?:was|were) given))",
        lambda m: (
            f"versions do not fit: {m['call']}() "
            + (f"also wants {m['names']}" if m["names"] else f"takes {m['takes']}")
        ),
        f"Install versions that belong together: {_STACK}; `lmf-chatts doctor` shows what is installed",
        "likely",
        frame=r"(?:site|dist)-packages|llamafactory|^$",
        general=True,
    ),
    rule(
        r"'(?P<owner>(?:Seq2Seq|SFT|DPO|KTO|PPO|Reward)?Trainer|TrainingArguments|DynamicCache|Accelerator)' object "
        r"has no attribute '(?P<name>\w+)'",
        "versions do not fit: {owner} has no {name}",
        f"Install versions that belong together: {_STACK}; if the line is in your own code, correct it there: "
        "Trainer.tokenizer is processing_class today",
        "likely",
        general=True,
    ),
    rule(
        r"AttributeError: (?:type object )?'(?P<owner>\w*(?:Trainer|Config|Cache|Arguments|Args|Tokenizer\w*|"
        r"Processor|Model|CausalLM|State|Optimizer|Scheduler|Layer|Attention))' object has no attribute "
        r"'(?P<name>\w+)'|module '(?P<module>(?:transformers|trl|peft|accelerate|datasets|deepspeed|llamafactory|"
        r"liger_kernel)[\w.]*)' has no attribute '(?P<what>\w+)'",
        lambda m: f"versions do not fit: {m['owner'] or m['module']} has no {m['name'] or m['what']}",
        f"Install versions that belong together: {_STACK}; `lmf-chatts doctor` shows what is installed",
        "likely",
        frame=r"(?:site|dist)-packages|llamafactory|^$",
        general=True,
    ),
    rule(
        r"Loading a dataset cached in a LocalFileSystem is not supported|'\*\*' can only be an entire path component|"
        r"Feature type '\w+' not found|must be called with a dataclass type or instance",
        "datasets (or fsspec) is of another version than the one that wrote the cache or is called",
        f"{install('datasets')}; then delete the dataset's cache (HF_DATASETS_CACHE, ~/.cache/huggingface/datasets) "
        "and tokenized_path",
    ),
    rule(
        r"cannot import name '(?P<name>\w+)' from (?:partially initialized module )?'(?P<where>(?:transformers|trl|"
        r"peft|accelerate|datasets|huggingface_hub|tokenizers|llamafactory)[\w.]*)'",
        "versions do not fit: {where} has no {name}",
        f"Install versions that belong together: {_STACK}; `lmf-chatts doctor` shows what is installed",
    ),
)
