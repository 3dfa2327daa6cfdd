"""The multimodal plugin: placeholders -> headers and patches in the text, series -> the model's tensor."""

from dataclasses import dataclass
from typing import Any

import torch
from llamafactory.extras.constants import AUDIO_PLACEHOLDER

from ...core.contract import PLACEHOLDER
from ...core.errors import ChatTSError
from ...core.placeholders import check_placeholders
from ...core.series import encode_batch
from ...model.processing_chatts import TimeSeriesProcessor
from .lane import unpack


@dataclass
class ChatTSPlugin:
    """Plugin of template ``chatts``. ``audios`` carries the series (see :mod:`.lane`).

    It has the fields and methods of the host's ``BasePlugin`` without deriving from it: the host's data package
    imports this module while it is loading, so this module must not wait for that package.
    """

    image_token: str | None = None
    video_token: str | None = None
    audio_token: str | None = None
    expand_mm_tokens: bool = True

    def process_messages(
        self,
        messages: list[dict[str, str]],
        images: list[Any],
        videos: list[Any],
        audios: list[Any],
        processor: Any,
    ) -> list[dict[str, str]]:
        """Put each header in place and write ``<ts>`` once per patch.

        Raises:
            ChatTSError: images or videos, no ChatTS processor, or placeholders and series do not fit.
        """
        if images or videos:
            raise ChatTSError("ChatTS reads no images or videos", fix="Remove the `images` / `videos` column")

        series = unpack(audios)
        limit = getattr(processor, "max_sequence_length", None)
        for number, item in enumerate(series, start=1):
            if limit is not None and len(item) > limit:
                what = f"series {number} has {len(item)} points, the base takes {limit}"
                raise ChatTSError(what, fix="Cut or resample it")

        if not isinstance(processor, TimeSeriesProcessor):
            raise ChatTSError(
                "no ChatTS processor was loaded with this model",
                where="template: chatts",
                fix="Use a ChatTS checkpoint as model_name_or_path, or another template",
            )

        messages = [dict(message) for message in messages]
        self._name_placeholders(messages, len(series))
        check_placeholders(messages, len(series))
        for message in messages:
            if PLACEHOLDER in message["content"]:
                own = message["content"].count(PLACEHOLDER)
                message["content"], _ = processor.render(message["content"], series[:own], per_patch=True)
                series = series[own:]

        return messages

    @staticmethod
    def name_series(messages: list[dict[str, str]], series: int) -> list[dict[str, str]]:
        """Return a chat whose first message has the marks that the host puts in front when it has none of its own."""
        if not series or any(AUDIO_PLACEHOLDER in message["content"] for message in messages):
            return messages

        first = {**messages[0], "content": AUDIO_PLACEHOLDER * series + messages[0]["content"]}
        return [first, *messages[1:]]

    @staticmethod
    def _name_placeholders(messages: list[dict[str, str]], series: int) -> None:
        """Replace the marks that LLaMA-Factory's chat puts in front of a message that has none of its own."""
        if not series or AUDIO_PLACEHOLDER not in messages[0]["content"]:
            return

        has_own = any(PLACEHOLDER in message["content"] for message in messages)
        mark = "" if has_own else PLACEHOLDER
        messages[0]["content"] = messages[0]["content"].replace(AUDIO_PLACEHOLDER, mark, series)

    def process_token_ids(
        self,
        input_ids: list[int],
        labels: list[int] | None,
        images: list[Any],
        videos: list[Any],
        audios: list[Any],
        tokenizer: Any,
        processor: Any,
    ) -> tuple[list[int], list[int] | None]:
        return input_ids, labels

    def get_mm_inputs(
        self,
        images: list[Any],
        videos: list[Any],
        audios: list[Any],
        imglens: list[int],
        vidlens: list[int],
        audlens: list[int],
        batch_ids: list[list[int]],
        processor: Any,
    ) -> dict[str, torch.Tensor]:
        """Return ``timeseries`` of shape ``(series, 2 * longest, 1)``, float16; nothing for a text-only batch.

        A text-only batch needs no dummy input: the model lets its encoder take part in every step.
        """
        series = unpack(audios)
        return {"timeseries": torch.from_numpy(encode_batch(series))} if series else {}
