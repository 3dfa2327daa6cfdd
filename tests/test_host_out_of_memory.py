"""Out of memory: there is no GPU here, so torch.OutOfMemoryError is raised by a mock where the GPU would raise it."""

import pytest
import torch

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.core.memory import GIB, Shape
from llamafactory_chatts.core.memory_advice import Run
from llamafactory_chatts.host.say.out_of_memory import explain, read_other_processes


CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.99 GiB"


def run_out(*args, **kwargs):
    raise torch.OutOfMemoryError(CUDA)


@pytest.fixture
def train(write_dataset, recipe, rows):
    """Train with a forward pass that runs out of memory (a mock); return the error."""
    from llamafactory.train.tuner import run_exp

    def train(mocked="llamafactory_chatts.model.modeling_chatts.TimeSeriesForCausalLM.forward", **settings):
        write_dataset(rows(8))
        patched = pytest.MonkeyPatch()
        with patched.context() as context, pytest.raises(ChatTSError) as caught:
            context.setattr(mocked, run_out)
            run_exp(recipe(gradient_accumulation_steps=2, per_device_train_batch_size=4, **settings))

        assert isinstance(caught.value.__cause__, torch.OutOfMemoryError), "the trace stays"
        return str(caught.value)

    return train


class TestInAStep:
    def test_three_settings_with_their_effect(self, train):
        found = train()
        assert found.startswith("out of memory: no memory is left on the GPU in a pass of 4 rows and ")
        assert "Tried to allocate 2.00 GiB" in found
        advice = found.split("would help most now: ")[1].split("; ")
        assert len(advice) == 3 and all(part.startswith("`") and " about -" in part for part in advice)
        assert any(part.startswith("`tokens_per_batch: ") for part in advice)

    def test_the_pass_of_a_token_budget(self, train):
        found = train(tokens_per_batch=700)
        tokens = int(found.split(" rows and ")[1].split(" tokens")[0].replace(",", ""))
        assert 0 < tokens <= 700
        assert f"`tokens_per_batch: {-(-tokens // 2)}`" in found

    def test_what_the_recipe_set_is_not_advised(self, train):
        assert "disable_gradient_checkpointing" not in train()
        assert "`disable_gradient_checkpointing: false`" in train(disable_gradient_checkpointing=True)

    def test_another_stage_with_packing(self, train):
        assert "tokens_per_batch" not in train(packing=True)

    def test_auto_find_batch_size_sees_the_hosts_error(self, write_dataset, recipe, rows, monkeypatch):
        """It tries smaller batches by itself, down to none."""
        from llamafactory.train.tuner import run_exp

        write_dataset(rows(8))
        monkeypatch.setattr("llamafactory_chatts.model.modeling_chatts.TimeSeriesForCausalLM.forward", run_out)
        with pytest.raises(RuntimeError, match="No executable batch size found"):
            run_exp(recipe(auto_find_batch_size=True))

    def test_other_errors_pass(self, write_dataset, recipe, rows, monkeypatch):
        from llamafactory.train.tuner import run_exp

        def fail(*args, **kwargs):
            raise RuntimeError("something else")

        write_dataset(rows(8))
        monkeypatch.setattr("llamafactory_chatts.model.modeling_chatts.TimeSeriesForCausalLM.forward", fail)
        with pytest.raises(RuntimeError, match="something else"):
            run_exp(recipe())


class TestAroundSteps:
    def test_the_weights(self, train):
        found = train("llamafactory.model.loader.init_adapter")
        assert found.startswith(
            "out of memory: no memory is left on the GPU while loading the model (CUDA out of memory"
        )
        assert "`quantization_bit: 4` about -" in found and "tokens_per_batch" not in found

    def test_the_optimizer_has_its_own_moment(self, train):
        found = train("torch.optim.AdamW.step", optim="adamw_torch")
        assert (
            "no memory is left on the GPU in the optimizer's step (CUDA" in found and "`quantization_bit: 4`" in found
        )

    def test_full_tuning(self, train):
        found = train("llamafactory.model.loader.init_adapter", finetuning_type="full")
        assert "`pure_bf16: true`" in found and "`finetuning_type: lora`" in found


# torch 2.11, as printed
OTHERS = (
    "CUDA out of memory. Tried to allocate 3.73 GiB. GPU 1 has a total capacity of 139.80 GiB of which 3.11 GiB is "
    "free. Process 1270 has 19.12 GiB memory in use. Process 1208 has 8.71 GiB memory in use. Process 1400 has 54.10 "
    "GiB memory in use. Including non-PyTorch memory, this process has 53.90 GiB memory in use. Of the allocated "
    "memory 53.38 GiB is allocated by PyTorch, and 0.10 GiB is reserved by PyTorch but unallocated."
)
TINY = Shape(64, 128, 2, 4, 2, head_dim=16, vocab_size=512)
LARGE = Shape(4096, 12288, 36, 32, 8, head_dim=128, vocab_size=151936)


def explained(message, shape=LARGE, **facts):
    return str(explain(Run(shape, **facts), "while loading the model", torch.OutOfMemoryError(message)))


class TestOtherProcesses:
    def test_they_come_first(self):
        found = explained(OTHERS)
        start = "out of memory: no memory is left on the GPU while loading the model: 3 other processes hold 81.93 GiB"
        assert found.startswith(start + " of it (CUDA out of memory.")
        advice = (
            "Run nvidia-smi and end them, or choose another GPU with CUDA_VISIBLE_DEVICES. By estimate these would "
        )
        assert advice + "help most now: `quantization_bit: 4` about -" in found

    def test_small_settings_are_left_out(self):
        found = explained(OTHERS, TINY)
        assert found.endswith("Run nvidia-smi and end them, or choose another GPU with CUDA_VISIBLE_DEVICES.")
        small = (
            OTHERS.replace("19.12 GiB", "19.12 MiB").replace("8.71 GiB", "8.71 KiB").replace("54.10 GiB", "9 bytes")
        )
        assert "`quantization_bit: 4` about -" in explained(small, TINY), "they hold too little to blame them alone"

    def test_one_of_them(self):
        found = explained(
            "Process 7 has 300.00 MiB memory in use. Including non-PyTorch memory, this process has 2 GiB"
        )
        assert "model: 1 other process holds 0.29 GiB of it (" in found

    def test_none_of_them(self):
        alone = "Including non-PyTorch memory, this process has 7.45 GiB memory in use."
        for message in (CUDA, f"{CUDA} {alone}"):
            assert read_other_processes(message) == [] and "nvidia-smi" not in explained(message)

    def test_this_process_listed_by_a_number(self):
        """In a container with process numbers of its own."""
        message = OTHERS.replace("Including non-PyTorch memory, this process", "Process 9")
        assert [round(size / GIB, 2) for size in read_other_processes(message)] == [19.12, 8.71, 54.10]
        assert read_other_processes("Process 9 has 7.45 GiB memory in use. Of the allocated memory 7.00 GiB") == []

    def test_a_driver_that_does_not_tell(self):
        listed = "Process 4 has 17179869184.00 GiB memory in use. Including non-PyTorch memory, this process has"
        assert read_other_processes(f"{listed} 17179869184.00 GiB memory in use.") == []
