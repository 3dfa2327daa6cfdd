"""``generate`` as transformers documents it: settings in an object, padding, chunks, beams, streams, other caches."""

import copy

import pytest
import torch
from golden_cases import CASES, END, case, expanded, folder
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from llamafactory_chatts.model import from_pretrained


GREEDY = {"max_new_tokens": 6, "do_sample": False}
TOKENS = {"eos_token_id": 121, "pad_token_id": 120}
PADDED = [name for model, name in CASES if model == "qwen3ts_default" and name in ("left_pad", "ragged_left")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = folder(tmp_path_factory.mktemp("generating") / "m", "qwen3ts_default")
    return from_pretrained(path, dtype=torch.float32).eval()


@pytest.fixture
def prompt(model):
    """A prompt with one series, and what follows it."""
    golden = case("qwen3ts_default", "single")
    model.generation_config = GenerationConfig(**TOKENS)
    ids = golden.expected["generate_prompt"]
    return {"input_ids": ids, "timeseries": golden.inputs["timeseries"]}, golden.expected["generated"][:, :6].tolist()


def new(output, inputs):
    return output[:, inputs["input_ids"].shape[1] :].tolist()


class TestSettingsInAnObject:
    @pytest.fixture
    def warned(self, monkeypatch):
        """What transformers warns of, each time it does."""
        from transformers.generation import utils

        found = []
        for name in ("warning", "warning_once"):
            monkeypatch.setattr(utils.logger, name, lambda text, *args, **kwargs: found.append(text), raising=False)

        return found

    def test_nothing_is_deprecated(self, model, prompt, warned):
        inputs, wanted = prompt
        assert new(model.generate(**inputs, generation_config=GenerationConfig(**GREEDY, **TOKENS)), inputs) == wanted
        assert new(model.generate(inputs["input_ids"], GenerationConfig(**GREEDY), **inputs_but_ids(inputs)), inputs)
        assert warned == []

    @pytest.mark.parametrize("place", ["argument", "object", "model"])
    def test_lengths_count_the_prompt_as_given(self, model, prompt, place):
        inputs, wanted = prompt
        length = inputs["input_ids"].shape[1]
        limits = {"max_length": length + 4, "min_length": length + 2}
        if place == "argument":
            output = model.generate(**inputs, **limits, do_sample=False)
        elif place == "object":
            output = model.generate(**inputs, generation_config=GenerationConfig(do_sample=False, **limits, **TOKENS))
        else:
            model.generation_config.update(**limits)
            output = model.generate(**inputs, generation_config=GenerationConfig(do_sample=False))

        assert new(output, inputs) == [wanted[0][:4]]

    def test_the_object_is_not_changed(self, model, prompt):
        config = GenerationConfig(max_length=60, do_sample=False, **TOKENS)
        before = config.to_dict()
        model.generate(**prompt[0], generation_config=config)
        assert config.to_dict() == before

    @pytest.mark.parametrize("given, forwards", [(None, 1), (True, 1), (False, 6)])
    def test_the_cache(self, model, prompt, given, forwards):
        """It is used unless the object says otherwise, whatever the checkpoint's config says."""
        inputs, wanted = prompt
        lengths = []
        hook = model.model.register_forward_pre_hook(
            lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        )
        model.config.use_cache = False
        with hook:
            config = GenerationConfig(use_cache=given, **GREEDY, **TOKENS)
            assert new(model.generate(**inputs, generation_config=config), inputs) == wanted

        assert sum(length > 1 for length in lengths) == forwards

    @pytest.mark.parametrize("how", [lambda config: config, copy.deepcopy])
    def test_the_models_own_object(self, tmp_path, prompt, how):
        """Published configs say ``use_cache: false``, and that is what a model without generation_config.json has."""
        model = from_pretrained(folder(tmp_path / "m", "qwen3ts_default", use_cache=False), dtype=torch.float32)
        inputs, wanted = prompt
        calls = []
        config = how(model.generation_config)
        config.update(**GREEDY)
        with model.model.register_forward_pre_hook(
            lambda module, args, kwargs: calls.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        ):
            assert new(model.eval().generate(**inputs, generation_config=config), inputs) == wanted

        assert sum(length > 1 for length in calls) == 1


def inputs_but_ids(inputs):
    return {key: value for key, value in inputs.items() if key != "input_ids"}


@pytest.mark.parametrize("name", PADDED)
@pytest.mark.parametrize("per_patch", [False, True])
class TestPadding:
    @pytest.fixture
    def batches(self, name, per_patch):
        """The same rows, padded on the left and on the right; three columns more than needed on the right."""
        golden = case("qwen3ts_default", name)
        left = golden.inputs
        if per_patch:
            left = expanded(left, _patches(golden), "left")

        mask = left["attention_mask"]
        order = (mask == 0).long().argsort(dim=1, stable=True)
        right = {key: left[key].gather(1, order) for key in ("input_ids", "attention_mask")}
        more = {"input_ids": 120, "attention_mask": 0}
        right = {key: torch.nn.functional.pad(value, (0, 3), value=more[key]) for key, value in right.items()}
        series = {"timeseries": left["timeseries"]}
        return {**{key: left[key] for key in right}, **series}, {**right, **series}

    def test_either_side(self, model, batches):
        left, right = batches
        wanted = new(model.generate(**left, **GREEDY, **TOKENS), left)
        output = model.generate(**right, **GREEDY, **TOKENS)
        assert torch.equal(output[:, : right["input_ids"].shape[1]], right["input_ids"])
        assert new(output, right) == wanted

    def test_beams(self, model, batches):
        left, right = batches
        settings = {"num_beams": 2, "num_return_sequences": 2, **GREEDY, **TOKENS}
        assert new(model.generate(**left, **settings), left) == new(model.generate(**right, **settings), right)

    @pytest.mark.parametrize("settings", [{"prefill_chunk_size": 5}, {"cache_implementation": "static"}], ids=str)
    def test_chunks_and_a_static_cache(self, model, batches, settings):
        left, right = batches
        wanted = new(model.generate(**left, **GREEDY, **TOKENS), left)
        assert new(model.generate(**right, **GREEDY, **TOKENS, **settings), right) == wanted


def _patches(golden):
    return [-(-length // 8) for lengths in golden.series_lengths for length in lengths]


def test_text_alone_padded_on_the_right(model):
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 120, 120]])
    mask = (ids != 120).long()
    output = model.generate(ids, attention_mask=mask, **GREEDY, **TOKENS)
    alone = model.generate(ids[1:, :2], attention_mask=mask[1:, :2], **GREEDY, **TOKENS)[0, 2:].tolist()
    assert output[1, 4:].tolist()[: len(alone)] == alone and torch.equal(output[:, :4], ids)


def test_chunks_of_text_alone(model):
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    assert torch.equal(
        model.generate(ids, **GREEDY, **TOKENS, prefill_chunk_size=3), model.generate(ids, **GREEDY, **TOKENS)
    )


def test_an_assistant_that_reads_series_too(model, prompt):
    inputs, wanted = prompt
    assert new(model.generate(**inputs, **GREEDY, assistant_model=model), inputs) == wanted


def test_embeddings_without_series(model):
    ids = torch.tensor([[5, 6, 7, 8]])
    embeds = model.get_input_embeddings()(ids)
    assert model.generate(inputs_embeds=embeds, **GREEDY, **TOKENS).tolist() == (
        model.generate(ids, **GREEDY, **TOKENS)[:, 4:].tolist()
    )


def test_a_stream_begins_with_the_prompt_as_given(model, prompt):
    inputs, wanted = prompt
    seen = []

    class Streamer(BaseStreamer):
        def put(self, value):
            seen.append(value.flatten().tolist())

        def end(self):
            seen.append("end")

    model.generate(**inputs, **GREEDY, streamer=Streamer())
    assert seen[0] == inputs["input_ids"][0].tolist() and END in seen[0]
    assert [token for tokens in seen[1:-1] for token in tokens] == wanted[0] and seen[-1] == "end"
