"""A random ChatTS base of a published shape, built once and used again."""

import json
import shutil
from pathlib import Path

from .rows import corpus
from .settings import SHAPES


def is_complete(folder: Path) -> bool:
    """Tell whether a base folder holds its config, its tokenizer and all its weights."""
    if not all((folder / name).is_file() for name in ("config.json", "tokenizer.json", "tokenizer_config.json")):
        return False

    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors").is_file()

    return all((folder / name).is_file() for name in set(json.loads(index.read_text())["weight_map"].values()))


def build_base(folder: Path, shape: str) -> None:
    """Save a random base, made on the GPU if there is one; the folder gets its name when it is complete.

    The tokenizer has few merges: real text costs about one token a character, as with Qwen's. The encoder takes
    series of up to 32,768 points.
    """
    import torch

    from llamafactory_chatts import model as chatts
    from llamafactory_chatts.model.bases.tiny_base import CHAT_TOKENS, save_tokenizer, train_tokenizer

    fields = dict(SHAPES[shape])
    kind = fields.pop("kind")
    specials = [*CHAT_TOKENS, "<ts>", "<ts/>"]
    tokenizer = train_tokenizer(corpus(), vocab_size=560, specials=specials)
    ids = {token: tokenizer.token_to_id(token) for token in specials}
    config = {"qwen3": chatts.Qwen3TSConfig, "qwen2": chatts.Qwen2TSConfig}[kind](
        **fields, max_position_embeddings=40960, rms_norm_eps=1e-6, rope_theta=1000000, tie_word_embeddings=False,
        pad_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"],
        ts={"patch_size": 8, "num_layers": 5, "embedding_dim": 16, "max_sequence_length": 32768},
        ts_token_start_index=ids["<ts>"], ts_token_end_index=ids["<ts/>"],
    )  # fmt: skip
    cuda = torch.cuda.is_available()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if cuda else torch.float32)
    with torch.device("cuda" if cuda else "cpu"):
        model = {"qwen3": chatts.Qwen3TSForCausalLM, "qwen2": chatts.Qwen2TSForCausalLM}[kind](config)

    torch.set_default_dtype(torch.float32)
    unfinished = folder.with_name(folder.name + ".unfinished")
    for old in (unfinished, folder):
        shutil.rmtree(old, ignore_errors=True)

    model.save_pretrained(unfinished, max_shard_size="4GB")
    save_tokenizer(tokenizer, unfinished)
    unfinished.rename(folder)
