"""Known failures, by topic."""

from ..cause import Cause
from . import (
    build,
    data,
    distributed,
    environment,
    files,
    gpu,
    model,
    recipe,
    serving,
    training,
    versions,
    weights,
)


_TOPICS = (serving, build, gpu, training, weights, model, recipe, environment, versions, distributed, files, data)

ALL: tuple[Cause, ...] = tuple(
    sorted((one for topic in _TOPICS for one in topic.CAUSES), key=lambda cause: cause.general)
)
"""Every rule; earlier ones win over later ones, special ones over general ones."""
