"""``tokens_per_batch`` and ``loss_normalization``: what is refused, how rows are cut, what a step computes."""

import json
import logging
import re

import pytest
from accelerate.state import GradientState
from host_steps import parse

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.host.steps.step_rows import StepRows
from llamafactory_chatts.host.steps.token_budget import read_budget, read_lengths


TEXT_ONLY = {"input": "Say one.", "output": "One, and nothing else.", "timeseries": []}


@pytest.fixture
def parsed(write_dataset, recipe, rows):
    write_dataset(rows(2))
    return lambda **settings: parse(recipe(**settings))


class TestSettings:
    def test_the_number_reaches_the_trainers_arguments(self, parsed):
        run = parsed(tokens_per_batch=2048, gradient_accumulation_steps=8)
        assert run.training_args.tokens_per_batch == 2048 and run.data_args.tokens_per_batch == 2048
        assert run.training_args.per_device_train_batch_size == 2, "the recipe's numbers stay"
        assert run.training_args.gradient_accumulation_steps == 8
        assert parsed().training_args.tokens_per_batch is None

    @pytest.mark.parametrize("value, wanted", [(2048, 2048), ("2048", 2048), (2048.0, 2048), (None, None)])
    def test_numbers(self, value, wanted):
        assert read_budget(value) == wanted

    @pytest.mark.parametrize("value", [0, -1, "many", 1.5, True, [2], float("nan"), float("inf")])
    def test_no_number_of_tokens(self, value):
        with pytest.raises(ChatTSError, match="tokens_per_batch: .* is no number of tokens"):
            read_budget(value)

    @pytest.mark.parametrize(
        "settings, message",
        [
            ({"packing": True}, "fills passes already. Remove packing"),
            ({"neat_packing": True}, "fills passes already. Remove packing"),
            ({"stage": "dpo"}, "it is for stage sft"),
            ({"stage": "rm"}, "it is for stage sft"),
            ({"template": "qwen3"}, "it is for template chatts"),
            ({"auto_find_batch_size": True}, "auto_find_batch_size changes"),
            ({"use_dft_loss": True}, "use_dft_loss has a loss of its own"),
            ({"optim": "lomo"}, "this optim updates the weights in every backward pass"),
            ({"optim": "galore_adamw_layerwise"}, "updates the weights in every backward pass"),
        ],
    )
    def test_refused(self, parsed, settings, message):
        with pytest.raises(ChatTSError, match=f"tokens_per_batch: .*{message}"):
            parsed(tokens_per_batch=512, **settings)

        parsed(tokens_per_batch=512)

    def test_layerwise_galore(self, parsed, monkeypatch):
        monkeypatch.setattr("llamafactory.hparams.parser.check_version", lambda *args, **kwargs: None)
        galore = {"finetuning_type": "full", "use_galore": True}
        parsed(tokens_per_batch=512, **galore)
        with pytest.raises(ChatTSError, match="galore_layerwise updates the weights"):
            parsed(tokens_per_batch=512, galore_layerwise=True, **galore)

    def test_prediction_with_the_same_recipe(self, parsed):
        parsed(tokens_per_batch=512, do_train=False, do_eval=True, eval_dataset="data", auto_find_batch_size=True)

    def test_normalization(self, parsed):
        assert parsed().finetuning_args.loss_normalization == "token"
        assert parsed(loss_normalization="batch").finetuning_args.loss_normalization == "batch"
        with pytest.raises(ChatTSError, match="loss_normalization: there is no 'row'. Use one of: token, batch"):
            parsed(loss_normalization="row")

        with pytest.raises(ChatTSError, match="loss_normalization: this stage has a loss of its own"):
            parsed(loss_normalization="batch", stage="dpo")


@pytest.fixture
def train(write_dataset, recipe, rows, tmp_path):
    """Train with ``run_exp``; return the log of the steps."""
    from llamafactory.train.tuner import run_exp

    def train(name="run", **settings):
        write_dataset([*rows(5, seed=2), TEXT_ONLY, *rows(5, seed=4)])
        out = tmp_path / name
        run_exp(recipe(**{"output_dir": str(out), "finetuning_type": "full", "seed": 1, "max_steps": 3, **settings}))
        history = json.loads((out / "trainer_state.json").read_text())["log_history"]
        return [entry for entry in history if "loss" in entry]

    return train


def numbers(log):
    return [entry[key] for entry in log for key in ("loss", "grad_norm")]


class TestTraining:
    def test_a_longer_row_is_named_before_the_first_step(self, train, tmp_path):
        with pytest.raises(ChatTSError) as caught:
            train(tokens_per_batch=60)

        lengths = json.loads(json.dumps(caught.value.fix)).split()
        longest = int(lengths[lengths.index("to") + 1])
        assert f"has {longest} tokens" in str(caught.value) and "of the tokenised training set (10 of 11" in str(
            caught.value
        )
        with pytest.raises(ChatTSError, match=f"tokens_per_batch: {longest - 1}: row "):
            train(tokens_per_batch=longest - 1)

        assert len(train(tokens_per_batch=longest, max_steps=1)) == 1

    def test_a_longer_row_of_a_stream_is_named_at_its_step(self, train):
        with pytest.raises(ChatTSError, match="tokens_per_batch: 60: a row of this step has [0-9]+ tokens"):
            train(tokens_per_batch=60, streaming=True, buffer_size=4)

    @pytest.mark.parametrize("normalization", ["token", "batch"])
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"streaming": True, "buffer_size": 4},
            {"train_sampling_strategy": "group_by_length", "include_num_input_tokens_seen": "all"},
        ],
        ids=["plain", "streaming", "group_by_length"],
    )
    def test_losses_and_gradients_of_the_recipe(self, train, monkeypatch, normalization, settings):
        """11 rows, 6 a step: the second step of an epoch holds 5, its last batch one."""
        settings = {**settings, "loss_normalization": normalization, "gradient_accumulation_steps": 3, "max_steps": 4}
        if not settings.get("streaming"):
            settings |= {"num_train_epochs": 2, "max_steps": -1}

        plain = train("plain", **settings)
        passes = []
        take = StepRows.take

        synchronised = []

        def counted(self, rows):
            passes.append([self.lengths[row] for row in rows])
            synchronised.append(GradientState().sync_gradients)
            return take(self, rows)

        monkeypatch.setattr(StepRows, "take", counted)
        filled = train("filled", tokens_per_batch=500, **settings)
        assert len(plain) == 4 and numbers(filled) == pytest.approx(numbers(plain), rel=1e-4)
        assert [e.get("num_input_tokens_seen") for e in filled] == [e.get("num_input_tokens_seen") for e in plain]
        assert all(sum(lengths) <= 500 for lengths in passes)
        assert 4 <= len(passes) < 12, "fewer than the recipe's batches"
        assert any(len(lengths) > 2 for lengths in passes)
        assert synchronised.count(True) == 4 and synchronised[-1], "the last pass of each step"

    def test_the_two_normalizations_differ(self, train):
        common = {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 1}
        assert numbers(train("a", **common)) != numbers(train("b", loss_normalization="batch", **common))

    def test_without_padding_free_attention(self, train, monkeypatch):
        monkeypatch.setattr("llamafactory_chatts.host.load.speed.use_fast_paths", lambda *args: None)
        common = {"gradient_accumulation_steps": 3, "max_steps": 2}
        plain = train("plain", **common)
        assert numbers(train("filled", tokens_per_batch=500, **common)) == pytest.approx(numbers(plain), rel=1e-4)

    def test_resumed(self, train, tmp_path):
        common = {"tokens_per_batch": 500, "gradient_accumulation_steps": 3, "per_device_train_batch_size": 1}
        common |= {"lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 2}
        whole = train("whole", max_steps=5, **common)
        train("halved", max_steps=2, **common)
        assert numbers(train("halved", max_steps=5, **common)) == pytest.approx(numbers(whole), rel=1e-5)

    def test_evaluation_is_untouched(self, train, tmp_path):
        common = {"gradient_accumulation_steps": 3, "eval_dataset": "data", "eval_strategy": "steps", "eval_steps": 3}
        losses = []
        for name, settings in {"plain": {}, "filled": {"tokens_per_batch": 500}}.items():
            train(name, **common, **settings)
            history = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
            losses += [entry["eval_loss"] for entry in history if "eval_loss" in entry]

        assert len(losses) == 2 and losses[0] == pytest.approx(losses[1], rel=1e-4)

    def test_one_line_at_the_start(self, train):
        lines = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())
        logging.getLogger("llamafactory").addHandler(handler)
        try:
            train(tokens_per_batch=500, gradient_accumulation_steps=3, max_steps=1)
            train("other", tokens_per_batch=500, streaming=True, max_steps=1)
        finally:
            logging.getLogger("llamafactory").removeHandler(handler)

        known, streamed = (line for line in lines if "tokens_per_batch" in line)
        assert re.fullmatch(
            r"tokens_per_batch 500: 6 rows per optimizer step in about \d passes \(longest row \d+ tokens\)\.", known
        )
        assert streamed.startswith("tokens_per_batch 500: 2 rows per optimizer step; the data are streamed")


def test_lengths_follow_a_selection(write_dataset, recipe, rows):
    from datasets import Dataset

    data = Dataset.from_dict({"input_ids": [[1] * n for n in range(1, 8)], "x": [0] * 7})
    assert read_lengths(data) == [1, 2, 3, 4, 5, 6, 7]
    assert read_lengths(data.select([6, 0]).filter(lambda row: True)) == [7, 1]
