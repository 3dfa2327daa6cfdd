"""CUDA out of memory: what was asked for, who holds the memory, and what to change first."""

import re


_UNITS = {"B": 2**-20, "bytes": 2**-20, "KiB": 2**-10, "MiB": 1.0, "GiB": 2.0**10, "TiB": 2.0**20}
_SIZE = rf"([\d.]+ (?:{'|'.join(_UNITS)}))"
_SIZES = {
    "asked": rf"Tried to allocate {_SIZE}",
    "total": rf"total capacit?y of {_SIZE}|; {_SIZE} total capacity",
    "free": rf"of which {_SIZE} is free|; {_SIZE} free",
    "own": rf"this process has {_SIZE} memory in use|; {_SIZE} already allocated",
    "allowed": rf"{_SIZE} allowed;",
    "spare": rf"{_SIZE} is reserved by PyTorch but unallocated",
}
"""The sizes in PyTorch's message, in all wordings it has used."""

_OTHER = re.compile(rf"Process (\d+) has {_SIZE} memory in use")
_EFFECT = re.compile(r"`(\w+: [^`]+)` about (-[\d.]+ GiB)")  # what our own error says below PyTorch's
_PASS = re.compile(r" in a pass of [\d,]+ rows? and [\d,]+ tokens")
_SMALLER = (
    "Halve per_device_train_batch_size and double gradient_accumulation_steps (the global batch stays), then lower "
    "cutoff_len, then quantization_bit: 4; `lmf-chatts plan RECIPE.yaml --fix OUT.yaml` works it out"
)


def out_of_memory(match: re.Match[str]) -> tuple[str, str]:
    """Say what was asked for and what there was; name first what is not this training's fault, then settings."""
    text = match.string
    found = ((name, re.search(pattern, text)) for name, pattern in _SIZES.items())
    sizes = {name: next(filter(None, size.groups())) for name, size in found if size}
    others = dict(_OTHER.findall(text))
    cut = bool(others) and "own" not in sizes  # the message ends before all of them were listed
    gpu, where = re.search(r"GPU (\d+)", text), _PASS.search(text)
    what = (f"GPU {gpu[1]}" if gpu else "the GPU") + " is out of memory" + (where[0] if where else "")
    what += ", {asked} were asked for".format_map(sizes) if "asked" in sizes else ""
    what += ", {free} of {total} were free".format_map(sizes) if {"free", "total"} <= sizes.keys() else ""
    what += ", this process held {own}".format_map(sizes) if "own" in sizes else ""
    what += ", a limit allows PyTorch {allowed}".format_map(sizes) if "allowed" in sizes else ""
    what += f", other processes held {'at least ' * cut}{' and '.join(others.values())}" if others else ""
    return what, _fix(text, sizes, others, cut)


def _fix(text: str, sizes: dict[str, str], others: dict[str, str], cut: bool) -> str:
    effects = ", ".join(f"{setting} ({saved})" for setting, saved in dict(_EFFECT.findall(text)).items())
    # below 0: something else than the card's free memory refused it
    missing = _mib(sizes["asked"]) - _mib(sizes["free"]) if {"asked", "free"} <= sizes.keys() else None
    first, also = [], []
    if others and (cut or missing is None or 0 < missing <= sum(map(_mib, others.values()))):
        several = len(others) > 1 or cut
        who = f"Other processes ({', '.join(others)}) hold" if several else f"Process {', '.join(others)} holds"
        first.append(
            f"{who} memory of this GPU: see `nvidia-smi` (from inside a container: on its host); end "
            f"{'them' if several else 'it'} or choose another GPU (GPUS=, CUDA_VISIBLE_DEVICES)"
        )

    if {"asked", "spare"} <= sizes.keys() and _mib(sizes["spare"]) > _mib(sizes["asked"]):
        if effects:
            also.append("Memory is fragmented as well: add expandable_segments:True to PYTORCH_CUDA_ALLOC_CONF")
        else:
            first.append("Memory is fragmented: export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True")

    if "allowed" in sizes and (missing is None or missing < 0):
        also.append("The card has room: a higher per_process_memory_fraction (in PYTORCH_CUDA_ALLOC_CONF), or none")

    settings = f"By estimate these settings free the most: {effects}" if effects else _SMALLER
    return ". ".join([". Otherwise: ".join([*first, settings]), *also])


def _mib(size: str) -> float:
    number, unit = size.split()
    return float(number) * _UNITS[unit]
