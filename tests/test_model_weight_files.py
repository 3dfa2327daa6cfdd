"""Weights on their way from files to a model: read without maps, the embedding left in host memory, an int8 head."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from golden_cases import case
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.model import from_pretrained
from llamafactory_chatts.model.configuration_chatts import Qwen3TSConfig
from llamafactory_chatts.model.loading import int8_head, pretrained, weight_files
from llamafactory_chatts.model.loading.host_embedding import HostEmbedding
from llamafactory_chatts.model.loading.int8_head import Int8Head
from llamafactory_chatts.model.loading.weight_files import FileTensor, WeightFile, open_weights
from llamafactory_chatts.model.modeling_chatts import Qwen3TSForCausalLM


FOUR_BIT = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16, "bnb_4bit_quant_type": "nf4"}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """A small ChatTS in bfloat16, in several shards."""
    ts = {"patch_size": 8, "num_layers": 3, "embedding_dim": 8, "max_sequence_length": 512}
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 200}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    tokens = {"ts_token_start_index": 125, "ts_token_end_index": 126, "pad_token_id": 120, "eos_token_id": 121}
    torch.manual_seed(0)
    model = Qwen3TSForCausalLM(Qwen3TSConfig(ts=ts, **tokens, **sizes, **heads, tie_word_embeddings=False))
    folder = tmp_path_factory.mktemp("weights") / "m"
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture
def copy(path, tmp_path):
    """Return a function that copies the checkpoint as one file, with changes to its tensors and config."""

    def copy(change=lambda tensors: None, **config):
        folder = tmp_path / "copy"
        folder.mkdir()
        tensors = {key: value for file in path.glob("*.safetensors") for key, value in load_file(file).items()}
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        known = json.loads((path / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**known, **config}))
        return folder

    return copy


def four_bit(folder, loader=from_pretrained, **settings):
    pytest.importorskip("bitsandbytes")
    return loader(folder, dtype=torch.bfloat16, quantization_config=dict(FOUR_BIT), **settings)


class TestReading:
    TENSORS = {
        "matrix": torch.randn(37, 16),
        "half": torch.randn(5, 3, 2).half(),
        "brain": torch.randn(300, 8).bfloat16(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "numbers": torch.arange(7),
        "flags": torch.tensor([True, False]),
        "bytes": torch.arange(9, dtype=torch.uint8),
    }

    @pytest.fixture
    def file(self, tmp_path):
        save_file(self.TENSORS, tmp_path / "t.safetensors")
        return str(tmp_path / "t.safetensors")

    @pytest.mark.parametrize("device", [None, torch.device("cpu")], ids=["itself", "through the buffer"])
    @pytest.mark.parametrize("name", TENSORS)
    def test_equals_what_was_written(self, file, name, device, monkeypatch):
        monkeypatch.setattr(weight_files, "STAGING_BYTES", 48)
        expected = self.TENSORS[name]
        opened = WeightFile(file)
        tensor = FileTensor(opened, name, device)
        assert torch.equal(tensor[...], expected) and tensor[...].dtype == expected.dtype
        with safe_open(file, "pt") as stock:
            known = stock.get_slice(name)
            assert (tensor.get_shape(), tensor.get_dtype()) == (known.get_shape(), known.get_dtype())

        if expected.dim() > 1 and expected.numel():
            assert torch.equal(tensor[1:3], expected[1:3])

        opened.close()

    def test_rows(self, file):
        with open_weights([file]) as tensors:
            for start, stop in ((0, 37), (0, 4), (35, 99)):
                assert torch.equal(tensors["matrix"].read_rows(start, stop), self.TENSORS["matrix"][start:stop])

    def test_only_the_type_of_the_model_is_read_straight_to_a_device(self, file):
        with open_weights([file], torch.device("cuda"), torch.bfloat16) as tensors:
            assert {name for name, tensor in tensors.items() if tensor.device is not None} == {"brain"}

    def test_it_stands_in_for_a_tensor(self, file):
        """ZeRO-3 loads each module with PyTorch's own ``_load_from_state_dict``."""
        layer, errors = nn.Linear(16, 37, bias=False), []
        with open_weights([file]) as tensors:
            layer._load_from_state_dict({"weight": tensors["matrix"]}, "", {}, True, [], [], errors)

        assert not errors and torch.equal(layer.weight, self.TENSORS["matrix"])

    def test_a_file_that_becomes_shorter(self, file):
        with open_weights([file]) as tensors:
            with open(file, "r+b") as stream:
                stream.truncate(600)

            with pytest.raises(ChatTSError, match="t.safetensors: the file was cut short while it was read"):
                [tensor[...] for tensor in tensors.values()]

    def test_files_share_one_buffer(self, file, tmp_path):
        save_file({"more": torch.zeros(2)}, tmp_path / "other.safetensors")
        with open_weights([file, str(tmp_path / "other.safetensors")]) as tensors:
            assert tensors["more"].file is not tensors["matrix"].file
            assert tensors["more"].file.staging() is tensors["matrix"].file.staging()

    def test_files_are_closed(self, file):
        with open_weights([file]) as tensors:
            opened = tensors["matrix"].file

        assert opened._file.closed


class TestLoading:
    def mapped(self, path, monkeypatch):
        """Load in 4 bits; return the model, and whether a weight file was mapped while a layer was quantised."""
        bitsandbytes = pytest.importorskip("bitsandbytes")
        seen, original = [], bitsandbytes.nn.Params4bit.to
        maps = Path("/proc/self/maps")

        def to(self, *args, **kwargs):
            seen.append(str(path) in maps.read_text())
            return original(self, *args, **kwargs)

        monkeypatch.setattr(bitsandbytes.nn.Params4bit, "to", to)
        model = four_bit(path)
        assert len(seen) == 14
        return model, any(seen)

    @pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
    def test_nothing_is_mapped_and_all_is_as_in_transformers(self, path, monkeypatch):
        ours, mapped = self.mapped(path, monkeypatch)
        monkeypatch.delattr(pretrained.ChatTSFiles, "_load_pretrained_model")
        stock, stock_mapped = self.mapped(path, monkeypatch)
        assert stock_mapped and not mapped
        expected, found = stock.state_dict(), ours.state_dict()
        assert list(expected) == list(found)
        assert all(torch.equal(found[key], value) for key, value in expected.items())

    def test_weights_that_stay_on_the_cpu_are_left_to_transformers(self, path, monkeypatch):
        monkeypatch.setattr(weight_files.FileTensor, "read", None)
        assert from_pretrained(path, dtype=torch.bfloat16).lm_head.weight.dtype == torch.bfloat16

    @pytest.mark.parametrize("bits", [4, 16])
    @pytest.mark.parametrize("keep", [4, 1000, -2])
    def test_a_damaged_file_is_named(self, path, tmp_path, bits, keep):
        folder = tmp_path / "damaged"
        shutil.copytree(path, folder)
        file = sorted(folder.glob("*.safetensors"))[1]
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(ChatTSError, match=f"{file.name}: the file is cut short or damaged. Download it again"):
            four_bit(folder) if bits == 4 else from_pretrained(folder, dtype=torch.bfloat16)


class TestHostEmbedding:
    @pytest.fixture
    def pair(self, path):
        """An ordinary embedding and ours from the same file."""
        files = [str(file) for file in path.glob("*.safetensors")]
        with open_weights(files) as tensors:
            ours = HostEmbedding(tensors[EMBEDDING], torch.bfloat16)
            return nn.Embedding.from_pretrained(tensors[EMBEDDING][...]), ours

    def test_looks_up_the_same_rows(self, pair):
        plain, ours = pair
        ids = torch.randint(0, 200, (3, 5))
        assert torch.equal(ours(ids), plain(ids)) and ours(ids).shape == (3, 5, 64)
        assert (ours.num_embeddings, ours.embedding_dim) == (200, 64)

    def test_is_cast_while_it_is_read(self, path, monkeypatch):
        monkeypatch.setattr("llamafactory_chatts.model.loading.host_embedding.ROWS", 33)
        with open_weights([str(file) for file in path.glob("*.safetensors")]) as tensors:
            expected = tensors[EMBEDDING][...].half()
            assert torch.equal(HostEmbedding(tensors[EMBEDDING], torch.float16).weight, expected)

    def test_nothing_moves_or_casts_the_table(self, pair):
        plain, ours = pair
        model = nn.Sequential(ours)
        assert not list(model.named_parameters()) and not list(model.named_buffers()) and not model.state_dict()
        model.to("meta")
        assert ours.weight.device.type == "cpu" and not ours.weight.requires_grad
        model.float()
        ids = torch.tensor([1, 2])
        assert ours.weight.dtype == torch.bfloat16 and torch.equal(ours(ids), plain(ids).float())

    def test_hooks_can_ask_for_gradients(self, pair):
        _, ours = pair
        ours.register_forward_hook(lambda module, args, output: output.requires_grad_(True))
        rows = ours(torch.tensor([[1, 2]]))
        rows.sum().backward()
        assert rows.grad is not None


class TestInt8Head:
    @pytest.fixture
    def head(self, path, monkeypatch):
        """The 16-bit weight in float32, and our head; chunks that do not divide the vocabulary."""
        monkeypatch.setattr(int8_head, "CHUNK", 48)
        with open_weights([str(file) for file in path.glob("*.safetensors")]) as tensors:
            head = Int8Head(200, 64).fill(tensors[HEAD], torch.device("cpu"), torch.bfloat16)
            return tensors[HEAD][...].float(), head

    def test_weights_are_rounded_by_half_a_step_at_most(self, head):
        weight, ours = head
        assert (ours.weight.dtype, ours.weight.shape) == (torch.int8, (200, 64))
        step = weight.abs().amax(dim=1, keepdim=True) / 127
        assert torch.allclose(ours.scale[:, None], step, rtol=1e-6)
        error = (ours.weight.float() * ours.scale[:, None] - weight).abs()
        assert bool((error <= step * 0.501).all()) and ours.weight.abs().amax(dim=1).eq(127).all()

    def test_logits(self, head):
        weight, ours = head
        hidden = torch.randn(3, 7, 64)
        bound = weight.abs().amax(dim=1) / 254 * hidden.abs().sum(dim=-1, keepdim=True)
        error = (ours(hidden) - hidden @ weight.t()).abs()
        assert error.shape == (3, 7, 200) and bool((error <= bound + 1e-5).all()) and error.max() > 0

    def test_gradient_of_the_input(self, head):
        _, ours = head
        dequantised = ours.weight.float() * ours.scale[:, None]
        hidden = torch.randn(2, 5, 64, requires_grad=True)
        other = hidden.detach().clone().requires_grad_(True)
        outer = torch.randn(2, 5, 200)
        (ours(hidden) * outer).sum().backward()
        ((other @ dequantised.t()) * outer).sum().backward()
        assert torch.allclose(ours(hidden), other @ dequantised.t(), atol=1e-5)
        assert torch.allclose(hidden.grad, other.grad, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_under_autocast(self, head, dtype):
        weight, ours = head
        hidden = torch.randn(4, 64, requires_grad=True)
        with torch.autocast("cpu", dtype=dtype):
            logits = ours(hidden)
            expected = nn.functional.linear(hidden, weight.to(dtype))

        assert logits.dtype == expected.dtype == dtype
        assert torch.allclose(logits.float(), expected.float(), atol=0.05)
        logits.float().square().sum().backward()
        assert hidden.grad.dtype == torch.float32 and hidden.grad.abs().sum() > 0

    def test_casts_of_the_model_leave_it_alone(self, head):
        _, ours = head
        before = ours.scale.clone()
        nn.Sequential(ours).bfloat16().half()
        assert torch.equal(ours.scale, before) and ours.weight.dtype == torch.int8
        assert not any(parameter.requires_grad for parameter in ours.parameters())

    def test_a_row_of_zeros(self):
        quantised, scale = int8_head.quantize_rows(torch.zeros(2, 4))
        assert not quantised.any() and scale.isfinite().all()


class TestSavings:
    @pytest.mark.parametrize("loader", [from_pretrained, AutoModelForCausalLM.from_pretrained])
    @pytest.mark.parametrize("bits", [4, 8])
    def test_embedding_in_host_memory_changes_no_result(self, path, loader, bits):
        pytest.importorskip("bitsandbytes")
        config = dict(FOUR_BIT) if bits == 4 else {"load_in_8bit": True}
        inputs = case("qwen3ts_default", "ragged_left").inputs
        load = {"dtype": torch.bfloat16, "quantization_config": config}
        model = loader(path, offload_embedding=True, **load)
        assert isinstance(model.get_input_embeddings(), HostEmbedding)
        assert not any("embed_tokens" in name for name, _ in model.named_parameters())
        with torch.no_grad():
            expected = from_pretrained(path, **load).eval()(**inputs)
            found = model.eval()(**inputs)

        assert torch.equal(found.logits, expected.logits) and torch.equal(found.loss, expected.loss)

    def test_both_train_and_generate(self, path):
        inputs = case("qwen3ts_default", "ragged_left").inputs
        model = four_bit(path, offload_embedding=True, lm_head_8bit=True)
        assert isinstance(model.get_output_embeddings(), Int8Head) and isinstance(model.lm_head, Int8Head)
        model.train()(**inputs).loss.backward()
        assert model.ts_encoder.mlp[0].weight.grad.abs().sum() > 0
        prompt = {key: value for key, value in inputs.items() if key != "labels"}
        with torch.no_grad():
            plain = four_bit(path).eval()(**inputs)
            ours = model.eval()(**inputs)

        assert 0 < (ours.logits - plain.logits).abs().max() < 0.05 and abs(ours.loss - plain.loss) < 0.02
        assert model.generate(**prompt, max_new_tokens=4, do_sample=False).shape[0] == prompt["input_ids"].shape[0]

    def test_such_a_model_is_not_saved(self, path, tmp_path):
        with pytest.raises(ChatTSError, match="cannot be saved as a whole.*Save the adapter"):
            four_bit(path, offload_embedding=True).save_pretrained(tmp_path / "out")

        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("setting", ["offload_embedding", "lm_head_8bit"])
    def test_refused(self, path, copy, setting, tmp_path):
        with pytest.raises(ChatTSError, match=f"{setting}: the model is not quantised with bitsandbytes"):
            from_pretrained(path, dtype=torch.bfloat16, **{setting: True})

        key = EMBEDDING if setting == "offload_embedding" else HEAD
        with pytest.raises(ChatTSError, match=f"{setting}: {key} is missing in the checkpoint"):
            four_bit(copy(lambda tensors: tensors.pop(key)), **{setting: True})

    def test_tied_embeddings_are_refused(self, copy):
        with pytest.raises(ChatTSError, match="offload_embedding: embedding and lm_head of this model are one tensor"):
            four_bit(copy(lambda tensors: tensors.pop(HEAD), tie_word_embeddings=True), offload_embedding=True)

    def test_a_wrong_shape_is_refused(self, copy):
        def cut(tensors):
            tensors[HEAD] = tensors[HEAD][:7].clone()

        with pytest.raises(ChatTSError, match=r"lm_head.weight is BF16 of shape \(7, 64\)"):
            four_bit(copy(cut), lm_head_8bit=True)

    def test_other_files_are_refused(self, copy):
        folder = copy()
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        assert four_bit(folder).lm_head.weight.shape == (200, 64)
        with pytest.raises(ChatTSError, match="lm_head_8bit: this needs safetensors files"):
            four_bit(folder, lm_head_8bit=True)
