"""The table is applied by itself in every process, or the import of llamafactory fails with one clear error."""

import json
import os
import pickle
import subprocess
import sys

import pytest
import warm
from shell_runs import free_port

from llamafactory_chatts import register
from llamafactory_chatts.autoload import switched_off
from llamafactory_chatts.host import compat


def python(code, *args, **env):
    """Run code in a fresh interpreter; return the finished process."""
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, env={**os.environ, **env}, timeout=900
    )


def output(code, *args, **env):
    """Return the last line that code prints in a fresh interpreter."""
    done = python(code, *args, **env)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


FORKS = """
import json, os, sys
import torch, transformers, datasets, peft, accelerate  # what the host imports, but not the host
children = {}
for name, code in json.loads(sys.argv[1]).items():
    reader, writer = os.pipe()
    if os.fork() == 0:
        answer = {}
        try:
            exec(code, answer)
            text = str(answer["answer"])
        except BaseException as err:
            text = f"{type(err).__name__}: {err}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    children[name] = reader
print(json.dumps({name: os.fdopen(reader).read() for name, reader in children.items()}))
"""

IN_A_PROCESS_OF_ITS_OWN = {
    "early": """
import os
os.environ["LLAMAFACTORY_CHATTS"] = "0"  # read when llamafactory is looked for
from llamafactory_chatts import register
register.register()
register.register()
answer = all(register.is_applied(row) or register.waits(row) for row in register.TABLE)
""",
    "late": """
import os
os.environ["LLAMAFACTORY_CHATTS"] = "0"
import llamafactory.data.parser
from llamafactory_chatts import register
register.register()
""",
    "switched off inside": """
import os
os.environ["LLAMAFACTORY_CHATTS"] = "off"
import llamafactory.extras.constants as constants
answer = "ChatTS-8B" in constants.SUPPORTED_MODELS
""",
    "failing row": """
import llamafactory_chatts.register as r
r.TABLE = (r.Row("patch", "llamafactory.extras.constants", "gone",
                 "llamafactory_chatts.host.rows.patches:count_overlong", "test"),)
answer = []
for attempt in (1, 2):
    try:
        import llamafactory.extras.constants
        answer.append("imported")
    except ImportError as err:
        answer.append("relies on llamafactory.extras.constants.gone" in str(err))
""",
    "version": """
import sys
sys.argv = ["llamafactory-cli", "version"]
sys.stdout = sys.stderr
from llamafactory.cli import main
main()
import llamafactory_chatts.register as r
ours = [n[25:] for n in sys.modules if n.startswith("llamafactory_chatts.host.")]
answer = r._armed, sorted(n for n in ours if n not in ("load", "start"))
""",
}

FIRST = """
import importlib, pickle
thing = {make}
from llamafactory.data import TEMPLATES
from llamafactory.hparams import FinetuningArguments
answer = thing, type(TEMPLATES["chatts"].mm_plugin).__name__, hasattr(FinetuningArguments, "timeseries_sft_lr")
"""
MODULES = ("converter", "encoding", "mm_plugin", "unreadable")


def forked(snippets):
    """Run each snippet in a process of its own that has not imported llamafactory; return its ``answer`` as text."""
    return json.loads(output(FORKS, json.dumps(snippets)))


@pytest.fixture(scope="module")
def answers():
    first = {
        name: FIRST.format(make=f"importlib.import_module('llamafactory_chatts.host.rows.{name}') and {name!r}")
        for name in MODULES
    }
    return forked({**IN_A_PROCESS_OF_ITS_OWN, **first})


def test_rows_name_what_they_touch_and_why():
    targets = [row.target for row in register.TABLE]
    assert len(set(targets)) == len(targets)
    for row in register.TABLE:
        assert row.kind in ("registry", "patch", "subclass", "library") and row.why
        module, function = row.apply.split(":")
        assert module.startswith("llamafactory_chatts.host.") and function


@pytest.mark.slow
def test_the_start_up_file_applies_every_row():
    code = """
import llamafactory.train.tuner, llamafactory_chatts.register as r
import sys
later = [row.target for row in r.TABLE if row.module in sys.modules and not r.is_applied(row)]
r.register()
missing = [row.target for row in r.TABLE if not r.is_applied(row) and not r.waits(row)]
before = dict(sys.modules["llamafactory.data.template"].TEMPLATES), r._applied.copy()
r.register()
r.arm()
for row in r.TABLE:
    if not r.waits(row):
        r.apply_row(row)
after = dict(sys.modules["llamafactory.data.template"].TEMPLATES), r._applied.copy()
print(later, missing, before == after)
"""
    assert output(code) == "[] [] True"


@pytest.mark.slow
def test_switched_off_leaves_the_host_untouched():
    code = """
import sys
import llamafactory.train.tuner
from llamafactory.data.converter import DATASET_CONVERTERS
from llamafactory.data.mm_plugin import PLUGINS
from llamafactory.data.parser import DatasetAttr
from llamafactory.data.template import TEMPLATES
from llamafactory.extras.constants import SUPPORTED_MODELS
from llamafactory.hparams import DataArguments, FinetuningArguments
from llamafactory.model.model_utils.visual import COMPOSITE_MODELS
found = ["chatts" in table for table in (DATASET_CONVERTERS, PLUGINS, TEMPLATES, COMPOSITE_MODELS)]
found += ["ChatTS-8B" in SUPPORTED_MODELS, hasattr(DatasetAttr, "timeseries")]
found += [hasattr(DataArguments, "drop_overlong"), hasattr(FinetuningArguments, "timeseries_sft_lr")]
ours = [n for n, m in sys.modules.items() if n.startswith("llamafactory_chatts") and n.count(".") > 1]
print(any(found), ours)
"""
    assert output(code, LLAMAFACTORY_CHATTS="0") == "False []"


def test_the_start_up_file_imports_nothing_heavy():
    code = """
import sys
print(sorted(n for n in sys.modules if n.split(".")[0] in ("torch", "transformers", "wrapt", "numpy", "datasets")
             or n.startswith("llamafactory")))
"""
    assert output(code) == "['llamafactory_chatts', 'llamafactory_chatts.autoload']"


def test_the_time_of_the_start_up_file_is_shown():
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", "pass"], capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.rstrip().endswith("llamafactory_chatts.autoload")]
    assert len(lines) == 1
    print("microseconds (self | cumulative):", lines[0])


@pytest.mark.parametrize("word", ["0", "false", "OFF", " no "])
def test_words_that_switch_off(monkeypatch, word):
    monkeypatch.setenv(compat.SWITCH, word)
    assert switched_off()
    monkeypatch.setenv(compat.SWITCH, "1")
    assert not switched_off()


def test_a_registry_that_is_gone_is_an_import_error():
    row = register.Row("registry", "json", "chatts", "llamafactory_chatts.host.start.template:add_plugin", "test")
    with pytest.raises(ImportError, match="cannot add json:chatts to this LLaMA-Factory: .*PLUGINS"):
        register.apply_row(row)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case, expected",
    [
        ("early", "True"),
        (
            "late",
            "ImportError: llamafactory.extras.constants was imported before llamafactory-chatts could add to it. ",
        ),
        ("switched off inside", "False"),
        ("failing row", "[True, True]"),
        (
            "version",
            "(True, ['compat', 'gate', 'load.adapter_kinds', 'load.base_fingerprint', 'load.pissa', 'sig",
        ),
    ],
)
def test_in_a_process_of_its_own(answers, case, expected):
    """Registered early or too late, switched off by the program, a row that fails, the light version command.

    That peft was imported before is why the rows of it are applied there.
    """
    assert answers[case].startswith(expected)


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_a_module_of_ours_can_be_the_first_import(answers, module):
    assert answers[module] == str((module, "ChatTSPlugin", True))


@pytest.mark.slow
def test_a_spawned_child_unpickles_our_objects_first(tmp_path, recipe, write_dataset, rows):
    from host_steps import load_data
    from llamafactory.data.loader import _get_dataset_processor
    from llamafactory.data.parser import get_dataset_list

    from llamafactory_chatts.host.rows.converter import ChatTSDatasetConverter

    write_dataset(rows(3))
    run = load_data(recipe())
    attr = get_dataset_list(["data"], str(tmp_path))[0]
    processor = _get_dataset_processor(run.data_args, "sft", run.template, run.tokenizer, run.processor)
    things = [ChatTSDatasetConverter(attr, run.data_args), processor, run.template.mm_plugin, run.finetuning_args]
    script = tmp_path / "spawn.py"
    script.write_text("""
import multiprocessing, pickle, sys

def child(data, queue):
    names = [type(thing).__name__ for thing in pickle.loads(data)]
    from llamafactory.data import TEMPLATES
    queue.put((names, "chatts" in TEMPLATES))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=child, args=(open(sys.argv[1], "rb").read(), queue))
    process.start()
    print(queue.get(timeout=900))
    process.join()
""")
    (tmp_path / "things.pkl").write_bytes(pickle.dumps(things))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "things.pkl")], capture_output=True, text=True, timeout=900
    )
    names = ["ChatTSDatasetConverter", "WholeSupervised", "ChatTSPlugin", "FinetuningArguments"]
    assert done.stdout.strip() == str((names, True)), done.stderr[-2000:]


@pytest.mark.slow
def test_a_torchrun_worker_has_the_template(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import os\nfrom llamafactory.data import TEMPLATES\n"
        "print('rank', os.environ['RANK'], 'chatts' in TEMPLATES, flush=True)\n"
    )
    torchrun = ["torchrun", "--nproc_per_node", "2", "--master_port", free_port(), "--no-python"]
    done = warm.run([*torchrun, sys.executable, script])  # its workers are fresh
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("rank")) == [
        "rank 0 True",
        "rank 1 True",
    ], done.stderr[-2000:]
