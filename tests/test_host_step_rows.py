"""The rows of an optimizer step: joined from the collator's batches, cut into passes, the same in every process."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from host_steps import collate, load_all

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.host.steps.step_rows import RowWeights, StepRows, find_owners
from llamafactory_chatts.host.steps.token_budget import TokenBudget, without_synchronisation


TEXT_ONLY = {"input": "Say one.", "output": "One, and nothing else.", "timeseries": []}


@pytest.fixture
def run(write_dataset, recipe, rows):
    """Six rows, two of them without series and one with two, loaded for full tuning in float32."""
    data = rows(4, seed=3)
    two = {"input": "<ts><ts/> and <ts><ts/>?", "output": "both", "timeseries": [[1.0, 2.0] * 20, [3.0, 1.0] * 45]}
    write_dataset([data[0], TEXT_ONLY, two, data[1], TEXT_ONLY, data[2]])
    run = load_all(recipe(finetuning_type="full"))
    run.model.train()
    run.batches = [collate(run, [run.train[i] for i in chosen]) for chosen in ((0, 1), (2, 3), (4, 5))]
    return run


class TestRows:
    def test_each_row_keeps_what_is_its_own(self, run):
        found = StepRows(run.batches, run.model, pad_id=7)
        assert found.lengths == [len(run.train[i]["input_ids"]) for i in range(6)]
        for index in range(6):
            one, row = found.take([index]), run.train[index]
            assert one["input_ids"].tolist() == [row["input_ids"]] and one["labels"].tolist() == [row["labels"]]
            assert one["attention_mask"].tolist() == [row["attention_mask"]]
            alone = collate(run, [row])
            assert ("timeseries" in one) == ("timeseries" in alone)
            if "timeseries" in one:
                width = alone["timeseries"].shape[1]
                assert torch.equal(one["timeseries"][:, :width], alone["timeseries"])
                assert not one["timeseries"][:, width:].any()

    def test_several_rows_are_as_wide_as_the_longest(self, run):
        found = StepRows(run.batches, run.model, pad_id=7)
        batch = found.take([1, 2, 4])
        assert batch["input_ids"].shape == (3, max(found.lengths[i] for i in (1, 2, 4)))
        assert batch["input_ids"][1].tolist()[: found.lengths[2]] == run.train[2]["input_ids"]
        assert batch["timeseries"].shape[0] == 2
        padded = found.tensors["input_ids"] == 7
        assert padded.any() and not found.tensors["attention_mask"][padded].any()

    def test_the_loss_of_the_passes_is_that_of_the_step(self, run):
        found = StepRows(run.batches, run.model, pad_id=0)
        items = sum(int((batch["labels"] != -100).sum()) for batch in run.batches)
        whole = sum(run.model(**batch, num_items_in_batch=items).loss for batch in run.batches)
        for passes in (
            [[0, 1, 2, 3, 4, 5]],
            [[0, 5], [1, 2, 3, 4]],
            [[i] for i in range(6)],
            [[0, 1, 2, 3, 4, 5], []],
        ):
            loss = sum(run.model(**found.take(rows), num_items_in_batch=items).loss for rows in passes)
            assert loss.item() == pytest.approx(whole.item(), abs=1e-5)

    def test_an_empty_pass_runs_everything_and_adds_nothing(self, run):
        found = StepRows(run.batches, run.model, pad_id=0)
        batch = found.take([])
        assert batch["input_ids"].shape[0] == 1 and not (batch["labels"] != -100).any()
        run.model(**batch, num_items_in_batch=9).loss.backward()
        grads = [param.grad for param in run.model.parameters()]
        assert all(grad is not None and not grad.any() for grad in grads)

    def test_weights_make_each_batch_count_alike(self, run):
        found = StepRows(run.batches, run.model, pad_id=0)
        found.weigh_batches_alike()
        means = sum(run.model(**batch).loss for batch in run.batches)
        for passes in ([[0, 1, 2, 3, 4, 5]], [[0, 3, 4], [1, 2, 5], []]):
            loss = sum(run.model(**found.take(rows)).loss for rows in passes)
            assert loss.item() == pytest.approx(means.item(), abs=1e-5)

    def test_position_0_never_counts(self, run):
        run.batches[0]["labels"][0, 0] = 5
        labelled = [sum(label != -100 for label in run.train[i]["labels"][1:]) for i in range(6)]
        assert StepRows(run.batches, run.model, pad_id=0).labelled == labelled

    def test_weights_survive_a_cast_of_the_batch(self):
        """As DeepSpeed and FSDP cast it: they see no tensor."""
        weights = RowWeights([1 / 37])
        assert not torch.is_tensor(weights) and weights.to(
            torch.device("cpu"), torch.float32
        ).item() == 1 / torch.tensor(37.0)

    def test_further_tensors(self, run):
        for index, batch in enumerate(run.batches):
            batch["row_number"] = torch.tensor([2 * index, 2 * index + 1])
            batch["position_ids"] = torch.arange(batch["input_ids"].shape[1]).repeat(2, 1)

        found = StepRows(run.batches, run.model, pad_id=0).take([1, 4])
        assert found["row_number"].tolist() == [1, 4] and found["position_ids"].shape == found["input_ids"].shape

    @pytest.mark.parametrize("extra", [torch.ones(3), "word", torch.ones(2, 1, 9, 9), None])
    def test_what_cannot_be_split(self, run, extra):
        for index, batch in enumerate(run.batches):
            batch["strange"] = (
                extra if not torch.is_tensor(extra) or extra.dim() < 4 else torch.ones(2, 1, 8, 8 + index)
            )

        with pytest.raises(ChatTSError, match="holds `strange` .* cannot be split by rows"):
            StepRows(run.batches, run.model, pad_id=0)

    def test_a_mask_in_four_dimensions(self, run):
        run.batches[0]["attention_mask"] = torch.ones(2, 1, 8, 8)
        with pytest.raises(ChatTSError, match="`attention_mask`"):
            StepRows(run.batches, run.model, pad_id=0)

    def test_padding_on_the_left(self, run):
        for batch in run.batches:
            del batch["places"]
            for key in ("input_ids", "labels", "attention_mask"):
                batch[key] = batch[key].flip(1)

        with pytest.raises(ChatTSError, match="not padded on the right"):
            StepRows(run.batches, run.model, pad_id=0)

    def test_owners(self):
        assert find_owners([3, 0, 2], [1, 2, 2]) == [[0, 1], [], [2]]
        with pytest.raises(ChatTSError, match="row 1 of the step has 1 <ts>"):
            find_owners([3, 1], [1, 2, 2])

        with pytest.raises(ChatTSError, match="2 series, but the rows of the step use 1"):
            find_owners([1], [1, 1])


class Accelerator:
    """What a step asks of accelerate's, with another process that needs ``others`` passes."""

    def __init__(self, others=1, processes=2, kind=DistributedType.MULTI_CPU, each=False):
        self.others, self.num_processes, self.distributed_type, self.device = others, processes, kind, "cpu"
        self.gradient_state = SimpleNamespace(sync_gradients=True, plugin_kwargs={"sync_each_batch": each})
        self.gradient_state._set_sync_gradients = lambda flag: setattr(self.gradient_state, "sync_gradients", flag)
        self.without = []

    def gather(self, count):
        return torch.cat([count, torch.tensor([self.others])])

    @contextlib.contextmanager
    def no_sync(self, model):
        self.without.append(model)
        yield


class TestProcesses:
    def test_all_take_as_many_passes(self, run):
        budget = TokenBudget(10_000, run.model, 0, False)
        rows = StepRows(run.batches, run.model, pad_id=0)
        assert [len(budget.plan(rows, Accelerator(others))) for others in (1, 3, 9)] == [1, 3, 9]
        assert len(budget.plan(rows, Accelerator(9, processes=1))) == 1
        tight = TokenBudget(max(rows.lengths), run.model, 0, False)
        assert len(tight.plan(rows, Accelerator(1))) == len(tight.plan(rows, Accelerator(processes=1))) > 1

    @pytest.mark.parametrize(
        "kind, each, without",
        [
            (DistributedType.MULTI_CPU, False, ["model"]),
            (DistributedType.DEEPSPEED, False, []),
            (DistributedType.MULTI_CPU, True, []),
        ],
    )
    def test_gradients_wait_for_the_last_pass(self, kind, each, without):
        accelerator = Accelerator(kind=kind, each=each)
        with pytest.raises(ZeroDivisionError), without_synchronisation(accelerator, "model"):
            assert not accelerator.gradient_state.sync_gradients
            raise ZeroDivisionError

        assert accelerator.gradient_state.sync_gradients and accelerator.without == without

    def test_a_step_left_before_its_end_is_forgotten(self, run):
        budget = TokenBudget(10_000, run.model, 0, False)
        budget.waiting = run.batches[:1]
        budget.on_step_begin(None, None, None)
        assert budget.waiting == []
