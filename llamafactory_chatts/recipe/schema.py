"""The keys a recipe may have, read from the source of the installed LLaMA-Factory, transformers and this package.

Importing the argument classes costs seconds and needs torch; their source is read in a tenth of a second. A test
compares the result with the classes themselves.
"""

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


HOST_FILES = {
    "model": ("llamafactory/hparams/model_args.py",),
    "data": ("llamafactory/hparams/data_args.py",),
    "training": (
        "transformers/training_args.py",
        "transformers/training_args_seq2seq.py",
        "llamafactory/hparams/training_args.py",
    ),
    "finetuning": ("llamafactory/hparams/finetuning_args.py",),
    "generating": ("llamafactory/hparams/generating_args.py",),
}
ENUM_FILES = (
    "llamafactory/extras/constants.py",
    "transformers/trainer_utils.py",
    "transformers/training_args.py",
)
OWN_CLASSES = {
    "ModelArguments": "model",
    "DataArguments": "data",
    "TrainingArguments": "training",
    "FinetuningArguments": "finetuning",
}
_SIMPLE = ("bool", "int", "float", "str", "list", "dict")


@dataclass(frozen=True)
class Field:
    """One key.

    Attributes:
        group: model, data, training, finetuning or generating.
        types: of ``bool``, ``int``, ``float``, ``str``, ``list``, ``dict`` those that the annotation names; empty
            where it cannot be told.
        choices: the values of a literal or enum, None for any.
        optional: it may be null.
    """

    group: str
    types: frozenset[str]
    choices: tuple[str, ...] | None
    optional: bool


def locate(file: str) -> Path | None:
    """Return the path of ``package/module.py`` of an installed package, without importing anything of it."""
    import importlib.machinery

    package, _, rest = file.partition("/")
    spec = importlib.machinery.PathFinder.find_spec(package)  # our own finder, which would arm the table, is left out
    places = list(spec.submodule_search_locations or []) if spec else []
    return next((path for place in places if (path := Path(place, rest)).is_file()), None)


@functools.cache
def schema() -> dict[str, Field]:
    """Return the fields by key; empty when LLaMA-Factory or transformers is not installed."""
    enums = _enums()
    fields: dict[str, Field] = {}
    for group, files in HOST_FILES.items():
        for file in files:
            path = locate(file)
            if path is None:
                return {}

            for node in _classes(path, r"\w+Arguments?"):
                fields.update(_fields(node, group, enums))

    for path in sorted(Path(__file__).parents[1].joinpath("host").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if not any(f"class {name}(" in text for name in OWN_CLASSES):
            continue

        for node in ast.walk(ast.parse(text)):  # ours are defined inside the functions that build them
            if isinstance(node, ast.ClassDef) and node.name in OWN_CLASSES:
                fields.update(_fields(node, OWN_CLASSES[node.name], enums))

    return fields


def _classes(path: Path, name: str) -> Iterator[ast.ClassDef]:
    """Yield the outermost classes of a file that a pattern names, up to their first method: parsing all is slow."""
    for found in re.finditer(rf"^class {name}\b.*\n(?:[ \t].*\n|\n|\).*\n)*", path.read_text("utf-8"), re.MULTILINE):
        head = re.split(r"^    (?:def |@)", found[0], maxsplit=1, flags=re.MULTILINE)[0]
        yield ast.parse(head).body[0]


def _fields(node: ast.ClassDef, group: str, enums: dict[str, tuple[str, ...]]) -> dict[str, Field]:
    found = {}
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name) or item.value is None:
            continue

        keywords = {word.arg: word.value for word in getattr(item.value, "keywords", [])}
        init = keywords.get("init")
        if isinstance(init, ast.Constant) and init.value is False:
            continue

        types, choices, optional = set(), [], False
        for part in _parts(item.annotation):
            if part in ("None", "NoneType"):
                optional = True
            elif part in _SIMPLE:
                types.add(part)
            elif part.startswith("="):
                choices.append(part[1:])
            elif part in enums:
                choices += enums[part]
            else:
                types |= set(_SIMPLE)  # something not known here: any value may do

        told = keywords.get("metadata")
        if not choices and types <= {"str"} and isinstance(told, ast.Dict):
            said = [value for key, value in zip(told.keys, told.values) if ast.unparse(key) == "'choices'"]
            choices += (
                [item.value for item in getattr(said[0], "elts", []) if isinstance(item, ast.Constant)] if said else []
            )

        if choices:
            types.add("str")

        default = keywords.get("default", item.value)
        optional = optional or (isinstance(default, ast.Constant) and default.value is None)
        closed = bool(choices) and types <= {"str"}
        found[item.target.id] = Field(group, frozenset(types), tuple(choices) if closed else None, optional)

    return found


def _parts(annotation: ast.expr) -> list[str]:
    """Return the members of a union; the values of a literal with ``=`` in front."""
    if isinstance(annotation, ast.BinOp):
        return _parts(annotation.left) + _parts(annotation.right)

    if isinstance(annotation, ast.Constant):
        if isinstance(annotation.value, str):  # an annotation in quotes
            return _parts(ast.parse(annotation.value, mode="eval").body)

        return ["None"]

    if isinstance(annotation, ast.Subscript):
        name = ast.unparse(annotation.value).rsplit(".", 1)[-1]
        inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        if name == "Optional":
            return ["None"] + _parts(inner[0])

        if name == "Union":
            return [part for item in inner for part in _parts(item)]

        if name == "Literal":
            return [f"={item.value}" for item in inner if isinstance(item, ast.Constant)]

        return [name.lower()]

    return [ast.unparse(annotation).rsplit(".", 1)[-1]]


def _enums() -> dict[str, tuple[str, ...]]:
    """Return the values of the string enums that annotations name."""
    found = {}
    for file in ENUM_FILES:
        path = locate(file)
        for node in _classes(path, r"\w+") if path else ():
            if any("Enum" in ast.unparse(base) for base in node.bases):
                values = [
                    item.value.value
                    for item in node.body
                    if isinstance(item, ast.Assign)
                    and isinstance(item.value, ast.Constant)
                    and isinstance(item.value.value, str)
                ]
                found[node.name] = tuple(values)

    return found
