"""The wheel in an environment of its own: the start-up file is there, light, and can be turned off. The lock files."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE = "llamafactory_chatts"
START_UP_FILE = f"hatch_autorun_{PACKAGE}.pth"
LOCKS = ("requirements.lock", "requirements-deepspeed.lock")
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LLAMAFACTORY_", "PIP_"))}


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**CLEAN, "PIP_NO_INDEX": "1"}, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the working tree without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def content(wheel):
    """The files of the wheel, a dict of name -> bytes."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(content):
    (name,) = (name for name in content if name.endswith(".dist-info/METADATA"))
    return message_from_string(content[name].decode())


@pytest.mark.slow
class TestWheel:
    def test_the_start_up_file_is_one_import(self, content):
        assert content[START_UP_FILE].decode().strip() == f"import {PACKAGE}.autoload"
        assert [name for name in content if name.endswith(".pth")] == [START_UP_FILE]

    def test_every_file_of_the_package_and_nothing_else(self, content):
        files = (path for path in (ROOT / PACKAGE).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        packed = {name for name in content if name.startswith(f"{PACKAGE}/") and "/shipped/" not in name}
        assert packed == {path.relative_to(ROOT).as_posix() for path in files}

    def test_recipes_and_demo_rows_are_there(self, content):
        shipped = {name.split("/shipped/")[1]: data for name, data in content.items() if "/shipped/" in name}
        listed = subprocess.run(["git", "ls-files", "-z", "examples", "dataset_info"], cwd=ROOT, capture_output=True)
        files = listed.stdout.decode().split("\0")[:-1] or [name for name in shipped if (ROOT / name).is_file()]
        assert len(files) > 30 and all(shipped[name] == (ROOT / name).read_bytes() for name in files)

    def test_the_schema_is_there(self, content):
        schemas = [name for name in content if name.endswith(".schema.json")]
        assert {name.rpartition("/")[2] for name in schemas} == {
            "answers.schema.json",
            "dataset_info.schema.json",
            "prepare.schema.json",
        }
        assert all(json.loads(content[name]) for name in schemas)

    def test_no_tests_or_other_folders(self, content, wheel):
        version = wheel.name.split("-")[1]
        assert {name.split("/")[0] for name in content} == {PACKAGE, START_UP_FILE, f"{PACKAGE}-{version}.dist-info"}

    def test_it_does_not_say_where_it_was_built(self, content):
        assert not [name for name, data in content.items() if str(ROOT).encode() in data]

    def test_metadata(self, content, metadata, wheel):
        assert wheel.name.endswith("-py3-none-any.whl")
        assert metadata["Requires-Python"] == PROJECT["project"]["requires-python"]
        always = {str(Requirement(line)) for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
        assert always == {str(Requirement(line)) for line in PROJECT["project"]["dependencies"]}
        (scripts,) = (data.decode() for name, data in content.items() if name.endswith("entry_points.txt"))
        assert "lmf-chatts = llamafactory_chatts.cli:main" in scripts
        assert any(name.endswith("/LICENSE") for name in content)


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory):
    """Return a function that runs code in a fresh environment, which holds the wheel and nothing else.

    ``fresh(code, *options, **env)`` returns the finished process, ``options`` are those of the interpreter.
    ``fresh.site`` is where the wheel was installed.
    """
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True, env=CLEAN)
    python = folder / "venv" / "bin" / "python"
    pip("--python", python, "install", "--no-deps", wheel)

    def run(code, *options, **env):
        command = [str(python), *options, "-c", code]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env={**CLEAN, "HF_HUB_OFFLINE": "1", **env}
        )

    done = run("import sysconfig; print(sysconfig.get_path('purelib'))")
    run.site = Path(done.stdout.strip())
    return run


@pytest.fixture
def with_host(fresh):
    """The same with the packages of the running environment behind it; its start-up files are not run there."""
    places = {sysconfig.get_path(key) for key in ("purelib", "platlib")}
    (fresh.site / "zz_packages.pth").write_text("".join(f"{place}\n" for place in sorted(places)), encoding="utf-8")
    yield fresh
    (fresh.site / "zz_packages.pth").unlink()


def answer(done):
    """Return the last line that a finished process printed, read as JSON."""
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


LOOK = """
import json, sys
first = type(sys.meta_path[0])
heavy = {"torch", "transformers", "numpy", "wrapt", "datasets", "llamafactory"} & set(sys.modules)
ours = sorted(name for name in sys.modules if name.startswith("llamafactory_chatts"))
import llamafactory_chatts
print(json.dumps([f"{first.__module__}.{first.__name__}", sorted(heavy), ours, llamafactory_chatts.__file__]))
"""
TEMPLATE = """
import json, sys
import llamafactory_chatts
from llamafactory.data.template import TEMPLATES
host = sorted(name for name in sys.modules if name.startswith("llamafactory_chatts.host."))
print(json.dumps(["chatts" in TEMPLATES, bool(host), llamafactory_chatts.__file__]))
"""


@pytest.mark.slow
class TestFreshEnvironment:
    def test_the_waiter_stands_first_and_nothing_heavy_is_imported(self, fresh):
        first, heavy, ours, file = answer(fresh(LOOK))
        assert first == f"{PACKAGE}.autoload._HostWaiter"
        assert heavy == [] and ours == [PACKAGE, f"{PACKAGE}.autoload"]
        assert file == str(fresh.site / PACKAGE / "__init__.py")

    def test_the_start_up_file_imports_nothing_but_ours(self, fresh):
        """Read from the indents of ``-X importtime``: what an import brings along stands above it, further right."""
        lines = fresh("pass", "-X", "importtime").stderr.splitlines()
        names = [line.rsplit("|", 1)[1] for line in lines]
        (end,) = (index for index, name in enumerate(names) if name.strip() == f"{PACKAGE}.autoload")
        indents = [len(name) - len(name.lstrip()) for name in names]
        begin = next(index for index in range(end, 0, -1) if indents[index - 1] <= indents[end])
        assert [name.strip() for name in names[begin:end]] == [PACKAGE]

    def test_switched_off_no_waiter_stands_there(self, fresh):
        first, heavy, ours, _ = answer(fresh(LOOK, LLAMAFACTORY_CHATTS="0"))
        assert not first.startswith(PACKAGE)
        assert heavy == [] and ours == [PACKAGE, f"{PACKAGE}.autoload"]

    def test_the_command_is_installed(self, fresh):
        script = fresh.site.parents[2] / "bin" / "lmf-chatts"
        done = subprocess.run([script, "--help"], capture_output=True, text=True, env=CLEAN, cwd=fresh.site)
        assert done.returncode == 0 and "init-base" in done.stdout, done.stderr[-2000:]

    def test_the_template_is_there_on_import(self, with_host):
        added, host, file = answer(with_host(TEMPLATE))
        assert added and host
        assert file == str(with_host.site / PACKAGE / "__init__.py")

    def test_switched_off_it_is_not(self, with_host):
        added, host, _ = answer(with_host(TEMPLATE, LLAMAFACTORY_CHATTS="0"))
        assert not added and not host

    def test_without_a_host_the_import_error_says_what_to_install(self, fresh):
        done = fresh("import llamafactory")
        assert done.returncode == 1
        assert "needs llamafactory>=0.9.5,<0.10, but is not installed" in done.stderr.strip().splitlines()[-1]


def locked(name):
    """Return package -> version of a lock file, after checking each line's form."""
    found = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        pattern = r"([A-Za-z0-9][\w.-]*)==(\d[\w.]*)(; python_version (?:>=|<) '3\.\d+')?"
        pinned = re.fullmatch(pattern, line)
        assert pinned, f"{name}: {line!r}"
        package, version = pinned[1], pinned[2]
        assert canonicalize_name(package) not in found, f"{name}: {package} twice"
        found[canonicalize_name(package)] = version

    return found


def ranges():
    """Yield every requirement of pyproject.toml: of the package, of its extras and of its build."""
    lists = [PROJECT["project"]["dependencies"], PROJECT["build-system"]["requires"]]
    for line in sum([*lists, *PROJECT["project"]["optional-dependencies"].values()], []):
        yield Requirement(line)


class TestLocks:
    @pytest.mark.parametrize("name", LOCKS)
    def test_every_line_is_one_exact_version(self, name):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert locked(name)
        assert "://" not in text and "@" not in text

    def test_no_package_in_both(self):
        first, second = map(locked, LOCKS)
        assert not set(first) & set(second)

    @pytest.mark.parametrize("requirement", ranges(), ids=lambda requirement: requirement.name)
    def test_the_ranges_admit_the_locked_versions(self, requirement):
        versions = {**locked(LOCKS[0]), **locked(LOCKS[1])}
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} does not admit {version}"

    def test_the_supported_ranges_are_those_of_the_project(self):
        """And the locked versions are tested ones."""
        from llamafactory_chatts.core.installs import SUPPORTED, ruling

        project = {requirement.name: requirement.specifier for requirement in ranges()}
        for package, text in SUPPORTED.items():
            assert project[package] == Requirement(package + text).specifier
            assert ruling(package, locked(LOCKS[0])[package]) == "tested"
