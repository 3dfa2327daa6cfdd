"""From rows to token ids and batches: the published text, one <ts> per patch, series in order, no label on a patch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from host_steps import collate, load_all, load_data, series_of

from llamafactory_chatts.core.contract import DEFAULT_SYSTEM, IGNORE_INDEX
from llamafactory_chatts.core.series import encode, num_patches, stack
from llamafactory_chatts.model import from_pretrained, load_processor


A = [float(i * i % 11) for i in range(21)]
B = [1.5, 2.5, 3.5]
C = [float(np.sin(i / 3)) * 40 for i in range(16)]
ALPACA = {"columns": {"prompt": "input", "response": "output", "timeseries": "timeseries"}}
ROW = {"input": "Compare <ts><ts/> with <ts><ts/>.", "output": "ok, done", "timeseries": [A, B]}
TEXT_ONLY = {"input": "Hello", "output": "Hi", "timeseries": []}
GOLDEN = Path(__file__).parent / "golden" / "rendering.jsonl"


def frame(user, answer=None, system=DEFAULT_SYSTEM):
    text = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    return text if answer is None else text + f"{answer}<|im_end|>\n"


def patched(series):
    return encode(series).header + "<ts>" * num_patches(len(series), 8)


def published(run, ids):
    """Return the text with each run of <ts> written as the published pair."""
    start, end = run.tokenizer.convert_tokens_to_ids(["<ts>", "<ts/>"])
    out = []
    for token in ids:
        if token == start and out and out[-2:-1] == [start]:
            continue
        out += [start, end] if token == start else [token]
    return run.tokenizer.decode(out)


def tensor_of(*series):
    return torch.from_numpy(stack([encode(item) for item in series]))


@pytest.fixture
def loaded(write_dataset, recipe):
    def load(rows, entry=ALPACA, **settings):
        write_dataset(rows, **entry)
        return load_data(recipe(**settings))

    return load


class TestRendering:
    def test_frame_header_and_patches(self, loaded):
        run = loaded([ROW])
        ids, labels = run.train[0]["input_ids"], run.train[0]["labels"]
        prompt = frame(f"Compare {patched(A)} with {patched(B)}.")
        assert ids == run.tokenizer.encode(prompt + "ok, done<|im_end|>\n", add_special_tokens=False)
        assert run.tokenizer.decode(ids) == prompt + "ok, done<|im_end|>\n"
        start = len(run.tokenizer.encode(prompt, add_special_tokens=False))
        assert labels == [IGNORE_INDEX] * start + ids[start:]

    def test_collapsed_it_is_the_published_text(self, loaded):
        run = loaded([ROW])
        text = f"Compare {encode(A).header}<ts><ts/> with {encode(B).header}<ts><ts/>."
        assert published(run, run.train[0]["input_ids"]) == frame(text, "ok, done")

    def test_golden_renderings(self, loaded):
        """Training texts that the published code produced."""
        cases = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
        run = loaded([{key: case[key] for key in ROW} for case in cases], cutoff_len=16384)
        assert len(run.train) == len(cases) == 6
        for row, case in zip(run.train, cases):
            assert published(run, row["input_ids"]) == case["reference_text"]
            answer = row["input_ids"][row["labels"].count(IGNORE_INDEX) :]
            assert run.tokenizer.decode(answer) == case["output"] + "<|im_end|>\n"

    def test_the_same_ids_as_the_processor_gives_after_expansion(self, loaded, tiny_base):
        """Training sees the very positions that inference computes from the published writing."""
        run = loaded([ROW])
        processor, model = load_processor(str(tiny_base)), from_pretrained(str(tiny_base)).eval()
        inputs = processor(text=[frame(ROW["input"])], timeseries=[A, B])
        seen = run.train[0]["input_ids"][: run.train[0]["labels"].count(IGNORE_INDEX)]
        with torch.no_grad():
            one = model(**inputs).logits
            two = model(input_ids=torch.tensor([seen]), timeseries=inputs["timeseries"]).logits
        assert one.shape == two.shape and torch.allclose(one, two, atol=1e-5)

    def test_several_turns(self, loaded):
        turns = [("human", "One <ts><ts/>"), ("gpt", "first"), ("human", "Two <ts><ts/>"), ("gpt", "second")]
        rows = [{"conversations": [{"from": r, "value": v} for r, v in turns], "timeseries": [A, B]}]
        columns = {"messages": "conversations", "timeseries": "timeseries"}
        run = loaded(rows, {"formatting": "sharegpt", "columns": columns})
        ids, labels = run.train[0]["input_ids"], run.train[0]["labels"]
        text = frame(f"One {patched(A)}", "first")
        text += f"<|im_start|>user\nTwo {patched(B)}<|im_end|>\n<|im_start|>assistant\nsecond<|im_end|>\n"
        assert run.tokenizer.decode(ids) == text
        answers = [token for token in labels if token != IGNORE_INDEX]
        assert run.tokenizer.decode(answers) == "first<|im_end|>\nsecond<|im_end|>\n"

    @pytest.mark.parametrize("settings", [{}, {"mask_history": True}, {"train_on_prompt": True}])
    def test_patches_carry_no_label(self, loaded, settings):
        run = loaded([ROW, TEXT_ONLY], **settings)
        start = run.tokenizer.convert_tokens_to_ids("<ts>")
        for row in run.train:
            assert len(row["labels"]) == len(row["input_ids"])
            assert start not in row["labels"]
            labelled = [token for token in row["labels"] if token != IGNORE_INDEX]
            if settings.get("train_on_prompt"):
                assert labelled == [token for token in row["input_ids"] if token != start]

    def test_a_system_prompt_of_its_own(self, loaded):
        rows = [{**ROW, "system": "You watch turbines."}]
        run = loaded(rows, {"columns": {**ALPACA["columns"], "system": "system"}})
        assert published(run, run.train[0]["input_ids"]).startswith(frame("", system="You watch turbines.")[:50])

    def test_text_that_looks_like_a_tool_response(self, loaded):
        """Its token has the id that <ts> has in another ChatTS; only the config's id counts."""
        run = loaded([{**ROW, "input": "<tool_response>\n<ts><ts/>\n</tool_response> and <ts><ts/>"}])
        assert series_of(run.train[0]) == [A, B]
        assert f"<tool_response>\n{patched(A)}\n</tool_response> and {patched(B)}" in run.tokenizer.decode(
            run.train[0]["input_ids"]
        )

    def test_both_backbones_render_alike(self, loaded, tiny_base_qwen2):
        one = loaded([ROW])
        two = loaded([ROW], model_name_or_path=str(tiny_base_qwen2))
        assert published(one, one.train[0]["input_ids"]) == published(two, two.train[0]["input_ids"])

    def test_long_and_short_series_take_their_patches(self, loaded):
        sizes = (1, 7, 8, 9, 64, 1000)
        series = [[float(i % 5) for i in range(size)] for size in sizes]
        run = loaded([{"input": " ".join(["<ts><ts/>"] * 6), "output": "x", "timeseries": series}])
        start = run.tokenizer.convert_tokens_to_ids("<ts>")
        assert (
            run.train[0]["input_ids"].count(start)
            == sum(num_patches(size, 8) for size in sizes)
            == 1 + 1 + 1 + 2 + 8 + 125
        )


class TestBatches:
    def test_series_in_the_order_of_the_rows(self, loaded):
        run = loaded([ROW, TEXT_ONLY, {**ROW, "timeseries": [C, A]}])
        batch = collate(run, run.train)
        assert torch.equal(batch["timeseries"], tensor_of(A, B, C, A).float())
        assert set(batch) == {"input_ids", "attention_mask", "labels", "timeseries", "places"}

    def test_text_only_batch_has_none(self, loaded):
        run = loaded([TEXT_ONLY, TEXT_ONLY])
        assert set(collate(run, run.train)) == {"input_ids", "attention_mask", "labels", "places"}

    def test_packed(self, loaded):
        rows = [ROW, TEXT_ONLY, {**ROW, "timeseries": [C, A]}, {**ROW, "timeseries": [B, B]}]
        run = loaded(rows, packing=True, cutoff_len=2048)
        assert len(run.train) == 1 and run.data_args.neat_packing
        batch = collate(run, run.train)
        carried = series_of(run.train[0])
        assert sorted(map(len, carried)) == sorted(map(len, [A, B, C, A, B, B]))
        assert torch.equal(batch["timeseries"], tensor_of(*carried).float())
        text = run.tokenizer.decode(run.train[0]["input_ids"])
        lengths = [int(part.split("|")[0]) for part in text.split("length=")[1:]]
        assert lengths == [len(item) for item in carried], "series stand in the order of their headers"
        assert batch["attention_mask"].dim() == 4

    def test_pairwise(self, loaded):
        columns = {"prompt": "input", "chosen": "good", "rejected": "bad", "timeseries": "timeseries"}
        rows = [{"input": ROW["input"], "good": "yes", "bad": "no", "timeseries": s} for s in ([A, B], [C, A])]
        run = loaded(rows, {"ranking": True, "columns": columns}, stage="dpo")
        batch = collate(run, run.train, "dpo")
        assert batch["input_ids"].shape[0] == 4
        assert torch.equal(batch["timeseries"], tensor_of(A, B, C, A, A, B, C, A))

    def test_kto(self, loaded):
        rows = [{**ROW, "timeseries": s, "good": good} for s, good in (([A, B], True), ([C, A], False))]
        run = loaded(rows, {"columns": {**ALPACA["columns"], "kto_tag": "good"}}, stage="kto")
        batch = collate(run, run.train, "kto")
        assert torch.equal(batch["timeseries"], tensor_of(A, B, C, A))
        start = run.tokenizer.convert_tokens_to_ids("<ts>")
        assert int((batch["input_ids"] == start).sum()) == int((batch["kl_input_ids"] == start).sum())

    def test_streamed(self, loaded):
        run = loaded([ROW, TEXT_ONLY], streaming=True, buffer_size=1)
        assert torch.equal(collate(run, list(run.train))["timeseries"], tensor_of(A, B).float())


class TestInTheModel:
    @pytest.fixture
    def run(self, write_dataset, recipe):
        write_dataset([ROW, TEXT_ONLY, {**ROW, "timeseries": [C, A]}], **ALPACA)
        return load_all(recipe(finetuning_type="full"))

    def test_a_text_only_batch_trains_the_encoder_with_zero_gradients(self, run):
        loss = run.model(**collate(run, [run.train[1]])).loss
        loss.backward()
        grads = {name: p.grad for name, p in run.model.named_parameters() if name.startswith("ts_encoder.")}
        assert grads and all(grad is not None and not grad.any() for grad in grads.values())
        assert run.model.lm_head.weight.grad.any() and torch.isfinite(loss)

    def test_a_batch_with_series_trains_the_encoder(self, run):
        run.model(**collate(run, run.train)).loss.backward()
        assert all(p.grad.any() for n, p in run.model.named_parameters() if n.startswith("ts_encoder.mlp"))

    def test_rows_do_not_touch_each_other(self, run):
        """A padded batch of rows gives each row what it gets alone."""
        run.model.eval()
        batch = collate(run, run.train)
        with torch.no_grad():
            together = run.model(**batch).logits
            for index in range(3):
                alone = run.model(**collate(run, [run.train[index]])).logits
                length = alone.shape[1]
                assert torch.allclose(together[index, :length], alone[0], atol=1e-5)
