"""What makes training fast without being asked. No GPU here: Liger's functions are stand-ins."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from llamafactory_chatts import register
from llamafactory_chatts.host.load import speed
from llamafactory_chatts.model import Qwen2TSForCausalLM, Qwen3TSForCausalLM


@pytest.fixture(scope="module", autouse=True)
def host():
    register.register()


class Log:
    def __init__(self):
        self.lines = []

    def info_rank0(self, line):
        self.lines.append(line)

    warning_rank0 = info_rank0


def loaded(folder, kind=Qwen3TSForCausalLM, **kwargs):
    from peft import LoraConfig, get_peft_model

    model = kind.from_pretrained(folder, dtype=torch.bfloat16, **kwargs)
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "k_proj"], init_lora_weights=False))
    for name, param in model.named_parameters():
        if "lora_" in name:
            param.data = param.data.float()

    return model.train()


def step(model):
    ids = torch.arange(1, 13)[None]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, labels=ids).loss

    model.zero_grad()
    loss.backward()
    return loss.detach(), [param.grad for name, param in model.named_parameters() if "lora_" in name]


def test_adapters_get_their_input_as_it_is_and_give_the_same(tiny_base):
    model = loaded(tiny_base)
    seen = []
    layer = model.base_model.model.model.layers[0].self_attn.q_proj.lora_A["default"]
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    before = step(model)
    args = SimpleNamespace(block_diag_attn=True, compute_dtype=torch.bfloat16)
    speed.use_fast_paths(model, args, Log())
    model.base_model.model.padding_free = False  # the cast alone
    after = step(model)
    assert seen == [torch.float32, torch.bfloat16]
    assert before[0] == after[0]
    assert all(torch.equal(one, other) for one, other in zip(before[1], after[1], strict=True))


def test_without_autocast_the_input_is_still_cast(tiny_base):
    model = loaded(tiny_base)
    speed.use_fast_paths(model, SimpleNamespace(block_diag_attn=False, compute_dtype=torch.bfloat16), Log())
    ids = torch.arange(1, 13)[None]
    assert torch.isfinite(model(input_ids=ids, labels=ids).loss)


@pytest.mark.parametrize("attention,packed_mask", [("sdpa", False), ("eager", True)])
def test_packed_rows_keep_their_numbered_mask_where_no_dense_one_is_needed(tiny_base, attention, packed_mask):
    args, log = SimpleNamespace(block_diag_attn=True, compute_dtype=torch.bfloat16), Log()
    speed.use_fast_paths(loaded(tiny_base, attn_implementation=attention), args, log)
    assert args.block_diag_attn is packed_mask
    assert len(log.lines) == (not packed_mask)


def test_the_line_says_what_an_old_card_misses(tiny_base, monkeypatch):
    model = Qwen3TSForCausalLM.from_pretrained(tiny_base)
    model.enable_padding_free()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    old = speed.describe_attention(model, torch.device("cuda"), torch.float16)
    assert "compute capability 8.0" in old and "slower" in old
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert speed.describe_attention(model, torch.device("cuda"), torch.float16) == (
        "PyTorch's variable-length FlashAttention"
    )


class TestLiger:
    def apply(self, config, enabled=True, trainable=True):
        from llamafactory.model import loader

        args = SimpleNamespace(enable_liger_kernel=enabled)
        loader.apply_liger_kernel(config, args, trainable, require_logits=False)

    @pytest.mark.parametrize("base,kind,own", [("tiny_base", "qwen3", "qwen3"), ("tiny_base_qwen2", "qwen2", "qwen2")])
    def test_each_kind_gets_its_kernels(self, request, monkeypatch, base, kind, own):
        import liger_kernel.transformers as liger

        calls = []
        for name in ("qwen2", "qwen3"):
            monkeypatch.setattr(
                liger, f"apply_liger_kernel_to_{name}", lambda name=name, **kwargs: calls.append((name, kwargs))
            )

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        model_class = Qwen3TSForCausalLM if kind == "qwen3" else Qwen2TSForCausalLM
        config = model_class.config_class.from_pretrained(request.getfixturevalue(base))
        self.apply(config)
        ((name, kwargs),) = calls
        assert name == own
        assert kwargs == {
            "rope": True, "rms_norm": True, "swiglu": True, "cross_entropy": False, "fused_linear_cross_entropy": False
        }  # fmt: skip
        calls.clear()
        self.apply(config, enabled=False)
        self.apply(config, trainable=False)
        assert not calls

    def test_the_arguments_exist(self):
        """A canary: Liger ignores nothing, a renamed argument must fail here."""
        import inspect

        import liger_kernel.transformers as liger

        for name in ("qwen2", "qwen3"):
            known = inspect.signature(getattr(liger, f"apply_liger_kernel_to_{name}")).parameters
            assert {"rope", "rms_norm", "swiglu", "cross_entropy", "fused_linear_cross_entropy"} <= set(known)

    def test_without_a_gpu_one_line_says_so(self, tiny_base, monkeypatch):
        from llamafactory.model import loader

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        log = Log()
        monkeypatch.setattr(loader, "logger", log)
        self.apply(Qwen3TSForCausalLM.config_class.from_pretrained(tiny_base))
        (line,) = log.lines
        assert "no CUDA device" in line and "slower" in line

    def test_without_the_package_one_line_says_so(self, tiny_base, monkeypatch):
        from llamafactory.hparams import parser

        find_spec = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *args: None if name == "liger_kernel" else find_spec(name, *args)
        )
        log = Log()
        monkeypatch.setattr(parser, "logger", log)
        args = parser.ModelArguments(model_name_or_path=str(tiny_base), enable_liger_kernel=True)
        parser._check_extra_dependencies(args, SimpleNamespace(use_galore=False, use_apollo=False, use_badam=False,
            use_adam_mini=False, use_swanlab=False, plot_loss=False))  # fmt: skip
        (line,) = log.lines
        assert not args.enable_liger_kernel
        assert "pip install 'liger-kernel>=0.8,<0.9'" in line and "slower" in line

    def test_other_models_are_left_to_the_host(self, plain_qwen3, monkeypatch):
        import liger_kernel.transformers as liger
        from transformers import AutoConfig

        calls = []
        monkeypatch.setattr(liger, "apply_liger_kernel_to_qwen3", lambda **kwargs: calls.append(kwargs))
        self.apply(AutoConfig.from_pretrained(plain_qwen3))
        assert calls == [{}]  # as the host calls it: with Liger's defaults
