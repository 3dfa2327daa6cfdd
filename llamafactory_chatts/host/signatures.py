"""Parameters of functions, read from source files: nothing is imported, so a host can be judged before it runs."""

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def parameters(path: str) -> tuple[str, ...]:
    """Return the parameter names of ``module:function`` or ``module:Class.method``, as ``inspect.signature`` does.

    Names that a module imports are followed, and methods through base classes, into other packages, too. Of a class
    alone nothing is read: its names are ().

    Raises:
        LookupError: there is no such name in the files that Python would import.
    """
    module, _, dotted = path.partition(":")
    name, _, method = dotted.partition(".")
    holder, node = _definition(module, name)
    if isinstance(node, ast.ClassDef):
        return _method(holder, node, method) if method else ()

    if method:
        raise LookupError(path)

    return _names(node)


def _names(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, ...]:
    args = node.args
    found = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    names = tuple(one.arg for one in found if one is not None)
    return names[1:] if "classmethod" in map(_last_name, node.decorator_list) else names


def _last_name(node: ast.expr) -> str:
    """Return ``c`` of ``c``, ``a.b.c``, ``c(...)`` and ``c[...]``."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value

    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a body, also those under ``if``, ``try`` and ``with``."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            for key in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, key, []))

            for handler in getattr(node, "handlers", []):
                yield from _statements(handler.body)


@functools.cache
def _folder(package: str) -> Path:
    """Return the folder of a top-level package, asked from every finder but ours: they wait for this very package."""
    for finder in list(sys.meta_path):
        if not type(finder).__module__.startswith("llamafactory_chatts") and hasattr(finder, "find_spec"):
            spec = finder.find_spec(package, None)
            if spec is not None and spec.submodule_search_locations:
                return Path(next(iter(spec.submodule_search_locations)))

    raise LookupError(package)


@functools.cache
def _module(module: str) -> tuple[list[ast.stmt], bool]:
    """Return the statements of a module, and whether it is a package."""
    package, *parts = module.split(".")
    place = _folder(package).joinpath(*parts)
    for file, is_package in ((place / "__init__.py", True), (place.with_name(place.name + ".py"), False)):
        if file.is_file():
            return list(_statements(ast.parse(file.read_text(encoding="utf-8")).body)), is_package

    raise LookupError(module)


def _definition(module: str, name: str) -> tuple[str, Definition]:
    """Return the ``def`` or ``class`` that a module's name stands for, and the module in which that is."""
    statements, is_package = _module(module)
    for node in statements:
        try:
            if isinstance(node, Definition) and node.name == name:
                return module, node

            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        base = module.split(".")[: None if is_package else -1]
                        base = base[: len(base) - node.level + 1] if node.level else []
                        source = ".".join([*base, node.module] if node.module else base)
                        return _definition(source, alias.name)

            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
                if any(isinstance(target, ast.Name) and target.id == name for target in node.targets):
                    return _definition(module, node.value.id)
        except LookupError:
            continue  # another branch may define it

    raise LookupError(f"{module}.{name}")


def _bases(module: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef]]:
    for base in node.bases:
        try:
            holder, found = _definition(module, _last_name(base))
        except LookupError:
            continue

        if isinstance(found, ast.ClassDef):
            yield holder, found


def _fields(module: str, node: ast.ClassDef) -> tuple[str, ...]:
    """Return the fields of a dataclass, those of its bases first."""
    if "dataclass" not in map(_last_name, node.decorator_list):
        return ()

    inherited = (name for holder, base in _bases(module, node) for name in _fields(holder, base))
    own = (
        one.target.id
        for one in node.body
        if isinstance(one, ast.AnnAssign)
        and isinstance(one.target, ast.Name)
        and _last_name(one.annotation) != "ClassVar"
    )
    return tuple(dict.fromkeys((*inherited, *own)))


def _method(module: str, node: ast.ClassDef, name: str) -> tuple[str, ...]:
    for one in _statements(node.body):
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name == name:
            return _names(one)

    if name == "__init__" and (fields := _fields(module, node)):
        return ("self", *fields)

    for holder, base in _bases(module, node):
        try:
            return _method(holder, base, name)
        except LookupError:
            continue

    raise LookupError(f"{module}.{node.name}.{name}")
