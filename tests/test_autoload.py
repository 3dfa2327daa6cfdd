"""The start-up file's finder beside other finders, threads and reloads; on a host made of three small files."""

import os
import subprocess
import sys
import textwrap

import pytest


HOST = {
    "__init__": "",
    "one": "def f(): return 'plain'\n",
    "two": "from .one import f\ndef g(): return 'plain'\n",
}
BEGIN = """
import importlib, importlib.util, sys, threading
sys.path.insert(0, sys.argv[1])
from llamafactory_chatts import autoload, register
from llamafactory_chatts.host import gate
gate.check_versions = lambda targets: None
register.TABLE = tuple(
    register.Row("patch", f"llamafactory.{module}", name, "rows:apply", "test") for module, name in (("one", "f"), ("two", "g"))
)

class Finder:  # behaves as those of OpenTelemetry and ddtrace: asks the others, then may wrap the loader
    def __init__(self, delegates=False):
        self.delegates, self.asked, self.busy = delegates, [], False

    def find_spec(self, name, path=None, target=None):
        if name.startswith("llamafactory.") or name == "llamafactory":
            self.asked.append(name)
            if self.delegates and not self.busy:
                self.busy = True
                try:
                    return importlib.util.find_spec(name)
                finally:
                    self.busy = False

def ours():
    return [type(finder).__name__ for finder in sys.meta_path if "llamafactory_chatts" in type(finder).__module__]

def patched():
    from llamafactory import one, two
    return [one.f(), two.f(), two.g()]
"""  # noqa: E501
APPLY = """
from llamafactory_chatts.host.compat import patch
def apply(module, name):
    patch(module, name, lambda original: lambda: "patched")
"""
ALL = ["patched"] * 3


@pytest.fixture
def run(tmp_path):
    """Return a function that runs code in a process of its own and returns what it printed last."""
    (tmp_path / "llamafactory").mkdir()
    for name, text in HOST.items():
        (tmp_path / "llamafactory" / f"{name}.py").write_text(text)

    (tmp_path / "rows.py").write_text(APPLY)

    def run(code, **env):
        command = [sys.executable, "-c", BEGIN + textwrap.dedent(code), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip().splitlines()[-1]

    return run


@pytest.mark.parametrize("delegates", [False, True])
def test_no_finder_is_skipped(run, delegates):
    code = f"""
    front, behind = Finder({delegates}), Finder()
    at = next(n for n, finder in enumerate(sys.meta_path) if type(finder).__name__ == "_HostWaiter")
    sys.meta_path.insert(at + 1, behind)
    sys.meta_path.insert(0, front)
    order = list(sys.meta_path)
    found = patched()
    print(found, "llamafactory" in front.asked, "llamafactory" in behind.asked,
          [finder for finder in sys.meta_path if finder in order] == order)
    """
    assert run(code) == f"{ALL} True True True"


def test_the_finder_of_the_host_itself_may_stand_behind_ours(run):
    """An editable install brings the one finder that knows the package; skipping it loses the package."""
    code = """
    import importlib.machinery
    class Editable:
        def find_spec(self, name, path=None, target=None):
            if name == "llamafactory":
                return importlib.machinery.PathFinder.find_spec(name, [sys.argv[1]])
    sys.path.remove(sys.argv[1])
    sys.path.append(sys.argv[1] + "/rows_only")
    import shutil, os
    os.makedirs(sys.path[-1]); shutil.copy(sys.argv[1] + "/rows.py", sys.path[-1])
    at = next(n for n, finder in enumerate(sys.meta_path) if type(finder).__name__ == "_HostWaiter")
    sys.meta_path.insert(at + 1, Editable())
    print(patched())
    """
    assert run(code) == str(ALL)


def test_a_module_that_is_loaded_again_has_its_rows_again(run):
    code = """
    first = patched()
    from llamafactory import one, two
    loader = type(one.__loader__).__name__, type(one.__spec__.loader).__name__
    importlib.reload(one); importlib.reload(two)
    second = patched()
    del sys.modules["llamafactory.one"], sys.modules["llamafactory.two"], sys.modules["llamafactory"]
    third = patched()
    print(first == second == third, third, *loader)
    """
    assert run(code) == f"True {ALL} SourceFileLoader SourceFileLoader"


def test_after_a_failure_every_import_fails_again(run):
    code = """
    def fails(module, name): raise AttributeError("gone")
    import rows; works, rows.apply = rows.apply, fails
    said = []
    for attempt in range(3):
        try:
            import llamafactory.two
        except ImportError as err:
            said.append(str(err))
    rows.apply = works
    try:
        importlib.import_module("llamafactory.two")
    except ImportError as err:
        said.append(str(err))
    print(len(said), set(said), len(ours()))
    """
    answer = run(code)
    assert answer == "4 {'llamafactory-chatts cannot add llamafactory.one:f to this LLaMA-Factory: gone'} 2"


def test_a_wrong_version_fails_each_time_and_a_right_one_then_works(run):
    code = """
    def wrong(targets): raise ImportError("needs another")
    right, gate.check_versions = gate.check_versions, wrong
    said = []
    for attempt in range(2):
        try:
            import llamafactory
        except ImportError as err:
            said.append(str(err))
    gate.check_versions = right
    print(said, patched())
    """
    assert run(code) == f"['needs another', 'needs another'] {ALL}"


def test_threads_that_import_at_once(run):
    code = """
    import time
    slow = gate.check_versions
    gate.check_versions = lambda targets: time.sleep(0.2)
    wrong, barrier = [], threading.Barrier(8)
    def work(number):
        barrier.wait()
        try:
            if number % 2:
                importlib.util.find_spec("llamafactory")
            if patched() != ["patched"] * 3:
                wrong.append(number)
        except BaseException as err:
            wrong.append(err)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]; [thread.join() for thread in threads]
    print(wrong, ours())
    """
    assert run(code) == "[] ['_RowApplier', '_HostWaiter']"


def test_one_finder_of_each_kind(run):
    code = """
    importlib.reload(autoload)
    before = ours()
    patched(); register.arm(); register.register()
    importlib.util.find_spec("llamafactory")
    importlib.reload(autoload)
    print(before, ours())
    """
    assert run(code) == "['_HostWaiter'] ['_RowApplier', '_HostWaiter']"


def test_switched_off_nothing_is_added(run):
    assert run("print(patched(), ours())", LLAMAFACTORY_CHATTS="0") == f"{['plain'] * 3} []"
