"""The series reach the model in every stage: the same prompts with other series give other numbers (trap 2)."""

import json

import pytest
import torch
from safetensors.torch import load_file

from llamafactory_chatts.core.series import encode
from llamafactory_chatts.model import from_pretrained, load_processor


pytestmark = pytest.mark.slow

A = [0.0, 2.0, 1.0, 0.5, 1.5, 0.25, 1.75, 1.0] * 4
B = [A[0], *reversed(A[1:-1]), A[-1]]  # the same header, another shape
TEXT = "Look <ts><ts/>"


def test_the_two_series_share_their_header():
    assert encode(A).header == encode(B).header and A != B


@pytest.fixture
def run(write_dataset, recipe, tmp_path):
    """Run a stage on ``rows``; return the log of its steps and the output folder."""
    from llamafactory.train.tuner import run_exp

    def run(name, rows, entry, **settings):
        write_dataset(rows, **entry)
        out = tmp_path / name
        run_exp(recipe(**{"output_dir": str(out), "max_steps": 3, "learning_rate": 1e-2, "seed": 1, **settings}))
        history = json.loads((out / "trainer_state.json").read_text())["log_history"]
        return [entry for entry in history if "loss" in entry], out

    return run


def columns(**more):
    return {"prompt": "input", "timeseries": "timeseries", **more}


DPO = {"ranking": True, "columns": columns(chosen="good", rejected="bad")}
KTO = {"columns": columns(response="output", kto_tag="tag")}
STAGES = {
    "sft": ({"stage": "sft"}, {"columns": columns(response="output")}, "loss"),
    "packing": ({"stage": "sft", "packing": True}, {"columns": columns(response="output")}, "loss"),
    "dpo": ({"stage": "dpo"}, DPO, "logps/chosen"),
    "dpo, full": ({"stage": "dpo", "finetuning_type": "full"}, DPO, "logps/rejected"),
    "orpo": ({"stage": "dpo", "pref_loss": "orpo"}, DPO, "loss"),
    "kto": ({"stage": "kto"}, KTO, "logps/chosen"),
    "kto, full": ({"stage": "kto", "finetuning_type": "full"}, KTO, "logps/rejected"),
    "rm": ({"stage": "rm"}, DPO, "loss"),
}


def rows_of(series, text_only=False):
    rows = []
    for index in range(8):
        row = {"input": TEXT, "output": f"answer {index}", "good": f"yes {index}", "bad": "no", "tag": index % 2 == 0}
        rows.append({**row, "timeseries": [series]})

    if text_only:
        rows[0] = {**rows[0], "input": "Hello", "timeseries": []}

    return rows


@pytest.mark.parametrize("stage", STAGES)
def test_other_series_give_other_numbers(run, stage):
    settings, entry, key = STAGES[stage]
    one, out = run("one", rows_of(A), entry, timeseries_sft_lr=1e-2, **settings)
    same, _ = run("same", rows_of(A), entry, timeseries_sft_lr=1e-2, **settings)
    two, _ = run("two", rows_of(B), entry, timeseries_sft_lr=1e-2, **settings)
    assert [e["loss"] for e in one] == [e["loss"] for e in same]
    assert one[0][key] == same[0][key] != two[0][key], "at the first step, before anything is learned"
    assert one[-1]["loss"] != two[-1]["loss"]
    assert all(e["ts_encoder_learning_rate"] == pytest.approx(e["learning_rate"]) for e in one)
    assert all(e["grad_norm"] > 0 for e in one)

    adapter = out / "adapter_model.safetensors"
    if adapter.exists():
        found = {k: v for k, v in load_file(adapter).items() if "ts_encoder" in k and "lora_B" in k}
        assert len(found) == 3 and all(value.any() for value in found.values()), "the encoder was trained"


@pytest.mark.parametrize("stage", ["sft", "dpo", "kto", "rm"])
def test_a_line_per_step(run, capsys, stage):
    settings, entry, _ = STAGES[stage]
    run("lines", rows_of(A), entry, timeseries_sft_lr=1e-2, **settings)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert all("encoder lr" in line and "rows/s" in line and "tokens/s" in line for line in lines)
    assert all(("accuracy" in line) == (stage == "dpo") for line in lines)


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_text_only_rows_among_them(run, stage):
    settings, entry, _ = STAGES[stage]
    log, _ = run("mixed", rows_of(A, text_only=True), entry, per_device_train_batch_size=1, max_steps=8, **settings)
    assert len(log) == 8 and all(e["loss"] == e["loss"] for e in log)


def test_an_evaluation_set_of_text_only(run, write_dataset):
    text = [{"input": "Hello", "output": "Hi", "timeseries": []}] * 2
    write_dataset(text, name="talk", **STAGES["sft"][1])
    log, out = run("eval", rows_of(A), STAGES["sft"][1], eval_dataset="talk", eval_strategy="steps", eval_steps=3)
    assert '"eval_loss"' in (out / "trainer_state.json").read_text()


def test_pretraining_on_text(run):
    rows = [{"text": "Some text about series. " * 40}] * 4
    log, _ = run("pt", rows, {"columns": {"prompt": "text"}}, stage="pt", cutoff_len=32)
    assert len(log) == 3


def test_streaming(run):
    log, _ = run("stream", rows_of(A), STAGES["sft"][1], streaming=True, buffer_size=4)
    assert len(log) == 3


def test_predictions_of_a_left_padded_batch(run, write_dataset, recipe, tiny_base, monkeypatch):
    """Trap 4: each row is answered as the published call answers it alone."""
    monkeypatch.setattr("llamafactory.hparams.parser.check_version", lambda *args, **kwargs: None)
    monkeypatch.setattr("llamafactory.train.sft.workflow.ComputeSimilarity", lambda tokenizer: None)  # needs jieba
    write_dataset(rows_of(A), **STAGES["sft"][1])
    from llamafactory.train.tuner import run_exp

    cases = [
        ("Short <ts><ts/>", [[1.0, 5.0]]),
        ("A longer one, with two series: <ts><ts/> and then <ts><ts/>, compare them.", [A, B + A]),
        ("No series at all", []),
        (TEXT, [B]),
    ]
    rows = [{"input": text, "output": "x", "timeseries": series} for text, series in cases]
    folder = write_dataset(rows, name="ask", **STAGES["sft"][1])
    run_exp(
        recipe(
            do_train=False,
            do_predict=True,
            predict_with_generate=True,
            dataset=None,
            eval_dataset="ask",
            max_steps=None,
            per_device_eval_batch_size=4,
            max_new_tokens=12,
            do_sample=False,
            skip_special_tokens=False,
            finetuning_type="full",
        )
    )
    found = [json.loads(line) for line in (folder / "saves" / "generated_predictions.jsonl").read_text().splitlines()]
    model, processor = from_pretrained(str(tiny_base)).eval(), load_processor(str(tiny_base))
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    answers = []
    for text, series in cases:
        prompt = f"{system}<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        inputs = processor(text=[prompt], timeseries=series)
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        answers.append(processor.tokenizer.decode(ids).replace("<|endoftext|>", ""))

    assert [entry["predict"].replace("<|endoftext|>", "") for entry in found] == answers
    assert len(set(answers)) > 1
