"""What a recipe says of its data beyond the files: rows held out, and tokenised data of other rows."""

from collections.abc import Iterator

from ...core.errors import ChatTSError
from ...rows.tokenized_record import NAMES, SETTINGS, differences, read_record
from ...rows.val_size import check_val_size
from ..context import Context
from ..finding import Finding
from ..launch.run import count_all_rows


def held_out(context: Context) -> Iterator[Finding]:
    """``val_size`` leaves rows to train on, and is a number of rows where data are streamed."""
    key, value = "val_size", context.number("val_size", 0.0) or 0.0
    where = context.recipe.where(key)
    if not context.trains or value <= 1e-6:
        return

    if context.on("streaming"):
        if value < 1:
            yield Finding(
                "error", key, "streamed data have no length to take a share of", where, "Write a number of rows"
            )

        return

    rows = count_all_rows(context)
    written = context.get(key)
    try:
        check_val_size(written if isinstance(written, int) else value, 2**62 if rows is None else rows)
    except ChatTSError as error:
        yield Finding("error", key, error.what, where, error.fix)


def stored_tokens(context: Context) -> Iterator[Finding]:
    """Tokenised data that are there already were made from what the recipe names."""
    key, folder, where = "tokenized_path", context.get("tokenized_path"), context.recipe.where("tokenized_path")
    record = read_record(str(folder)) if folder else None
    if record is None or not context.trains:
        return

    stage = {"dpo": "rm"}.get(context.stage, context.stage)
    named = {name: value for name, value in context.recipe.values.items() if name in (*NAMES, *SETTINGS)}
    for what in differences(record, {**named, "stage": stage}):
        fix = "Name another tokenized_path (it is made anew), or write the recipe as it was"
        yield Finding("error", key, f"these tokenised data were made otherwise: {what}", where, fix)
