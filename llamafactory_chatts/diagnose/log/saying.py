"""What the table says of a failure where a sentence is not enough: functions of the match, by name."""

import re
from collections.abc import Callable

from ...core.installs import STACK, install, is_ours
from .gpu_memory import out_of_memory


Match = re.Match[str]

# fmt: off
_SERVICES = {
    "wandb": ("Weights & Biases",
              "`wandb login` or WANDB_API_KEY; without an account WANDB_MODE=offline, or report_to: none"),
    "swanlab": ("SwanLab",
                "`swanlab login`, SWANLAB_API_KEY, or swanlab_api_key in the recipe; without an account swanlab_mode: "
                "local, or use_swanlab: false"),
    "comet": ("Comet", "`comet login` or COMET_API_KEY; or report_to: none"),
    "neptune": ("Neptune", "NEPTUNE_API_TOKEN; or report_to: none"),
    "mlflow": ("MLflow", "MLFLOW_TRACKING_URI and its user and password; or report_to: none"),
    "": ("the service in report_to", "Log in to it, or report_to: none"),
}
"""How a login is given to the services that record a run."""

_MODULES = {
    "bs4": "beautifulsoup4", "cv2": "opencv-python", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml",
    "rouge_chinese": "rouge-chinese", "flash_attn": "flash-attn", "liger_kernel": "liger-kernel",
    "pkg_resources": "setuptools", "distutils": "setuptools", "google.protobuf": "protobuf",
    "sentencepiece": "sentencepiece",
}
"""Modules whose package has another name."""

_RENAMED = {
    "evaluation_strategy": "eval_strategy", "tokenizer": "processing_class", "torch_dtype": "dtype",
    "no_cuda": "use_cpu", "per_gpu_train_batch_size": "per_device_train_batch_size",
}
"""Arguments of transformers by their former names."""
# fmt: on

_VOCABULARY = re.compile(r"embed_tokens|lm_head|wte|word_embeddings|embed_out|shared\.weight|output_layer")


def _not_compiled(match: Match) -> str:
    missing = re.search(r"(\S+): (?:command )?not found", match.string)
    end = f": {missing[1]} is not there" if missing else ""
    return f"DeepSpeed could not compile its operation {match['name'] or match['op']}{end}"


def _timeout(match: Match) -> str:
    took = int(match["ms"] or match["limit"] or 0)
    after = f" after {took / 60000:.0f} min" if took >= 60000 else ""
    return f"one process waited in vain for the others in {match['op'] or 'a collective operation'}{after}"


def _service(match: Match) -> tuple[str, str]:
    return next(_SERVICES[name] for name in _SERVICES if name in match.string.lower())


def _no_key(match: Match) -> tuple[str, str]:
    name, fix = _service(match)
    return f"{name} is asked to record the run, and there is no valid key (login) for it", fix


def _no_service(match: Match) -> tuple[str, str]:
    name, fix = _service(match)
    end = f"Check network and proxy, or record on this machine only: {fix}"
    return f"{name} could not be reached from this machine", end


def _waited(match: Match) -> str:
    return f"one process waited {int(match['ms'] or match['other']) / 1000:.0f} s in vain for another one"


def _memory(match: Match) -> str:
    return f"host memory ran out: {int(match['size'] or match['more']) / 2**30:.1f} GiB more could not be had"


def _job(match: Match) -> str:
    return f"the scheduler ended the job{': ' + match['why'].lower() if match['why'] else ''}"


def _old_driver(match: Match) -> str:
    version = int(match["found"] or 0)
    knows = f": it knows CUDA {version // 1000}.{version % 1000 // 10} only" if version else ""
    return f"the NVIDIA driver is too old for this PyTorch build{knows}"


def _mismatch(match: Match) -> tuple[str, str]:
    """Say what two different shapes of a weight come from, and what to change."""
    has, wants = (list(map(int, re.findall(r"\d+", match[key]))) for key in ("has", "wants"))
    name, shapes = match["name"] or "", f"{match['has']} there and {match['wants']} here"
    weight = name or "a weight"
    if has == [0]:
        return (
            f"the checkpoint holds empty weights ({shapes}): it was saved under ZeRO-3 without gathering them",
            "Make whole weights of it: `python zero_to_fp32.py . OUT` in its folder; for the next run "
            "stage3_gather_16bit_weights_on_model_save: true in the DeepSpeed file",
        )

    if wants == [0]:
        return (
            f"under ZeRO-3 this process holds no part of {weight} ({shapes}): weights were loaded without gathering "
            "them",
            "Load the checkpoint in one process without DeepSpeed (merge it with `llamafactory-cli export` first), or "
            "use ZeRO-2; weights resized or added before loading do the same: no resize_vocab with ZeRO-3",
        )

    if has and wants and has[1:] == wants[1:] and (_VOCABULARY.search(name) or min(has[0], wants[0]) > 20000):
        return (
            f"the vocabularies differ: {weight} has {has[0]} rows in the checkpoint and {wants[0]} in the model",
            "Give the tokenizer and the base that the checkpoint was trained with: tokens were added to one of the "
            "two (resize_vocab, add_tokens, new_special_tokens, the template); set the same keys as in that training",
        )

    fix = "Give the base that the adapter was trained on (base_model_name_or_path in its adapter_config.json) and the "
    fix += "same lora_rank"
    at = 0 if "lora_A" in name else 1  # where the rank stands in the shape
    if "lora_" in name and len(has) == len(wants) == 2 and has[1 - at] == wants[1 - at]:
        return f"the adapter has another lora_rank: {has[at]} there and {wants[at]} here ({name})", fix

    if any(
        len(a) == len(b) == 2 and a[1] == 1 and a[0] * 2 == b[0] * b[1] for a, b in ((has, wants), (wants, has))
    ):  # packed 4-bit weights on one side
        return (
            f"quantised and plain weights were mixed: {weight} is {shapes}",
            "Load the same kind on both sides: remove quantization_bit, or merge and save without it",
        )

    return f"adapter or checkpoint belong to another base: {weight} is {shapes}", fix


def _refused(match: Match) -> tuple[str, str]:
    """Install the host as well when one of its stack is refused: a host that wants another range is out of range."""
    host = ["llamafactory"] if match["name"].lower() in STACK else []
    return (
        f"LLaMA-Factory or transformers needs {match['need']}, installed is {match['found']}",
        f"{install(*host, match['need'])}; `lmf-chatts doctor` checks the whole environment and shows the command",
    )


def _missing_module(match: Match) -> tuple[str, str]:
    name, top = match["name"], match["name"].split(".")[0]
    package = _MODULES.get(name) or _MODULES.get(top) or top
    known = is_ours(package) or package in _MODULES.values()
    command = f"`{install(package)}`" if known else f"the package that holds {name}"
    return (
        f"the Python module {name} is not installed in this environment",
        f"Activate the environment in which everything is installed (`which python`), or install it: {command}",
    )


def _missing_name(match: Match) -> tuple[str, str]:
    top = match["where"].split(".")[0]
    command = install(top) if is_ours(top) else install(*STACK)
    return (
        f"versions do not fit: {match['where']} has no {match['name']}",
        f"One of the two packages is too old or too new: `{command}`; `lmf-chatts doctor` checks the whole "
        "environment and shows the command",
    )


def _unexpected(match: Match) -> tuple[str, str]:
    call, name = match["call"] or match["other"], match["name"] or match["more"]
    new = _RENAMED.get(name)
    today = f" (its name today is {new})" if new else ""
    head = f"Write {new} if the name stands in your own code or recipe; otherwise install" if new else "Install"
    return (
        f"versions do not fit: {call}() does not know the argument {name}{today}",
        f"{head} versions that belong together: {install('llamafactory', *STACK)}; `lmf-chatts doctor` shows what is "
        f"installed; if {call} is your own code, let it take **kwargs or the new argument",
    )


SAYING: dict[str, Callable[[Match], str | tuple[str, str]]] = {
    function.__name__.strip("_"): function
    for function in (
        out_of_memory, _not_compiled, _timeout, _waited, _no_key, _no_service, _memory, _job, _old_driver, _mismatch,
        _refused, _missing_module, _missing_name, _unexpected,
    )
}  # fmt: skip
"""By the name that stands in the table: what is wrong, or that and what to change."""
