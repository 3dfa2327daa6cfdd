"""The dataset converter: any of LLaMA-Factory's formats, plus a column with time series."""

from types import NoneType
from typing import Any

from llamafactory.data.converter import (
    AlpacaDatasetConverter,
    DatasetConverter,
    OpenAIDatasetConverter,
    SharegptDatasetConverter,
)

from ...core.contract import COLUMN, TEMPLATE
from ...core.errors import ChatTSError, shorten
from ...core.placeholders import check_placeholders
from ...rows.cells import items_of, read_item
from .fingerprint import code_state, settings_of_rows
from .lane import pack, read_arrow


BASES = {
    "alpaca": AlpacaDatasetConverter,
    "sharegpt": SharegptDatasetConverter,
    "openai": OpenAIDatasetConverter,
    TEMPLATE: AlpacaDatasetConverter,
}


class ChatTSDatasetConverter(DatasetConverter):
    """Converts a row, with its series, to LLaMA-Factory's standard row.

    A cell of the ``timeseries`` column holds a list of series, one flat list (one series), or paths to
    ``.csv`` / ``.npy`` / ``.parquet`` files below ``media_dir``. Registered as ``formatting: chatts``
    (columns ``input``, ``output``, ``timeseries``), and used for every format of a ChatTS run.

    Args:
        dataset_attr, data_args: as LLaMA-Factory passes them.
        files_state: digest of the files the cells point to; part of the cache key, otherwise unused.
        answers: how many answers a row must have: 1, 2 for preferences, or 0 for any number.
    """

    def __init__(self, dataset_attr: Any, data_args: Any, files_state: str = "", answers: int = 0) -> None:
        data_args = settings_of_rows(data_args)
        super().__init__(dataset_attr, data_args)
        if dataset_attr.formatting not in BASES:
            raise ChatTSError(
                f"there is no formatting {dataset_attr.formatting!r}",
                where=str(dataset_attr),
                fix=f"Use one of: {', '.join(BASES)}",
            )

        self.base = BASES[dataset_attr.formatting](dataset_attr, data_args)
        self.column = getattr(dataset_attr, COLUMN, None)
        self.max_points = getattr(data_args, "_ts_max_points", None)
        self.files_state = files_state
        self.answers = answers
        self.code = code_state()

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        """Convert one row.

        Raises:
            ChatTSError: what is wrong with the row and what to change (file and row are the caller's to add).
        """
        answer = self.dataset_attr.response
        if answer and not self.answers and answer not in example:
            example = {answer: None, **example}  # prompts alone are enough to predict

        if answer and not isinstance(example.get(answer), (str, NoneType)):
            raise ChatTSError(
                f"the answer {answer!r} is {type(example[answer]).__name__}",
                fix="Write it as a string (JSON answers, too)",
            )

        try:
            row = self.base(example)
        except KeyError as err:
            raise ChatTSError(
                f"there is no column or role {err}, the row has the columns {', '.join(map(repr, example))}",
                fix="Correct `columns` (or `tags`) of this entry in dataset_info.json",
            ) from err
        except (TypeError, ValueError, AttributeError, IndexError) as err:
            raise ChatTSError(
                f"the text columns hold something else than text ({shorten(err, 60)})",
                fix="Write texts as strings, and turns as lists of objects with a role and a text",
            ) from err

        for kind in ("images", "videos", "audios"):
            if row[f"_{kind}"]:
                raise ChatTSError(
                    f"ChatTS reads no {kind}", fix=f"Remove columns.{kind} of this entry in dataset_info.json"
                )

        if self.dataset_attr.formatting == "openai":
            row["_system"] = self._own_system(example)  # the host puts a prompt of its own there

        series = self._series(example)
        self._check(row, len(series))
        row["_audios"] = pack(series)
        return row

    def _own_system(self, example: dict[str, Any]) -> str:
        attr = self.dataset_attr
        messages = example[attr.messages]
        if attr.system_tag and messages and messages[0][attr.role_tag] == attr.system_tag:
            return messages[0][attr.content_tag] or ""

        return (example.get(attr.system) or "") if attr.system else ""

    def _series(self, example: dict[str, Any]) -> list:
        if self.column is None:
            return []

        if self.column not in example:
            raise ChatTSError(
                f"there is no column {self.column!r}, the row has {', '.join(map(repr, example))}",
                fix="Correct columns.timeseries of this entry in dataset_info.json",
            )

        cell = read_arrow(example, self.column)
        items = items_of(example[self.column]) if cell is None else cell
        media_dir = self.data_args.media_dir
        series = [one for number, item in enumerate(items, start=1) for one in read_item(item, number, media_dir)]
        for index, item in enumerate(series):
            if self.max_points is not None and len(item) > self.max_points:
                raise ChatTSError(
                    f"series {index + 1} has {len(item)} points, the base takes {self.max_points}",
                    fix="Cut or resample it; the limit is `ts.max_sequence_length` in the base's config.json",
                )

        return series

    def _check(self, row: dict[str, Any], series: int) -> None:
        prompt, response = row["_prompt"], row["_response"]
        if len(prompt) % 2 != 1:
            raise ChatTSError(
                "the turns do not alternate between user and assistant, or there are none",
                fix="Start with a user turn, end with an assistant turn, and check `tags` in dataset_info.json",
            )

        self._check_answers(response)
        for message in [*prompt, *response]:
            if not isinstance(message["content"], str):
                raise ChatTSError(
                    f"the {message['role']} text is {type(message['content']).__name__}", fix="Write it as a string"
                )

        check_placeholders(prompt, series, row["_system"] or "")
        check_placeholders(response, 0)

    def _check_answers(self, response: list[dict[str, Any]]) -> None:
        attr = self.dataset_attr
        if self.answers == 1 and len(response) != 1:
            if response:  # a desired and an undesired one
                raise ChatTSError(
                    "the row is for preference training", fix=f"Set stage: {'dpo' if attr.ranking else 'kto'}"
                )

            raise ChatTSError("there is no answer", fix="Write one, or remove the row")

        if self.answers == 2 and len(response) != 2:
            raise ChatTSError(
                f"{attr.chosen!r} and {attr.rejected!r} do not both hold an answer"
                if attr.ranking
                else f"the column {attr.kto_tag!r} (kto_tag) does not hold true or false",
                fix="Fill them, and check `columns` of this entry in dataset_info.json",
            )

        texts = [message["content"] for message in response]
        if self.answers == 2 and attr.ranking and texts[0].strip() == texts[1].strip():
            raise ChatTSError(
                f"{attr.chosen!r} and {attr.rejected!r} are the same answer ({shorten(texts[0], 40)})",
                fix="Write two different answers, or remove the row",
            )

        if self.answers and not (any(texts) if self.answers == 2 and not attr.ranking else all(texts)):
            raise ChatTSError("the answer is empty", fix="Write an answer or remove the row")
