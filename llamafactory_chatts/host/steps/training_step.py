"""The trainer's ``training_step``: well filled passes, and advice when memory runs out."""

from typing import Any

from ..compat import patch
from ..load.recognising import is_chatts_model
from ..say.out_of_memory import explain_in_step
from ..say.progress import count_tokens
from .token_budget import take_step


def work_in_passes(module: Any, name: str) -> None:
    """``tokens_per_batch`` where it is set, and in every stage an out-of-memory error that says what would help."""

    def build(original: Any) -> Any:
        def training_step(self: Any, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            if not is_chatts_model(getattr(self.model, "config", None)):
                return original(self, model, inputs, num_items_in_batch)

            count_tokens(self, inputs)

            def step(model: Any, batch: Any, items: Any) -> Any:
                with explain_in_step(self, batch):
                    return original(self, model, batch, items)

            return take_step(self, step, model, inputs, num_items_in_batch)

        return training_step

    patch(module, name, build)
