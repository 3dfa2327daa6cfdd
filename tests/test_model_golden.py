"""The models against values of the published code: features, logits, loss, gradients and greedy tokens."""

import pytest
import torch
from golden_cases import CASES, INDEX, LOGIT_COLUMNS, MODELS, START, case, expanded, folder
from transformers import GenerationConfig, Qwen2ForCausalLM, Qwen3ForCausalLM

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.model import Qwen3TSConfig, Qwen3TSForCausalLM, from_pretrained
from llamafactory_chatts.model.encoder import TimeSeriesEncoder


LOGITS, LOSS, GRADIENTS = 1e-4, 1e-5, 1e-4
GRADED = [(model, name) for model, name in CASES if any(key.startswith("grad.") for key in case(model, name).expected)]
GENERATED = [(model, name) for model, name in CASES if "generated" in case(model, name).expected]
BATCHES = [(model, name) for model, name in CASES if case(model, name).inputs["input_ids"].shape[0] > 1]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Return a function that gives a golden model, loaded once, in evaluation mode, without gradients."""
    models = {}

    def get(name):
        if name not in models:
            path = folder(tmp_path_factory.mktemp("models") / name, name)
            models[name] = from_pretrained(path, dtype=torch.float32)

        model = models[name].eval()
        model.zero_grad(set_to_none=True)
        model.full_logits_in_training = False
        model.config.use_cache = model.generation_config.use_cache = True
        return model

    yield get


def close(found, wanted, limit):
    difference = (found - wanted).abs().max().item()
    assert difference < limit, f"differs by {difference:.2e}"


def real(output, inputs):
    """Return the logits at real positions, row after row."""
    return output.logits[inputs["attention_mask"].bool()]


def patches(golden):
    return golden.expected["patch_cnt"].tolist()


def test_the_golden_set_is_complete():
    assert len(CASES) == len(set(CASES)) == 33 and len(MODELS) == 5
    assert len(GRADED) == 10 and len(GENERATED) == 10
    assert {entry["padding"] for entry in INDEX} == {"left", "right"}


@pytest.mark.parametrize(("name", "which"), CASES)
class TestEveryCase:
    def test_features_and_patch_counts(self, load, name, which):
        golden = case(name, which)
        features, counts = load(name).encode_timeseries(golden.inputs["timeseries"])
        assert counts.tolist() == patches(golden)
        close(features, golden.expected["features"], LOGITS)

    def test_logits_and_loss(self, load, name, which):
        golden = case(name, which)
        with torch.no_grad():
            output = load(name)(**golden.inputs)

        batch = expanded(golden.inputs, patches(golden), golden.padding)
        assert output.logits.shape[:2] == batch["input_ids"].shape
        close(real(output, batch)[:, LOGIT_COLUMNS], golden.expected["valid_logits"], LOGITS)
        close(output.loss, golden.expected["loss"][0], LOSS)

    def test_one_mark_per_patch_gives_the_same(self, load, name, which):
        golden = case(name, which)
        batch = expanded(golden.inputs, patches(golden), golden.padding)
        with torch.no_grad():
            output = load(name)(**batch)

        close(real(output, batch)[:, LOGIT_COLUMNS], golden.expected["valid_logits"], LOGITS)
        close(output.loss, golden.expected["loss"][0], LOSS)

    def test_the_padding_side_does_not_matter(self, load, name, which):
        golden = case(name, which)
        other = expanded(golden.inputs, patches(golden), "left" if golden.padding == "right" else "right")
        with torch.no_grad():
            output = load(name)(**other)

        close(real(output, other)[:, LOGIT_COLUMNS], golden.expected["valid_logits"], LOGITS)
        close(output.loss, golden.expected["loss"][0], LOSS)

    def test_loss_in_training(self, load, name, which):
        golden = case(name, which)
        model = load(name).train()
        for inputs in (golden.inputs, expanded(golden.inputs, patches(golden), golden.padding)):
            output = model(**inputs)
            assert output.logits is None
            close(output.loss, golden.expected["loss"][0], LOSS)


@pytest.mark.parametrize(("name", "which"), GRADED)
@pytest.mark.parametrize("full_logits", [False, True])
def test_gradients(load, name, which, full_logits):
    golden = case(name, which)
    model = load(name).train()
    model.full_logits_in_training = full_logits
    model(**golden.inputs).loss.backward()
    gradients = {key: value.grad for key, value in model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    gradients["lm_head.weight"] = gradients["lm_head.weight"][LOGIT_COLUMNS]
    for key, wanted in golden.expected.items():
        if key.startswith("grad."):
            close(gradients[key.removeprefix("grad.")], wanted, GRADIENTS * wanted.abs().max().item())


@pytest.mark.parametrize("which", ["ragged", "ragged_left"])
def test_positions_count_real_tokens_from_zero(load, which):
    golden, model, given = case("qwen3ts_default", which), load("qwen3ts_default"), []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["position_ids"]), with_kwargs=True
    )
    with hook, torch.no_grad():
        model(**golden.inputs)

    mask = expanded(golden.inputs, patches(golden), golden.padding)["attention_mask"].bool()
    for row, real_tokens in zip(given[0], mask, strict=True):
        assert row[real_tokens].tolist() == list(range(int(real_tokens.sum())))


class TestLoss:
    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("tensor", [False, True])
    def test_num_items_in_batch_is_the_divisor(self, load, training, tensor):
        golden = case("qwen3ts_default", "ragged")
        model = load("qwen3ts_default").train(training)
        labelled = int((golden.inputs["labels"][:, 1:] != -100).sum())
        items = torch.tensor(4 * labelled) if tensor else 4 * labelled
        loss = model(**golden.inputs, num_items_in_batch=items).loss
        close(loss * 4, golden.expected["loss"][0], LOSS)

    def test_steps_add_up_to_one_batch(self, load):
        golden = case("qwen3ts_default", "left_pad")
        model = load("qwen3ts_default").train()
        items = int((golden.inputs["labels"][:, 1:] != -100).sum())
        losses = [model(**golden.row(index), num_items_in_batch=items).loss for index in range(3)]
        close(sum(losses), golden.expected["loss"][0], LOSS)

    def test_the_trainer_is_told(self, load):
        assert load("qwen3ts_default").accepts_loss_kwargs is True

    @pytest.mark.parametrize("way", ["argument", "attribute"])
    def test_full_logits_in_training_on_demand(self, load, way):
        golden = case("qwen3ts_default", "ragged_left")
        model = load("qwen3ts_default").train()
        model.full_logits_in_training = way == "attribute"
        output = model(**golden.inputs, **({"return_logits": True} if way == "argument" else {}))
        batch = expanded(golden.inputs, patches(golden), golden.padding)
        close(real(output, batch)[:, LOGIT_COLUMNS], golden.expected["valid_logits"], LOGITS)
        close(output.loss, golden.expected["loss"][0], LOSS)

    def test_without_labels_training_gives_logits(self, load):
        inputs = case("qwen3ts_default", "single").inputs
        inputs.pop("labels")
        output = load("qwen3ts_default").train()(**inputs)
        assert output.loss is None and output.logits is not None

    def test_no_label_at_all(self, load):
        inputs = case("qwen3ts_default", "single").inputs
        inputs["labels"].fill_(-100)
        model = load("qwen3ts_default").train()
        loss = model(**inputs).loss
        loss.backward()
        assert loss.item() == 0.0
        assert model.ts_encoder.mlp[0].weight.grad.abs().max() == 0.0

    def test_logits_to_keep(self, load):
        inputs = case("qwen3ts_default", "single").inputs
        model = load("qwen3ts_default")
        with torch.no_grad():
            full, last = model(**inputs), model(**inputs, logits_to_keep=2)

        assert last.logits.shape[1] == 2
        close(last.logits, full.logits[:, -2:], LOGITS)
        close(last.loss, full.loss, LOSS)

    def test_tuple_output(self, load):
        golden = case("qwen3ts_default", "single")
        with torch.no_grad():
            loss, logits, *_ = load("qwen3ts_default")(**golden.inputs, return_dict=False)

        close(loss, golden.expected["loss"][0], LOSS)
        close(logits[0][:, LOGIT_COLUMNS], golden.expected["valid_logits"], LOGITS)


class TestRowsWithoutSeries:
    @pytest.mark.parametrize(
        ("name", "model_type", "backbone"),
        [("qwen3ts_default", "qwen3", Qwen3ForCausalLM), ("chatts_default", "qwen2", Qwen2ForCausalLM)],
    )
    def test_a_text_batch_is_the_backbone(self, load, tmp_path, name, model_type, backbone):
        plain = backbone.from_pretrained(folder(tmp_path / "plain", name, model_type=model_type), dtype=torch.float32)
        row = case(name, "one_without").row(1)
        with torch.no_grad():
            found, wanted = load(name)(**row), plain.eval()(**row)

        close(found.logits, wanted.logits, LOGITS)
        close(found.loss, wanted.loss, LOSS)

    @pytest.mark.parametrize("name", MODELS)
    @pytest.mark.parametrize("empty", [False, True])
    def test_training_on_text_alone_reaches_the_encoder(self, load, name, empty):
        row = case(name, "one_without").row(1)
        if empty:
            row["timeseries"] = torch.zeros(0, 0, 1, dtype=torch.float16)

        model = load(name)
        with torch.no_grad():
            wanted = model(**row).loss

        loss = model.train()(**row).loss
        loss.backward()
        close(loss, wanted, LOSS)
        for key, parameter in model.ts_encoder.named_parameters():
            assert parameter.grad is not None and not parameter.grad.any(), key

    def test_evaluation_on_several_processes_reaches_the_encoder(self, load, monkeypatch):
        model, calls = load("qwen3ts_default"), []
        hook = model.ts_encoder.register_forward_hook(lambda *_: calls.append(1))
        row = case("qwen3ts_default", "one_without").row(1)
        with hook, torch.no_grad():
            alone = model(**row).logits
            assert not calls
            monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
            assert torch.equal(model(**row).logits, alone)
            assert calls == [1]


GREEDY = {"max_new_tokens": 12, "do_sample": False}


def prompts(golden):
    return {key: value for key, value in golden.inputs.items() if key != "labels"}


@pytest.mark.parametrize(("name", "which"), GENERATED)
class TestGreedy:
    @pytest.fixture
    def lengths(self, load, name):
        """The lengths of what the backbone was given, call by call."""
        found = []
        hook = load(name).model.register_forward_pre_hook(
            lambda module, args, kwargs: found.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        )
        with hook:
            yield found

    def check(self, model, golden, lengths, inputs, **kwargs):
        wanted = golden.expected["generated"]
        output = model.generate(**inputs, **GREEDY, **kwargs)
        length = inputs["input_ids"].shape[1]
        assert torch.equal(output[:, :length], inputs["input_ids"])
        assert output[:, length:].tolist() == wanted.tolist()
        assert len(lengths) == wanted.shape[1]

    def inputs(self, golden, per_patch):
        ids = golden.expected["generate_prompt"]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        if per_patch:
            inputs = expanded({**inputs, "timeseries": golden.inputs["timeseries"]}, patches(golden), "left")

        return {**inputs, "timeseries": golden.inputs["timeseries"], "labels": None}

    @pytest.mark.parametrize("per_patch", [False, True])
    @pytest.mark.parametrize("config_says", [False, True])
    def test_tokens_and_cache(self, load, lengths, name, which, per_patch, config_says):
        model, golden = load(name), case(name, which)
        model.config.use_cache = model.generation_config.use_cache = config_says
        inputs = self.inputs(golden, per_patch)
        self.check(model, golden, lengths, inputs)
        prompt = self.inputs(golden, True)["input_ids"].shape[1]
        assert lengths == [prompt] + [1] * (len(lengths) - 1)

    @pytest.mark.parametrize("per_patch", [False, True])
    def test_without_a_cache_on_demand(self, load, lengths, name, which, per_patch):
        golden = case(name, which)
        self.check(load(name), golden, lengths, self.inputs(golden, per_patch), use_cache=False)
        assert lengths == list(range(lengths[0], lengths[0] + len(lengths)))


class TestGenerate:
    def test_inputs_by_position_and_as_a_dict_output(self, load):
        golden = case("qwen3ts_default", "many_series")
        ids = golden.expected["generate_prompt"]
        output = load("qwen3ts_default").generate(
            ids,
            GenerationConfig(eos_token_id=121, pad_token_id=120, **GREEDY),
            timeseries=golden.inputs["timeseries"],
            return_dict_in_generate=True,
            output_logits=True,
        )
        assert output.sequences.tolist() == torch.cat([ids, golden.expected["generated"]], dim=1).tolist()
        assert len(output.logits) == 12

    def test_a_prompt_that_keeps_its_length_is_given_back(self, load):
        golden = case("qwen3ts_default", "ragged").row(1)  # 13 and 7 points: 2 + 1 patches for two pairs
        golden["timeseries"] = golden["timeseries"][:1]
        ids = torch.tensor([[3, START, START + 1, 9]])
        output = load("qwen3ts_default").generate(ids, timeseries=golden["timeseries"], **GREEDY)
        assert output[:, :4].tolist() == ids.tolist()

    @pytest.mark.parametrize("config_says", [False, True])
    def test_max_length_counts_the_prompt_as_given(self, load, config_says):
        golden, model = case("qwen3ts_default", "single"), load("qwen3ts_default")
        model.config.use_cache = config_says
        ids = golden.expected["generate_prompt"]
        output = model.generate(
            ids, timeseries=golden.inputs["timeseries"], max_length=ids.shape[1] + 5, do_sample=False
        )
        assert output[:, ids.shape[1] :].tolist() == golden.expected["generated"][:, :5].tolist()

    @pytest.mark.parametrize(
        "settings",
        [
            {"cache_implementation": "static"},
            {"prompt_lookup_num_tokens": 2},
            {"prefill_chunk_size": 64},
            {"prefill_chunk_size": 6},
            {"prefill_chunk_size": 1},
        ],
        ids=["static cache", "prompt lookup", "one chunk", "chunks that part a series", "chunks of one"],
    )
    def test_other_ways_to_decode(self, load, settings):
        golden = case("qwen3ts_default", "many_series")
        ids = golden.expected["generate_prompt"]
        output = load("qwen3ts_default").generate(ids, timeseries=golden.inputs["timeseries"], **GREEDY, **settings)
        assert output[:, ids.shape[1] :].tolist() == golden.expected["generated"].tolist()

    @pytest.mark.parametrize("name", MODELS)
    def test_a_left_padded_batch_is_each_row_alone(self, load, name):
        which = "ragged_left" if (name, "ragged_left") in CASES else "left_pad"
        golden, model = case(name, which), load(name)
        batch = prompts(golden)
        together = model.generate(**batch, **GREEDY)[:, batch["input_ids"].shape[1] :]
        for index in range(together.shape[0]):
            row = golden.row(index)
            row.pop("labels")
            alone = model.generate(**row, **GREEDY)[0, row["input_ids"].shape[1] :].tolist()
            assert together[index].tolist()[: len(alone)] == alone

    def test_a_batch_with_a_text_row(self, load):
        model, golden = load("chatts_default"), case("chatts_default", "one_without")
        batch = expanded(golden.inputs, patches(golden), "left")
        batch.pop("labels")
        together = model.generate(**batch, **GREEDY)[:, batch["input_ids"].shape[1] :]
        for index in range(3):
            row = golden.row(index)
            row.pop("labels")
            alone = model.generate(**row, **GREEDY)[0, row["input_ids"].shape[1] :].tolist()
            assert together[index].tolist()[: len(alone)] == alone

    @pytest.mark.parametrize("per_patch", [False, True])
    @pytest.mark.parametrize("use_cache", [True, False])
    def test_beams_keep_the_series_of_their_row(self, load, per_patch, use_cache):
        model, golden = load("qwen3ts_default"), case("qwen3ts_default", "ragged_left")
        batch = expanded(golden.inputs, patches(golden), "left") if per_patch else dict(golden.inputs)
        batch.pop("labels")
        settings = {"num_beams": 3, "num_return_sequences": 2, "use_cache": use_cache, **GREEDY}
        together = model.generate(**batch, **settings)
        length = batch["input_ids"].shape[1]
        assert torch.equal(together[:, :length], batch["input_ids"].repeat_interleave(2, dim=0))
        for index in range(3):
            row = golden.row(index)
            row.pop("labels")
            alone = model.generate(**row, **settings)[:, row["input_ids"].shape[1] :]
            found = together[2 * index : 2 * index + 2, length:]
            assert found[:, : alone.shape[1]].tolist() == alone.tolist()

    def test_sampled_sequences_start_from_the_series_of_their_row(self, load):
        model, golden = load("qwen3ts_default"), case("qwen3ts_default", "left_pad")
        first = {"max_new_tokens": 1, "return_dict_in_generate": True, "output_logits": True}
        torch.manual_seed(0)
        together = model.generate(**prompts(golden), **first, do_sample=True, num_return_sequences=3).logits[0]
        for index in range(3):
            row = golden.row(index)
            row.pop("labels")
            alone = model.generate(**row, **first, do_sample=False).logits[0]
            close(together[3 * index : 3 * index + 3], alone.expand(3, -1), LOGITS)

    def test_a_later_turn_on_the_cache(self, load):
        """The series of a new turn are joined although the cache already holds another one."""
        model, golden = load("qwen3ts_default"), case("qwen3ts_default", "left_pad")
        row = expanded(golden.row(1), patches(golden)[1:3], "right")
        ids, series = row["input_ids"], row["timeseries"]
        cut = int((ids[0] == START).nonzero()[patches(golden)[1]])  # in front of the second series
        with torch.no_grad():
            whole = model(input_ids=ids, timeseries=series).logits
            first = model(input_ids=ids[:, :cut], timeseries=series[:1], use_cache=True)
            second = model(input_ids=ids[:, cut:], timeseries=series[1:], past_key_values=first.past_key_values)

        close(second.logits, whole[:, cut:], LOGITS)

    def test_left_padding_on_the_cache_by_hand(self, load):
        """Positions count real tokens also where the caller gives none."""
        model, golden = load("qwen3ts_default"), case("qwen3ts_default", "left_pad")
        batch = expanded(golden.inputs, patches(golden), "left")
        batch.pop("labels")
        with torch.no_grad():
            whole = model(**batch).logits
            cut = {key: value[:, :-3] for key, value in batch.items() if key != "timeseries"}
            first = model(**cut, timeseries=batch["timeseries"], use_cache=True)
            second = model(
                input_ids=batch["input_ids"][:, -3:],
                attention_mask=batch["attention_mask"],
                past_key_values=first.past_key_values,
            )

        close(second.logits, whole[:, -3:], LOGITS)


class TestRefusals:
    NAME, WHICH = "qwen3ts_default", "right_pad"

    def refusal(self, load, **inputs):
        with pytest.raises(ChatTSError) as caught:
            load(self.NAME)(**inputs)

        assert caught.value.where and caught.value.fix
        return str(caught.value)

    def test_fewer_series(self, load):
        inputs = case(self.NAME, self.WHICH).inputs
        inputs["timeseries"] = inputs["timeseries"][:-1]
        assert self.refusal(load, **inputs) == (
            "input_ids: 4 <ts><ts/> but 3 series. Add a series or remove a placeholder."
        )

    def test_more_series(self, load):
        inputs = case(self.NAME, self.WHICH).inputs
        inputs["timeseries"] = torch.cat([inputs["timeseries"]] * 2)
        assert self.refusal(load, **inputs) == (
            "input_ids: 4 <ts><ts/> but 8 series. Add a series or remove a placeholder."
        )

    @pytest.mark.parametrize("change", ["fewer", "more"])
    def test_series_and_marks_per_patch(self, load, change):
        golden = case(self.NAME, self.WHICH)
        inputs = expanded(golden.inputs, patches(golden), "right")
        series = inputs["timeseries"]
        inputs["timeseries"] = series[:-1] if change == "fewer" else torch.cat([series, series[:1]])
        assert self.refusal(load, **inputs) == (
            f"input_ids: 19 <ts> for {'10 patches of 3' if change == 'fewer' else '22 patches of 5'} series. "
            "Write <ts> once per patch of each series, or <ts><ts/> once per series."
        )

    def test_series_in_another_order(self, load):
        golden = case(self.NAME, self.WHICH)
        inputs = expanded(golden.inputs, patches(golden), "right")
        inputs["timeseries"] = inputs["timeseries"].flip(0)
        assert self.refusal(load, **inputs) == (
            "input_ids: the runs of <ts> do not have the lengths of their series in patches. "
            "Give the series in the order of their placeholders, each with <ts> once per patch."
        )

    @pytest.mark.parametrize("stray", ["<ts>", "<ts/>", "<ts> at the end of a row"])
    def test_no_pairs(self, load, stray):
        inputs = case(self.NAME, self.WHICH).inputs
        ids = inputs["input_ids"]
        if stray == "<ts> at the end of a row":
            inputs["attention_mask"][:] = 1
            ids[0, -1] = START
        else:
            ids[1, 0] = START if stray == "<ts>" else START + 1

        assert self.refusal(load, **inputs) == (
            "input_ids: <ts> and <ts/> do not stand in pairs. "
            "Write <ts><ts/> once per series (or <ts> once per patch and no <ts/>)."
        )

    @pytest.mark.parametrize("token", [START, START + 1])
    @pytest.mark.parametrize("given", [None, torch.zeros(0, 0, 1)])
    @pytest.mark.parametrize("way", ["forward", "generate"])
    def test_no_series(self, load, token, given, way):
        model = load(self.NAME)
        ids = torch.tensor([[4, token, 5]])
        with pytest.raises(ChatTSError) as caught:
            if way == "forward":
                model(input_ids=ids, timeseries=given)
            else:
                model.generate(ids, timeseries=given, **GREEDY)

        assert str(caught.value) == (
            "timeseries: input_ids hold <ts> or <ts/> but no series were given. "
            "Pass timeseries=... of shape (series, 2 * longest, 1), or remove the placeholder."
        )

    def test_series_but_no_mark(self, load):
        series = case(self.NAME, "single").inputs["timeseries"]
        assert "0 <ts> for 8 patches of 1 series" in self.refusal(
            load, input_ids=torch.tensor([[4, 5]]), timeseries=series
        )

    @pytest.mark.parametrize("way", ["forward", "generate"])
    def test_a_series_that_is_too_long(self, load, way):
        model = load(self.NAME)
        ids, series = torch.tensor([[4, START, START + 1, 5]]), torch.ones(1, 2 * 513, 1)
        with pytest.raises(ChatTSError) as caught:
            if way == "forward":
                model(input_ids=ids, timeseries=series)
            else:
                model.generate(ids, timeseries=series, **GREEDY)

        assert str(caught.value) == (
            "timeseries: a series has 513 points, the encoder takes 512. "
            "Cut or resample it; the limit is `ts.max_sequence_length` in config.json."
        )

    def test_the_longest_series_and_wide_padding_are_fine(self, load):
        encoder = load(self.NAME).ts_encoder
        series = torch.ones(1, 2 * 512, 1)
        wide = torch.cat([series, torch.zeros(1, 100, 1)], dim=1)
        assert torch.equal(encoder(series), encoder(wide))

    @pytest.mark.parametrize("what", ["position_ids", "4-D mask", "packed mask"])
    def test_pairs_where_the_length_is_fixed(self, load, what):
        inputs = case(self.NAME, "single").inputs
        length = inputs["input_ids"].shape[1]
        if what == "position_ids":
            inputs["position_ids"] = torch.arange(length)[None]
        elif what == "4-D mask":
            inputs["attention_mask"] = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
        else:
            inputs["attention_mask"][:, length // 2 :] = 2

        text = self.refusal(load, **inputs)
        assert "pairs change the length of a row" in text and text.endswith("Write <ts> once per patch.")

    def test_series_for_embeddings(self, load):
        inputs = case(self.NAME, "single").inputs
        embeds = load(self.NAME).get_input_embeddings()(inputs["input_ids"]).detach()
        assert self.refusal(load, inputs_embeds=embeds, timeseries=inputs["timeseries"]) == (
            "inputs_embeds: timeseries cannot be joined to inputs_embeds. Pass input_ids instead."
        )


class TestPacking:
    def test_a_4d_mask_and_positions_give_each_row_alone(self, load):
        model, golden = load("qwen3ts_default"), case("qwen3ts_default", "ragged")
        counts, first, rows = patches(golden), 0, []
        for index, lengths in enumerate(golden.series_lengths):
            rows.append(expanded(golden.row(index), counts[first : first + len(lengths)], "right"))
            first += len(lengths)

        sizes = [row["input_ids"].shape[1] for row in rows]
        owner = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
        allowed = (owner[:, None] == owner[None, :]).tril()
        mask = torch.zeros(1, 1, len(owner), len(owner)).masked_fill(~allowed, torch.finfo(torch.float32).min)
        with torch.no_grad():
            logits = model(
                input_ids=torch.cat([row["input_ids"] for row in rows], dim=1),
                position_ids=torch.cat([torch.arange(size) for size in sizes])[None],
                attention_mask=mask,
                timeseries=golden.inputs["timeseries"],
            ).logits

        close(logits[0][:, LOGIT_COLUMNS], golden.expected["valid_logits"], LOGITS)


class TestPositionIndexVariant:
    """``use_position_idx``: no published values, so a plain reference written from the description."""

    LENGTHS = (20, 8, 1, 37)

    @pytest.fixture(params=[8, 16])
    def config(self, request):
        ts = {
            "patch_size": request.param,
            "num_layers": 3,
            "embedding_dim": 4,
            "max_sequence_length": 64,
            "use_position_embedding": False,
            "use_position_idx": True,
        }
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 128}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
        return Qwen3TSConfig(ts=ts, ts_token_start_index=125, ts_token_end_index=126, **sizes, **heads)

    def series(self):
        torch.manual_seed(1)
        raw = [torch.randn(length) for length in self.LENGTHS]
        batch = torch.zeros(len(raw), max(self.LENGTHS), 2)
        for row, values in enumerate(raw):
            batch[row, : len(values)] = torch.stack([values, torch.ones_like(values)], dim=1)

        return raw, batch.reshape(len(raw), -1, 1)

    def reference(self, encoder, raw, patch):
        rows = []
        for values in raw:
            points = [(value.item(), index / (max(self.LENGTHS) - 1)) for index, value in enumerate(values)]
            while len(points) % patch:
                points.append((values[-1].item(), -1.0))

            for first in range(0, len(points), patch):
                rows.append([number for point in points[first : first + patch] for number in point])

        return encoder.mlp(torch.tensor(rows))

    def test_features(self, config):
        torch.manual_seed(0)
        encoder = TimeSeriesEncoder(config.ts)
        raw, batch = self.series()
        patch = config.ts["patch_size"]
        features, counts = encoder(batch), encoder.count_patches(batch)
        assert encoder.mlp[0].in_features == 2 * patch and encoder.position_embedding is None
        assert counts.tolist() == [-(-length // patch) for length in self.LENGTHS]
        close(features, self.reference(encoder, raw, patch), 1e-6)

    def test_zeros_behind_the_longest_change_nothing(self, config):
        encoder = TimeSeriesEncoder(config.ts)
        _, batch = self.series()
        close(encoder(torch.cat([batch, torch.zeros(4, 20, 1)], dim=1)), encoder(batch), 1e-7)

    def test_one_point_is_index_zero(self, config):
        encoder = TimeSeriesEncoder(config.ts)
        features = encoder(torch.tensor([[[0.5], [1.0]]]))
        patch = config.ts["patch_size"]
        close(features, encoder.mlp(torch.tensor([[0.5, 0.0] + [0.5, -1.0] * (patch - 1)])), 1e-6)

    def test_in_a_model(self, config):
        torch.manual_seed(0)
        model = Qwen3TSForCausalLM(config)
        _, batch = self.series()
        ids = torch.tensor([[1, 125, 126, 2, 125, 126, 125, 126, 3, 125, 126, 4]])
        output = model(input_ids=ids, timeseries=batch, labels=ids.masked_fill(ids > 124, -100))
        output.loss.backward()
        assert model.ts_encoder.mlp[0].weight.grad.abs().sum() > 0

    def test_position_embedding_wins_where_both_are_set(self, config):
        encoder = TimeSeriesEncoder({**config.ts, "use_position_embedding": True})
        assert encoder.mlp[0].in_features == config.ts["patch_size"] * (1 + 4)
