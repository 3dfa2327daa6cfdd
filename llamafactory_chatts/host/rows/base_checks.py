"""What is found wrong with base, template and settings before any data or weights are loaded."""

import copy
import os
from typing import Any

from ...core.contract import COLUMN, TEMPLATE
from ...core.errors import ChatTSError
from ...recipe.refusals.series import SERIES_AS_TEXT
from ...rows.entries import FILE, check_entries, read_entries
from ..compat import patch
from ..load.recognising import no_chatts_base
from .tokenized import check_stored, record_stored


def check_base_and_template(loader: Any, name: str) -> None:
    """Find a base and a template that do not fit before any data or weights are loaded."""

    def build(original: Any) -> Any:
        def get_dataset(
            template: Any,
            model_args: Any,
            data_args: Any,
            training_args: Any,
            stage: str,
            tokenizer: Any,
            processor: Any = None,
        ) -> Any:
            from ...model.processing_chatts import TimeSeriesProcessor
            from .mm_plugin import ChatTSPlugin

            ours = isinstance(template.mm_plugin, ChatTSPlugin)
            if ours and not isinstance(processor, TimeSeriesProcessor):
                raise no_chatts_base(model_args.model_name_or_path)

            stored = data_args.tokenized_path is not None and loader.has_tokenized_data(data_args.tokenized_path)
            names = [] if stored else (data_args.dataset or []) + (data_args.eval_dataset or [])
            if ours:
                check_named_entries(names, data_args.dataset_dir)

            with_series = [
                str(attr)
                for attr in loader.get_dataset_list(names, data_args.dataset_dir)
                if getattr(attr, COLUMN, None) is not None
            ]
            if with_series and not ours:
                raise ChatTSError(
                    f"{with_series[0]} has a timeseries column, but template {data_args.template!r} reads no series",
                    where="template",
                    fix=f"Set template: {TEMPLATE}",
                )

            if with_series and stage == "pt":
                key, _, what, fix = SERIES_AS_TEXT  # also where the entries come from a hub
                raise ChatTSError(what, where=key, fix=fix)

            if ours:
                if data_args.streaming and training_args.accelerator_config.dispatch_batches is None:
                    # each process reads its own rows: a batch cannot be cut by rows, it has another number of series
                    training_args.accelerator_config.dispatch_batches = False

                data_args = copy.copy(data_args)
                data_args._ts_max_points, data_args._ts_stage = processor.max_sequence_length, stage

            run = (loader, data_args, training_args, stage, tokenizer, processor)
            if ours and stored:
                check_stored(*run)

            module = original(template, model_args, data_args, training_args, stage, tokenizer, processor)
            if ours and data_args.tokenized_path is not None and not stored:
                record_stored(*run)

            return module

        return get_dataset

    patch(loader, name, build)


def check_named_entries(names: list[str], dataset_dir: str | dict) -> None:
    """Raise a :class:`ChatTSError` for a mistake in the entries of datasets that a recipe names.

    Args:
        names: of the datasets.
        dataset_dir: as LLaMA-Factory takes it: a folder, the entries themselves, or a place on a hub (not looked at).
    """
    if isinstance(dataset_dir, dict):
        check_entries(names, dataset_dir, "dataset_dir")
    elif names and dataset_dir != "ONLINE" and not dataset_dir.startswith("REMOTE:"):
        file = os.path.join(dataset_dir, FILE)
        check_entries(names, read_entries(file)[1], file)
