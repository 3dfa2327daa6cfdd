"""Small random Qwen folders, as downloaded ones look: sharded, with a tokenizer of their own."""

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llamafactory_chatts.model.bases.tiny_base import CHAT_TOKENS, save_tokenizer, train_tokenizer


KINDS = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
CORPUS = ["spike, level shift and plateau in a series of points"] * 3 + ["竖直尖峰和阶跃突变"] * 3
SMALL = {"max_sequence_length": 256, "embedding_dim": 4, "num_layers": 3}


def make_qwen(folder, kind="qwen3", tie=False, spare=100, shard="40KB", dtype=torch.float32, specials=CHAT_TOKENS):
    """Write a random Qwen model with biases, norms and embeddings that are not at their initial values."""
    folder.mkdir(parents=True)
    tokenizer = train_tokenizer(CORPUS, specials=specials)
    save_tokenizer(tokenizer, folder)
    config_class, model_class = KINDS[kind]
    config = config_class(
        vocab_size=tokenizer.get_vocab_size() + spare,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tie,
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        **({"head_dim": 8} if kind == "qwen3" else {}),
    )
    torch.manual_seed(3)
    model = model_class(config)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.1)

    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder
