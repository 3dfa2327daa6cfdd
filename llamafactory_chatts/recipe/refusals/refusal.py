"""A row of the table of refusals."""

from collections.abc import Callable

from ..context import Context


Refusal = tuple[str, Callable[[Context], object], str, str]
"""Key, condition, what is wrong, what to change."""
