"""The processor: text with ``<ts><ts/>`` and series -> model inputs, with the published call and results."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from ..core.contract import PLACEHOLDER, TS_START
from ..core.errors import ChatTSError
from ..core.series import EncodedSeries, encode, num_patches, stack
from .configuration_chatts import HUB_SETTINGS, TS_DEFAULTS, load_config


Message = dict[str, Any]


class TimeSeriesProcessor(ProcessorMixin):
    """Joins a tokenizer with the series encoding.

    Args:
        tokenizer: tokenizer that knows ``<ts>`` and ``<ts/>``.
        patch_size: points per patch (``ts.patch_size``).
        max_sequence_length: longest series in points (``ts.max_sequence_length``).
        chat_template: Jinja template of a conversation.
    """

    attributes = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"
    model_input_names = ["input_ids", "attention_mask", "timeseries"]

    def __init__(
        self,
        tokenizer=None,
        patch_size: int | None = None,
        max_sequence_length: int | None = None,
        chat_template: str | None = None,
        **kwargs: Any,  # what files of other versions may hold
    ) -> None:
        self.patch_size = patch_size or TS_DEFAULTS["patch_size"]
        self.max_sequence_length = max_sequence_length or TS_DEFAULTS["max_sequence_length"]
        super().__init__(tokenizer, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["tokenizer"]

    @classmethod
    def get_processor_dict(cls, name_or_path: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the processor's file; what a published one leaves out comes from the model's config."""
        settings, kwargs = super().get_processor_dict(name_or_path, **kwargs)
        names = [name for name in ("patch_size", "max_sequence_length") if not settings.get(name)]
        if names:
            hub = {key: kwargs[key] for key in HUB_SETTINGS if key in kwargs}
            try:
                config = load_config(name_or_path, **hub)
            except OSError:  # a processor saved without a model
                config = None

            if config is not None:
                settings.update({name: config.time_series[name] for name in names})

        return settings, kwargs

    def patches(self, series: Any) -> int:
        """Return the number of positions a series takes in the prompt."""
        return num_patches(len(series), self.patch_size)

    def render(self, text: str, series: Sequence[Any], per_patch: bool = False) -> tuple[str, list]:
        """Put the header of each series in front of its placeholder.

        Args:
            text: prompt with one ``<ts><ts/>`` per series.
            series: the series, in order.
            per_patch: write ``<ts>`` once per patch instead of the pair.

        Returns:
            the text, and the encoded series.

        Raises:
            ChatTSError: placeholders and series differ in number, or a series is not usable.
        """
        pieces = text.split(PLACEHOLDER)
        if len(pieces) - 1 != len(series):
            raise ChatTSError(
                f"{len(pieces) - 1} {PLACEHOLDER} but {len(series)} series",
                fix="Add a series or remove a placeholder",
            )

        encoded = [encode(item) for item in series]
        parts = [pieces[0]]
        for item, piece in zip(encoded, pieces[1:], strict=True):
            mark = TS_START * num_patches(len(item.values), self.patch_size) if per_patch else PLACEHOLDER
            parts += [item.header, mark, piece]

        return "".join(parts), encoded

    def __call__(
        self,
        text: str | list[str] | None = None,
        timeseries: Sequence[Any] | None = None,
        padding: bool | str = False,
        return_tensors: str | None = "pt",
        vllm_flag: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Encode prompts.

        Args:
            text: one prompt or several, each with ``<ts><ts/>`` where a series belongs.
            timeseries: all series, in order over the whole batch; lists or vectors of any length.
            padding, return_tensors, kwargs: as for the tokenizer.
            vllm_flag: accepted for callers of the published processor, without effect.

        Returns:
            ``input_ids``, ``attention_mask`` and, when there are series, ``timeseries`` of shape
            ``(series, 2 * longest, 1)``, float16.
        """
        if text is None:
            raise ChatTSError("no text given", where="processor", fix="Pass text=[...]")

        texts = [text] if isinstance(text, str) else list(text)
        series = list(timeseries) if timeseries is not None else []
        check_count(texts, series)
        rendered: list[str] = []
        encoded: list[EncodedSeries] = []
        for item in texts:
            own = series[len(encoded) : len(encoded) + item.count(PLACEHOLDER)]
            new_text, new_encoded = self.render(item, own)
            rendered.append(new_text)
            encoded += new_encoded

        batch = dict(self.tokenizer(rendered, padding=padding, return_tensors=return_tensors, **kwargs))
        batch.pop("token_type_ids", None)
        if encoded:
            batch["timeseries"] = torch.from_numpy(stack(encoded))

        return BatchFeature(batch)

    def apply_chat_template(
        self,
        conversation: list[Message] | list[list[Message]],
        chat_template: str | None = None,
        timeseries: Sequence[Any] | None = None,
        tokenize: bool = False,
        return_tensors: str | None = "pt",
        return_dict: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> str | list[str] | torch.Tensor | BatchFeature:
        """Write a conversation, or several, as a prompt.

        Args:
            conversation: messages with ``role`` and ``content``, text with ``<ts><ts/>`` where a series belongs.
            chat_template: a Jinja template, or the name of one; the processor's or the tokenizer's own if None.
            timeseries: as for :meth:`__call__`: all series, in order over all conversations.
            tokenize: return model inputs instead of text. Text keeps each ``<ts><ts/>``: headers are written when
                it is given to :meth:`__call__` together with the series.
            return_tensors, processor_kwargs: as for :meth:`__call__` (``padding``, ``padding_side``, ...).
            return_dict: all model inputs; otherwise ``input_ids`` alone.
            kwargs: as for the tokenizer's method (``add_generation_prompt``, ``tools``, variables of the template);
                those of ``processor_kwargs`` may stand here, too.

        Raises:
            ChatTSError: placeholders and series differ in number, or content that is no text.
        """
        if kwargs.pop("return_assistant_tokens_mask", False):
            raise ChatTSError(
                "the answers' tokens cannot be told apart once series are in the prompt",
                where="return_assistant_tokens_mask",
                fix="Remove it",
            )

        several = bool(conversation) and not isinstance(conversation[0], Mapping)
        listed = cast(list[list[Message]], conversation if several else [conversation])
        conversations = [[_as_text(message) for message in one] for one in listed]
        options = {key: kwargs.pop(key) for key in _CALL_OPTIONS if key in kwargs} | (processor_kwargs or {})
        own = self.chat_template
        if isinstance(own, dict):
            chat_template = own.get(chat_template or "default", chat_template)
        elif chat_template is None:
            chat_template = own

        texts = self.tokenizer.apply_chat_template(
            conversations, chat_template=chat_template, tokenize=False, **kwargs
        )
        if not tokenize:
            if timeseries is not None:
                check_count(texts, timeseries)

            return texts if several else texts[0]

        batch = self(text=texts, timeseries=timeseries, return_tensors=return_tensors, **options)
        return batch if return_dict else batch["input_ids"]

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        return self.tokenizer.batch_decode(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> str:
        return self.tokenizer.decode(*args, **kwargs)


_CALL_OPTIONS = ("padding", "padding_side", "pad_to_multiple_of", "truncation", "max_length")


def check_count(texts: list[str], series: Sequence[Any]) -> None:
    """Raise a :class:`ChatTSError` unless the texts hold one ``<ts><ts/>`` per series."""
    total = sum(item.count(PLACEHOLDER) for item in texts)
    if total != len(series):
        raise ChatTSError(
            f"{total} {PLACEHOLDER} but {len(series)} series",
            where="processor",
            fix="Add a series or remove a placeholder",
        )


def _as_text(message: Message) -> Message:
    """Return a message whose content is text; templates of text models leave lists of parts out without a word."""
    content = message.get("content")
    if not isinstance(content, (list, tuple)):
        return dict(message)

    kinds = [part.get("type", "text") if isinstance(part, Mapping) else "text" for part in content]
    other = next((kind for kind in kinds if kind != "text"), None)
    if other is not None:
        raise ChatTSError(
            f"content of type {other!r}",
            where="processor",
            fix=f"Write {PLACEHOLDER} into the text and pass the series as timeseries=[...]",
        )

    return {**message, "content": "".join(part["text"] if isinstance(part, Mapping) else part for part in content)}


class Qwen2TSProcessor(TimeSeriesProcessor):
    """Processor of ChatTS on Qwen2.5 (the published class name)."""


class Qwen3TSProcessor(TimeSeriesProcessor):
    """Processor of ChatTS on Qwen3 (the published class name)."""
