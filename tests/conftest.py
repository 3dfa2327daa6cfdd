"""Fixtures for every room: tiny bases, small datasets, recipes. Nothing leaves the temporary folders.

The folder itself is importable, so that helper modules (``golden_cases``, ``host_steps``) are found under every
import mode of pytest.
"""

import gc
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest


sys.path.insert(0, str(Path(__file__).parent))

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
_CACHE = tempfile.mkdtemp(prefix="chatts_tests_")
os.environ["HF_DATASETS_CACHE"] = _CACHE  # before `datasets` is imported: no test meets an older run's cache
_BUILDS = Path(__file__).parents[1] / ".pytest_cache" / "torch_extensions"
os.environ["TORCH_EXTENSIONS_DIR"] = str(_BUILDS)  # what a killed build has left elsewhere stops no test
_STARTED = time.time()
_CONTROLLER = "PYTEST_XDIST_WORKER" not in os.environ
if _CONTROLLER:
    for _lock in _BUILDS.rglob("lock"):
        _lock.unlink()


class _PackagesFirst:
    """Imports the host's ``extras.packages`` before its ``model``, as its own entry points do.

    ``model`` imports trl, which otherwise takes packages for installed that are not (mergekit): what a test can import
    would depend on the tests before it.
    """

    def find_spec(self, name, path=None, target=None):
        if name == "llamafactory.model":
            import llamafactory.extras.packages  # noqa: F401

        return None


sys.meta_path.insert(0, _PackagesFirst())


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that no process is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


_frozen = 0


def pytest_runtest_logstart(nodeid, location):
    """Take what imports have left out of garbage collection, whenever there is much more of it.

    Each training collects garbage several times; over the host and its libraries that took two thirds of its time.
    """
    global _frozen
    if len(sys.modules) > _frozen + 200:
        gc.collect()
        gc.freeze()
        _frozen = len(sys.modules)


def pytest_sessionfinish(session, exitstatus):
    shutil.rmtree(_CACHE, ignore_errors=True)
    if _CONTROLLER:
        _free_shared_memory()


def _free_shared_memory():
    """Remove what DeepSpeed's processes on the CPU left in memory: up to 80 MB each, until the machine restarts."""
    left = {path for path in Path("/dev/shm").glob("deepspeed_allreduce_buffer_*") if path.stat().st_mtime > _STARTED}
    for maps in Path("/proc").glob("[0-9]*/maps") if left else ():
        with suppress(OSError):
            used = maps.read_text()
            left = {path for path in left if str(path) not in used}

    for path in left:
        path.unlink(missing_ok=True)


def _tiny(tmp_path_factory, backbone: str) -> Path:
    from llamafactory_chatts.data.synthesize.demo import corpus
    from llamafactory_chatts.model.bases.tiny_base import init_tiny

    folder = tmp_path_factory.mktemp("bases") / f"tiny_{backbone}"
    return init_tiny(folder, [*corpus(60), "<tool_response>"], seed=0, backbone=backbone)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A random ChatTS base on Qwen3, about 0.3 million parameters; do not write into it."""
    return _tiny(tmp_path_factory, "qwen3")


@pytest.fixture(scope="session")
def tiny_base_qwen2(tmp_path_factory) -> Path:
    """The same on Qwen2."""
    return _tiny(tmp_path_factory, "qwen2")


@pytest.fixture(scope="session")
def plain_qwen3(tmp_path_factory, tiny_base) -> Path:
    """A tiny Qwen3 that is no ChatTS: no ``ts`` block, and a tokenizer without ``<ts>``."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from llamafactory_chatts.data.synthesize.demo import corpus
    from llamafactory_chatts.model.bases.tiny_base import save_tokenizer, train_tokenizer

    folder = tmp_path_factory.mktemp("bases") / "plain_qwen3"
    folder.mkdir()
    save_tokenizer(train_tokenizer(corpus(20)), folder)
    keep = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")
    known = json.loads((tiny_base / "config.json").read_text())
    Qwen3ForCausalLM(Qwen3Config(**{key: known[key] for key in keep}, num_key_value_heads=2)).save_pretrained(folder)
    return folder


@pytest.fixture
def write_dataset(tmp_path):
    """Return a function that writes a dataset file and its entry in dataset_info.json.

    ``write_dataset(rows, name="data", file=None, **entry)`` returns the folder. ``rows`` is a list of rows, or the
    file's text as it shall stand. Without an ``entry`` it is ``formatting: chatts``; several calls share the folder.
    """

    def write(rows, name: str = "data", file: str | None = None, **entry) -> Path:
        file = file or f"{name}.jsonl"
        if not isinstance(rows, str):
            dumped = [json.dumps(row, ensure_ascii=False) for row in rows]
            rows = "\n".join(dumped) + "\n" if file.endswith(".jsonl") else "[" + ",\n".join(dumped) + "]"

        (tmp_path / file).write_text(rows, encoding="utf-8")
        info_file = tmp_path / "dataset_info.json"
        info = json.loads(info_file.read_text()) if info_file.exists() else {}
        info[name] = {"file_name": file, **(entry or {"formatting": "chatts"})}
        info_file.write_text(json.dumps(info))
        return tmp_path

    return write


@pytest.fixture(scope="session")
def plant_rows() -> list[dict]:
    """18 rows of the demo task, series of 64 to 96 points."""
    from llamafactory_chatts.data.synthesize.demo import generate

    return list(generate(18, seed=5, min_points=64, max_points=96))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory, plant_rows) -> Path:
    """A folder with the data sets ``series`` (``plant_rows``) and ``mixed`` (10 of them and 6 of text)."""
    from training_runs import TEXT_ONLY, write_sets

    mixed = plant_rows[:6] + TEXT_ONLY[:3] + plant_rows[6:10] + TEXT_ONLY[3:]
    columns = {"prompt": "input", "response": "output", "timeseries": "timeseries"}
    return write_sets(tmp_path_factory.mktemp("cli_data"), {"series": plant_rows, "mixed": mixed}, columns=columns)


@pytest.fixture
def recipe(tmp_path, tiny_base):
    """Return a function that makes a recipe (a dict, as LLaMA-Factory's YAML gives it) for dataset ``data``.

    ``recipe(**overrides)``: a key set to None is left out.
    """

    def make(**overrides) -> dict:
        settings = {
            "model_name_or_path": str(tiny_base),
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "lora_rank": 4,
            "template": "chatts",
            "dataset": "data",
            "dataset_dir": str(tmp_path),
            "cutoff_len": 1024,
            "output_dir": str(tmp_path / "saves"),
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-3,
            "max_steps": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            **overrides,
        }
        return {key: value for key, value in settings.items() if value is not None}

    return make


@pytest.fixture
def rows():
    """Return a function: ``rows(n)`` gives n rows of the demo task, series of 32 to 64 points."""
    from llamafactory_chatts.data.synthesize.demo import generate

    return lambda n, seed=0: list(generate(n, seed, 32, 64))


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Return a function that puts files below proc and cgroup in the place of the kernel's; 60 of 64 GiB are free."""
    import psutil

    from llamafactory_chatts.recipe.machine import host_limits

    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "kernel" / "proc"))
    monkeypatch.setattr(host_limits, "CGROUP", str(tmp_path / "kernel" / "cgroup"))
    memory = "MemTotal: 67108864 kB\nMemFree: 1048576 kB\nMemAvailable: 62914560 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"

    def put(files: dict) -> None:
        shutil.rmtree(tmp_path / "kernel", ignore_errors=True)
        for name, text in {"proc/meminfo": memory, **files}.items():
            path = tmp_path / "kernel" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(text))

    return put
