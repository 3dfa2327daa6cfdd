"""Files of a published checkpoint that an export carries along: code that vLLM's ChatTS support looks for."""

import os
import shutil
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import cached_file, logging


logger = logging.get_logger(__name__)


def published_files(config: PreTrainedConfig) -> list[str]:
    """Return the names of files that the ``auto_map`` of a config mentions, e.g. ``modeling_qwen3_ts.py``."""
    references = getattr(config, "_published", {}).get("auto_map", {}).values()
    flat: list[str] = []
    for reference in references:
        flat += [reference] if isinstance(reference, str) else [item for item in reference if item]

    return sorted({f"{item.split('--')[-1].split('.')[0]}.py" for item in flat})


def copy_published_files(config: PreTrainedConfig, target: Any) -> list[str]:
    """Copy remote-code files (never executed here) from where the model was loaded into ``target``.

    A local folder gives every ``*.py`` it holds, a hub name those its ``auto_map`` mentions; a warning names
    those that cannot be found. Returns the names copied.
    """
    source = getattr(config, "_name_or_path", "") or ""
    names = published_files(config)
    if os.path.isdir(source):
        names = sorted(set(names) | {name for name in os.listdir(source) if name.endswith(".py")})

    copied, absent = [], []
    for name in names:
        found, path = _find(source, name), os.path.join(str(target), name)
        if found is None:
            absent.append(name)
        elif os.path.realpath(found) != os.path.realpath(path):
            shutil.copyfile(found, path)
            copied.append(name)

    if absent:
        logger.warning(
            f"{target}: {', '.join(absent)} named in config.json cannot be found in {source or 'any folder'}. "
            "Copy them there if another tool needs them."
        )

    return copied


def _find(source: str, name: str) -> str | None:
    if not source:
        return None

    try:
        return cached_file(
            source,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:  # a folder that was moved since
        return None
