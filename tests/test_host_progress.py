"""One line per step: what stands in it, and that tokens are counted without padding."""

import io
import re
from types import SimpleNamespace

import pytest
import torch
from transformers import PrinterCallback, ProgressCallback

from llamafactory_chatts.host.say import progress


ARGS = SimpleNamespace(train_batch_size=2, gradient_accumulation_steps=4, world_size=2, disable_tqdm=False)


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now.value)
    return now


def state(step, last=100, zero=True):
    return SimpleNamespace(global_step=step, max_steps=last, is_world_process_zero=zero)


def begin(clock):
    trainer = SimpleNamespace(args=ARGS)
    line = progress.StepLine(trainer)
    line.on_train_begin(ARGS, state(0), None)
    return trainer, line


def advance(line, trainer, clock, step, seconds, tokens):
    clock.value += seconds
    trainer.chatts_tokens = getattr(trainer, "chatts_tokens", 0) + tokens
    line.on_step_end(ARGS, state(step), None)


def test_a_line_holds_everything(clock, capsys):
    trainer, line = begin(clock)
    advance(line, trainer, clock, 1, 30.0, 500)
    logs = {"loss": 1.5, "grad_norm": 0.25, "learning_rate": 1e-4, "ts_encoder_learning_rate": 1e-5, "epoch": 0.1}
    line.on_log(ARGS, state(1), None, logs)
    advance(line, trainer, clock, 3, 4.0, 1000)
    line.on_log(ARGS, state(3), None, {**logs, "loss": 1.25})
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("step 1/100  loss 1.5000  grad 0.25  lr 0.0001  encoder lr 1e-05  ")
    assert first.endswith("? left")
    # two steps of 2 x 4 x 2 rows and 1000 tokens in each of two processes, in 4 seconds; 97 steps at 2 seconds
    assert second.startswith("step 3/100  loss 1.2500")
    assert "  8 rows/s  500 tokens/s  " in second
    assert second.endswith("0:03:14 left")


def test_stages_that_compare_answers(clock, capsys):
    _, line = begin(clock)
    line.on_log(ARGS, state(1), None, {"loss": 0.7, "rewards/accuracies": 0.75, "rewards/margins": 0.0123})
    assert capsys.readouterr().err.startswith("step 1/100  loss 0.7000  accuracy 0.75  margin 0.0123  ")


def test_memory_stands_in_the_line_where_there_is_a_gpu(clock, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 3 * 2**30)
    trainer, line = begin(clock)
    advance(line, trainer, clock, 1, 1.0, 5)
    line.on_log(ARGS, state(1), None, {"loss": 1.0})
    assert "  3.0 GiB  " in capsys.readouterr().err


def test_other_logs_are_pairs_and_only_the_first_process_prints(clock, capsys):
    _, line = begin(clock)
    line.on_log(ARGS, state(1), None, {"eval_loss": 0.51234, "epoch": 1.0, "total_flos": 1e15})
    line.on_log(ARGS, state(1, zero=False), None, {"loss": 1.0})
    assert capsys.readouterr().err == "eval_loss 0.5123  epoch 1\n"


def test_on_a_terminal_the_bar_stays(clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(progress.sys, "stderr", Terminal())
    trainer, line = begin(clock)
    assert line.training_bar is not None and line.training_bar.total == 100
    written = []
    monkeypatch.setattr(line.training_bar, "write", written.append)
    advance(line, trainer, clock, 1, 1.0, 5)
    line.on_log(ARGS, state(1), None, {"loss": 1.0})
    assert line.training_bar.n == 1 and len(written) == 1
    line.on_train_end(ARGS, state(1), None)


@pytest.mark.parametrize(
    "mask,tokens",
    [(torch.tensor([[1, 1, 0], [1, 0, 0]]), 3), (torch.tensor([[1, 1, 2], [1, 2, 0]]), 5), (None, 6)],
)
def test_padding_is_not_counted(mask, tokens):
    trainer = SimpleNamespace()
    for _ in range(2):
        progress.count_tokens(trainer, {"input_ids": torch.ones(2, 3), "attention_mask": mask})

    assert int(trainer.chatts_tokens) == 2 * tokens


def test_it_takes_the_place_of_the_dictionaries():
    class Trainer:
        args, removed, added = ARGS, [], []
        callback_handler = SimpleNamespace(callbacks=added)

        def remove_callback(self, kind):
            self.removed.append(kind)

        def add_callback(self, callback):
            self.added.append(callback)

    trainer = Trainer()
    progress.print_lines(trainer)
    progress.print_lines(trainer)  # the optimizer may be made twice
    assert set(trainer.removed) == {ProgressCallback, PrinterCallback}
    assert [type(item) for item in trainer.added] == [progress.StepLine]


@pytest.mark.parametrize("begin,step,expected", [(None, 5, "?"), ((0.0, 5), 5, "?"), ((0.0, 5), 10, "1:30:00")])
def test_time_left(begin, step, expected):
    found = progress.time_left(begin, 300.0, step, 100)
    assert found == expected and re.fullmatch(r"\?|\d+:\d\d:\d\d", found)
