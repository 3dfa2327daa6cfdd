"""CUDA out of memory: what was asked for, who holds the memory, and what to change first."""

import re

from ..row import Row


_SIZE = r"[\d.]+ (?:[KMGT]iB|B|bytes)"
_UNITS = {"B": 2**-20, "bytes": 2**-20, "KiB": 2**-10, "MiB": 1.0, "GiB": 2.0**10, "TiB": 2.0**20}
_OTHER = re.compile(rf"Process (\d+) has ({_SIZE}) memory in use")
_EFFECT = re.compile(r"`(\w+: [^`]+)` about (-[\d.]+ GiB)")
_PASS = re.compile(r" in a pass of [\d,]+ rows? and [\d,]+ tokens")
_SMALLER = (
    "Halve per_device_train_batch_size and double gradient_accumulation_steps (the global batch stays), then lower "
    "cutoff_len, then quantization_bit: 4; `lmf-chatts plan RECIPE.yaml --fix OUT.yaml` works it out"
)


class _Message:
    """The sizes in PyTorch's message, in all wordings it has used, and what our own error says below it.

    Attributes:
        asked, free, total, own, allowed, spare: sizes as they are written, None where the message has none.
        others: size by process number. cut: the message ends before all of them were listed.
        effects: settings and what each would free, as our own error names them.
    """

    def __init__(self, text: str) -> None:
        def size(*patterns: str) -> str | None:
            return next((found[1] for pattern in patterns if (found := re.search(pattern, text))), None)

        self.text = text
        self.asked = size(rf"Tried to allocate ({_SIZE})")
        self.total = size(rf"total capacit?y of ({_SIZE})", rf"; ({_SIZE}) total capacity")
        self.free = size(rf"of which ({_SIZE}) is free", rf"; ({_SIZE}) free")
        self.own = size(rf"this process has ({_SIZE}) memory in use", rf"; ({_SIZE}) already allocated")
        self.allowed = size(rf"({_SIZE}) allowed;")
        self.spare = size(rf"({_SIZE}) is reserved by PyTorch but unallocated")
        self.others = dict(_OTHER.findall(text))
        self.cut = bool(self.others) and self.own is None
        self.effects = dict(_EFFECT.findall(text))

    @property
    def missing(self) -> float | None:
        """MiB by which the free memory of the card was too small; below 0: something else refused it."""
        return _mib(self.asked) - _mib(self.free) if self.asked and self.free else None

    @property
    def others_took_it(self) -> bool:
        """Whether there would have been room without the other processes."""
        if not self.others or self.missing is None or self.cut:
            return bool(self.others)

        return 0 < self.missing <= sum(map(_mib, self.others.values()))

    @property
    def limited(self) -> bool:
        """Whether a limit refused what the card had."""
        return self.allowed is not None and (self.missing is None or self.missing < 0)

    @property
    def fragmented(self) -> bool:
        return bool(self.spare and self.asked) and _mib(self.spare) > _mib(self.asked)


def _mib(size: str) -> float:
    number, unit = size.split()
    return float(number) * _UNITS[unit]


def _out_of_memory(match: re.Match[str]) -> tuple[str, str]:
    found = _Message(match.string)
    return _what(found), _fix(found)


def _what(found: _Message) -> str:
    """Say what was asked for and what there was."""
    gpu, where = re.search(r"GPU (\d+)", found.text), _PASS.search(found.text)
    parts = [(f"GPU {gpu[1]}" if gpu else "the GPU") + " is out of memory" + (where[0] if where else "")]
    parts += [f"{found.asked} were asked for"] if found.asked else []
    parts += [f"{found.free} of {found.total} were free"] if found.free and found.total else []
    parts += [f"this process held {found.own}"] if found.own else []
    parts += [f"a limit allows PyTorch {found.allowed}"] if found.allowed else []
    least = "at least " if found.cut else ""
    parts += [f"other processes held {least}{' and '.join(found.others.values())}"] if found.others else []
    return ", ".join(parts)


def _fix(found: _Message) -> str:
    """Name what helps: first what is not this training's fault, then settings, then the rest."""
    effects = ", ".join(f"{setting} ({saved})" for setting, saved in found.effects.items())
    first, also = [_end_others(found)] if found.others_took_it else [], []
    if found.fragmented and effects:
        also.append("Memory is fragmented as well: add expandable_segments:True to PYTORCH_CUDA_ALLOC_CONF")
    elif found.fragmented:
        first.append("Memory is fragmented: export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True")

    if found.limited:
        also.append("The card has room: a higher per_process_memory_fraction (in PYTORCH_CUDA_ALLOC_CONF), or none")

    settings = f"By estimate these settings free the most: {effects}" if effects else _SMALLER
    return ". ".join([". Otherwise: ".join([*first, settings]), *also])


def _end_others(found: _Message) -> str:
    """Say which processes to end."""
    several = len(found.others) > 1 or found.cut
    numbers = ", ".join(found.others)
    who = f"Other processes ({numbers}) hold" if several else f"Process {numbers} holds"
    look = "see `nvidia-smi` (from inside a container: on its host)"
    end = f"end {'them' if several else 'it'} or choose another GPU (GPUS=, CUDA_VISIBLE_DEVICES)"
    return f"{who} memory of this GPU: {look}; {end}"


# fmt: off
OUT_OF_MEMORY = Row(
    r"(?:CUDA|HIP|NPU|XPU|MPS backend) out of memory\. ?Tried to allocate|(?<!ray\.exceptions\.)OutOfMemoryError: |"
    r"CUDA error: out of memory|cuda runtime error \(2\)|CUDA_ERROR_OUT_OF_MEMORY|cudaMalloc[^\n]*out of memory|"
    r"cudaErrorMemoryAllocation|No executable batch size found",
    _out_of_memory, lines=("CUDA out of memory", "CUDA error: out of memory"))
# fmt: on
