"""Adapters that a recipe loads: whether they fit their base, the method and the stage."""

from collections.abc import Iterator
from pathlib import Path

from ...core.adapter_config import loading_fault
from ...core.base_record import check_adapters, fingerprint, read_record
from ...core.errors import ChatTSError
from ..context import ADAPTERS, Context
from ..finding import Finding


KEY = "adapter_name_or_path"


def adapters_on_their_base(context: Context) -> Iterator[Finding]:
    """Adapters of another base, counted twice, or of a kind that is not loaded as it was trained."""
    if not context.is_chatts or context.method not in ADAPTERS:
        return

    base, where = Path(context.base), context.recipe.where(KEY)
    folders = [Path(name, str(context.get("adapter_folder", ""))) for name in context.words(KEY)]
    if all(folder.is_dir() for folder in folders):
        new = context.on("create_new_adapter")
        for folder in folders:
            goes_on = folder == folders[-1] and not new
            fault = loading_fault(folder, context.method, context.quantised or context.stored_quantised, goes_on)
            if fault is not None:
                yield Finding("error", KEY, f"{folder}: {fault[0]}", where, fault[1])

        if context.base and base.is_dir() and fingerprint(base) is not None:
            try:
                for note in check_adapters(base, folders):
                    yield Finding("note", KEY, note, where)
            except ChatTSError as error:
                adapter = str(error.where).removeprefix(f"{KEY}: ")
                yield Finding("error", KEY, f"{adapter}: {error.what}", where, str(error.fix))

    key = "resume_from_checkpoint"
    record = read_record(str(context.get(key, "")))
    if record is not None and base.is_dir() and fingerprint(base) not in (None, record["base"]["fingerprint"]):
        what = f"the checkpoint was trained on another base ({record['base'].get('name')}) than {context.base}"
        yield Finding("error", key, what, context.recipe.where(key), "Name that base, or another output_dir")
