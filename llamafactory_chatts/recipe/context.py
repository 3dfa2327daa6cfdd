"""What the rules of a recipe ask about it: facts read from the recipe and the files it names, each once."""

import functools
import json
import os
from pathlib import Path
from typing import Any

from ..core.contract import COLUMN, TEMPLATE
from ..core.errors import ChatTSError
from ..rows.entries import FILE, read_entries
from .machine import gpus
from .reading import Recipe


TRAINING_KEYS = ("do_train", "do_eval", "do_predict", "per_device_train_batch_size", "learning_rate", "deepspeed")
ADAPTERS = ("lora", "oft")
"""Methods (``finetuning_type``) that train adapters."""

KNOWN_BASES = ("bytedance-research/ChatTS-8B", "bytedance-research/ChatTS-14B")
_FALSE = ("false", "no", "off", "0", "none", "null", "")


class Context:
    """A recipe with the facts that rules share.

    Args:
        recipe: keys and values.
        at_start: the check runs inside a starting training (this process is one of its own), not beforehand.
        elsewhere: the run is meant for another machine than this one.
        fsdp: it is started with FSDP; None: as the environment and the recipe say.
        processes: how many it has; None: as the environment and the cards say.
    """

    def __init__(
        self,
        recipe: Recipe,
        at_start: bool = False,
        elsewhere: bool = False,
        fsdp: bool | None = None,
        processes: int | None = None,
    ) -> None:
        self.recipe, self.at_start, self.elsewhere = recipe, at_start, elsewhere
        self._fsdp, self._processes = fsdp, processes

    def get(self, key: str, default: Any = None) -> Any:
        value = self.recipe.get(key, default)
        return default if value is None else value

    def on(self, key: str, default: bool = False) -> bool:
        """Tell whether a switch is on, as it was meant: the text "false" is off."""
        value = self.get(key, default)
        return value.strip().lower() not in _FALSE if isinstance(value, str) else bool(value)

    def number(self, key: str, default: float | None = None) -> float | None:
        """Return a key's number, also from text such as "1e-5"; ``default`` if it is none or not set."""
        try:
            return float(self.get(key, default))
        except (TypeError, ValueError):
            return default

    def words(self, key: str) -> list[str]:
        """Return the items of a list or of text with commas that the recipe has; [] where a default would hold."""
        return self.recipe.names(key) if key in self.recipe.values else []

    @functools.cached_property
    def trains(self) -> bool:
        """It is for training or evaluation, not for chat, api or export."""
        return any(key in self.recipe.values for key in TRAINING_KEYS)

    @functools.cached_property
    def is_chatts(self) -> bool:
        return self.get("template") == TEMPLATE or bool(self.base_config.get("ts")) or self.base in KNOWN_BASES

    @property
    def stage(self) -> str:
        return str(self.get("stage", "sft"))

    @property
    def method(self) -> str:
        return str(self.get("finetuning_type", "lora"))

    @property
    def adapters(self) -> bool:
        """Adapters are trained, not weights of the base."""
        return self.method in ADAPTERS

    @property
    def goes_on(self) -> bool:
        """The last adapter that is loaded is trained on."""
        return self.adapters and bool(self.words("adapter_name_or_path")) and not self.on("create_new_adapter")

    @property
    def compares(self) -> bool:
        """The stage has a reference model."""
        simple = self.get("pref_loss") in ("orpo", "simpo")
        return self.stage == "kto" or (self.stage == "dpo" and not simple)

    @property
    def encoder_frozen(self) -> bool:
        return not self.on("train_timeseries_modules", True) or self.get("timeseries_tuning") == "freeze"

    @property
    def packs(self) -> bool:
        return self.on("packing") or self.on("neat_packing")

    @property
    def evaluates(self) -> bool:
        """An evaluation is made while training."""
        return self.on("do_eval") or str(self.get("eval_strategy", "no")) in ("steps", "epoch")

    @property
    def quantised(self) -> bool:
        """The base is quantised while it is loaded."""
        return self.number("quantization_bit") is not None

    @property
    def stored_quantised(self) -> bool:
        """The base is stored quantised."""
        return isinstance(self.base_config.get("quantization_config"), dict)

    @property
    def sharded(self) -> bool:
        """No process has whole weights."""
        return self.zero_stage == 3 or self.fsdp

    @property
    def base(self) -> str:
        return str(self.get("model_name_or_path", ""))

    @functools.cached_property
    def base_config(self) -> dict[str, Any]:
        """The config.json of a local base; {} where there is none."""
        return read_json(Path(self.base, "config.json")) or {} if self.base else {}

    @functools.cached_property
    def deepspeed(self) -> dict[str, Any] | None:
        """The DeepSpeed configuration; None without one, {} when it cannot be read."""
        value = self.get("deepspeed")
        if not value and not self.elsewhere and os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
            value = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")  # set by accelerate launch
            stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
            value = value or {"zero_optimization": {"stage": int(stage) if stage.isdigit() else stage}}

        if not value:
            return None

        if isinstance(value, str) and value.startswith("{"):
            try:
                value = json.loads(value)
            except ValueError:
                return {}

        return value if isinstance(value, dict) else read_json(Path(str(value))) or {}

    @property
    def zero_stage(self) -> int:
        """0 to 3; 0 without DeepSpeed; -1 where its configuration says something else."""
        zero = (self.deepspeed or {}).get("zero_optimization")
        stage = zero.get("stage", 0) if isinstance(zero, dict) else 0
        return stage if stage in (0, 1, 2, 3) and isinstance(stage, int) else -1

    @property
    def fsdp(self) -> bool:
        if self._fsdp is not None:
            return self._fsdp

        return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" or bool(self.get("fsdp"))

    @functools.cached_property
    def cards(self) -> tuple[gpus.Gpu, ...]:
        """The cards this training would use; () without a card, with ``use_cpu``, and where they are not known."""
        if self.on("use_cpu") or self.elsewhere:
            return ()

        return gpus.visible(gpus.driver(5.0 if self.at_start else 10.0))

    @functools.cached_property
    def processes(self) -> int:
        """How many processes ``llamafactory-cli train`` would start, or in a starting training: there are."""
        if self._processes is not None:
            return self._processes

        if self.at_start:
            return int(os.environ.get("WORLD_SIZE", "1"))

        nodes = os.environ.get("NNODES", "1")
        each = os.environ.get("NPROC_PER_NODE", "")
        local = int(each) if each.isdigit() else max(1, len(self.cards))
        return local * (int(nodes) if nodes.isdigit() else 1)

    @property
    def dataset_dir(self) -> Path:
        return Path(str(self.get("dataset_dir", "data")))

    @functools.cached_property
    def dataset_info(self) -> dict[str, Any] | None:
        """The content of dataset_info.json; None when it cannot be read."""
        try:
            return read_entries(self.dataset_dir / FILE)[1]
        except ChatTSError:
            return None

    @functools.cached_property
    def entries(self) -> dict[str, dict[str, Any]]:
        """The entries of the datasets that the recipe names and dataset_info.json has."""
        names = self.words("dataset") + self.words("eval_dataset")
        info = self.dataset_info or {}
        return {name: info[name] for name in names if isinstance(info.get(name), dict)}

    @property
    def series_entries(self) -> list[str]:
        """The names of those with a column of series."""
        found = []
        for name, entry in self.entries.items():
            columns = entry.get("columns")
            named = isinstance(columns, dict) and bool(columns.get(COLUMN))
            if named or entry.get("formatting") == TEMPLATE:
                found.append(name)

        return found


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object from a file; None when it is missing or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

    return content if isinstance(content, dict) else None
