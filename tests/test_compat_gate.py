"""Which LLaMA-Factory and transformers are let in: real copies of the installed ones, altered, each in a process."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llamafactory_chatts import register
from llamafactory_chatts.core.installs import ruling
from llamafactory_chatts.diagnose.environment import packages
from llamafactory_chatts.diagnose.log.diagnose import diagnose_log
from llamafactory_chatts.host import compat, gate
from llamafactory_chatts.host.signatures import parameters


ROOT = Path(__file__).parents[1]
LOADER, PARSER = "model/loader.py", "hparams/parser.py"
HEAD = "def load_model(\n    tokenizer: "
OTHER = HEAD.replace("tokenizer", "tokenizer_module")


FUNCTIONS = [row.target for row in register.TABLE if row.kind == "patch"]


@pytest.mark.parametrize("path", sorted({*compat.PRIVATE_NAMES, *FUNCTIONS}))
def test_files_say_what_the_imported_names_say(path):
    assert parameters(path) == compat.private_signature(path)


class TestReading:
    SOURCE = """
from dataclasses import dataclass
from .near import Base as Near, moved
import elsewhere
if elsewhere:
    def f(a, /, b, *c, d=1, **e): ...
else:
    def g(): ...
@dataclass
class Data(Near):
    x: int
    y: int = 1
class Child(Data[int], elsewhere.Unknown):
    @classmethod
    def make(cls, a): ...
    if f:
        async def later(self, b): ...
other = Child
"""
    NEAR = """
from dataclasses import dataclass
@dataclass
class Base:
    w: int
    def run(self, z): ...
def moved(n): ...
"""

    @pytest.fixture(autouse=True)
    def package(self, tmp_path, monkeypatch, request):
        self.name = f"made_{abs(hash(request.node.name))}"
        (tmp_path / self.name).mkdir()
        (tmp_path / self.name / "__init__.py").write_text(self.SOURCE)
        (tmp_path / self.name / "near.py").write_text(self.NEAR)
        monkeypatch.syspath_prepend(tmp_path)

    @pytest.mark.parametrize(
        "name, expected",
        [
            ("f", "a b c d e"),
            ("g", ""),
            ("moved", "n"),
            ("Child", ""),
            ("Child.make", "a"),
            ("Child.later", "self b"),
            ("other.run", "self z"),
            ("Data.__init__", "self w x y"),
            ("Near.__init__", "self w"),
        ],
    )
    def test_a_name_is_found(self, name, expected):
        assert " ".join(parameters(f"{self.name}:{name}")) == expected
        assert self.name not in sys.modules

    @pytest.mark.parametrize("name", ["gone", "f.method", "Child.gone", "elsewhere"])
    def test_a_missing_name(self, name):
        with pytest.raises(LookupError):
            parameters(f"{self.name}:{name}")

    def test_a_missing_module(self):
        with pytest.raises(LookupError):
            parameters(f"{self.name}.gone:f")


@pytest.fixture
def versions(monkeypatch):
    """Return a function that sets what is found installed."""

    def put(**found):
        real = importlib.metadata.version

        def version(name):
            if found.get(name, "") is None:
                raise importlib.metadata.PackageNotFoundError(name)

            return found.get(name) or real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)

    return put


class TestRuling:
    @pytest.mark.parametrize("version", ["0.9.5", "0.9.5+local"])
    def test_tested(self, version):
        assert ruling("llamafactory", version) == "tested"

    @pytest.mark.parametrize("version", ["0.9.6", "0.9.51", "0.9.12", "0.9.6rc1", "0.9.6.dev0", "0.9.5.post1"])
    def test_a_later_patch_release_is_untested(self, version):
        assert ruling("llamafactory", version) == "untested"

    @pytest.mark.parametrize("version", ["0.9.4", "0.9.5rc1", "0.10.0", "0.10.0.dev0", "1.0"])
    def test_another_minor_release_is_not(self, versions, version):
        assert ruling("llamafactory", version) == "unsupported"
        versions(llamafactory=version)
        with pytest.raises(
            ImportError, match=f"needs llamafactory>=0.9.5,<0.10, but {version} is installed. Run: pip"
        ):
            gate.check_versions()

    @pytest.mark.parametrize(
        "version, limit, expected",
        [
            ("5.5.4", "<=5.6.0", "tested"),
            ("5.5.9", "<=5.6.0", "tested"),
            ("5.6.0", "<=5.8.0", "unsupported"),
            ("5.6.2", "<=5.6.0", "unsupported"),
            ("5.8.0", "<=5.6.0", "unsupported"),
            ("5.8.0", "<=5.8.0", "untested"),
            ("5.4.0", "<=5.8.0", "unsupported"),
            ("4.57.1", "<=5.8.0", "unsupported"),
        ],
    )
    def test_transformers_as_the_host_allows(self, monkeypatch, version, limit, expected):
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: [f"transformers!=4.57.0,{limit},>=4.55.0"])
        assert ruling("transformers", version) == expected

    def test_a_package_that_is_not_installed_is_named(self, versions):
        versions(llamafactory=None)
        with pytest.raises(
            ImportError, match="needs llamafactory>=0.9.5,<0.10, but is not installed. Run: pip install"
        ):
            gate.check_versions()

    @pytest.mark.parametrize("version", ["0.9.4", "0.9.5", "0.9.6", "0.10.0"])
    def test_doctor_says_the_same(self, monkeypatch, versions, version):
        versions(llamafactory=version)
        monkeypatch.setattr(packages, "version_of", importlib.metadata.version)
        found = [one for one in packages.supported_ranges(None) if one.subject == "llamafactory"]
        assert bool(found) is (gate.judge()[0].ruling == "unsupported")


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the installed LLaMA-Factory that says it was released as 0.9.6."""
    import llamafactory

    folder = tmp_path_factory.mktemp("host")
    shutil.copytree(
        Path(llamafactory.__file__).parent, folder / "llamafactory", ignore=shutil.ignore_patterns("*.pyc")
    )
    about = importlib.metadata.distribution("llamafactory").read_text("METADATA")
    (folder / "llamafactory-0.9.6.dist-info").mkdir()
    (folder / "llamafactory-0.9.6.dist-info" / "METADATA").write_text(
        about.replace("Version: 0.9.5", "Version: 0.9.6", 1)
    )
    file = folder / "llamafactory" / "extras" / "env.py"
    file.write_text(file.read_text().replace('VERSION = "0.9.5', 'VERSION = "0.9.6'))
    return folder


@pytest.fixture
def run(copied, tmp_path):
    """Return a function that runs code with the copy in front, after replacing text in one of its files."""

    def run(code, change=None, **env):
        folder = copied
        if change is not None:
            folder = tmp_path / "host"
            shutil.copytree(copied, folder)
            file, old, new = change
            text = (folder / "llamafactory" / file).read_text()
            assert text.count(old) == 1
            (folder / "llamafactory" / file).write_text(text.replace(old, new))

        clean = {key: value for key, value in os.environ.items() if key not in (gate.SAID, "RANK")}
        path = os.pathsep.join([str(folder), str(ROOT)])
        return subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**clean, "PYTHONPATH": path, **env},
            timeout=900,
        )

    return run


LIGHT = "import llamafactory; print(llamafactory.__file__)"
TWICE = """
for attempt in (1, 2):
    try:
        import llamafactory
    except ImportError as err:
        print(err)
"""
WARNING = "ChatTS: warning: llamafactory 0.9.6 is newer than 0.9.5, which this was tested with; all "
EVERYTHING = """
import json, sys, subprocess
from llamafactory_chatts import register
register.register()
import llamafactory.extras.env as env
states = [register.is_applied(row) or register.waits(row) for row in register.TABLE]
child = subprocess.run([sys.executable, "-c", "import llamafactory"], capture_output=True, text=True)
print(json.dumps([env.VERSION, env.__file__, all(states), child.returncode, child.stderr]))
"""


class TestAnotherRelease:
    @pytest.mark.slow
    def test_with_equal_names_it_works_and_says_so_once(self, run, copied):
        done = run(EVERYTHING)
        assert done.returncode == 0, done.stderr[-2000:]
        version, file, applied, child, said = json.loads(done.stdout.splitlines()[-1])
        assert version.startswith("0.9.6") and file.startswith(str(copied)) and applied
        assert done.stderr.count("ChatTS: ") == 1 and WARNING in done.stderr
        assert child == 0 and "ChatTS" not in said, "the processes that it starts do not repeat it"

    @pytest.mark.parametrize("rank, times", [("0", 1), ("1", 0)])
    def test_one_rank_says_it(self, run, rank, times):
        done = run(LIGHT, RANK=rank)
        assert done.returncode == 0 and done.stderr.count(WARNING) == times

    @pytest.mark.parametrize(
        "change, words",
        [
            ((LOADER, HEAD, OTHER), "llamafactory.model.loader.load_model takes (tokenizer_module, model_args,"),
            ((PARSER, "def read_args(", "def read_arguments("), "llamafactory.hparams.parser.read_args is missing"),
            (
                ("train/callbacks.py", "class PissaConvertCallback(", "class PissaCallback("),
                "llamafactory.train.callbacks.PissaConvertCallback.on_train_begin is missing",
            ),
        ],
    )
    def test_a_changed_or_missing_name_is_refused(self, run, tmp_path, change, words):
        first, second = run(TWICE, change).stdout.splitlines()
        assert first == second, "a second import must not slip through"
        assert first.startswith(f"llamafactory-chatts needs llamafactory==0.9.5, but 0.9.6 is installed: {words}")
        assert "Run: pip install 'llamafactory==0.9.5'  (or set LLAMAFACTORY_CHATTS=0" in first
        log = tmp_path / "log"
        log.write_text(
            f'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nImportError: {first}\n'
        )
        (found,) = diagnose_log(log)
        assert "needs llamafactory==0.9.5, installed is 0.9.6" in found.cause
        assert "pip install llamafactory==0.9.5" in found.fix

    def test_turned_off_nothing_is_compared(self, run):
        done = run(LIGHT, (LOADER, HEAD, OTHER), LLAMAFACTORY_CHATTS="0")
        assert done.returncode == 0 and done.stderr == ""

    @pytest.mark.parametrize(
        "change, level, words",
        [
            (None, "warning", "0.9.6 was not tested with this package; all "),
            (
                (LOADER, HEAD, OTHER),
                "error",
                "0.9.6 was not tested with this package; llamafactory.model.loader.load_model",
            ),
        ],
    )
    def test_doctor_says_what_the_start_says(self, run, change, level, words):
        code = """
import json
from llamafactory_chatts.commands.doctor import untested_versions
print(json.dumps([[one.level, one.subject, one.what, one.fix] for one in untested_versions()]))
"""
        done = run(code, change)
        ((found, subject, what, fix),) = json.loads(done.stdout)
        assert (found, subject) == (level, "llamafactory") and what.startswith(words)
        assert fix == ("Run: pip install llamafactory==0.9.5" if level == "error" else "")


def test_the_newest_releases_are_left_out_without_network(tmp_path):
    found = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run([sys.executable, ROOT / ".ci" / "newest"], capture_output=True, text=True, env=found)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("SKIPPED: the newest LLaMA-Factory was not compared: ERROR: No matching")
