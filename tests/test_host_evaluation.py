"""The evaluation loss: a mean over labelled tokens, whatever the size of a batch and the number of processes."""

import json
from types import SimpleNamespace

import pytest
import torch

from llamafactory_chatts.host.steps.evaluation import _Counted


TEXT_ONLY = {"input": "Say one.", "output": "One.", "timeseries": []}


@pytest.fixture
def evaluate(write_dataset, recipe, rows, tmp_path):
    """Evaluate the untrained base on rows of unequal length; return eval_loss."""
    from llamafactory.train.tuner import run_exp

    def evaluate(**settings):
        write_dataset([*rows(3, seed=2), TEXT_ONLY, TEXT_ONLY, *rows(2, seed=4)])
        write_dataset([{"text": "a b c"}, {"text": "a longer text of several words " * 9}] * 4, name="texts",
                      columns={"prompt": "text"})  # fmt: skip
        changes = {"do_train": False, "do_eval": True, "dataset": None, "eval_dataset": "data", "save_strategy": None}
        run_exp(recipe(**{**changes, **settings}))
        return json.loads((tmp_path / "saves" / "eval_results.json").read_text())["eval_loss"]

    return evaluate


@pytest.mark.parametrize(
    "settings", [{}, {"packing": True}, {"stage": "pt", "eval_dataset": "texts", "packing": False}]
)
def test_the_size_of_a_batch_does_not_matter(evaluate, settings):
    settings = {"finetuning_type": "full", **settings}
    losses = [evaluate(per_device_eval_batch_size=size, **settings) for size in (1, 3)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_it_is_the_mean_over_tokens(evaluate, recipe):
    from host_steps import collate, load_all

    found = evaluate(per_device_eval_batch_size=2)
    run = load_all(recipe(do_train=False))
    loss = tokens = 0.0
    for row in run.train:
        batch = collate(run, [row])
        with torch.no_grad():
            count = int((batch["labels"][:, 1:] != -100).sum())
            loss, tokens = loss + float(run.model(**batch).loss) * count, tokens + count

    assert found == pytest.approx(loss / tokens, rel=1e-5)


def test_the_hosts_own_rule_stays(evaluate):
    losses = [evaluate(per_device_eval_batch_size=size, loss_normalization="batch") for size in (1, 7)]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_rows_that_fill_the_last_batch_do_not_count():
    """7 rows in batches of 2 for two processes: the last batches hold rows 4, 5 and 6, 0."""

    def step(model, inputs, *args):
        real = inputs["labels"][:, 1:] != -100
        return (inputs["labels"][:, 1:][real].float().mean() if real.any() else torch.tensor(0.0)), None, None

    def totals(process):
        state = SimpleNamespace(remainder=3, end_of_dataloader=False)
        accelerator = SimpleNamespace(gradient_state=state, process_index=process)
        trainer = SimpleNamespace(prediction_step=step, accelerator=accelerator, args=SimpleNamespace(device="cpu"))
        counted = _Counted(trainer)
        for last, rows in ((False, [0, 1] if process == 0 else [2, 3]), (True, [4, 5] if process == 0 else [6, 0])):
            state.end_of_dataloader = last
            counted(None, {"labels": torch.tensor([[-100] + [row] * (row + 1) + [-100] * (6 - row) for row in rows])})

        return counted.loss, counted.tokens

    loss, tokens = (sum(both) for both in zip(totals(0), totals(1)))
    assert tokens == sum(row + 1 for row in range(7))
    assert loss == pytest.approx(sum(row * (row + 1) for row in range(7)))
