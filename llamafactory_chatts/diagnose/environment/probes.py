"""Questions to torch and its companions, asked by programs of their own: a broken build cannot take doctor down.

A package that cannot be imported has the answer ``{"error": ...}``.
"""

import functools
import importlib.metadata
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from ...recipe.machine.asking import Answers, answers, start


FAMILY = ("torch", "torchvision", "torchaudio")

SECONDS = 180.0
"""A first import of torch from a slow disk takes more than a minute."""

_SAY = """
import json, sys
def say(name, value):
    sys.stdout.write(json.dumps([name, value]) + chr(10)); sys.stdout.flush()
def load(name):
    try:
        return __import__(name)
    except BaseException as error:
        say(name, {"error": f"{type(error).__name__}: {error}"[:400]})
"""

TORCH = (
    _SAY
    + """
torch = load("torch")
if torch is not None:
    import warnings
    heard = []
    warnings.showwarning = lambda message, *rest, **more: heard.append(str(message)[:300])
    found = {"version": torch.__version__, "cuda": torch.version.cuda, "hip": getattr(torch.version, "hip", None)}
    try:
        found["available"] = torch.cuda.is_available()
        found["count"] = torch.cuda.device_count() if found["available"] else 0
        found["archs"] = torch.cuda.get_arch_list() if found["cuda"] else []
    except Exception as error:
        found["available"], heard = False, heard + [str(error)[:300]]
    found["said"] = heard
    say("torch", found)
    for name in sys.argv[1:]:
        module = load(name)
        if module is not None:
            say(name, {"version": getattr(module, "__version__", "")})
"""
)

QUANTISE = (
    _SAY
    + """
torch = load("torch")
bnb = load("bitsandbytes") if torch is not None else None
if bnb is not None:
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0)).to(device)
        from bitsandbytes import functional as F
        packed, state = F.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        back = F.dequantize_4bit(packed, state)
        layer = bnb.nn.Linear4bit(256, 256, bias=False, compute_dtype=torch.float32, quant_type="nf4")
        layer.weight = bnb.nn.Params4bit(weight.cpu().clone(), requires_grad=False, quant_type="nf4")
        layer = layer.to(device)
        rows = torch.eye(256, device=device)
        through = layer(rows).T.float()
        say("bitsandbytes", {
            "version": bnb.__version__, "device": device, "bytes": packed.numel() * packed.element_size(),
            "error_quantised": float((back.float() - weight).abs().mean()),
            "error_layer": float((through - weight).abs().mean()),
        })
    except BaseException as error:
        say("bitsandbytes", {"error": f"{type(error).__name__}: {error}"[:400]})
"""
)


def version_of(package: str) -> str | None:
    """Return the version of an installed package; None without it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def reply(told: Answers, *packages: str) -> Answers:
    """Return the answer about the first of these packages that was told of; ``{"error": ...}`` where none was."""
    return next((told[name] for name in packages if told.get(name)), {"error": told["end"] or "no answer"})


@dataclass
class Installation:
    """What the checks share: answers of torch and bitsandbytes, asked at once by programs of their own.

    Attributes:
        output: folder that results would go to.
    """

    output: Path = field(default_factory=Path.cwd)

    def ask_ahead(self) -> None:
        """Start the probes; the checks wait for them where they need them."""
        _ = self._torch_probe, self._quantise_probe

    @functools.cached_property
    def _torch_probe(self) -> subprocess.Popen:
        companions = {**{name: name for name in FAMILY[1:]}, "flash-attn": "flash_attn", "deepspeed": "deepspeed"}
        return start("-c", TORCH, *(module for name, module in companions.items() if version_of(name)))

    @functools.cached_property
    def _quantise_probe(self) -> subprocess.Popen:
        return start("-c", QUANTISE)

    @functools.cached_property
    def torch(self) -> Answers:
        """Answers of :data:`TORCH`."""
        return answers(self._torch_probe, SECONDS)

    @functools.cached_property
    def quantise(self) -> Answers:
        """Answers of :data:`QUANTISE`."""
        return answers(self._quantise_probe, SECONDS)
