"""What the files of a checkpoint say about the run that wrote them; reads neither tensors nor torch."""

import json
import pickle
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .context import read_json


RECORD = "chatts_training.json"
"""A file that each training writes into its checkpoints: the values of :data:`KEPT`, their defaults, rows a step."""

STRUCTURE = (
    *("stage", "finetuning_type", "lora_rank", "lora_alpha", "lora_target", "additional_target"),
    *("use_rslora", "use_dora", "pissa_init", "oft_rank", "oft_block_size", "oft_target"),
    *("freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules", "freeze_language_model"),
    *("train_timeseries_modules", "timeseries_tuning"),
    *("optim", "use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon", "use_llama_pro"),
    "loraplus_lr_ratio",
)
"""What is trained, and by which optimizer: with another value the stored state belongs to other weights."""

STORED = (
    *("learning_rate", "timeseries_sft_lr", "loraplus_lr_embedding"),
    *("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
)
"""Numbers that come back with the stored optimizer: another value in the recipe would be ignored."""

KEPT = (*STRUCTURE, *STORED)
LISTS = ("lora_target", "additional_target", "oft_target", "freeze_trainable_modules", "freeze_extra_modules")
_STEP = re.compile(r"checkpoint-(\d+)").fullmatch


def last_checkpoint(folder: Path) -> Path | None:
    """Return the ``checkpoint-N`` folder with the highest N, as the host takes it; None where there is none."""
    found = [(int(match[1]), item) for item in folder.glob("checkpoint-*") if (match := _STEP(item.name))]
    return max((one for one in found if one[1].is_dir()), default=(0, None))[1]


def settle(key: str, value: Any) -> Any:
    """Return a setting in one form, so that a recipe's text and an argument's value can be compared."""
    if value is None or value == "" or value == []:
        return None

    if key in LISTS:
        items = value.split(",") if isinstance(value, str) else value
        return sorted(str(item).strip() for item in items)

    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"

    try:
        return value if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return str(value).strip()


class _Blind(pickle.Unpickler):
    """Reads a file of ``torch.save`` without its tensors and without running anything it names."""

    def persistent_load(self, pid: Any) -> None:
        return None

    def find_class(self, module: str, name: str) -> Any:
        return dict if name in ("OrderedDict", "defaultdict") else _Anything


class _Anything:
    def __new__(cls, *args: Any, **kwargs: Any) -> "_Anything":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder.

    Attributes:
        folder: where it is.
    """

    folder: Path

    def has(self, pattern: str) -> bool:
        return any(self.folder.glob(pattern))

    @property
    def state(self) -> dict[str, Any] | None:
        """trainer_state.json, None where it is missing or unreadable."""
        return read_json(self.folder / "trainer_state.json")

    @property
    def record(self) -> dict[str, Any]:
        """What :data:`RECORD` holds; {} in a checkpoint of an older version or another program."""
        return read_json(self.folder / RECORD) or {}

    @property
    def adapter(self) -> dict[str, Any] | None:
        """adapter_config.json, None where there is no adapter."""
        return read_json(self.folder / "adapter_config.json")

    @property
    def processes(self) -> int | None:
        """How many processes wrote it, by the files of their random states; None where there are none."""
        if (self.folder / "rng_state.pth").is_file():
            return 1

        return len(list(self.folder.glob("rng_state_*.pth"))) or None

    @property
    def deepspeed_folder(self) -> Path | None:
        """The folder that DeepSpeed would load: the one that ``latest`` names."""
        try:
            return self.folder / (self.folder / "latest").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None

    def torn_files(self) -> list[Path]:
        """Return its weight and state files that are cut off."""
        kept = [*self.folder.glob("*.pt"), *self.folder.glob("*.pth"), *self.folder.glob("global_step*/*.pt")]
        torn = [path for path in kept if not zipfile.is_zipfile(path)]
        return sorted([*torn, *(path for path in self.folder.glob("*.safetensors") if tensors_of(path) is None)])

    def tensors(self) -> dict[str, list[int]]:
        """Return name and shape of each stored weight."""
        found: dict[str, list[int]] = {}
        for path in self.folder.glob("*.safetensors"):
            found.update(tensors_of(path) or {})

        return found

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups of parameters with their settings; [] where they cannot be read."""
        try:
            with zipfile.ZipFile(self.folder / "optimizer.pt") as file:
                name = next(name for name in file.namelist() if name.endswith("/data.pkl"))
                with file.open(name) as content:
                    groups = _Blind(content).load()["param_groups"]
        except Exception:  # another format, which torch may still know
            return []

        return [group for group in groups if isinstance(group, dict)]


def tensors_of(path: Path) -> dict[str, list[int]] | None:
    """Return name and shape of each tensor of a safetensors file; None when the file is cut off or unreadable."""
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(length)) if length < 10**8 else {}

        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        whole = path.stat().st_size == 8 + length + end
        return {name: entry["shape"] for name, entry in header.items()} if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None
