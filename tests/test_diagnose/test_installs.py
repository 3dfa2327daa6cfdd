"""Whatever doctor tells to install stays in the ranges of pyproject.toml: logs, environment, recipes."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

import llamafactory_chatts
from llamafactory_chatts.core.installs import install
from llamafactory_chatts.diagnose.environment import packages as environment_packages
from llamafactory_chatts.diagnose.log.diagnose import diagnose_log
from llamafactory_chatts.diagnose.log.table import ALL, fill


PACKAGE = Path(llamafactory_chatts.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HERE = Path(__file__).parent
EXTRAS = (extra for name, extra in PROJECT["optional-dependencies"].items() if name != "dev")
LINES = [*PROJECT["dependencies"], *(one for extra in EXTRAS for one in extra)]
RANGES = {one.name.lower(): one.specifier for one in map(Requirement, LINES) if one.specifier}
COMMAND = re.compile(r"pip3? install ((?:(?:'[^']*'|\"[^\"]*\"|[\w./=+<>!~\[\],-]*[\w\]\*])(?: |(?=[`;.,)]|$)))+)")
PROBES = [Version(f"{major}.{minor}.{patch}") for major in range(7) for minor in range(60) for patch in (0, 1, 5, 9)]
WORDS_OF_A_SENTENCE = {"the", "another", "package", "that", "found", "it", "into", "which", "or", "and"}


def wanted(text: str) -> list[Requirement]:
    """Return the requirements of all ``pip install`` commands in a text."""
    found = []
    for command in COMMAND.findall(text):
        words = shlex.split(command)
        names = [word for word in words if not word.startswith("-") and word not in ("requirements.lock", ".")]
        if not WORDS_OF_A_SENTENCE & set(names):
            found += [Requirement(name) for name in names]

    return found


def outside(requirement: Requirement) -> str | None:
    """Return a version that a command may install and that this package does not support, None where there is none.

    Of a bare name pip takes the newest; a range may also be met by what is installed already.
    """
    allowed = RANGES.get(requirement.name.lower().replace("_", "-"))
    if allowed is None:
        return None

    named = [Version(one.version.removesuffix(".*")) for one in requirement.specifier]
    versions = [*PROBES, *named] if requirement.specifier else PROBES[-1:]
    return next((str(v) for v in versions if v in requirement.specifier and v not in allowed), None)


def check(text: str) -> int:
    found = wanted(text)
    assert not [f"{one}: also {version}" for one in found if (version := outside(one))], text
    return len(found)


def texts_of_the_source() -> list[tuple[str, str]]:
    """Return every text in the package that names ``pip install``, with its place."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "pip install" in node.value:
                found.append((f"{path.relative_to(PACKAGE)}:{node.lineno}", node.value))

    return found


class TestTheTestItself:
    @pytest.mark.parametrize(
        "text", ["Run: pip install trl==0.9.6", "pip install torch torchvision", "`pip install -U 'transformers<5'`"]
    )
    def test_it_sees_what_breaks(self, text):
        with pytest.raises(AssertionError):
            check(text)

    @pytest.mark.parametrize(
        "text", ["pip install 'trl>=0.24.0,<0.25'; and more", "pip install ninja", "pip install x, or"]
    )
    def test_it_takes_what_does_not(self, text):
        assert check(text) == 1


def test_install_words_the_ranges():
    assert install("trl") == install("trl<0.9") == "pip install 'trl>=0.24.0,<0.25'"
    assert install("ruamel.yaml") == install("ruamel-yaml") == "pip install 'ruamel-yaml>=0.18,<0.20'"
    assert install("ninja") == "pip install ninja" and install("other>=2") == "pip install 'other>=2'"
    assert install("torch", options="--force-reinstall").startswith("pip install --force-reinstall 'torch>=2.8,<2.12'")


def test_no_text_of_the_source_leaves_the_ranges():
    texts = texts_of_the_source()
    assert len(texts) > 5
    for place, text in texts:
        try:
            check(text)
        except (AssertionError, InvalidRequirement) as err:
            raise AssertionError(f"{place}: {text}") from err


def test_the_fixes_of_all_rules():
    nothing = re.search("", "")
    assert sum(check(fill(row.fix, nothing)) for row in ALL) > 40


MESSAGES = [
    "ImportError: {name}>=0.0.1,<=0.0.9 is required for a normal functioning of this module, but found {name}==0.0.0.",
    "importlib.metadata.PackageNotFoundError: No package metadata was found for {name}",
    "PackageNotFoundError: The '{name}<0.3' distribution was not found and is required by this application",
    "ImportError: llamafactory-chatts needs {name}>=1.0,<2.0, but 9.9 is installed.",
    "ModuleNotFoundError: No module named '{name}'",
    "ImportError: cannot import name 'x' from '{name}' (/x.py)",
    "ImportError: Using the model requires the {name} library",
    "RuntimeError: TensorBoardCallback requires {name} to be installed",
    "TypeError: {name}() got an unexpected keyword argument 'x'",
    "AttributeError: module '{name}' has no attribute 'x'",
]


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("name", sorted(RANGES))
def test_fixes_made_of_a_message(message, name):
    text = message.format(name=name)
    fixes = [row.say(found)[1] for row in ALL if (found := row.search(text))]
    for fix in fixes:
        check(fix)


def test_all_stored_logs():
    logs = [*(HERE / "logs").glob("*.log"), *(HERE / "corpus").glob("*.log")]
    assert sum(check(item.fix) for path in logs for item in diagnose_log(path)) > 3


def test_the_kinds_of_the_table(tmp_path):
    kinds = yaml.safe_load((HERE / "kinds.yaml").read_text(encoding="utf-8"))
    for kind in kinds:
        for log in kind["logs"]:
            path = tmp_path / "run.log"
            path.write_text(log.replace("{trace}", "") + "\nexit code 1\n", encoding="utf-8")
            for item in diagnose_log(path):
                check(item.fix)


@pytest.mark.parametrize("installed", [None, "0.0.1", "99.0"])
def test_the_environment(monkeypatch, installed):
    monkeypatch.setattr(environment_packages, "version_of", lambda package: installed)
    found = list(environment_packages.supported_ranges(None))
    assert sum(check(finding.fix) for finding in found) > 8


@pytest.mark.parametrize("torch", ["2.4.1+cu121", "2.11.0+cu128", "2.12.0", "2.8.0"])
def test_the_torch_family(torch):
    text = environment_packages._together(torch)
    assert check(text) == 3
