"""Rows longer than cutoff_len are left out and counted, never cut; more than 10 % stop the run."""

import re

import pytest
import torch
from host_steps import collate, load_all, load_data, series_of

from llamafactory_chatts.core.contract import IGNORE_INDEX
from llamafactory_chatts.core.errors import ChatTSError


A = [float(i % 9) for i in range(24)]
LONG = [float(i % 9) for i in range(1600)]  # 200 patches
TEXT = "Look <ts><ts/>"
STAGES = ("sft", "packing", "dpo", "kto", "predict", "streaming")


def columns(stage):
    entry = {"prompt": "input", "response": "output", "timeseries": "timeseries"}
    if stage == "dpo":
        return {"ranking": True, "columns": {**entry, "response": None, "chosen": "good", "rejected": "bad"}}

    return {"columns": {**entry, "kto_tag": "tag"} if stage == "kto" else entry}


def row(index, series=A):
    more = {"good": f"yes {index}", "bad": "no", "tag": index % 2 == 0}
    return {"input": TEXT, "output": f"answer {index}", "timeseries": [series], **more}


@pytest.fixture
def data(write_dataset, recipe, monkeypatch):
    """Load ``rows`` at a stage; returns the run with ``rows`` being what is trained or predicted on."""
    monkeypatch.setattr("llamafactory.hparams.parser.check_version", lambda *args, **kwargs: None)  # predict's metrics

    def load(stage, rows, **settings):
        write_dataset(rows, **columns(stage))
        more = {
            "packing": {"packing": True},
            "dpo": {"stage": "dpo"},
            "kto": {"stage": "kto"},
            "predict": {"do_train": False, "do_predict": True, "predict_with_generate": True, "eval_dataset": "data"},
            "streaming": {"streaming": True, "buffer_size": 1},
        }.get(stage, {})
        run = load_data(recipe(**{"cutoff_len": 200, **more, **settings}))
        run.rows = list(run.eval if stage == "predict" else run.train)
        return run

    return load


def texts(run, stage):
    """Return the decoded texts of all rows, packs taken apart."""
    key = "chosen_input_ids" if stage == "dpo" else "input_ids"
    joined = "".join(run.tokenizer.decode(item[key]) for item in run.rows)
    return [part for part in joined.replace("<|endoftext|>", "").split("<|im_start|>system\n")[1:]]


@pytest.mark.parametrize("stage", STAGES)
def test_left_out_and_counted(data, stage, caplog):
    rows = [row(i, LONG if i == 7 else A) for i in range(20)]
    run = data(stage, rows)
    found = texts(run, stage)
    assert len(found) == 19
    assert all(part.count("<ts>") == 3 for part in found), "nothing is cut inside a series"
    if stage != "predict":
        answer = "yes" if stage == "dpo" else "answer"
        if stage == "kto":  # an undesired row holds its answer, too
            assert sorted(re.findall(r"answer (\d+)<", "".join(found)), key=int) == [
                str(i) for i in range(20) if i != 7
            ]
        else:
            assert sorted(int(n) for n in re.findall(rf"{answer} (\d+)<", "".join(found))) == [
                i for i in range(20) if i != 7
            ]
    assert not any("overlong" in key or "problem" in key for key in run.rows[0])

    said = caplog.text
    if stage == "streaming":
        assert "ChatTS: 1 rows so far left out, longer than cutoff_len 200 allows, up to" in said
    else:
        assert "ChatTS: 1 of 20 rows (5.0%) are longer than cutoff_len 200 allows, up to" in said
        assert "they are left out. Set cutoff_len: " in said


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "streaming"])
def test_the_suggested_cutoff_really_suffices(data, stage):
    rows = [row(i, LONG if i in (3, 4, 9) else A) for i in range(20)]
    with pytest.raises(ChatTSError) as caught:
        data(stage, rows)
    text = str(caught.value)
    assert text.startswith("cutoff_len: 3 of 20 rows (15.0%) are longer than cutoff_len 200 allows, up to ")
    assert text.endswith(", or drop_overlong: true to train without these rows.")
    longest = int(re.search(r"up to (\d+)", text)[1])
    needed = int(re.search(r"Set cutoff_len: (\d+)", text)[1])
    assert longest > 200 and needed - longest in (0, 1)

    run = data(stage, rows, cutoff_len=needed)
    assert len(texts(run, stage)) == 20
    assert sorted(part.count("<ts>") for part in texts(run, stage)) == [3] * 17 + [200] * 3
    with pytest.raises(ChatTSError):
        data(stage, rows, cutoff_len=longest - 1)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "streaming"])
def test_drop_overlong_goes_on(data, stage):
    rows = [row(i, LONG if i in (3, 4, 9) else A) for i in range(20)]
    run = data(stage, rows, drop_overlong=True)
    assert len(texts(run, stage)) == 17


@pytest.mark.parametrize("stage", ["sft", "packing"])
def test_nothing_left_stops_even_with_drop_overlong(data, stage):
    with pytest.raises(ChatTSError, match=r"5 of 5 rows \(100.0%\) .* Set cutoff_len: \d+\.$"):
        data(stage, [row(i, LONG) for i in range(5)], drop_overlong=True)


@pytest.mark.parametrize("stage", ["sft", "packing"])
def test_counted_over_several_batches_and_workers(data, stage, caplog):
    rows = [row(i, LONG if i < 4 else A) for i in range(60)]
    run = data(stage, rows, preprocessing_batch_size=4, preprocessing_num_workers=2)
    assert len(texts(run, stage)) == 56
    assert "4 of 60 rows (6.7%)" in caplog.text


def test_exactly_ten_percent_is_allowed(data):
    assert len(data("sft", [row(i, LONG if i == 0 else A) for i in range(10)]).rows) == 9


def test_a_row_of_exactly_cutoff_len_stays(data):
    run = data("sft", [row(1)] * 3, cutoff_len=1000)
    length = len(run.rows[0]["input_ids"])
    assert len(data("sft", [row(1)] * 3, cutoff_len=length).rows) == 3
    assert len(data("packing", [row(1)] * 3, cutoff_len=length + 1).rows) == 3
    with pytest.raises(ChatTSError, match=f"up to {length}. Set cutoff_len: {length + 1}"):
        data("packing", [row(1)] * 3, cutoff_len=length)

    with pytest.raises(ChatTSError, match=f"up to {length}"):
        data("sft", [row(1)] * 3, cutoff_len=length - 1)


def test_a_long_answer_is_not_cut_either(data):
    with pytest.raises(ChatTSError, match="cutoff_len"):
        data("sft", [{**row(1), "output": "word " * 300}])


def test_text_only_rows_are_not_cut_either(data):
    """With template chatts a row stays whole, whatever it holds."""
    rows = [{**row(i), "input": "Hello", "timeseries": []} for i in range(19)]
    run = data("sft", [*rows, {**rows[0], "input": "word " * 400}])
    assert len(run.rows) == 19


class TestPacking:
    def test_packed_samples_are_isolated(self, write_dataset, recipe):
        """Each sample of a pack gets the logits that it gets alone."""
        rows = [row(i, [float((k * (i + 2)) % 13) for k in range(16 + i)]) for i in range(4)]
        write_dataset(rows, **columns("sft"))
        run = load_all(recipe(packing=True, cutoff_len=1024))
        assert run.data_args.neat_packing
        assert not run.model_args.block_diag_attn  # no `length x length` mask is built
        assert len(run.train) == 1
        run.model.eval()
        batch = collate(run, run.train)
        with torch.no_grad():
            packed = run.model(**batch).logits[0]

        single = load_data(recipe(cutoff_len=1024))
        bounds = run.train[0]["packing_params"]["sequence_boundaries"]
        ids = run.train[0]["input_ids"]
        assert series_of(run.train[0]) and len(bounds) >= 5
        for start, end in zip(bounds[:4], bounds[1:5]):
            alone = next(item for item in single.train if item["input_ids"] == ids[start:end])
            with torch.no_grad():
                logits = run.model(**collate(single, [alone])).logits[0]
            assert torch.allclose(packed[start:end], logits, atol=1e-4)

    def test_plain_packing_is_turned_into_neat_packing(self, write_dataset, recipe):
        write_dataset([row(1)] * 2, **columns("sft"))
        run = load_data(recipe(packing=True, neat_packing=False))
        assert run.data_args.neat_packing and set(run.train[0]["attention_mask"]) == {0, 1, 2}

    def test_without_packing_nothing_changes(self, write_dataset, recipe):
        write_dataset([row(1)] * 2, **columns("sft"))
        run = load_data(recipe())
        assert not run.data_args.neat_packing and not run.data_args.packing

    def test_other_templates_pack_as_they_did(self, write_dataset, recipe, plain_qwen3):
        write_dataset([{"instruction": "Hi", "input": "", "output": "ho"}] * 4, formatting="alpaca")
        settings = recipe(model_name_or_path=str(plain_qwen3), template="qwen3_nothink", packing=True)
        assert not load_data(settings).data_args.neat_packing

    def test_labels_of_the_padding(self, write_dataset, recipe):
        write_dataset([row(1)] * 2, **columns("sft"))
        pack = load_data(recipe(packing=True)).train[0]
        real = [label for label in pack["labels"] if label != IGNORE_INDEX]
        assert real and all(
            label == IGNORE_INDEX for label, mask in zip(pack["labels"], pack["attention_mask"]) if mask == 0
        )
