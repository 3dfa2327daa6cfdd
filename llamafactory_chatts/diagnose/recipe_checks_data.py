"""What a recipe says of its data beyond the files: rows held out, and tokenised data of other rows."""

from collections.abc import Iterator

from ..core.errors import ChatTSError
from ..core.val_size import check_val_size
from .finding import Finding
from .recipe_checks_run import count_all_rows
from .recipe_context import Context


def held_out(context: Context) -> Iterator[Finding]:
    """``val_size`` leaves rows to train on, and is a number of rows where data are streamed."""
    key, value = "val_size", context.number("val_size", 0.0) or 0.0
    where = context.recipe.where(key)
    if not context.trains or value <= 1e-6:
        return

    if context.on("streaming"):
        if value < 1:
            yield Finding("error", key, "streamed data have no length to take a share of", where, "Write a number of rows")

        return

    rows = count_all_rows(context)
    try:
        check_val_size(value, 2**62 if rows is None else rows)
    except ChatTSError as error:
        yield Finding("error", key, error.what, where, error.fix)
