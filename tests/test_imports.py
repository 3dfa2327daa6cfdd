"""The import rules of the packages, read from the imports. See ``docs/architecture.md``."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import llamafactory_chatts
from llamafactory_chatts import register


PACKAGE = Path(llamafactory_chatts.__file__).parent
NAME = PACKAGE.name
LINES = 320
MOST_FILES = 14
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
ALLOWED = {
    "core": {"core"},
    "files": {"core", "files"},
    "rows": {"core", "files", "rows"},
    "recipe": {"core", "files", "rows", "recipe"},
    "data": {"core", "files", "rows", "data"},
    "evaluate": {"core", "files", "rows", "evaluate"},
    "report": {"core", "recipe", "report"},
    "plan": {"core", "files", "rows", "recipe", "plan"},
    "diagnose": {"core", "recipe", "diagnose"},
    "running": {"core", "recipe", "running"},
    "model": {"core", "model"},
    "serve": {"core", "model", "serve"},
    "host": {"core", "files", "rows", "recipe", "model", "evaluate", "host"},
}
"""The packages that a package may import; one that is not listed may import any but ``host``."""

PACKAGES = (*ALLOWED, "commands")
HOST_USERS = ("host/", "register.py", "commands/")
LLAMAFACTORY_USERS = ("host/", "register.py", "commands/doctor")
WITHOUT_TORCH = ("core/", "files/", "rows/", "recipe/", "data/", "diagnose/", "evaluate/", "report/", "running/")
HEAVY = {"torch", "transformers", "safetensors", "accelerate", "peft", "trl", "bitsandbytes", "deepspeed"}


def imports_of(source, file):
    """Return the dotted names that a file of the package imports, anywhere in it.

    A name imported from a module is given both as the module and as ``module.name``, as it may be a module.
    """
    package = [NAME, *Path(file).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, node.module] if node.module else base)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                name, dots = node.args[0].value, len(node.args[0].value) - len(node.args[0].value.lstrip("."))
                base = ".".join(package[: len(package) - dots + 1]) + "." if dots else ""
                found.add(base + name.lstrip("."))

    return found


def imports(file):
    return imports_of((PACKAGE / file).read_text(), file)


def outside(file):
    """Return the top-level packages that a file imports."""
    return {name.split(".")[0] for name in imports(file)}


def packages(file):
    """Return the packages of ours that a file imports."""
    parts = (name.split(".") for name in imports(file))
    return {part[1] for part in parts if part[0] == NAME and len(part) > 1 and part[1] in PACKAGES}


def test_the_reader_sees_every_way_to_import():
    source = """
import torch.nn as nn
from transformers import AutoConfig
from ..core import errors
from ..core.errors import ChatTSError
from . import encoder
def f():
    import importlib
    importlib.import_module("llamafactory.extras")
    importlib.import_module("..host.compat", __package__)
"""
    found = imports_of(source, "model/auto.py")
    assert {"torch.nn", "transformers.AutoConfig", f"{NAME}.core.errors", f"{NAME}.model.encoder"} <= found
    assert {"llamafactory.extras", f"{NAME}.host.compat"} <= found


def test_there_is_something_to_read():
    assert "core/series.py" in FILES and "model/encoder.py" in FILES
    assert {file.split("/")[0] for file in FILES if "/" in file} <= set(PACKAGES)


@pytest.mark.parametrize("file", FILES)
class TestRules:
    def test_a_package_imports_only_what_it_may(self, file):
        package = file.split("/")[0]
        extra = packages(file) - ALLOWED.get(package, set(PACKAGES) - {"host"})
        assert not extra or (extra == {"host"} and file.startswith(HOST_USERS)), f"{file} imports {sorted(extra)}"

    def test_only_the_host_imports_llamafactory(self, file):
        assert file.startswith(LLAMAFACTORY_USERS) or "llamafactory" not in outside(file)

    def test_imports_without_torch(self, file):
        if file.startswith(WITHOUT_TORCH):
            assert not HEAVY & outside(file), f"{file} imports {sorted(HEAVY & outside(file))}"

    def test_length(self, file):
        lines = len((PACKAGE / file).read_text().splitlines())
        assert lines <= LINES, f"{file} has {lines} lines; give part of it a file with a name of its own"

    def test_no_file_is_called_utils(self, file):
        assert "util" not in Path(file).stem and "helper" not in Path(file).stem


def test_no_package_has_many_files():
    beside = {}
    for file in FILES:
        beside.setdefault(str(Path(file).parent), []).append(file)

    assert not {package: len(files) for package, files in beside.items() if len(files) > MOST_FILES}


def test_no_file_imports_one_that_imports_it():
    """Nor over others: every file can be imported after those that it names."""
    names = {".".join([NAME, *Path(file).with_suffix("").parts]).removesuffix(".__init__"): file for file in FILES}
    graph = {
        name: {found for found in imports(file) if found in names and found != name} for name, file in names.items()
    }
    for name, found in graph.items():  # `from .package import module` names both: the module is what is meant
        graph[name] = {one for one in found if not any(other.startswith(one + ".") for other in found)}

    tuple(graphlib.TopologicalSorter(graph).static_order())


def foreign_changes(source):
    """Yield (top-level function, line) for each place that wraps a foreign symbol or assigns to an imported name.

    A place counts when it calls ``patch``, or sets an attribute of a module or class that was imported from another
    package.
    """
    for top in ast.parse(source).body:
        imported = set()
        for node in ast.walk(top):
            if isinstance(node, ast.Import):
                imported |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported |= {alias.asname or alias.name for alias in node.names}

        for node in ast.walk(top):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name == "patch":
                    yield getattr(top, "name", ""), node.lineno
                elif name == "setattr" and node.args:
                    targets = [ast.Attribute(node.args[0], "x")]

            for target in targets:
                inner = target
                while isinstance(inner, ast.Attribute):
                    inner = inner.value

                if isinstance(target, ast.Attribute) and getattr(inner, "id", "") in imported:
                    yield getattr(top, "name", ""), node.lineno


TESTS = Path(__file__).parent
TEST_MODULES = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py"))


def named_tests(source):
    """Return the parts of imported names that are names of test modules."""
    modules = {Path(file).stem for file in TEST_MODULES}
    return {part for name in imports_of(source, "x.py") for part in name.split(".")} & modules


class TestTests:
    """What several tests need stands in ``conftest.py`` or in a module that is no test."""

    def test_an_import_is_found(self):
        assert named_tests("def f():\n    from tests.test_examples import RECIPES") == {"test_examples"}
        assert named_tests("import test_imports as other") == {"test_imports"}
        assert named_tests("from llamafactory_chatts import cli") == set()

    @pytest.mark.parametrize("file", sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py")))
    def test_no_test_module_is_imported(self, file):
        assert not named_tests((TESTS / file).read_text())


class TestTable:
    """Nothing in LLaMA-Factory, transformers, peft or DeepSpeed is changed but by a row of the table."""

    @pytest.mark.parametrize("file", [file for file in FILES if file != "host/compat.py"])
    def test_every_change_is_made_by_a_row(self, file):
        rows = {row.apply for row in register.TABLE}
        module = f"{NAME}.{file.removesuffix('.py').replace('/', '.')}"
        source = (PACKAGE / file).read_text()
        outside = [found for found in foreign_changes(source) if f"{module}:{found[0]}" not in rows]
        assert not outside or file == "register.py", f"{file}: {outside}"

    def test_changes_are_found(self):
        source = """
def one():
    from peft import peft_model
    patch(peft_model, "PeftModel.save_pretrained", build)
def two():
    import trl
    trl.DPOTrainer.forward = None
def three(model):
    from transformers import Trainer
    setattr(Trainer, "train", None)
    model.x = 1
"""
        assert [name for name, _ in foreign_changes(source)] == ["one", "two", "three"]


def loaded_by(statement, *names):
    """Return which modules of the given packages a fresh interpreter holds after a statement."""
    script = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); before = set(sys.modules); {statement}; "
        f"print(*sorted(m for m in set(sys.modules) - before if m.split('.')[0] in {set(names)!r}))"
    )
    environment = {**os.environ, "LLAMAFACTORY_CHATTS": "0"}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()


class TestStart:
    def test_the_package_alone_imports_nothing_else(self):
        script = (
            f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); before = set(sys.modules); "
            f"import {NAME}; print(*sorted(set(sys.modules) - before))"
        )
        result = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
        assert result.stdout.split() == [NAME]

    def test_core_needs_only_numpy(self):
        modules = [file for file in FILES if file.startswith("core/") and not file.endswith("__init__.py")]
        statement = "; ".join(f"import {NAME}.{file[:-3].replace('/', '.')}" for file in modules)
        assert not loaded_by(statement, *HEAVY, "llamafactory", "datasets")

    def test_the_model_works_without_llamafactory(self):
        found = loaded_by(f"import {NAME}.model", "llamafactory", NAME)
        assert found and {name.split(".")[0] for name in found} == {NAME}
        assert {name.split(".")[1] for name in found if "." in name} <= {"core", "model", "autoload"}
