"""The decoder over real tokens only: same losses and gradients as with padding, and samples that stay apart."""

import copy

import pytest
import torch

from llamafactory_chatts.model import Qwen2TSForCausalLM, Qwen3TSForCausalLM
from llamafactory_chatts.model.loss import SLICE, sum_labelled_loss
from llamafactory_chatts.model.padding_free import find_samples


LENGTHS = (5, 9, 7)


@pytest.fixture(params=["tiny_base", "tiny_base_qwen2"])
def model(request):
    folder = request.getfixturevalue(request.param)
    kind = Qwen3TSForCausalLM if request.param == "tiny_base" else Qwen2TSForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).train()


def batch(model, lengths=LENGTHS):
    """Rows of text with two series in the first and one in the last, right padded, labels on the last three tokens."""
    generator = torch.Generator().manual_seed(0)
    start = model.config.ts_token_start_index
    ids = torch.randint(1, 200, (len(lengths), max(lengths)), generator=generator)
    ids[ids == start] = 1
    ids[0, 1:3], ids[-1, 2] = start, start
    mask = (torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]).long()
    labels = ids.clone()
    labels[(mask == 0) | (torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None] - 3)] = -100
    size = model.config.ts["patch_size"]
    values = torch.randn(3, size, 1, generator=generator)
    timeseries = torch.cat([values, torch.ones_like(values)], dim=-1).reshape(3, -1, 1)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "timeseries": timeseries}


def grads(model):
    return {name: param.grad.clone() for name, param in model.named_parameters() if param.grad is not None}


def run(model, **inputs):
    model.zero_grad()
    output = model(**inputs)
    output.loss.backward()
    return output.loss.detach(), grads(model)


def test_padding_costs_nothing_and_changes_nothing(model):
    padded, expected = run(model, **batch(model))
    assert model.enable_padding_free()
    seen = []
    model.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[:2]))
    free, found = run(model, **batch(model))
    assert seen == [(1, sum(LENGTHS))]
    assert torch.allclose(free, padded, atol=1e-6)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-5, rtol=1e-4), name


def pack(model, inputs):
    """The rows of a batch one after the other in one row, numbered in the mask, two padding tokens behind."""
    real = inputs["attention_mask"].bool()
    number = torch.arange(1, len(LENGTHS) + 1)[:, None].expand_as(real)[real]
    tail = torch.zeros(2, dtype=torch.long)
    position = (torch.arange(real.shape[1])[None, :].expand_as(real))[real]
    labels = inputs["labels"].clone()
    labels[:, 0] = -100
    return {
        "input_ids": torch.cat([inputs["input_ids"][real], tail])[None],
        "attention_mask": torch.cat([number, tail])[None],
        "position_ids": torch.cat([position, tail])[None],
        "labels": torch.cat([labels[real], tail - 100])[None],
        "timeseries": inputs["timeseries"],
    }


@pytest.mark.parametrize("with_mask", [True, False])
def test_packed_samples_do_not_see_each_other(model, with_mask):
    expected, expected_grads = run(model, **batch(model))
    model.enable_padding_free()
    packed = pack(model, batch(model))
    if not with_mask:  # as LLaMA-Factory's collator does for flash-attn
        packed = {key: value[:, :-2] if key != "timeseries" else value for key, value in packed.items()}
        packed["attention_mask"] = None

    loss, found = run(model, **packed)
    assert torch.allclose(loss, expected, atol=1e-6)
    for name, value in expected_grads.items():
        assert torch.allclose(found[name], value, atol=1e-5, rtol=1e-4), name

    broken = copy.deepcopy(packed)
    broken["input_ids"][0, 0] = 7  # first sample: the loss of the others must not move
    broken["labels"][0, : LENGTHS[0]] = -100
    packed["labels"][0, : LENGTHS[0]] = -100
    assert run(model, **broken)[0] == run(model, **packed)[0]


def test_gradient_checkpointing_sees_the_same_samples(model):
    model.enable_padding_free()
    expected, expected_grads = run(model, **batch(model))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    loss, found = run(model, **batch(model))
    assert loss == expected
    assert all(torch.equal(found[name], value) for name, value in expected_grads.items())


def test_complete_logits_keep_their_places(model):
    inputs = batch(model)
    expected = model(**inputs, return_logits=True).logits
    model.enable_padding_free()
    found = model(**inputs, return_logits=True).logits
    real = inputs["attention_mask"].bool()
    assert found.shape == expected.shape
    assert torch.allclose(found[real], expected[real], atol=1e-5)


def test_hidden_states_keep_their_places(model):
    """Reward models read values from them."""
    inputs = batch(model)
    model.enable_padding_free()
    hidden = model(**inputs, output_hidden_states=True).hidden_states[-1]
    assert hidden.shape[:2] == inputs["input_ids"].shape


def test_generation_is_untouched(model):
    model.eval()
    inputs = {key: value[:1, :5] if key != "timeseries" else value[:2] for key, value in batch(model).items()}
    del inputs["labels"]
    expected = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    model.enable_padding_free()
    assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), expected)


def test_weights_of_rows(model):
    inputs = batch(model)
    rows = []
    for index in range(3):
        single = {key: value[index : index + 1] for key, value in inputs.items() if key != "timeseries"}
        series = {0: inputs["timeseries"][:2], 1: inputs["timeseries"][:0], 2: inputs["timeseries"][2:]}[index]
        rows.append(model(**single, timeseries=series, num_items_in_batch=1).loss)

    weights = torch.tensor([0.5, 2.0, 0.25])
    found = model(**inputs, loss_weights=weights, num_items_in_batch=99).loss
    assert torch.allclose(found, (torch.stack(rows) * weights).sum(), atol=1e-5)


def test_eager_attention_stays_as_it_is(tiny_base):
    model = Qwen3TSForCausalLM.from_pretrained(tiny_base, attn_implementation="eager")
    assert not model.enable_padding_free()
    assert model.config._attn_implementation == "eager"


def test_sliding_windows_stay_as_they_are(tiny_base):
    model = Qwen3TSForCausalLM.from_pretrained(tiny_base)
    model.config.layer_types = ["sliding_attention", *model.config.layer_types[1:]]
    assert not model.enable_padding_free()


def test_samples_of_left_padded_rows():
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    samples = find_samples(mask, None, 2, 3, mask.device)
    assert samples.lengths == [2, 3]
    assert samples.positions.tolist() == [[0, 1, 0, 1, 2]]
    values = torch.arange(6.0).view(2, 3, 1)
    assert samples.put_back(samples.pick(values), 2, 3).flatten().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("weighted", [False, True])
def test_slices_of_a_long_answer_agree_with_the_whole(weighted):
    torch.manual_seed(0)
    positions = 2 * SLICE + 3
    head = torch.nn.Linear(8, 30, bias=False)
    hidden = torch.randn(positions, 8, requires_grad=True)
    target = torch.randint(0, 30, (positions,))
    weights = torch.rand(positions) if weighted else None
    sizes = []
    head.register_forward_hook(lambda module, args, output: sizes.append(output.shape[0]))

    def run_one(in_one):
        head.zero_grad()
        hidden.grad = None
        sizes.clear()
        loss = sum_labelled_loss(head, hidden, target, weights, in_one=in_one)
        loss.backward()
        return loss.detach(), hidden.grad.clone(), head.weight.grad.clone(), max(sizes)

    *whole, biggest = run_one(True)
    *sliced, slice_size = run_one(False)
    assert (biggest, slice_size) == (positions, SLICE)
    for first, second in zip(whole, sliced, strict=True):
        assert torch.allclose(first, second, rtol=1e-5, atol=1e-5)
