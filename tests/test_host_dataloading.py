"""What a recipe leaves open for loading data: worker processes, rows at a time; and pinned memory."""

import dataclasses
import json
import os
import sys
from types import SimpleNamespace

import pytest
import torch
import warm
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from host_steps import collate, load_data, parse

from llamafactory_chatts.host.start.train_arguments import named_arguments
from llamafactory_chatts.host.steps import dataloading


class TestNamedArguments:
    @pytest.mark.parametrize(
        "words, expected",
        [
            (["--dataloader_num_workers", "0"], {"dataloader_num_workers": "0"}),
            (["--dataloader-num-workers=0", "--do_train"], {"dataloader_num_workers": "0", "do_train": ""}),
            (["--lr", "-1", "--report_to", "a", "b"], {"lr": "-1", "report_to": "a b"}),
            ([], {}),
        ],
    )
    def test_words_of_a_command_line(self, words, expected):
        assert named_arguments(words) == expected

    def test_a_recipe_is_copied(self):
        given = {"dataloader_num_workers": 0}
        assert named_arguments(given) == given and named_arguments(given) is not given


NAMES = ("dataloader_num_workers", "dataloader_persistent_workers", "dataloader_prefetch_factor")


class TestDefaultWorkers:
    @pytest.fixture(autouse=True)
    def two(self, monkeypatch):
        """As on a GPU: there the choice is 2."""
        monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
        monkeypatch.setattr(dataloading, "choose_workers", lambda device, deepspeed: (2, ""))

    def parsed(self, settings):
        args = parse(settings).training_args
        return tuple(getattr(args, name) for name in NAMES)

    def test_without_a_word_of_the_recipe(self, recipe):
        assert self.parsed(recipe()) == (2, True, 2)
        assert os.environ.pop("TOKENIZERS_PARALLELISM") == "false"

    @pytest.mark.parametrize("steps, ahead", [(1, 2), (16, 8), (128, 16)])
    def test_one_optimizer_step_is_made_ahead(self, recipe, steps, ahead):
        assert self.parsed(recipe(gradient_accumulation_steps=steps)) == (2, True, ahead)

    @pytest.mark.parametrize("workers", [0, 1, 3])
    def test_the_recipe_wins(self, recipe, workers):
        assert self.parsed(recipe(dataloader_num_workers=workers)) == (workers, False, None)

    def test_parts_of_it_win(self, recipe):
        assert self.parsed(recipe(dataloader_persistent_workers=False)) == (2, False, 2)

    def test_the_command_line_wins(self, recipe):
        from llamafactory.hparams import get_train_args

        words = [f"--{key}={value}" for key, value in recipe().items()]
        assert get_train_args(words)[2].dataloader_num_workers == 2
        assert get_train_args([*words, "--dataloader_num_workers=0"])[2].dataloader_num_workers == 0

    def test_the_deepspeed_file_is_looked_at(self, recipe, monkeypatch):
        monkeypatch.setattr(dataloading, "choose_workers", lambda device, deepspeed: (0 if deepspeed else 2, "why"))
        run, plugin = parse(recipe()), SimpleNamespace(hf_ds_config=zero())
        assert run.training_args.deepspeed_plugin is None and run.training_args.dataloader_num_workers == 2
        run.training_args.dataloader_num_workers = 0
        monkeypatch.setattr(run.training_args, "deepspeed_plugin", plugin)
        dataloading.default_workers({}, run.model_args, run.data_args, run.training_args, run.finetuning_args)
        assert run.training_args.dataloader_num_workers == 0

    def test_not_for_streams_and_not_for_other_templates(self, recipe):
        assert self.parsed(recipe(streaming=True)) == (0, False, None)
        assert self.parsed(recipe(template="qwen3_nothink")) == (0, False, None)


def zero(stage=3, **offload):
    """Return the configuration of DeepSpeed as the trainer holds it; no DeepSpeed is needed for that."""
    return HfDeepSpeedConfig({"zero_optimization": {"stage": stage, "offload_param": offload or None}})


class TestChoice:
    @pytest.fixture(autouse=True)
    def plenty(self, monkeypatch):
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        monkeypatch.setattr(dataloading.os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
        monkeypatch.setattr(dataloading.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**34))
        monkeypatch.setattr(dataloading.multiprocessing, "get_all_start_methods", lambda: ["fork", "spawn"])

    def test_two_on_a_gpu_none_on_the_cpu(self):
        assert dataloading.choose_workers("cuda") == (2, "")
        assert dataloading.choose_workers("cpu")[0] == 0

    @pytest.mark.parametrize("processes, expected", [(8, 2), (16, 1), (32, 1)])
    def test_cores_are_shared_by_the_processes_of_a_machine(self, monkeypatch, processes, expected):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert dataloading.choose_workers("cuda")[0] == expected

    def test_a_container_with_little_shared_memory(self, monkeypatch):
        monkeypatch.setattr(dataloading.shutil, "disk_usage", lambda path: SimpleNamespace(free=64 * 2**20))
        workers, why = dataloading.choose_workers("cuda")
        assert workers == 0 and "/dev/shm" in why and "--shm-size" in why

    def test_no_copies_of_the_model(self, monkeypatch):
        monkeypatch.setattr(dataloading.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
        assert dataloading.choose_workers("cuda")[0] == 0

    @pytest.mark.parametrize("pinning", [{}, {"pin_memory": False}])
    def test_weights_in_host_memory_that_forks_share(self, pinning):
        workers, why = dataloading.choose_workers("cuda", zero(device="cpu", **pinning))
        assert workers == 0 and "offload_param: pin_memory: true" in why

    @pytest.mark.parametrize(
        "config",
        [
            zero(),
            zero(device="cpu", pin_memory=True),
            zero(device="none"),
            zero(device="nvme", nvme_path="/fast"),
            zero(stage=2, device="cpu"),
            HfDeepSpeedConfig({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}),
            HfDeepSpeedConfig({"bf16": {"enabled": "auto"}}),
        ],
    )
    def test_other_deepspeed_files_keep_the_workers(self, config):
        assert dataloading.choose_workers("cuda", config) == (2, "")


class TestRowsAtATime:
    def test_fewer_unless_named(self, recipe):
        assert parse(recipe()).data_args.preprocessing_batch_size == dataloading.ROWS_AT_A_TIME
        assert parse(recipe(preprocessing_batch_size=1000)).data_args.preprocessing_batch_size == 1000

    @pytest.mark.parametrize("changes", [{"packing": True}, {"stage": "kto"}, {"template": "qwen3_nothink"}])
    def test_not_where_rows_depend_on_their_neighbours(self, recipe, changes):
        assert parse(recipe(**changes)).data_args.preprocessing_batch_size == 1000


def test_every_tensor_of_a_batch_is_pinned(write_dataset, recipe, rows, monkeypatch):
    """What a loader with ``pin_memory`` does to a batch; no GPU is needed to see which tensors it reaches."""
    from torch.utils.data._utils.pin_memory import pin_memory

    write_dataset(rows(3))
    run = load_data(recipe())
    field = next(item for item in dataclasses.fields(run.training_args) if item.name == "dataloader_pin_memory")
    assert field.default is True and not run.training_args.dataloader_pin_memory, "use_cpu: true switches it off"
    batch = collate(run, run.train)
    reached = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *args: reached.append(self.shape) or self)
    pinned = pin_memory(batch)
    assert pinned.keys() == batch.keys() and "timeseries" in batch
    assert sorted(reached) == sorted(value.shape for value in batch.values() if torch.is_tensor(value))


WORKERS = """
import json, os, sys
from llamafactory.train.tuner import run_exp
from llamafactory_chatts.host.rows.mm_plugin import ChatTSPlugin

original = ChatTSPlugin.get_mm_inputs

def get_mm_inputs(self, *args, **kwargs):
    with open(sys.argv[2], "a") as file:
        file.write(f"{os.getpid()}\\n")
    return original(self, *args, **kwargs)

ChatTSPlugin.get_mm_inputs = get_mm_inputs
losses = []
for workers in (0, 2):
    settings = json.loads(sys.argv[1])
    settings.update(dataloader_num_workers=workers, dataloader_persistent_workers=workers > 0)
    settings["output_dir"] += str(workers)
    run_exp(settings)
    history = json.load(open(settings["output_dir"] + "/trainer_state.json"))["log_history"]
    losses.append([entry["loss"] for entry in history if "loss" in entry])
    with open(sys.argv[2], "a") as file:
        file.write("end\\n")
print("\\n" + json.dumps([os.getpid(), losses]))
"""


@pytest.mark.slow
def test_workers_make_the_batches_and_the_losses_are_the_same(write_dataset, recipe, rows, tmp_path):
    write_dataset(rows(8))
    (tmp_path / "train.py").write_text(WORKERS)
    settings = recipe(max_steps=10, eval_strategy="steps", eval_steps=5, val_size=2, gradient_accumulation_steps=1)
    known = {key: value for key, value in os.environ.items() if key != "TOKENIZERS_PARALLELISM"}
    command = [sys.executable, str(tmp_path / "train.py"), json.dumps(settings), str(tmp_path / "pids")]
    done = warm.run(command, known)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "just got forked" not in done.stderr
    main, (without, with_workers) = json.loads(done.stdout.splitlines()[-1])
    assert len(without) == 10 and without == with_workers
    first, second = (tmp_path / "pids").read_text().split("end\n")[:2]
    assert set(map(int, first.split())) == {main}
    assert main not in map(int, second.split()) and len(set(second.split())) >= 2
