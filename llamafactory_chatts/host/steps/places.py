"""The loader's worker looks where things stand in a batch, so that the model need not ask the GPU."""

from typing import Any

from ...core.contract import TS_END, TS_START
from ...model.places import read_places
from ..compat import patch
from .step_rows import PLACES, SERIES


def hand_over_places(collator: Any, name: str) -> None:
    """Put :class:`.model.places.Places` into each batch that is trained on; prompts to generate from need none.

    It reaches stage sft only: the collators of preference stages hand their batches to code that copies every value.
    """

    def build(original: Any) -> Any:
        def __call__(self: Any, features: Any) -> Any:
            batch = original(self, features)
            from ...model.processing_chatts import TimeSeriesProcessor
            from ..rows.mm_plugin import ChatTSPlugin

            ids, labels = batch["input_ids"], batch.get("labels")
            ours = isinstance(self.template.mm_plugin, ChatTSPlugin) and isinstance(
                self.processor, TimeSeriesProcessor
            )
            if not ours or labels is None or labels.shape != ids.shape:
                return batch

            series, patches = batch.get(SERIES), None
            if series is not None:
                points = (series.reshape(series.shape[0], -1, 2)[:, :, 1] > 0.5).sum(dim=1)
                patches = -(-points // self.processor.patch_size)

            marks = self.tokenizer.convert_tokens_to_ids([TS_START, TS_END])
            batch[PLACES] = read_places(
                ids, batch.get("attention_mask"), labels, batch.get("position_ids"), patches, *marks
            )
            return batch

        return __call__

    patch(collator, name, build)
