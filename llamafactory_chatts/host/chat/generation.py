"""Generation while a training evaluates: the prompts and settings of a prediction run with the same weights.

The host pads on the right until the training is over and hands the recipe's settings of generation to the last
evaluation only, so scores in between come from prompts that end in padding, and from 20 new tokens.
"""

import copy
from typing import Any

from ..compat import patch
from ..load.recognising import is_chatts_model


SETTINGS = "_chatts_generation"
"""What the trainer was made with; each evaluation overwrites the host's own attribute."""


def generates(trainer: Any) -> bool:
    """Tell whether a trainer's evaluations generate with a ChatTS model."""
    return trainer.args.predict_with_generate and is_chatts_model(getattr(trainer.model, "config", None))


def use_settings_of_recipe(module: Any, name: str) -> None:
    """``evaluate`` and ``predict`` generate with the recipe's settings, whoever calls them."""

    def build(original: Any) -> Any:
        def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
            if generates(self):
                settings = self.__dict__.setdefault(SETTINGS, dict(getattr(self, "_gen_kwargs", None) or {}))
                kwargs = {**settings, **kwargs}

            return original(self, *args, **kwargs)

        return evaluate

    patch(module, name, build)


def pad_prompts_left(module: Any, name: str) -> None:
    """The loaders of evaluation and prediction pad prompts on the left, also while the training pads on the right.

    They get a collator of their own: their worker processes keep what they were started with.
    """

    def build(original: Any) -> Any:
        def get_dataloader(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not generates(self):
                return original(self, *args, **kwargs)

            collator = self.data_collator
            self.data_collator = for_prompts(collator)
            try:
                return original(self, *args, **kwargs)
            finally:
                self.data_collator = collator

        return get_dataloader

    patch(module, name, build)


def for_prompts(collator: Any) -> Any:
    """Return a copy of the host's collator: prompts padded on the left, no further than the longest, never packed."""
    collator = copy.copy(collator)
    collator.tokenizer = copy.copy(collator.tokenizer)
    collator.tokenizer.padding_side = "left"
    collator.pad_to_multiple_of = None
    collator.block_diag_attn = collator.neat_packing = False
    return collator
