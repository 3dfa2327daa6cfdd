"""Known failures, by topic."""

from ..row import Row
from . import build, data, distributed, files, gpu, model, packages, recipe, serving, training


_TOPICS = (serving, build, gpu, training, model, recipe, packages, distributed, files, data)

ALL: tuple[Row, ...] = tuple(sorted((row for topic in _TOPICS for row in topic.ROWS), key=lambda row: row.general))
"""The table; earlier rows win over later ones, special ones over general ones."""
