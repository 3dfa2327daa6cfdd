"""``tokenized_path``: tokenised data are used again only for the recipe that they were made from."""

import hashlib
import json
import os
from typing import Any

from ...core.contract import COLUMN
from ...rows.tokenized_record import (
    NAMES,
    SETTINGS,
    differences,
    digest_of,
    read_record,
    refuse_differences,
    write_record,
)


NAMED = "_chatts_named"


def remember_named(
    raw_args: dict[str, Any], model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any
) -> None:
    """Keep which settings the recipe names: tokenised data are held against these, not against defaults."""
    setattr(data_args, NAMED, frozenset(raw_args))


def _tokenizer_state(tokenizer: Any, processor: Any) -> str:
    digest = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    for name in ("patch_size", "max_sequence_length"):
        digest.update(f"{name} {getattr(processor, name, None)}".encode())

    return digest.hexdigest()


def _files(loader: Any, data_args: Any) -> dict[str, str]:
    """Return dataset name -> digest of its local file."""
    names = dict.fromkeys(name for key in NAMES for name in getattr(data_args, key) or [])
    try:
        attrs = loader.get_dataset_list(list(names), data_args.dataset_dir)
    except (ValueError, OSError):  # the files are not needed any more
        return {}

    files = {}
    for name, attr in zip(names, attrs):
        if attr.load_from == "file" and isinstance(data_args.dataset_dir, str):
            entry = f"{attr.formatting} {attr.prompt} {attr.response} {attr.messages} {getattr(attr, COLUMN, None)}"
            digest = digest_of(os.path.join(data_args.dataset_dir, attr.dataset_name))
            files[name] = digest and hashlib.sha256(f"{digest} {entry}".encode()).hexdigest()

    return files


def _state(loader: Any, data_args: Any, training_args: Any, stage: str, tokenizer: Any, processor: Any) -> dict:
    state = {key: getattr(data_args, key) for key in (*NAMES, *SETTINGS) if hasattr(data_args, key)}
    state |= {"predict_with_generate": training_args.predict_with_generate, "stage": stage}
    state["cutoff_len"] += 1 if data_args.packing else 0  # the host has taken one off what the recipe says
    return state | {
        "files": _files(loader, data_args),
        "tokenizer": _tokenizer_state(tokenizer, processor),
    }


def check_stored(loader: Any, data_args: Any, training_args: Any, stage: str, tokenizer: Any, processor: Any) -> None:
    """Compare stored data with the recipe before they are loaded.

    Raises:
        ChatTSError: they were made from other data or with other settings.
    """
    folder = data_args.tokenized_path
    record = read_record(folder)
    if record is None:
        loader.logger.warning_rank0(
            f"ChatTS: {folder} does not say what it was made from, so that it cannot be held against this recipe."
        )
        return

    state = _state(loader, data_args, training_args, stage, tokenizer, processor)
    named = getattr(data_args, NAMED, frozenset(state)) | {"stage", "files", "tokenizer"}
    refuse_differences(folder, differences(record, {key: value for key, value in state.items() if key in named}))


def record_stored(loader: Any, data_args: Any, training_args: Any, stage: str, tokenizer: Any, processor: Any) -> None:
    """Write beside data that were just stored what they were made from."""
    if training_args.should_save:
        state = _state(loader, data_args, training_args, stage, tokenizer, processor)
        write_record(data_args.tokenized_path, state)
