"""When converted and tokenised rows may be used again: what the datasets cache must know beyond what it sees itself.

``datasets`` names a cached file after the pickled function that made it. Such a pickle holds objects with all their
fields, but code by its name only, so that neither a new release nor an edited file would be noticed.
"""

import copy
import functools
import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any

from ... import __version__


PACKAGES = ("llamafactory", "transformers")
ROOM = Path(__file__).resolve().parents[2]
CODE = (
    *("core/contract.py", "core/placeholders.py", "core/series.py", "files/series_files.py", "files/column_files.py"),
    *(
        "files/csv_text.py",
        "rows/cells.py",
        "host/rows/converter.py",
        "host/rows/lane.py",
        "host/rows/mm_plugin.py",
        "host/rows/encoding.py",
    ),
    *("host/start/template.py", "model/processing_chatts.py"),
)
"""Files of this package that decide what a row becomes; a test compares them with what the row functions import."""

NOT_OF_ROWS = (
    *("dataset", "eval_dataset", "max_samples", "val_size", "eval_on_each_dataset", "eval_num_beams"),
    *("mix_strategy", "interleave_probs", "buffer_size", "tokenized_path", "overwrite_cache", "_chatts_named"),
    *("preprocessing_num_workers", "data_shared_file_system", "drop_overlong", "tokens_per_batch"),
)
"""Settings of the data that change no row: rows are not tokenised again because one of them changes."""


@functools.cache
def code_state() -> str:
    """Return a digest of the code that rows go through: versions, and the contents of our own files."""
    digest = hashlib.sha256(__version__.encode())
    for package in PACKAGES:
        digest.update(f"{package} {metadata.version(package)}\n".encode())

    for name in CODE:
        digest.update((ROOM / name).read_bytes())

    return digest.hexdigest()


def settings_of_rows(data_args: Any) -> Any:
    """Return a copy of the data's settings without those that change no row."""
    data_args = copy.copy(data_args)
    for name in NOT_OF_ROWS:
        if hasattr(data_args, name):
            setattr(data_args, name, None)

    return data_args
