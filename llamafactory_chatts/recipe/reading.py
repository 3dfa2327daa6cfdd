"""A recipe as ``llamafactory-cli`` reads it, with the line of each key."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.errors import ChatTSError, shorten
from ..files.text_files import read_text
from .settings import DEFAULTS, typed


SUFFIXES = (".yaml", ".yml", ".json")


@dataclass
class Recipe:
    """Keys and values, and where each stands.

    Attributes:
        values: what the host would get.
        path: the file, None for flags on a command line and for a dict.
        lines: line (1-based) of each key of the file.
        overridden: keys that were given behind the file (``key=value``).
        as_flags: the values are words of a command line, which the host converts to the type of each field.
    """

    values: dict[str, Any]
    path: Path | None = None
    lines: dict[str, int] = field(default_factory=dict)
    overridden: frozenset[str] = frozenset()
    as_flags: bool = False

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def __getitem__(self, key: str) -> Any:
        """Return a key's value, or what the host takes where it is not set (keys of :data:`settings.DEFAULTS`)."""
        return self.values.get(key, DEFAULTS[key])

    def typed(self) -> "Recipe":
        """Return the recipe with the values of the keys that a plan looks at as the host would hold them.

        Raises:
            ChatTSError: one of them is of another kind, or none of the choices.
        """
        return self.changed({key: typed(key, value, f"{self.path}: {key}") for key, value in self.values.items()})

    def changed(self, changes: Mapping[str, Any]) -> "Recipe":
        """Return the recipe with other values."""
        return replace(self, values={**self.values, **changes})

    def names(self, key: str) -> list[str]:
        """Return a value that holds names, written as a list or with commas between them."""
        value = self.values.get(key, DEFAULTS.get(key))
        items = [] if value is None else value if isinstance(value, (list, tuple)) else str(value).split(",")
        return [str(item).strip() for item in items if str(item).strip()]

    def where(self, key: str) -> str:
        """Return ``file:line`` of a key; the file alone, or the command line, where it has no line."""
        if key in self.overridden or self.as_flags:
            return "command line"

        if self.path is None:
            return ""

        return f"{self.path}:{self.lines[key]}" if key in self.lines else str(self.path)

    @property
    def packing(self) -> bool:
        """Whether rows are packed; on by default in stage ``pt``."""
        own = self["packing"]
        return bool(self["neat_packing"] or (self["stage"] == "pt" if own is None else own))

    @property
    def limit(self) -> int:
        """Tokens that a row may have: ``cutoff_len``, one less where the host takes it off for packing."""
        return self["cutoff_len"] - int(bool(self["packing"] or self["neat_packing"]))

    @property
    def adapter(self) -> bool:
        return self["finetuning_type"] in ("lora", "oft")

    @property
    def encoder_mode(self) -> str:
        """How the series encoder is tuned: ``lora``, ``full`` or ``freeze``; the rules of the host package."""
        if not self["train_timeseries_modules"]:
            return "freeze"

        if not self.adapter:
            return "full"

        default = "full" if "ts_encoder" in self.names("additional_target") else "lora"
        return self["timeseries_tuning"] or default


def read_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and put ``key=value`` words over it, as ``llamafactory-cli train FILE key=value`` does.

    Raises:
        ChatTSError: the file is missing, is no YAML mapping (with the line), or an override is not ``key=value``.
    """
    import yaml

    path = Path(path)
    text = read_text(path)
    for word in overrides or []:
        if "=" not in word or word.startswith("-"):
            raise ChatTSError(
                "behind a recipe only key=value is read",
                where=f"command line: {shorten(word)}",
                fix=f"Write it as {word.lstrip('-').partition('=')[0] or 'key'}=VALUE",
            )

    try:
        from omegaconf import OmegaConf

        content = json.loads(text) if path.suffix == ".json" else OmegaConf.create(text or "{}")
        content = OmegaConf.create(content)
        if not OmegaConf.is_dict(content):
            raise ChatTSError("a recipe is a mapping of keys", where=str(path), fix="Write one `key: value` a line")

        merged = OmegaConf.merge(content, OmegaConf.from_cli(list(overrides or [])))
        values = OmegaConf.to_container(merged)
        lines = _lines(yaml.compose(text)) if path.suffix != ".json" else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ChatTSError(
            f"this is no readable YAML ({error.problem or error.context})",
            where=f"{path}{line}",
            fix="Write one `key: value` a line, each key once, no tabs, a space behind the colon",
        ) from None
    except ChatTSError:
        raise
    except ImportError:
        raise ChatTSError("omegaconf is not installed", fix="Run: pip install -U llamafactory-chatts") from None
    except Exception as error:  # omegaconf and json have errors of their own
        raise ChatTSError(f"cannot be read ({shorten(error)})", where=str(path), fix="Correct the file") from None

    named = frozenset(word.partition("=")[0] for word in overrides or [])
    return Recipe({str(key): value for key, value in values.items()}, path, lines, named)


def _lines(node: Any) -> dict[str, int]:
    """Return the line of each key of the outermost mapping."""
    pairs = getattr(node, "value", None)
    if not isinstance(pairs, list):
        return {}

    return {pair[0].value: pair[0].start_mark.line + 1 for pair in pairs if isinstance(pair, tuple)}


def recipe_of(args: dict[str, Any] | list[str], argv: list[str]) -> Recipe:
    """Return the recipe that a starting training was given.

    Args:
        args: what the host's ``read_args`` returned: keys and values, or the words of a command line.
        argv: ``sys.argv`` of the process; when it names the file that ``args`` come from, lines are known.
    """
    if isinstance(args, dict):
        if len(argv) > 1 and argv[1].endswith(SUFFIXES):
            try:
                read = read_recipe(argv[1], argv[2:])
            except ChatTSError:
                read = None
            if read is not None and read.values == args:
                return read

        return Recipe(dict(args))

    return Recipe(_flags(args), as_flags=True)


def _flags(words: list[str]) -> dict[str, Any]:
    """Return the keys of ``--key value``, ``--key=value`` and ``--flag`` (True); values as text."""
    found: dict[str, list[str]] = {}
    key = None
    for word in words:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            key = key.replace("-", "_")
            found[key] = [value] if equals else []
        elif key is not None:
            found[key].append(word)

    return {key: " ".join(parts) if parts else True for key, parts in found.items()}
