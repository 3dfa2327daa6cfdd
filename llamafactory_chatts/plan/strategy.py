"""How a recipe spreads a run over processes: DDP, or what its DeepSpeed file says."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ChatTSError
from .recipe import Recipe


@dataclass(frozen=True)
class Strategy:
    """DeepSpeed's part in a run.

    Attributes:
        stage: of ZeRO: 1 optimizer state, 2 gradients, 3 weights are shared out among the processes; 0: none, DDP.
        offload_optimizer, offload_param: they wait in host memory.
        live: parameters that stage 3 keeps gathered on a GPU at most.
    """

    stage: int = 0
    offload_optimizer: bool = False
    offload_param: bool = False
    live: int = 10**9

    @property
    def name(self) -> str:
        if not self.stage:
            return "DDP"

        offloaded = [
            text for text, on in (("optimizer", self.offload_optimizer), ("weights", self.offload_param)) if on
        ]
        return f"DeepSpeed ZeRO-{self.stage}" + (f", {' and '.join(offloaded)} in host memory" if offloaded else "")


def _number(value: Any, default: int) -> int:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else default


def read_strategy(recipe: Recipe) -> Strategy:
    """Read the DeepSpeed file of a recipe, if it names one.

    Raises:
        ChatTSError: not there, or no JSON object.
    """
    named = recipe["deepspeed"]
    if not named:
        return Strategy()

    if isinstance(named, dict):
        config = named
    else:
        try:
            config = json.loads(Path(str(named)).read_text(encoding="utf-8"))
        except OSError as error:
            raise ChatTSError(
                f"the DeepSpeed file cannot be read ({error.strerror})",
                where=f"{recipe.path}: deepspeed",
                fix="Name a file that is there, as in examples/deepspeed",
            ) from None
        except ValueError:
            raise ChatTSError("this is no JSON", where=str(named), fix="Mend the DeepSpeed file") from None

    zero = config.get("zero_optimization", {}) if isinstance(config, dict) else {}
    device = {key: (zero.get(key) or {}).get("device", "none") for key in ("offload_optimizer", "offload_param")}
    return Strategy(
        stage=_number(zero.get("stage"), 0),
        offload_optimizer=device["offload_optimizer"] != "none",
        offload_param=device["offload_param"] != "none",
        live=_number(zero.get("stage3_max_live_parameters"), 10**9),
    )
