"""What is changed in LLaMA-Factory's way from a file to tokens; one function per row of the table."""

import copy
import hashlib
import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

from ...core.contract import COLUMN, MAX_OVERLONG_SHARE, TEMPLATE
from ...core.errors import ChatTSError, Problems
from ...files.text_files import check_files
from ...rows.val_size import check_val_size
from ..compat import patch


WRITTEN_ROWS = 64
"""Rows held before they are written; the host's 1,000 are a gigabyte and more when each has 30 long series."""


def add_converter(converter: Any, name: str) -> None:
    """Register ``formatting: chatts``. The class is imported when it is used: it derives from the host's."""

    def chatts_converter(dataset_attr: Any, data_args: Any) -> Any:
        from .converter import ChatTSDatasetConverter

        return ChatTSDatasetConverter(dataset_attr, data_args)

    if name not in converter.DATASET_CONVERTERS:
        converter.register_dataset_converter(name, chatts_converter)


def keep_timeseries_column(parser: Any, name: str) -> None:
    """Let ``columns.timeseries`` of dataset_info through; ``formatting: chatts`` has columns of its own."""

    def build(original: Any) -> Any:
        def join(self: Any, attr: dict[str, Any]) -> None:
            original(self, attr)
            columns = attr.get("columns", {})
            self.timeseries = columns.get(COLUMN)
            if self.formatting == TEMPLATE:
                self.prompt = columns.get("prompt", "input")
                self.query = columns.get("query")
                self.response = columns.get("response", "output")
                self.timeseries = columns.get(COLUMN, COLUMN)

        return join

    patch(parser, name, build)
    parser.DatasetAttr.timeseries = None


def wants_series(dataset_attr: Any, data_args: Any) -> bool:
    """Tell whether a dataset is converted by us: it has a ``timeseries`` column or the run is ChatTS's."""
    return data_args.template == TEMPLATE or getattr(dataset_attr, COLUMN, None) is not None


def file_of(dataset_attr: Any, data_args: Any) -> str:
    """Return the name of a dataset's file for messages."""
    if dataset_attr.load_from != "file":
        return dataset_attr.dataset_name

    return os.path.join(str(data_args.dataset_dir), dataset_attr.dataset_name)


def answers_needed(data_args: Any, training_args: Any) -> int:
    """Return how many answers a row must have, 0 for any number (see :class:`.converter.ChatTSDatasetConverter`)."""
    predicts_only = training_args.predict_with_generate and not training_args.do_train
    answers = {"pt": 0, "sft": 0 if predicts_only else 1, "rm": 2, "kto": 2}
    return answers.get(getattr(data_args, "_ts_stage", "sft"), 0)


def explain_unreadable_file(loader: Any, name: str) -> None:
    """When a file cannot be loaded, say which rows are at fault; when none is, read it row by row.

    The host's reader takes the types of the columns from the first 10 MB of a file.
    """

    def build(original: Any) -> Any:
        def load_single_dataset(dataset_attr: Any, model_args: Any, data_args: Any, training_args: Any) -> Any:
            if not wants_series(dataset_attr, data_args):
                return original(dataset_attr, model_args, data_args, training_args)

            if dataset_attr.load_from == "file":
                check_files(file_of(dataset_attr, data_args))  # the host's reader takes broken characters along

            if data_args.streaming and not training_args.dataloader_num_workers:
                training_args = copy.copy(training_args)
                training_args.dataloader_num_workers = 1  # the host cuts a streamed file into this many pieces

            try:
                return original(dataset_attr, model_args, data_args, training_args)
            except ChatTSError:
                raise
            except Exception:
                from .unreadable import explain, reading_by_rows

                file = file_of(dataset_attr, data_args)
                answers = answers_needed(data_args, training_args)
                if dataset_attr.load_from != "file" or not explain(file, dataset_attr, data_args, answers):
                    raise

                with reading_by_rows(loader, file, dataset_attr.split):
                    return original(dataset_attr, model_args, data_args, training_args)

        return load_single_dataset

    patch(loader, name, build)


def _features(problem: str | None) -> Any:
    from datasets import Features, Value

    text = Value("string")
    turns = [{"role": text, "content": text}]
    features = {"_prompt": turns, "_response": turns, "_system": text, "_tools": text}
    features |= {"_images": Value("null"), "_videos": Value("null"), "_audios": [Value("binary")]}
    return Features(features | ({problem: text} if problem else {}))


def _paths(dataset: Any, column: str | None) -> Iterator[str]:
    """Yield the file names in the ``timeseries`` column, if it holds names (told from the first filled cell)."""
    for cell in dataset[column] if column in (dataset.column_names or []) else []:
        for item in cell if isinstance(cell, list) else [cell]:
            if item is None:
                continue
            if not isinstance(item, str):
                return
            yield item


def _files_state(dataset: Any, column: str | None, media_dir: str) -> str:
    digest = hashlib.sha256()
    for path in _paths(dataset, column):
        full = os.path.join(media_dir, path)
        stat = os.stat(full) if os.path.exists(full) else None
        digest.update(f"{path}:{stat and (stat.st_mtime_ns, stat.st_size)}\n".encode())

    return digest.hexdigest()


def convert_with_row_numbers(loader: Any, name: str) -> None:
    """Convert all rows, list every wrong one as file:row with totals, and stop before any weights load."""

    def build(original: Any) -> Any:
        def align_dataset(dataset: Any, dataset_attr: Any, data_args: Any, training_args: Any) -> Any:
            if not wants_series(dataset_attr, data_args):
                return original(dataset, dataset_attr, data_args, training_args)

            from .converter import ChatTSDatasetConverter
            from .encoding import PROBLEM, SEPARATOR, RowConverter
            from .series_counts import PROBED, count_series, refuse_unmapped, with_series

            file = file_of(dataset_attr, data_args)
            first = next(iter(dataset), None)
            if first is None:
                raise ChatTSError("the dataset has no rows", where=file, fix="Add rows or remove it from `dataset`")

            state = "" if data_args.streaming else _files_state(dataset, dataset_attr.timeseries, data_args.media_dir)
            answers = answers_needed(data_args, training_args)
            converter = ChatTSDatasetConverter(dataset_attr, data_args, state, answers)
            rows = RowConverter(converter, file, collect=not data_args.streaming)
            options: dict[str, Any] = {"with_indices": True, "remove_columns": list(first), "features": None}
            options["features"] = _features(PROBLEM if rows.collect else None)
            if data_args.streaming:
                probed = list(islice(dataset, PROBED))
                refuse_unmapped(probed, dataset_attr, f"{file} (first {len(probed)} rows)", loader.logger)
                column = f"series in {dataset_attr.timeseries!r}" if dataset_attr.timeseries else "no column of series"
                found = with_series(probed, dataset_attr.timeseries) if dataset_attr.timeseries else 0
                loader.logger.info_rank0(
                    f"ChatTS: {file} is streamed, {column}; rows with series are not counted, "
                    f"of the first {len(probed)} rows {found or 'none'} carry some."
                )
                return dataset.map(rows, **options)

            refuse_unmapped(dataset, dataset_attr, file, loader.logger)
            indices = dataset._indices  # file rows, when rows were sampled
            dataset = dataset.map(
                rows,
                writer_batch_size=WRITTEN_ROWS,
                num_proc=data_args.preprocessing_num_workers,
                load_from_cache_file=(not data_args.overwrite_cache) or (training_args.local_process_index != 0),
                desc="Converting format of dataset",
                **options,
            )
            problems = Problems()
            for index, text in enumerate(dataset[PROBLEM][:]):
                if text:
                    row = indices.column(0)[index].as_py() if indices is not None else index
                    problems.add(f"{file}:{row + 1}", *text.rsplit(SEPARATOR, 1))

            problems.raise_if_any(file, len(dataset))
            loader.logger.info_rank0(count_series(dataset, file))
            return dataset.remove_columns(PROBLEM)

        return align_dataset

    patch(loader, name, build)


def check_held_out(loader: Any, name: str) -> None:
    """Stop where ``val_size`` leaves no row to train on, or none to evaluate."""

    def build(original: Any) -> Any:
        def split_dataset(dataset: Any, eval_dataset: Any, data_args: Any, seed: int) -> Any:
            if data_args.template == TEMPLATE and dataset is not None and not data_args.streaming:
                check_val_size(data_args.val_size, len(dataset))

            return original(dataset, eval_dataset, data_args, seed)

        return split_dataset

    patch(loader, name, build)


def keep_rows_whole(loader: Any, name: str) -> None:
    """Use row processors that never cut a row."""

    def build(original: Any) -> Any:
        def get_dataset_processor(data_args: Any, stage: str, template: Any, *args: Any, **kwargs: Any) -> Any:
            processor = original(data_args, stage, template, *args, **kwargs)
            from .encoding import WHOLE
            from .mm_plugin import ChatTSPlugin

            if isinstance(template.mm_plugin, ChatTSPlugin) and type(processor) in WHOLE:
                processor = WHOLE[type(processor)](
                    template=processor.template,
                    tokenizer=processor.tokenizer,
                    processor=processor.processor,
                    data_args=processor.data_args,
                )

            return processor

        return get_dataset_processor

    patch(loader, name, build)


def count_overlong(loader: Any, name: str) -> None:
    """Take out the rows longer than ``cutoff_len``, count them, and stop when more than 10 % would be lost."""

    def build(original: Any) -> Any:
        def get_preprocessed_dataset(
            dataset: Any, data_args: Any, training_args: Any, *args: Any, **kwargs: Any
        ) -> Any:
            tokenized = original(dataset, data_args, training_args, *args, **kwargs)
            if tokenized is None or data_args.streaming:
                return tokenized

            from .encoding import OVERLONG

            if OVERLONG not in tokenized.column_names:
                return tokenized

            lengths = tokenized[OVERLONG][:]
            lost = [length for length in lengths if length]
            if lost:
                report_overlong(lost, len(dataset), data_args, loader.logger if training_args.should_log else None)
                keep = [index for index, length in enumerate(lengths) if not length]
                tokenized = tokenized.select(keep)

            return tokenized.remove_columns(OVERLONG)

        return get_preprocessed_dataset

    patch(loader, name, build)


def report_overlong(lost: list[int], rows: int, data_args: Any, logger: Any) -> None:
    """Warn about rows left out, or raise a :class:`ChatTSError` when they are too many."""
    spare = 1 if data_args.packing else 0  # the host takes it off the recipe's cutoff_len
    limit, needed = data_args.cutoff_len + spare, max(lost) + spare
    text = f"{len(lost)} of {rows} rows ({len(lost) / rows:.1%}) are longer than cutoff_len {limit} allows"
    text += f", up to {max(lost)}"
    if len(lost) == rows or (len(lost) / rows > MAX_OVERLONG_SHARE and not data_args.drop_overlong):
        raise ChatTSError(
            text,
            where="cutoff_len",
            fix=f"Set cutoff_len: {needed}"
            + ("" if len(lost) == rows else ", or drop_overlong: true to train without these rows"),
        )

    if logger is not None:
        logger.warning(f"ChatTS: {text}; they are left out. Set cutoff_len: {needed} to train on them.")
