"""Every patched symbol: applied, applied once, undone, missing. And the canaries for what we rely on."""

import dataclasses
import functools
import importlib
import importlib.util
import inspect
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from llamafactory_chatts import register
from llamafactory_chatts.host import compat


PATCHES = [row for row in register.TABLE if row.kind in ("patch", "subclass")]
LIBRARIES = [row for row in register.TABLE if row.kind == "library"]
REPLACED = [
    *PATCHES,
    *(row for row in LIBRARIES if importlib.util.find_spec(row.module.partition(".")[0]) is not None),
]
REGISTRIES = [row for row in register.TABLE if row.kind == "registry"]


@pytest.fixture(scope="module", autouse=True)
def host():
    register.register()


def names(rows):
    return [row.target.removeprefix("llamafactory.") for row in rows]


def symbol(row):
    holder, name = compat.resolve(importlib.import_module(row.module), row.name)
    return getattr(holder, name)


@pytest.mark.parametrize("row", REPLACED, ids=names(REPLACED))
class TestEachPatch:
    def test_is_applied(self, row):
        module = importlib.import_module(row.module)
        assert register.is_applied(row) and compat.is_patched(module, row.name)

    def test_applied_twice_changes_nothing(self, row):
        before = symbol(row)
        register.apply_row(row)
        assert symbol(row) is before

    def test_unpatch_gives_the_original_back(self, row):
        module = importlib.import_module(row.module)
        holder, name = compat.resolve(module, row.name)
        own, replacement = name in vars(holder), getattr(holder, name)
        original = vars(replacement)["__chatts_original__"]
        inherited = vars(replacement).get("__chatts_inherited__", False)
        try:
            compat.unpatch(module, row.name)
            assert getattr(holder, name) is original and not compat.is_patched(module, row.name)
            assert (name in vars(holder)) is (own and not inherited)
            compat.unpatch(module, row.name)
            assert getattr(holder, name) is original
        finally:
            setattr(holder, name, replacement)

    def test_keeps_name_and_documentation(self, row):
        replacement = symbol(row)
        original = vars(replacement)["__chatts_original__"]
        assert (replacement.__name__, replacement.__module__) == (original.__name__, original.__module__)
        assert replacement.__doc__ == original.__doc__

    def test_missing_symbol_is_named_in_full(self, row):
        fake = ModuleType(row.module)
        owner, _, method = row.name.partition(".")
        where = f"{row.module}.{row.name}"
        if method:  # the class is there, the method is gone
            setattr(fake, owner, type(owner, (), {}))

        function = getattr(importlib.import_module(row.apply.split(":")[0]), row.apply.split(":")[1])
        if row.kind == "library":
            function = functools.partial(compat.patch, build=function)

        if method not in ("__init__", "__call__"):  # which every class has
            with pytest.raises(ImportError, match=f"relies on {where}, which this [-\\w]+ does not have"):
                function(fake, row.name)

        with pytest.raises(ImportError, match=f"relies on {row.module}.{owner}"):
            function(ModuleType(row.module), row.name)


@pytest.mark.parametrize("row", REGISTRIES, ids=names(REGISTRIES))
def test_an_entry_is_added_once(row):
    assert register.is_applied(row)
    register.apply_row(row)


def test_the_entries_are_there():
    from llamafactory.data.converter import DATASET_CONVERTERS, get_dataset_converter
    from llamafactory.data.mm_plugin import PLUGINS
    from llamafactory.data.parser import DatasetAttr
    from llamafactory.data.template import TEMPLATES
    from llamafactory.extras.constants import DEFAULT_TEMPLATE, MULTIMODAL_SUPPORTED_MODELS, SUPPORTED_MODELS
    from llamafactory.model.model_utils.visual import COMPOSITE_MODELS

    assert "chatts" in DATASET_CONVERTERS and "chatts" in PLUGINS and "chatts" in TEMPLATES
    made = get_dataset_converter("chatts", DatasetAttr("file", "x"), SimpleNamespace(media_dir="."))
    assert type(made).__name__ == "ChatTSDatasetConverter"
    for name in ("ChatTS-8B", "ChatTS-14B"):
        assert DEFAULT_TEMPLATE[name] == "chatts" and name in SUPPORTED_MODELS and name in MULTIMODAL_SUPPORTED_MODELS

    for model_type in ("chatts", "qwen3ts"):
        assert COMPOSITE_MODELS[model_type].projector_keys == ["ts_encoder"]


def test_the_argument_classes_are_used_by_the_parser():
    from llamafactory.hparams import parser
    from llamafactory.hparams.data_args import DataArguments
    from llamafactory.hparams.finetuning_args import FinetuningArguments

    assert DataArguments in parser._TRAIN_ARGS and FinetuningArguments in parser._TRAIN_ARGS
    assert DataArguments in parser._INFER_ARGS and FinetuningArguments in parser._INFER_ARGS
    added = {field.name for field in dataclasses.fields(FinetuningArguments)}
    assert {"timeseries_sft_lr", "train_timeseries_modules", "timeseries_tuning"} <= added
    assert "drop_overlong" in {field.name for field in dataclasses.fields(DataArguments)}


@pytest.mark.parametrize(
    "module, name",
    [
        ("train.sft.workflow", "get_dataset"),
        ("train.sft.workflow", "load_model"),
        ("train.sft.workflow", "load_tokenizer"),
        ("train.dpo.workflow", "get_dataset"),
        ("train.kto.workflow", "load_model"),
        ("train.tuner", "load_tokenizer"),
        ("chat.hf_engine", "load_model"),
        ("data", "get_dataset"),
        ("model.loader", "init_adapter"),
    ],
)
def test_names_bound_elsewhere_are_ours(module, name):
    """The workflows import these by name; they must have got the replacement."""
    found = getattr(importlib.import_module(f"llamafactory.{module}"), name)
    assert "__chatts_original__" in vars(found)


@pytest.mark.parametrize("path", compat.PRIVATE_NAMES)
def test_canary_signatures(path):
    """They fail on the day the host changes what we rely on."""
    assert compat.private_signature(path) == compat.PRIVATE_NAMES[path]


def test_canary_every_patched_function_is_pinned():
    pinned = set(compat.PRIVATE_NAMES)
    functions = {row.target for row in PATCHES if row.kind == "patch" and ".train." not in row.module}
    assert functions <= pinned


def test_canary_the_plugin_has_all_of_the_hosts_interface():
    """Ours does not derive from ``BasePlugin`` (see its docstring), so it must follow it by itself."""
    from llamafactory.data.mm_plugin import BasePlugin

    from llamafactory_chatts.host.rows.mm_plugin import ChatTSPlugin

    assert {f.name for f in dataclasses.fields(BasePlugin)} == {f.name for f in dataclasses.fields(ChatTSPlugin)}
    for name, method in vars(BasePlugin).items():
        if not name.startswith("_"):
            assert list(inspect.signature(method).parameters) == list(
                inspect.signature(getattr(ChatTSPlugin, name)).parameters
            )


def test_canary_every_trainer_with_an_optimizer_is_covered():
    """All stages but ppo, which asks for a trl that no supported transformers works with."""
    import llamafactory.train as train

    found = set()
    for file in Path(train.__path__[0]).glob("*/trainer.py"):
        if "create_custom_optimizer" in file.read_text(encoding="utf-8"):
            found.add(f"llamafactory.train.{file.parent.name}.trainer")

    covered = {row.module for row in PATCHES if row.name.endswith(".create_optimizer")}
    assert found - covered == {"llamafactory.train.ppo.trainer"} and covered <= found


class TestPatchHelper:
    def test_function(self):
        module = ModuleType("fake")
        module.add = original = lambda a, b: a + b
        compat.patch(module, "add", lambda old: lambda a, b: old(a, b) + 1)
        compat.patch(module, "add", lambda old: lambda a, b: old(a, b) + 1)
        assert module.add(1, 2) == 4
        compat.unpatch(module, "add")
        assert module.add is original

    def test_inherited_method_is_put_on_the_subclass_and_taken_off_again(self):
        class Base:
            def rate(self):
                return 1

        class Child(Base):
            pass

        module = ModuleType("fake")
        module.Child = Child

        def build(old):
            def rate(self):
                return old(self) + 1

            return rate

        compat.patch(module, "Child.rate", build)
        assert (Child().rate(), Base().rate()) == (2, 1)
        compat.unpatch(module, "Child.rate")
        assert "rate" not in vars(Child) and Child().rate() == 1

    def test_class(self):
        @dataclasses.dataclass
        class Args:
            """Of the host."""

            size: int = 1

        module = ModuleType("fake")
        module.Args = Args

        def build(old):
            @dataclasses.dataclass
            class Other(old):
                more: int = 2

            return Other

        compat.patch(module, "Args", build)
        compat.patch(module, "Args", build)
        assert module.Args is not Args and module.Args(size=3).more == 2
        assert (module.Args.__name__, module.Args.__doc__) == ("Args", "Of the host.")
        assert len(module.Args.__mro__) == 3
        compat.unpatch(module, "Args")
        assert module.Args is Args
