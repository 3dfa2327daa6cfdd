"""A small random ChatTS base with a tokenizer of its own: for trials, tests and continuous integration."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import GenerationConfig

from ...core.contract import DEFAULT_SYSTEM, TS_END, TS_START
from ...core.errors import ChatTSError
from ..configuration_chatts import Qwen2TSConfig, Qwen3TSConfig
from ..modeling_chatts import Qwen2TSForCausalLM, Qwen3TSForCausalLM
from .fresh_folder import fresh_folder


PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TOKENS = (PAD, TURN_START, TURN_END)

# Qwen's way of cutting text before byte-level BPE: digits one by one, words, runs of other characters
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{{- '<|im_start|>system\\n" + DEFAULT_SYSTEM + "<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

KINDS = {
    "qwen2": (Qwen2TSConfig, Qwen2TSForCausalLM),
    "qwen3": (Qwen3TSConfig, Qwen3TSForCausalLM),
}

TS_BLOCK: dict[str, Any] = {
    "patch_size": 8,
    "num_layers": 3,
    "hidden_size": 64,
    "embedding_dim": 4,
    "max_sequence_length": 4096,
    "max_length": 4096,  # read by the published vLLM code
}


def train_tokenizer(corpus: Iterable[str], vocab_size: int = 1536, specials: Iterable[str] = CHAT_TOKENS) -> Tokenizer:
    """Train a byte-level BPE tokenizer built as Qwen's; the same texts always give the same one.

    Args:
        corpus: texts, in any number.
        vocab_size: most tokens before the special ones (bytes included, so at least 256).
        specials: special tokens; their ids follow the vocabulary, in this order.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: str | os.PathLike) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` as Qwen folders hold them, chat template included."""
    tokenizer.save(str(Path(folder, "tokenizer.json")))
    added = tokenizer.get_added_tokens_decoder()
    entry = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(index): {"content": added[index].content, **entry} for index in sorted(added)},
        "additional_special_tokens": [added[index].content for index in sorted(added) if added[index].content != PAD],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": PAD,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    Path(folder, "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def pad_vocabulary(tokens: int, multiple: int = 64) -> int:
    """Return the number of embedding rows for a number of tokens."""
    return -(-tokens // multiple) * multiple


def init_tiny(
    out_dir: str | os.PathLike,
    corpus: Iterable[str],
    seed: int = 0,
    backbone: str = "qwen3",
    overwrite: bool = False,
) -> Path:
    """Build a random ChatTS base of about 0.24 million parameters, float32; takes seconds.

    The same arguments give the same files, byte for byte. Nothing is left behind when it fails.

    Args:
        out_dir: new or empty folder.
        corpus: texts that the tokenizer is trained on.
        seed: of the weights.
        backbone: ``qwen3`` or ``qwen2``.
        overwrite: replace a model folder that is there.

    Returns:
        the folder.

    Raises:
        ChatTSError: unknown backbone, or ``out_dir`` may not be written.
    """
    if backbone not in KINDS:
        raise ChatTSError(f"unknown backbone {backbone!r}", where="backbone", fix=f"Use one of: {', '.join(KINDS)}")

    with fresh_folder(out_dir, overwrite) as folder:
        tokenizer = train_tokenizer(corpus, specials=(*CHAT_TOKENS, TS_START, TS_END))
        save_tokenizer(tokenizer, folder)
        pad, end = tokenizer.token_to_id(PAD), tokenizer.token_to_id(TURN_END)
        config_class, model_class = KINDS[backbone]
        config = config_class(
            vocab_size=pad_vocabulary(tokenizer.get_vocab_size()),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32768,
            max_window_layers=2,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=end,
            pad_token_id=pad,
            dtype="float32",
            ts=dict(TS_BLOCK),
            ts_token_start_index=tokenizer.token_to_id(TS_START),
            ts_token_end_index=tokenizer.token_to_id(TS_END),
            **({"head_dim": 16} if backbone == "qwen3" else {}),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = model_class(config)

        model.generation_config = GenerationConfig(do_sample=False, eos_token_id=[end, pad], pad_token_id=pad)
        model.save_pretrained(folder)

    return Path(out_dir)
