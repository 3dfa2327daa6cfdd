"""The processor: the published call, the published text, saving, and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch
from golden_cases import GOLDEN, byte_tokenizer, folder
from transformers import AutoProcessor, BatchFeature

from llamafactory_chatts.core.contract import DEFAULT_SYSTEM
from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.core.series import encode
from llamafactory_chatts.model import Qwen2TSProcessor, Qwen3TSProcessor, from_pretrained


ROWS = [json.loads(line) for line in (GOLDEN / "rendering.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def processor():
    return Qwen3TSProcessor(byte_tokenizer(), patch_size=8, max_sequence_length=512)


def framed(user, answer=None):
    """The chat frame of both backbones."""
    prompt = (
        f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    )
    return prompt if answer is None else f"{prompt}{answer}<|im_end|>\n"


def token(processor, text):
    return processor.tokenizer.convert_tokens_to_ids(text)


class TestPublishedCall:
    TEXTS = ["A <ts><ts/> and B <ts><ts/>?", "no series", "<ts><ts/>"]
    SERIES = [[1.0, 2.0, 3.0], np.arange(20.0), (5, 5)]

    def call(self, processor, **kwargs):
        return processor(text=self.TEXTS, timeseries=self.SERIES, padding=True, return_tensors="pt", **kwargs)

    def test_keys_shapes_and_types(self, processor):
        batch = self.call(processor)
        assert isinstance(batch, BatchFeature)
        assert list(batch) == ["input_ids", "attention_mask", "timeseries"]
        assert batch["input_ids"].shape == batch["attention_mask"].shape
        assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64
        assert batch["timeseries"].shape == (3, 40, 1) and batch["timeseries"].dtype == torch.float16
        assert batch["timeseries"].reshape(3, -1, 2)[:, :, 1].sum(dim=1).tolist() == [3, 20, 2]

    def test_one_pair_per_series_with_its_header(self, processor):
        batch = self.call(processor)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert (ids == token(processor, "<ts>")).sum(dim=1).tolist() == [2, 0, 1]
        assert (ids == token(processor, "<ts/>")).sum(dim=1).tolist() == [2, 0, 1]
        headers = [encode(series).header for series in self.SERIES]
        text = processor.decode(ids[0][mask[0].bool()])
        assert text == f"A {headers[0]}<ts><ts/> and B {headers[1]}<ts><ts/>?"
        assert processor.batch_decode(ids, skip_special_tokens=True)[2] == headers[2]

    def test_padding_is_the_tokenizers(self, processor):
        mask = self.call(processor)["attention_mask"]
        assert mask[1, 0] == 0 and mask[:, -1].tolist() == [1, 1, 1]
        assert self.call(processor, padding_side="right")["attention_mask"][1, 0] == 1

    def test_one_text_is_a_batch_of_one(self, processor):
        one = processor(text=self.TEXTS[0], timeseries=self.SERIES[:2])
        assert one["input_ids"].shape[0] == 1 and one["timeseries"].shape == (2, 40, 1)

    @pytest.mark.parametrize("none", [None, [], np.zeros((0, 3))])
    def test_text_alone(self, processor, none):
        assert list(processor(text=["no series"], timeseries=none)) == ["input_ids", "attention_mask"]

    def test_an_array_of_series(self, processor):
        batch = processor(text=["<ts><ts/> <ts><ts/>"], timeseries=np.arange(10.0).reshape(2, 5))
        assert batch["timeseries"].shape == (2, 10, 1)

    def test_the_published_switch_for_vllm_is_accepted(self, processor):
        assert torch.equal(self.call(processor, vllm_flag=True)["input_ids"], self.call(processor)["input_ids"])

    def test_a_model_takes_it(self, processor, tmp_path):
        start, end = token(processor, "<ts>"), token(processor, "<ts/>")
        path = folder(tmp_path / "m", "qwen3ts_default", ts_token_start_index=start, ts_token_end_index=end)
        model = from_pretrained(path, dtype=torch.float32).eval()
        model.resize_token_embeddings(300)
        assert model.config.ts["patch_size"] == processor.patch_size
        batch = self.call(processor)
        output = model.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=299)
        assert output.shape == (3, batch["input_ids"].shape[1] + 4)
        assert model(**batch).logits.isfinite().all()


TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class TestChatTemplate:
    CHAT = [{"role": "user", "content": "Look at <ts><ts/>"}]
    TEXT = "<|im_start|>user\nLook at <ts><ts/><|im_end|>\n<|im_start|>assistant\n"

    @pytest.fixture(params=["processor", "tokenizer"])
    def chat(self, processor, request):
        """A processor that has a template, or whose tokenizer has one."""
        kept = processor.chat_template, processor.tokenizer.chat_template
        (processor if request.param == "processor" else processor.tokenizer).chat_template = TEMPLATE
        yield processor
        processor.chat_template, processor.tokenizer.chat_template = kept

    def test_text(self, chat):
        assert chat.apply_chat_template(self.CHAT, add_generation_prompt=True) == self.TEXT
        assert chat.apply_chat_template(self.CHAT, add_generation_prompt=True, timeseries=[[1.0]]) == self.TEXT
        assert chat.apply_chat_template([self.CHAT] * 2, add_generation_prompt=True) == [self.TEXT] * 2
        assert chat.apply_chat_template(self.CHAT) == self.TEXT.removesuffix("<|im_start|>assistant\n")

    def test_model_inputs(self, chat):
        wanted = chat(text=[self.TEXT], timeseries=[[1.0, 2.0]])
        given = {"add_generation_prompt": True, "timeseries": [[1.0, 2.0]], "tokenize": True}
        batch = chat.apply_chat_template(self.CHAT, return_dict=True, **given)
        assert batch.keys() == wanted.keys() and all(torch.equal(batch[key], wanted[key]) for key in wanted)
        assert torch.equal(chat.apply_chat_template(self.CHAT, **given), wanted["input_ids"])

    @pytest.mark.parametrize("options", [{"padding": True}, {"processor_kwargs": {"padding": True}}])
    def test_several(self, chat, options):
        chats = [self.CHAT, [{"role": "user", "content": "hello"}]]
        batch = chat.apply_chat_template(chats, timeseries=[[1.0]], tokenize=True, return_dict=True, **options)
        assert batch["input_ids"].shape[0] == 2 and batch["timeseries"].shape == (1, 2, 1)

    def test_content_in_parts(self, chat):
        parts = [{"type": "text", "text": "Look at "}, {"type": "text", "text": "<ts><ts/>"}]
        given = [{"role": "user", "content": parts}]
        assert chat.apply_chat_template(given, add_generation_prompt=True) == self.TEXT
        assert given[0]["content"] is parts

    @pytest.mark.parametrize("tokenize", [False, True])
    def test_refusals(self, chat, tokenize):
        with pytest.raises(ChatTSError, match="1 <ts><ts/> but 2 series"):
            chat.apply_chat_template(self.CHAT, timeseries=[[1.0], [2.0]], tokenize=tokenize)

        picture = [{"role": "user", "content": [{"type": "image", "url": "x.png"}]}]
        with pytest.raises(ChatTSError, match="content of type 'image'"):
            chat.apply_chat_template(picture, tokenize=tokenize)

    def test_a_named_template(self, processor):
        processor.chat_template, kept = {"default": "d", "short": TEMPLATE}, processor.chat_template
        try:
            assert processor.apply_chat_template(self.CHAT) == "d"
            assert processor.apply_chat_template(self.CHAT, "short", add_generation_prompt=True) == self.TEXT
        finally:
            processor.chat_template = kept


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
class TestPublishedText:
    def test_all_of_it(self, processor, row):
        text, _ = processor.render(framed(row["input"], row["output"]), row["timeseries"])
        assert text == row["reference_text"]

    def test_through_the_tokenizer(self, processor, row):
        batch = processor(text=[framed(row["input"])], timeseries=row["timeseries"], padding=True, return_tensors="pt")
        prompt = processor.decode(batch["input_ids"][0])
        assert prompt + row["output"] + "<|im_end|>\n" == row["reference_text"]
        assert batch["timeseries"].shape == (len(row["timeseries"]), 2 * max(map(len, row["timeseries"])), 1)

    def test_one_mark_per_patch(self, processor, row):
        text, encoded = processor.render(row["input"], row["timeseries"], per_patch=True)
        wanted = [math.ceil(len(series) / 8) for series in row["timeseries"]]
        assert [processor.patches(series) for series in row["timeseries"]] == wanted
        assert text.count("<ts>") == sum(wanted) and "<ts/>" not in text
        for item, patches in zip(encoded, wanted, strict=True):
            assert item.header + "<ts>" * patches in text


class TestSaving:
    @pytest.mark.parametrize("kind", [Qwen2TSProcessor, Qwen3TSProcessor])
    def test_reload(self, tmp_path, kind):
        before = kind(byte_tokenizer(), patch_size=16, max_sequence_length=99, chat_template="{{ messages }}")
        before.save_pretrained(tmp_path)
        settings = json.loads((tmp_path / "processor_config.json").read_text())
        assert settings["processor_class"] == kind.__name__
        for after in (kind.from_pretrained(tmp_path), kind.from_pretrained(str(tmp_path))):
            assert type(after) is kind
            assert (after.patch_size, after.max_sequence_length) == (16, 99)
            assert after.chat_template == "{{ messages }}"
            call = {"text": ["é <ts><ts/>"], "timeseries": [[1.0, 2.0]]}
            assert after(**call)["input_ids"].tolist() == before(**call)["input_ids"].tolist()

    def test_beside_a_model(self, tmp_path, processor):
        path = folder(tmp_path / "m", "qwen3ts_default")
        processor.save_pretrained(path)
        after = AutoProcessor.from_pretrained(path)
        assert type(after) is Qwen3TSProcessor and after.patch_size == 8 and after.max_sequence_length == 512

    def test_defaults(self):
        processor = Qwen3TSProcessor(byte_tokenizer())
        assert (processor.patch_size, processor.max_sequence_length) == (8, 32768)


class TestRefusals:
    @pytest.mark.parametrize(
        ("texts", "series", "counts"),
        [
            (["<ts><ts/>"], [], "1 <ts><ts/> but 0 series"),
            (["<ts><ts/>"], None, "1 <ts><ts/> but 0 series"),
            (["no series"], [[1.0]], "0 <ts><ts/> but 1 series"),
            (["<ts><ts/> <ts><ts/>", "<ts><ts/>"], [[1.0], [2.0]], "3 <ts><ts/> but 2 series"),
            (["<ts> <ts/>"], [[1.0]], "0 <ts><ts/> but 1 series"),
        ],
    )
    def test_placeholders_and_series_differ(self, processor, texts, series, counts):
        with pytest.raises(ChatTSError) as caught:
            processor(text=texts, timeseries=series)

        assert str(caught.value) == f"processor: {counts}. Add a series or remove a placeholder."

    def test_render_counts_too(self, processor):
        with pytest.raises(ChatTSError) as caught:
            processor.render("<ts><ts/>", [[1.0], [2.0]])

        assert str(caught.value) == "1 <ts><ts/> but 2 series. Add a series or remove a placeholder."

    @pytest.mark.parametrize(
        ("series", "text"),
        [
            ([1.0, None], "a series holds null at point 1"),
            ([1.0, float("nan")], "a series holds NaN at point 1"),
            ([], "a series is empty"),
            (3.0, "a series must be a list of numbers, not float"),
            ([[1.0]], "a series holds a list at point 0"),
        ],
    )
    def test_a_series_that_is_not_usable(self, processor, series, text):
        with pytest.raises(ChatTSError, match=text):
            processor(text=["<ts><ts/> <ts><ts/>"], timeseries=[[1.0], series])

    def test_a_flat_list_instead_of_a_list_of_lists(self, processor):
        with pytest.raises(ChatTSError, match="1 <ts><ts/> but 3 series"):
            processor(text=["<ts><ts/>"], timeseries=[1.0, 2.0, 3.0])

    def test_no_text(self, processor):
        with pytest.raises(ChatTSError, match=r"processor: no text given. Pass text=\[...\]."):
            processor(timeseries=[[1.0]])
