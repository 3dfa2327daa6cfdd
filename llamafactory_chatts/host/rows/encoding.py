"""What is done with each row: converted or named as wrong, then tokenised whole or left out, never cut.

The length of a row that is too long goes into the column ``OVERLONG`` (0 elsewhere), so that the rows can be
counted over all worker processes and then taken out.
"""

import copy
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from llamafactory.data.processor import (
    FeedbackDatasetProcessor,
    PackedSupervisedDatasetProcessor,
    PairwiseDatasetProcessor,
    SupervisedDatasetProcessor,
    UnsupervisedDatasetProcessor,
)
from llamafactory.extras import logging

from ...core.contract import IGNORE_INDEX, TS_START
from ...core.errors import ChatTSError
from .fingerprint import code_state, settings_of_rows
from .lane import NO_SERIES


logger = logging.get_logger(__name__)

OVERLONG = "chatts_overlong"
PROBLEM = "chatts_problem"
SEPARATOR = "\x1f"
_NO_LIMIT = 2**31


class RowConverter:
    """Converts a row, or says what is wrong with it, so that all wrong rows can be listed together."""

    def __init__(self, converter: Any, file: str, collect: bool) -> None:
        self.converter, self.file, self.collect = converter, file, collect

    def __call__(self, example: dict[str, Any], index: int) -> dict[str, Any]:
        try:
            row = self.converter(example)
            problem = ""
        except ChatTSError as err:
            if not self.collect:
                raise ChatTSError(err.what, f"{self.file}:{index + 1}", err.fix) from err

            row = {"_prompt": [], "_response": [], "_system": "", "_tools": "", "_audios": [b""]}
            problem = f"{err.what}{SEPARATOR}{err.fix or ''}"

        row = {**row, "_images": row.get("_images"), "_videos": row.get("_videos")}
        row["_system"], row["_tools"] = row["_system"] or "", row["_tools"] or ""
        return {**row, PROBLEM: problem} if self.collect else row


if TYPE_CHECKING:
    from llamafactory.data.processor import SupervisedDatasetProcessor as _Processor
else:
    _Processor = object


class WholeRows(_Processor):
    """Mixin in front of a host processor. ``streaming`` rows that are too long are dropped at once, and logged."""

    data_args: Any
    lengths: list[int]
    dropped: int

    def __init__(self, template: Any, tokenizer: Any, processor: Any, data_args: Any) -> None:
        super().__init__(template, tokenizer, processor, settings_of_rows(data_args))
        self.code = code_state()

    def _encode_data_example(self, *args: Any, **kwargs: Any) -> tuple:
        limited = self.data_args
        self.data_args = copy.copy(limited)
        self.data_args.cutoff_len = _NO_LIMIT
        try:
            encoded = super()._encode_data_example(*args, **kwargs)
        finally:
            self.data_args = limited

        self.lengths.append(max(len(item) for item in encoded if isinstance(item, list)))
        if self.data_args.train_on_prompt:  # supervised rows only; a patch carries no label all the same
            patch, (input_ids, labels) = self.tokenizer.convert_tokens_to_ids(TS_START), encoded
            encoded = input_ids, [IGNORE_INDEX if label == patch else label for label in labels]

        return encoded

    def preprocess_dataset(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        self.lengths = []
        limit = self.data_args.cutoff_len
        rows = super().preprocess_dataset(examples)
        overlong = [length if length > limit else 0 for length in self.lengths]
        if self.data_args.streaming:
            return self._drop_now(rows, overlong)

        self._mark(rows, overlong)
        return rows

    def _mark(self, rows: dict[str, list[Any]], overlong: list[int]) -> None:
        rows[OVERLONG] = overlong

    def _drop_now(self, rows: dict[str, list[Any]], overlong: list[int]) -> dict[str, list[Any]]:
        keep = [index for index, length in enumerate(overlong) if not length]
        self._report(overlong)
        return {key: [values[index] for index in keep] for key, values in rows.items()}

    def _report(self, overlong: list[int]) -> None:
        lost = [length for length in overlong if length]
        if lost:
            self.dropped = getattr(self, "dropped", 0) + len(lost)
            spare = 1 if self.data_args.packing else 0  # the host takes it off the recipe's cutoff_len
            logger.warning_rank0(
                f"ChatTS: {self.dropped} rows so far left out, longer than cutoff_len "
                f"{self.data_args.cutoff_len + spare} allows, up to {max(lost)}. "
                f"Set cutoff_len: {max(lost) + spare} to train on them."
            )


class WholeSupervised(WholeRows, SupervisedDatasetProcessor):
    pass


class WholePairwise(WholeRows, PairwiseDatasetProcessor):
    pass


class WholeFeedback(WholeRows, FeedbackDatasetProcessor):
    pass


class WholeUnsupervised(WholeRows, UnsupervisedDatasetProcessor):
    pass


class WholePacked(WholeRows, PackedSupervisedDatasetProcessor):
    """Packed rows: the host leaves the long ones out itself, so each gets an empty marker row to be counted by."""

    def _mark(self, rows: dict[str, list[Any]], overlong: list[int]) -> None:
        packs = len(rows.get("input_ids", []))  # none where a whole batch is too long
        lost = [length for length in overlong if length]
        marker: dict[str, Any] = defaultdict(
            lambda: None,
            input_ids=[self.tokenizer.pad_token_id],
            attention_mask=[0],
            position_ids=[0],
            labels=[IGNORE_INDEX],
            audios=[NO_SERIES],
            packing_params={
                "sequence_boundaries": [0, 1],
                "image_subseq_ids": [2**32],
                "video_subseq_ids": [2**32],
                "audio_subseq_ids": [2**32],
                "right_padding_length": 0,
            },
        )
        keys = list(rows) or [
            "input_ids",
            "packing_params",
            "attention_mask",
            "position_ids",
            "labels",
            "images",
            "videos",
            "audios",
        ]
        for key in keys:
            rows[key] += [marker[key]] * len(lost)

        rows[OVERLONG] = [0] * packs + lost

    def _drop_now(self, rows: dict[str, list[Any]], overlong: list[int]) -> dict[str, list[Any]]:
        self._report(overlong)
        return rows


WHOLE = {
    cls.__mro__[2]: cls for cls in (WholeSupervised, WholePairwise, WholeFeedback, WholeUnsupervised, WholePacked)
}
"""Host class -> ours."""
