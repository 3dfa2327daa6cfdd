"""``val_size``: rows that are held out, as a number (above 1) or as a share (below 1)."""

import math

from ..core.errors import ChatTSError


def check_val_size(value: float, rows: int) -> None:
    """Raise a :class:`ChatTSError` where so much cannot be held out.

    Args:
        value: of ``val_size``; 0 holds nothing out.
        rows: of the dataset.
    """
    if value <= 1e-6:
        return

    share = value < 1 or (value == 1 and isinstance(value, float))  # 1 without a dot is one row
    held = math.ceil(value * rows) if share else int(value)
    if held >= rows:
        what = "the whole dataset" if value == 1 and share else f"{held} of {rows} rows"
        raise ChatTSError(
            f"it holds out {what}, so that none is left to train on",
            where=f"val_size: {value:g}",
            fix="Write a share below 1 (0.1 is a tenth of the rows), or a number of rows below that of the dataset",
        )
