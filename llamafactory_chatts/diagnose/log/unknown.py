"""What is said of a failure that no rule knows: where it was raised, by which library, and what it most likely is."""

import re

from .reading import Reading
from .signals import quote
from .table import Diagnosis
from .traces import Frame, Trace


_LIBRARY = re.compile(r"(?:site|dist)-packages[/\\]([A-Za-z]\w*)")
_HOST = re.compile(r"\b(llamafactory(?:_chatts)?)[/\\]")
_NOT_OF_THE_USER = re.compile(
    r"(?:site|dist)-packages|[/\\]lib[/\\]python3|[/\\]python3?\.?\d*[/\\]lib[/\\]|<frozen|<string>|"
    r"<__array_function__|"
    r"llamafactory(?:_chatts)?[/\\]|^/tmp/torchinductor|[/\\](?:torchrun|deepspeed|accelerate|llamafactory-cli)$|"
    r"[/\\]modules[/\\]transformers_modules[/\\]|[/\\]bin[/\\]",
    re.IGNORECASE,
)
_SHOWN = 5
"""Lines that are shown of a log without an exception."""

# fmt: off
FAMILIES = (
    ("GPU, driver or CUDA", r"cuda|cublas|cudnn|nvidia|gpu\b|device|kernel|nvcc|triton|sm_\d\d",
     "`nvidia-smi`, `lmf-chatts doctor`"),
    ("memory", r"memory|alloc|oom\b|\bshm\b|buffer", "`lmf-chatts plan RECIPE.yaml`"),
    ("packages that do not fit each other",
     r"import|module|attribute|keyword argument|version|undefined symbol|deprecat|signature|positional argument|"
     r"install|unexpected",
     "`lmf-chatts doctor` checks the installation"),
    ("the recipe", r"hparams|hf_?argparser|argument|setting|config|yaml|finetuning|option|parser|omegaconf",
     "`lmf-chatts doctor RECIPE.yaml`"),
    ("the dataset",
     r"dataset|column|row\b|arrow|json|csv|parquet|encod|decod|key ?error|label|prompt|template|converter|"
     r"preprocess|sample|collat|length|index",
     "`lmf-chatts check DATASET`"),
    ("the base, its tokenizer or an adapter",
     r"tokeniz|vocab|checkpoint|state_dict|weight|shape|size|adapter|lora|peft|embedding|from_pretrained|modeling|"
     r"dtype|tensor|quanti",
     "check model_name_or_path and adapter_name_or_path"),
    ("files, disk or network",
     r"file|director|path|disk|permission|errno|connection|url|http|hub|cache|download|ssl|save|write|\bread\b|stream",
     "`df -h`, rights, network"),
    ("several processes",
     r"nccl|rank|distributed|process group|rendezvous|store|gloo|ddp|fsdp|zero-?[123]|deepspeed|collective|timeout|"
     r"socket|barrier",
     "the first error of all ranks' output counts"),
    ("numbers", r"\bnan\b|\binf\b|overflow|scale|gradient|loss|grad|divi|underflow|finite",
     "learning_rate, precision, the series' values"),
)
# fmt: on
"""Family, words that speak for it, where to look."""


def unknown(reading: Reading, traces: list[Trace]) -> Diagnosis:
    """Name the exception, the user's innermost line and the library that raised it, or the last lines."""
    if not traces:
        shown = [quote(line) for line in list(reading.tail)[-_SHOWN:]] or ["the log is empty"]
        words = " ".join(line.text for line in reading.tail)
        return Diagnosis(
            "cause not recognised; the log shows no error",
            " | ".join(shown),
            f"Read the last lines of the log{_most_likely([words])}",
            "likely",
        )

    trace = traces[0]
    place = f" at {trace.frame}" if trace.frame else ""
    who = f"rank {trace.rank}" if trace.rank is not None else "the run"
    own, library = users_frame(trace.frames), library_of(trace.frames)
    said = f"Read the traceback from line {trace.start}{place}"
    mine = own is not None and str(own) == trace.frame
    if own is not None and not mine:
        said += f"; the innermost line of your own code is {own}"

    if library:
        version = reading.facts.versions.get(library.replace("_", "-"))
        named = f"{library} {version}" if version else library
        said += f"; raised in your own code, called by {named}" if mine else f"; raised in {named}"

    texts = [trace.text, *(str(frame) for frame in trace.frames[-3:])]
    return Diagnosis(
        f"cause not recognised; {who} ended with this exception"
        + (f" of your own code ({trace.frame})" if mine else ""),
        quote(trace.line()),
        said + _most_likely(texts),
        "likely",
    )


def users_frame(frames: list[Frame]) -> Frame | None:
    """Return the innermost frame outside installed libraries, None where there is none."""
    return next((frame for frame in reversed(frames) if not _NOT_OF_THE_USER.search(frame.file)), None)


def library_of(frames: list[Frame]) -> str | None:
    """Return the name of the library whose frame is the innermost one of any library."""
    for frame in reversed(frames):
        if found := _LIBRARY.search(frame.file) or _HOST.search(frame.file):
            return found[1]

    return None


def _most_likely(texts: list[str]) -> str:
    """Return the three families that most words speak for; the exception's own words count more than its place."""

    def points(words: str) -> int:
        hits = [{hit.lower() for hit in re.findall(words, text, re.IGNORECASE)} for text in texts]
        return 3 * len(hits[0]) + sum(map(len, hits))

    likely = sorted(FAMILIES, key=lambda family: -points(family[1]))[:3]
    return ". Most likely: " + "; ".join(f"{name} ({look})" for name, _, look in likely)
