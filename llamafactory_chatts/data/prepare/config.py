"""The recipe of ``prepare``: read, held against its schema, defaults filled in."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from ...core.errors import ChatTSError, Problem, shorten
from ..labels import matching
from ..labels.answers import validator
from .split import PARTS


SCHEMA_FILE = "prepare.schema.json"
EXACT_SUFFIX = "_exact_only"


@dataclass(frozen=True)
class Source:
    """One label file with its series; field names as in the recipe.

    Attributes:
        raw: the source as it stands in the recipe.
        match: rules as written, in the order they are tried.
        slice: first point and the one behind the last, None for an open end.
        window, stride: points; window is None for whole series.
        points: most points of a row's series, None for any number.
    """

    name: str
    labels: tuple[str, ...]
    raw: Mapping[str, Any]
    series: str | None = None
    match: tuple[Any, ...] = ()
    columns: list[str | int] | None = None
    time_column: str | int | None = None
    decimal: str | None = None
    slice: list[int | None] | None = None
    window: int | None = None
    stride: int = 0
    keep_empty: bool = False
    points: int | None = None
    method: str = "mean"
    gaps: str = "error"
    prompt: str | None = None
    answers: str = "keep"
    answer_schema: str | None = None

    @property
    def moves(self) -> bool:
        """Whether points change their index, and the intervals of the answer with them."""
        return self.slice is not None or self.window is not None or self.points is not None or self.gaps == "drop"


@dataclass(frozen=True)
class Recipe:
    """What is prepared, and where it goes; field names as in the recipe file.

    Attributes:
        config: the recipe as a dict, after all overrides; part of the provenance.
        output: file to write; with a split the name that the parts' names are made of.
        rows: ``single`` (input, output), ``messages``, or ``auto``.
    """

    config: Mapping[str, Any]
    output: Path
    sources: tuple[Source, ...]
    rejects: Path
    dataset_info: Path | None = None
    dataset_name: str = ""
    rows: str = "auto"
    seed: int = 0
    deduplicate: str = "off"
    split: Mapping[str, float] = field(default_factory=dict)

    @property
    def parquet(self) -> bool:
        return self.output.suffix.lower() == ".parquet"

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts with a share, in order; one nameless part without a split."""
        return tuple(part for part in PARTS if self.split.get(part, 0) > 0) or ("",)

    def beside(self, ending: str) -> Path:
        """Return the path of a file that belongs to the output: ``NAME`` + ending."""
        return self.output.with_name(self.output.stem + ending)

    def part_file(self, part: str) -> Path:
        """Return the output file of a part."""
        return self.beside(f"_{part}{self.output.suffix}") if part else self.output

    def part_name(self, part: str) -> str:
        """Return the name of a part in dataset_info.json."""
        return f"{self.dataset_name}_{part}" if part else self.dataset_name


def load(config: str | os.PathLike | Mapping[str, Any], exact_only: bool = False, **changes: Any) -> Recipe:
    """Return the recipe of a YAML file or a dict.

    Args:
        config: path or content.
        exact_only: replace all rules by ``exact``, name the output ``NAME_exact_only``, leave dataset_info.json alone.
        changes: keys of the recipe to override.

    Raises:
        ChatTSError: the file cannot be read, or the recipe is wrong; every mistake is named, with its key.
    """
    where = "recipe" if isinstance(config, Mapping) else str(config)
    content = dict(config) if isinstance(config, Mapping) else _read(where)
    content.update(changes)
    _raise(where, list(_schema_problems(content)))
    if "answers" in changes:  # the command line speaks for every source
        content["sources"] = [{k: v for k, v in item.items() if k != "answers"} for item in content["sources"]]

    if exact_only:
        output = Path(content["output"])
        content.update(output=str(output.with_name(f"{output.stem}{EXACT_SUFFIX}{output.suffix}")))
        content["sources"] = [{**item, "match": ["exact"]} for item in content["sources"]]
        content.pop("dataset_info", None)
        content.pop("rejects", None)

    problems = list(_other_problems(content))
    sources = []
    for number, item in enumerate(content["sources"]):
        try:
            sources.append(_source(item, content))
        except ChatTSError as error:
            problems.append(
                Problem(f"sources[{number}]{'.' + error.where if error.where else ''}", error.what, error.fix)
            )

    _raise(where, problems)
    output = Path(content["output"])
    info = Path(content["dataset_info"]) if "dataset_info" in content else None
    return Recipe(
        config=content,
        output=output,
        sources=tuple(sources),
        rejects=Path(content.get("rejects") or output.with_name(f"{output.stem}.rejects.jsonl")),
        dataset_info=info if info is None or info.suffix == ".json" else info / "dataset_info.json",
        dataset_name=content.get("dataset_name") or output.stem,
        rows=content.get("rows", "auto"),
        seed=content.get("seed", 0),
        deduplicate=content.get("deduplicate", "off"),
        split=content.get("split") or {},
    )


def _read(path: str) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ChatTSError(
            "the recipe is missing", path, "Name a YAML file; see examples/prepare_plants.yaml"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ChatTSError(f"not readable as YAML ({shorten(error, 120)})", path, "Correct the file") from None

    if not isinstance(content, dict):
        raise ChatTSError("no recipe", path, "Write `output:` and `sources:`; see examples/prepare_plants.yaml")

    if content.get("deduplicate") is False:  # YAML reads a bare `off` as false
        content["deduplicate"] = "off"

    return content


def _label_files(item: Mapping[str, Any]) -> tuple[str, ...]:
    labels = item["labels"]
    return (labels,) if isinstance(labels, str) else tuple(labels)


def _source(item: Mapping[str, Any], content: Mapping[str, Any]) -> Source:
    window, sampling = item.get("window") or {}, item.get("resample") or {}
    schema = item.get("answer_schema", content.get("answer_schema"))
    validator(schema)
    labels = _label_files(item)
    rules = item.get("match") or ["exact"]
    matching.parse_rules(list(rules))  # only to find mistakes: parsed rules cannot be sent to other processes
    return Source(
        name=item.get("name") or Path(labels[0]).stem,
        labels=labels,
        raw=item,
        series=item.get("series"),
        match=tuple(rules),
        columns=item.get("columns"),
        time_column=item.get("time_column"),
        decimal=item.get("decimal"),
        slice=item.get("slice"),
        window=window.get("length"),
        stride=window.get("stride") or window.get("length") or 0,
        keep_empty=window.get("keep_empty", False),
        points=sampling.get("points"),
        method=sampling.get("method", "mean"),
        gaps=item.get("gaps", "error"),
        prompt=item.get("prompt"),
        answers=item.get("answers", content.get("answers", "keep")),
        answer_schema=schema,
    )


def _schema_problems(content: Mapping[str, Any]) -> Iterator[Problem]:
    from jsonschema import Draft202012Validator

    text = resources.files(__package__).joinpath("schema", SCHEMA_FILE).read_text(encoding="utf-8")
    errors = Draft202012Validator(json.loads(text)).iter_errors(content)
    for error in sorted(errors, key=lambda item: [str(part) for part in item.absolute_path]):
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
        yield Problem(key, *_explain(error))


def _explain(error: Any) -> tuple[str, str]:
    """Return what is wrong and what to change for an error of jsonschema."""
    value = shorten(repr(error.instance), 60)
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        unknown = [str(key) for key in error.instance if key not in known]
        return f"unknown key {', '.join(map(repr, unknown))}", f"Use: {', '.join(known)}"

    if error.validator == "required":
        absent = [key for key in error.validator_value if key not in error.instance]
        return f"{', '.join(absent)} is missing", "Add it"

    if error.validator == "enum":
        return f"{value} is not known", f"Use one of: {', '.join(error.validator_value)}"

    if error.validator == "pattern" and "jsonl" in error.validator_value:
        return f"{value} is no name of a dataset file", "End it with .jsonl or .parquet"

    if error.validator == "type":
        return f"{value} is no {error.validator_value}", f"Write a {error.validator_value}"

    return shorten(error.message), error.schema.get("description", "Correct the value")


def _other_problems(content: Mapping[str, Any]) -> Iterator[Problem]:
    split = content.get("split")
    if split and abs(sum(split.values()) - 1) > 1e-6:
        yield Problem("split", f"the shares add up to {sum(split.values()):g}", "Make them 1")

    names = [item.get("name") or Path(_label_files(item)[0]).stem for item in content["sources"]]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem("sources", f"two sources are called {name!r}", "Give each a `name`")

    output = os.path.abspath(content["output"])
    for number, item in enumerate(content["sources"]):
        if output in map(os.path.abspath, _label_files(item)):
            yield Problem(f"sources[{number}].labels", "is also the output", "Write to another file")


def _raise(where: str, problems: list[Problem]) -> None:
    if len(problems) == 1:
        raise ChatTSError(problems[0].what, f"{where}: {problems[0].where}".removesuffix(": "), problems[0].fix)

    if problems:
        lines = [str(ChatTSError(item.what, item.where or None, item.fix)) for item in problems]
        raise ChatTSError("\n  ".join([f"{len(problems)} mistakes", *lines]).removesuffix("."), where)
