"""A training step asks the device for nothing: the loader hands over where things stand in a batch."""

import pickle

import pytest
import torch
from host_steps import collate, load_all
from torch.utils._python_dispatch import TorchDispatchMode

from llamafactory_chatts.host.steps.step_rows import StepRows


TEXT = {"input": "Say one.", "output": "One, and nothing else.", "timeseries": []}
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "masked_scatter", "is_nonzero", "equal", "unique")


class CountWaits(TorchDispatchMode):
    """Counts the operations for which the process would wait for a GPU; on the CPU they are the same ones."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_unsafe_index") and any(
            torch.is_tensor(item) and item.dtype == torch.bool for item in args[1]
        )
        counted = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if by_mask or counted or name.startswith(WAITS):
            self.found.append(name)

        return function(*args, **(kwargs or {}))


def waits(model, batch):
    """Return the waits of one forward and backward pass."""
    with CountWaits() as mode:
        model(**batch, num_items_in_batch=torch.tensor(7)).loss.backward()

    return mode.found


@pytest.fixture
def load(write_dataset, recipe, rows):
    def load(data=None, **changes):
        write_dataset(data or [*rows(3), TEXT])
        run = load_all(recipe(**changes))
        run.model.train()
        return run

    return load


class TestWaits:
    def test_the_count_sees_them(self):
        """What the old code did, so that the test below can fail."""
        values, mask = torch.ones(3, requires_grad=True), torch.tensor([True, False, True])
        with CountWaits() as mode:
            bool(mask.any()), values[mask].sum().backward(), mask.sum().tolist(), mask.nonzero()

        assert len(mode.found) >= 4

    @pytest.mark.parametrize("changes", [{}, {"finetuning_type": "full"}, {"flash_attn": "disabled"}], ids=str)
    def test_none_in_a_pass(self, load, changes):
        run = load(**changes)
        assert waits(run.model, collate(run, run.train)) == []

    def test_none_with_text_alone(self, load):
        run = load()
        assert waits(run.model, collate(run, [run.train[3]])) == []

    def test_none_with_packed_rows(self, load):
        run = load(packing=True)
        assert waits(run.model, collate(run, [run.train[0]])) == []

    @pytest.mark.parametrize("weigh", [False, True])
    def test_none_in_the_passes_of_a_step(self, load, weigh):
        run = load()
        base = run.model.base_model.model
        batches = [collate(run, [run.train[at] for at in chosen]) for chosen in ((0, 3), (1, 2))]
        step = StepRows(batches, base, pad_id=0)
        if weigh:
            step.weigh_batches_alike()

        for chosen in ([0, 1, 3], [2], []):
            assert waits(run.model, step.take(chosen)) == []


class TestSameNumbers:
    @pytest.mark.parametrize("changes", [{}, {"packing": True}, {"flash_attn": "disabled"}], ids=str)
    def test_with_and_without(self, load, changes):
        run = load(finetuning_type="full", **changes)
        batch = collate(run, run.train)
        assert batch["places"].labelled is not None
        found = []
        for given in (batch, {key: value for key, value in batch.items() if key != "places"}):
            run.model.zero_grad()
            loss = run.model(**given).loss
            loss.backward()
            found.append([loss.detach(), *(p.grad.clone() for p in run.model.parameters() if p.grad is not None)])

        assert len(found[0]) == len(found[1]) and all(map(torch.equal, *found))

    def test_what_a_worker_sends(self, load):
        run = load()
        batch = collate(run, run.train)
        sent = {**batch, "places": pickle.loads(pickle.dumps(batch["places"]))}
        assert torch.equal(run.model(**sent).loss, run.model(**batch).loss)

    def test_of_a_batch_that_was_cut_they_are_looked_for_again(self, load):
        """As DataParallel does it: the object goes to every card, the tensors are cut by rows."""
        run = load()
        batch, row = collate(run, run.train), collate(run, [run.train[3]])
        cut = {**row, "places": batch["places"]}
        assert torch.equal(run.model(**cut).loss, run.model(**row).loss)

    def test_those_of_another_batch_stop_the_run(self, load):
        run = load()
        batch = collate(run, run.train)
        batch["input_ids"] = batch["input_ids"].flip(1)
        with pytest.raises(RuntimeError, match="places of this batch"):
            run.model(**batch)


def test_the_trainer_takes_them_through_its_loaders(load, monkeypatch, recipe):
    """Two worker processes, pinned or not: each training pass of the real trainer gets the places of its batch."""
    from llamafactory.train.tuner import run_exp

    from llamafactory_chatts.model.modeling_chatts import TimeSeriesForCausalLM as Model

    seen, look = [], Model._look
    monkeypatch.setattr(Model, "_look", lambda self, *args: seen.append(self.training) or look(self, *args))
    load()
    run_exp(recipe(dataloader_num_workers=2, max_steps=3, eval_dataset="data", eval_strategy="steps", eval_steps=3))
    assert seen == []
    run_exp(recipe(tokens_per_batch=600, gradient_accumulation_steps=2, overwrite_output_dir=True))
    assert seen == []
