"""The host's other engines would train without series: refused by name, whichever way a training is started."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from llamafactory_chatts.core.contract import PREFLIGHT_SWITCH
from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.host.start import engines, preflight
from llamafactory_chatts.recipe.context import Context
from llamafactory_chatts.recipe.launch import engine as table
from llamafactory_chatts.recipe.reading import Recipe
from llamafactory_chatts.recipe.refusals.series import ENGINES
from llamafactory_chatts.recipe.refusals.table import refuse
from llamafactory_chatts.recipe.rules import check_recipe


HOST = Path(importlib.util.find_spec("llamafactory").submodule_search_locations[0])

FINE_ENVIRONMENT = {
    # how processes are started, found and named
    "FORCE_TORCHRUN", "NNODES", "NODE_RANK", "NPROC_PER_NODE", "MASTER_ADDR", "MASTER_PORT", "MAX_RESTARTS", "RDZV_ID",
    "MIN_NNODES", "MAX_NNODES", "OPTIM_TORCH", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "USE_RAY",
    "ACCELERATE_USE_FSDP", "FSDP_VERSION", "NPU_JIT_COMPILE",
    # checks, logs, hubs
    "ALLOW_EXTRA_ARGS", "ALLOW_EXTRA_KEYS", "DISABLE_VERSION_CHECK", "FORCE_CHECK_IMPORTS", "LLAMAFACTORY_VERBOSITY",
    "RECORD_VRAM", "WANDB_PROJECT", "USE_MODELSCOPE_HUB", "USE_OPENMIND_HUB", "HF_REVISION", "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    # pages, API, placeholders of other media
    "LLAMABOARD_ENABLED", "LLAMABOARD_WORKDIR", "DEMO_MODEL", "DEMO_TEMPLATE", "DEMO_BACKEND", "HOSTNAME",
    "COMPUTERNAME", "GRADIO_IPV6", "GRADIO_SHARE", "GRADIO_SERVER_NAME", "SAFE_MEDIA_PATH", "ALLOW_LOCAL_FILES",
    "API_VERBOSE", "FASTAPI_ROOT_PATH", "API_KEY", "API_MODEL_NAME", "API_HOST", "API_PORT", "MAX_CONCURRENT",
    "AUDIO_PLACEHOLDER", "IMAGE_PLACEHOLDER", "VIDEO_PLACEHOLDER", "DOWNSAMPLE_MODE", "http_proxy", "HTTP_PROXY",
    "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY",
}  # fmt: skip
"""What the host reads while every series still passes our table; Ray's workers import the host, so the table too."""

FINE_KEYS = {
    # optimizers, adapters and losses inside the same trainers
    "use_rslora", "use_dora", "use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon", "use_llama_pro",
    "use_dft_loss", "use_eaft_loss", "use_swanlab",
    # the same model, other kernels or loggers
    "use_fast_tokenizer", "use_unsloth_gc", "enable_liger_kernel", "use_reentrant_gc", "use_kv_cache",
    "use_v1_kernels", "use_audio_in_video", "enable_torch_profiler", "enable_thinking", "fp8", "fp8_backend",
    "fp8_enable_fsdp_float8_all_gather", "quantization_method", "sglang_lora_backend",
    "use_cache",
}  # fmt: skip
REFUSED_ELSEWHERE = {"use_unsloth", "use_asft_loss", "mixture_of_depths", "infer_backend"}
"""Refused by the rules about contradictions."""

OTHER_WORKFLOWS = {"mca", "hyper_parallel", "ppo"}
"""Folders of the host's ``train`` that we do not patch; each has a refusal."""


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in (*table.ENVIRONMENT, "USE_RAY", "RANK", PREFLIGHT_SWITCH):
        monkeypatch.delenv(name, raising=False)

    monkeypatch.setattr(sys, "argv", ["llamafactory-cli"])


def names_read(path):
    """Yield the names of the environment that a file of the host reads."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            shown = ast.unparse(node.func)
            of_environment = name in ("is_env_enabled", "getenv") or shown in ("os.environ.get", "os.environ.pop")
            if of_environment and node.args and isinstance(node.args[0], ast.Constant):
                yield node.args[0].value


def switches():
    """Yield the keys of the host's arguments that choose a way to load or train."""
    for path in sorted((HOST / "hparams").glob("*_args.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = node.target.id
                chosen = name.startswith(("use_", "enable_", "fp8")) or name.endswith(("_backend", "_method"))
                if chosen or name == "mixture_of_depths":
                    yield name


class TestNothingIsForgotten:
    def test_every_environment_variable_is_classed(self):
        found = {name for path in HOST.rglob("*.py") for name in names_read(path)}
        assert {"USE_V1", "USE_MCA", "USE_KT", "USE_RAY"} <= found
        assert found - FINE_ENVIRONMENT - set(table.ENVIRONMENT) == set()
        assert not FINE_ENVIRONMENT & set(table.ENVIRONMENT)

    def test_every_switch_of_a_recipe_is_classed(self):
        found = set(switches())
        assert {"use_kt", "use_hyper_parallel", "use_mca", "infer_backend"} <= found
        assert found - FINE_KEYS - REFUSED_ELSEWHERE - set(ENGINES) == set()
        assert not FINE_KEYS & set(ENGINES)

    def test_every_workflow_is_patched_or_refused(self):
        from llamafactory_chatts.register import TABLE

        runs = "llamafactory.train.tuner:run_"
        patched = {row.target.removeprefix(runs) for row in TABLE if row.target.startswith(runs)}
        folders = {path.parent.name for path in (HOST / "train").glob("*/workflow.py")}
        assert folders == patched | OTHER_WORKFLOWS and not patched & OTHER_WORKFLOWS


class TestByName:
    @pytest.mark.parametrize("name", table.ENVIRONMENT)
    @pytest.mark.parametrize("word", ["1", "True"])
    def test_an_environment_variable(self, recipe, write_dataset, rows, monkeypatch, name, word):
        write_dataset(rows(2))
        assert check_recipe(Recipe(recipe())) == []
        monkeypatch.setenv(name, word)
        (found,) = check_recipe(Recipe(recipe()))
        assert found.level == "error" and found.subject == name and f"unset {name}" in found.fix

    @pytest.mark.parametrize("key", [key for key in ENGINES if key != "use_mca"])
    def test_a_key(self, recipe, write_dataset, rows, key):
        write_dataset(rows(2))
        found = [one for one in check_recipe(Recipe(recipe(**{key: True}))) if one.subject == key]
        assert [one.level for one in found] == ["error"] and "series" in found[0].what

    def test_ray_without_ray(self, recipe, write_dataset, rows, monkeypatch):
        write_dataset(rows(2))
        monkeypatch.setenv("USE_RAY", "1")
        monkeypatch.setattr(table, "is_installed", lambda package: False)
        (found,) = check_recipe(Recipe(recipe()))
        assert found.subject == "USE_RAY" and "ray is not installed" in found.what
        monkeypatch.setattr(table, "is_installed", lambda package: True)
        assert check_recipe(Recipe(recipe())) == []

    def test_another_model_is_left_alone(self, recipe, plain_qwen3, monkeypatch):
        monkeypatch.setenv("USE_V1", "1")
        other = recipe(model_name_or_path=str(plain_qwen3), template="qwen3", use_kt=True)
        engines.refuse_engines(other)
        refuse(Context(Recipe(other)), own=True)


class TestEveryWay:
    def started(self, name):
        reached = []
        tuner = ModuleType("tuner")
        setattr(tuner, name, lambda *args, **kwargs: reached.append((args, kwargs)))
        preflight.check_before_start(tuner, name)
        return getattr(tuner, name), reached

    @pytest.mark.parametrize("rank", ["0", "1"])
    @pytest.mark.parametrize("key", ["use_hyper_parallel", "use_kt"])
    def test_also_without_preflight_and_on_every_rank(self, recipe, monkeypatch, rank, key):
        from llamafactory.train.tuner import run_exp

        monkeypatch.setenv(PREFLIGHT_SWITCH, "0")
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(ChatTSError, match=f"{key}: it starts"):
            run_exp(recipe(**{key: True}))

    def test_ray_is_looked_at_before_it_is_started(self, recipe, write_dataset, rows, monkeypatch):
        write_dataset(rows(2))
        monkeypatch.setenv("USE_RAY", "1")
        monkeypatch.setattr(table, "is_installed", lambda package: False)
        function, reached = self.started("_ray_training_function")
        with pytest.raises(ChatTSError, match="ray is not installed"):
            function(SimpleNamespace(), config={"args": recipe()})

        monkeypatch.setattr(table, "is_installed", lambda package: True)
        function(SimpleNamespace(), config={"args": recipe()})
        assert len(reached) == 1

    def test_the_second_engine_asks_us_first(self, tiny_base, plain_qwen3):
        from llamafactory.v1.config import get_args

        for settings in ({"model": str(tiny_base)}, {"model_name_or_path": "x", "template": "chatts"}):
            with pytest.raises(ChatTSError, match="v1"):
                get_args(settings)

            with pytest.raises(ChatTSError, match="v1"):
                get_args([word for key, value in settings.items() for word in (f"--{key}", value)])

        assert get_args({"model": str(plain_qwen3)})[0].model == str(plain_qwen3)


PROGRAMS = {
    "llamafactory-cli": ["-m", "llamafactory.cli", "train", "RECIPE"],
    "a torchrun worker": [str(HOST / "launcher.py"), "RECIPE"],
    "a torchrun worker of v1": [str(HOST / "v1" / "launcher.py"), "train", "RECIPE"],
}


@pytest.mark.parametrize("start", PROGRAMS)
@pytest.mark.parametrize("name", ["USE_V1", "USE_MCA"])
def test_as_a_program(recipe, write_dataset, rows, tmp_path, start, name):
    """Before torch is imported: both switches send the host along other ways from its first import on."""
    write_dataset(rows(2))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe()))
    words = [str(path) if word == "RECIPE" else word for word in PROGRAMS[start]]
    environment = {**os.environ, name: "1", "RANK": "0", PREFLIGHT_SWITCH: "0"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)
    assert done.returncode != 0 and f"{name}: " in done.stderr and f"unset {name}" in done.stderr
    assert "mcore_adapter is required" not in done.stderr
