"""What a log says about the course of a run: exit codes, torchrun's and DeepSpeed's summaries, phases, NaN."""

import re
from dataclasses import dataclass, field

from .lines import Line


PREPARING = "while the dataset was being prepared"
_PHASES = {
    "Loading dataset ": PREPARING,
    "Converting format of dataset": PREPARING,
    "Running tokenizer on dataset": PREPARING,
    "Generating train split": PREPARING,
    "training example:": "before the weights were loaded",
    "loading weights file": "while the weights were being loaded",
    "Loading checkpoint shards": "while the weights were being loaded",
    "trainable params:": "after the weights were loaded, before the first step",
    "***** Running training *****": "during training",
    "Saving model checkpoint to": "while or after a checkpoint was saved",
    "***** Running Evaluation *****": "during evaluation",
    "***** train metrics *****": "after the training had ended and was saved",
}
# fmt: off
_SIGNALS = {
    "Hangup": 1, "Quit": 3, "Illegal instruction": 4, "Aborted": 6, "Bus error": 7, "Killed": 9,
    "Segmentation fault": 11, "Terminated": 15, "SIGHUP": 1, "SIGINT": 2, "SIGQUIT": 3, "SIGABRT": 6, "SIGBUS": 7,
    "SIGKILL": 9, "SIGSEGV": 11, "SIGTERM": 15,
}
# fmt: on
"""Signals as shells, Python's fault handler and torchrun name them."""

_EXIT = re.compile(r"^exit code (-?\d+)\b")
_ROOT = "Root Cause (first observed failure)"
_SUMMARY = re.compile(r"^\s+(rank|exitcode|traceback|host)\s+: (.*)$")
_CODE = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: \d+|exits with return code = (-?\d+)")
_DIED = re.compile(r"died with <Signals\.\w+: (\d+)>")
_DEATH = re.compile(r"Received (?:Signals\.)?(\w+) death signal|Process \d+ got signal: (\d+)")
_SHELL = re.compile(
    r"^(?:\S+: line \d+:\s+)?(?:\d+\s+)?(Killed|Hangup|Terminated|Segmentation fault|Bus error|Aborted|Quit)"
    r"(?:\s+\(core dumped\))?(?:\s{2,}.*)?$"
)
_FATAL = re.compile(r"^Fatal Python error: (Segmentation fault|Aborted|Bus error|Illegal instruction)")
_OOM = re.compile(
    r"oom-kill:|invoked oom-killer|Out of memory: Kill|Memory cgroup out of memory|Detected \d+ oom[-_]kill event|"
    r"OOMKilled|cgroup out-of-memory handler|oom_kill [1-9]|A process of this unit has been killed by the OOM killer"
)
_INTERESTING = re.compile(r"exit|ignal|oom[-_ ]|OOM|memory|died with|Fatal Python")
_NAN = re.compile(r"\b(?P<name>loss|grad_norm)['\"]?\s*[:=]?\s*['\"]?-?(?:nan|inf(?:inity)?)\b", re.IGNORECASE)
_METRICS = re.compile(r"\bloss\b['\"]?\s*[:=]?\s*['\"]?-?[\d.n]")
_VERSION = re.compile(
    r"\b(?P<name>torch|pytorch|transformers|llama-?factory|llamafactory-chatts|peft|trl|datasets|accelerate|deepspeed|"
    r"bitsandbytes|triton|tokenizers|flash[-_]attn|vllm|numpy|pyarrow|safetensors|liger-kernel|CUDA|Python)"
    r"(?:[- ]version)?[\"'`]?(?:\s*[:=@]{1,2}\s*|\s+(?:version\s*:?\s*)?|-)v?[\"'`]?(?P<version>\d+\.\d+[\w.+]*)",
    re.IGNORECASE,
)


@dataclass
class Facts:
    """What was found; every item is (line, value).

    Attributes:
        code: the launcher's last ``exit code N``. root: torchrun's first failure: its rank and exit code as lines say
            them. codes: exit codes of single processes, from agents and launchers. agent: signal that torchrun's agent
            itself was sent. shell: signal that a shell or Python names. oom: line that shows the out-of-memory killer.
        nan_loss: first line whose loss is NaN or infinite. nan_grads: first line of the row of such gradient norms
            that reaches to the end, and how many there are. half: computed in fp16.
        stepped: line number of the last loss. versions: of libraries, by their names in lower case, as the log's first
            line about each says.
        phase: what the run was doing last. started, finished: training began; ended and was saved (line numbers).
    """

    code: tuple[Line, int] | None = None
    root: dict[str, tuple[Line, str]] = field(default_factory=dict)
    codes: list[tuple[Line, int]] = field(default_factory=list)
    agent: tuple[Line, int] | None = None
    shell: tuple[Line, int] | None = None
    oom: Line | None = None
    nan_loss: Line | None = None
    nan_grads: tuple[Line, int] | None = None
    half: bool = False
    stepped: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    phase: str = ""
    started: int = 0
    finished: int = 0
    _in_root: bool = False

    @property
    def during(self) -> str:
        """`` during training`` and the like, to stand behind what happened."""
        return f" {self.phase}" if self.phase else ""

    @property
    def first_rank(self) -> str | None:
        """The rank that torchrun saw fail first."""
        return self.root["rank"][1].split()[0] if "rank" in self.root else None

    def add(self, line: Line) -> None:
        """Take a line."""
        text = line.text
        if (words := next((words for words in _PHASES if words in text), None)) is not None:
            self.phase = _PHASES[words]
            if words == "***** Running training *****":
                self.started, self.finished = line.number, 0
            elif words == "***** train metrics *****":
                self.finished = line.number

        if "loss" in text or "grad_norm" in text:
            self._metrics(line)

        if "compute dtype: torch.float16" in text:
            self.half = True

        if len(text) < 300 and "." in text:
            for found in _VERSION.finditer(text):
                name = found["name"].lower().replace("pytorch", "torch").replace("_", "-").replace("llama-f", "llamaf")
                self.versions.setdefault(name, found["version"].rstrip("."))

        if self._in_root:
            if found := _SUMMARY.match(text):
                self.root.setdefault(found[1], (line, found[2]))
            elif text.startswith("==="):
                self._in_root = False
        elif _ROOT in text:
            self._in_root, self.root = True, {}
        elif _INTERESTING.search(text):
            self._ends(line)
        elif found := _SHELL.match(text):
            self.shell = (line, _SIGNALS[found[1]])

    def _ends(self, line: Line) -> None:
        text = line.text
        if found := _EXIT.match(text):
            self.code = (line, int(found[1]))
        elif found := _DEATH.search(text):
            name = found[1] or found[2]
            number = int(name) if name.isdigit() else _SIGNALS.get(name, 0)
            self.agent = self.agent or (line, number)
        elif found := _CODE.search(text):
            self.codes.append((line, int(found[1] or found[2])))
        elif found := _DIED.search(text):
            self.codes.append((line, -int(found[1])))
        elif found := _FATAL.match(text):
            self.shell = (line, _SIGNALS[found[1]])
        elif _OOM.search(text):
            self.oom = self.oom or line

        del self.codes[20:]

    def _metrics(self, line: Line) -> None:
        metrics = _METRICS.search(line.text)
        if metrics:
            self.stepped = line.number

        lower = line.text.lower()
        bad = "nan" in lower or "inf" in lower  # spares the pattern on nearly every line of a long log
        names = {found["name"].lower() for found in _NAN.finditer(line.text)} if bad else ()
        if "loss" in names and self.nan_loss is None:
            self.nan_loss = line

        if "grad_norm" in names:
            first, count = self.nan_grads or (line, 0)
            self.nan_grads = (first, count + 1)
        elif metrics and "grad_norm" in line.text:
            self.nan_grads = None
