"""Warnings and survived errors of runs that go on or end well are no findings."""

import pytest

from llamafactory_chatts.diagnose.log.diagnose import diagnose_log


NOISE = [
    "[WARNING] async_io requires the dev libaio .so object and headers but these were not found.",
    " [WARNING]  using untested triton version (3.4.0), only 1.0.0 is known to fit",
    "/x/checkpoint.py:85: UserWarning: None of the inputs have requires_grad=True. Gradients will be None",
    "/x/trainer.py:3354: FutureWarning: You are using `torch.load` with `weights_only=False` (the current "
    "default value), which uses the default pickle module implicitly. It is possible to construct malicious data",
    "huggingface/tokenizers: The current process just got forked, after parallelism has already been used.",
    "[W socket.cpp:663] [c10d] The client socket has failed to connect to [localhost]:29500 (errno: 99).",
    "[rank0]:[W1125 ProcessGroupNCCL.cpp:1250] Warning: WARNING: process group has NOT been destroyed.",
    "node01:3310:3702 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/RoCE [1]mlx5_1:1/RoCE [RO]; OOB bond0:10.0.8.21<0>",
    "WARNING:root:Some parameters are on the meta device because they were offloaded to the cpu.",
    "Could not find the bitsandbytes CUDA binary at PosixPath('/x/libbitsandbytes_cuda130.so')",
    "[2025-11-25 10:00:00,330] [INFO] [real_accelerator.py:239:get_accelerator] Setting ds_accelerator to cuda",
    "wandb: WARNING The `run_name` is currently set to the same value as `TrainingArguments.output_dir`.",
    "[WARNING|2025-11-25 10:00:00] llamafactory.data.converter:154 >> Invalid role tag in [{'role': 'bot'}].",
    "UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).",
    "df: /home/user/.triton/autotune: No such file or directory",
    "/usr/bin/ld: cannot find -laio: No such file or directory",
    "Overriding torch_dtype=None with `torch_dtype=torch.float16` due to requirements of `bitsandbytes`",
    "Token indices sequence length is longer than the specified maximum sequence length for this model (9031 > 8192).",
    "The attention mask is not set and cannot be inferred from input because pad token is same as eos token.",
    "Setting `save_safetensors` failed quietly before, it is ignored now. expected value: true",
]
STARTED = "[INFO|trainer.py:2409] 2025-11-25 10:00:00,387 >> ***** Running training *****\n"
STEPS = "".join(f"{{'loss': 1.{n}, 'grad_norm': 0.5, 'learning_rate': 1e-05, 'epoch': 0.0{n}}}\n" for n in range(1, 6))
ENDED = "***** train metrics *****\n  epoch = 1.0\n"


@pytest.fixture
def causes(tmp_path):
    def run(text: str):
        path = tmp_path / "run.log"
        path.write_text(text, encoding="utf-8")
        return [item.cause for item in diagnose_log(path)]

    return run


@pytest.mark.parametrize("line", NOISE)
class TestOneLine:
    def test_before_a_training_that_ended(self, causes, line):
        assert causes(f"{line}\n{STARTED}{STEPS}{ENDED}") == []

    def test_with_an_exit_code_of_zero(self, causes, line):
        assert causes(f"{line}\nexit code 0\n") == []

    def test_in_a_training_that_goes_on(self, causes, line):
        for text in (f"{line}\n{STARTED}{STEPS}", f"{STARTED}{line}\n{STEPS}"):
            assert not [cause for cause in causes(text) if "the log stops during training" not in cause]

    def test_above_an_exception_that_has_nothing_to_do_with_it(self, causes, line):
        error = 'Traceback (most recent call last):\n  File "/home/user/own.py", line 3, in f\n    x\nFluxError: odd\n'
        (cause,) = causes(f"{line}\n{error}exit code 1\n")
        assert cause.startswith("cause not recognised"), cause


def test_all_of_them_at_once(causes):
    assert causes("\n".join(NOISE) + f"\n{STARTED}{STEPS}{ENDED}") == []


def test_a_survived_error_in_a_message_of_a_running_training(causes):
    survived = 'Traceback (most recent call last):\n  File "x.py", line 3, in f\nConnectionError: no telemetry\n'
    assert causes(f"{survived}{STARTED}{STEPS}{ENDED}") == []
