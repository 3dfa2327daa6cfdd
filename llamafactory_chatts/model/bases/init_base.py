"""From a Qwen2, Qwen2.5 or Qwen3 folder to a ChatTS base: the same model plus two tokens and an untrained encoder."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ...core.contract import QWEN2_TYPE, QWEN3_TYPE, TS_END, TS_START
from ...core.errors import ChatTSError
from ...core.safetensors_folder import INDEX, Weights, read_header, read_json, read_weights
from ..auto import load_processor
from ..configuration_chatts import TS_DEFAULTS, is_chatts
from ..encoder import TimeSeriesEncoder
from .fresh_folder import check_target, fresh_folder
from .tiny_base import init_tiny, pad_vocabulary


__all__ = ["init_from_qwen", "init_tiny"]

BACKBONES = {"qwen2": (QWEN2_TYPE, "Qwen2TSForCausalLM"), "qwen3": (QWEN3_TYPE, "Qwen3TSForCausalLM")}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
CARRIED = ("generation_config.json", "vocab.json", "merges.txt", "special_tokens_map.json", "chat_template.jinja")
CARRIED_STARTS = ("LICENSE", "NOTICE")


def fresh_encoder(ts: dict[str, Any], seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return untrained encoder weights by checkpoint key.

    Layers are Xavier-uniform with zero bias, position embeddings normal with standard deviation 0.02, drawn in
    float32 and then rounded, so that a seed means the same encoder in every dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    encoder = TimeSeriesEncoder(ts)
    with torch.no_grad():
        if encoder.position_embedding is not None:
            encoder.position_embedding.weight.normal_(0.0, 0.02, generator=generator)

        for layer in encoder.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                layer.bias.zero_()

    return {f"ts_encoder.{name}": value.to(dtype).contiguous() for name, value in encoder.state_dict().items()}


def add_tokens(source: Path, target: Path) -> tuple[int, int]:
    """Write the tokenizer files with ``<ts>`` and ``<ts/>`` as special tokens; tokens that exist keep their ids.

    Everything else in the files stays as it is, so older versions of transformers read them, too.

    Returns:
        the ids of ``<ts>`` and ``<ts/>``.

    Raises:
        ChatTSError: there is no ``tokenizer.json`` or ``tokenizer_config.json``.
    """
    tokenizer, config = read_json(source / "tokenizer.json"), read_json(source / "tokenizer_config.json")
    vocab: dict[str, int] = tokenizer["model"]["vocab"]
    added: list[dict[str, Any]] = tokenizer.setdefault("added_tokens", [])
    ids = {**vocab, **{item["content"]: item["id"] for item in added}}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for token in (TS_START, TS_END):
        ids.setdefault(token, max(ids.values()) + 1)
        kept = [item for item in added if item["content"] != token]
        added[:] = sorted([*kept, {"id": ids[token], "content": token, **flags}], key=lambda item: item["id"])
        if "added_tokens_decoder" in config:
            config["added_tokens_decoder"][str(ids[token])] = {"content": token, **flags}

        for field in ("additional_special_tokens", "extra_special_tokens"):
            if isinstance(config.get(field), list) and token not in config[field]:
                config[field].append(token)

    write_json(target / "tokenizer.json", tokenizer)
    write_json(target / "tokenizer_config.json", config)
    if (source / "added_tokens.json").is_file():
        legacy = {**read_json(source / "added_tokens.json"), TS_START: ids[TS_START], TS_END: ids[TS_END]}
        write_json(target / "added_tokens.json", legacy)

    return ids[TS_START], ids[TS_END]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object as transformers does: UTF-8, two spaces."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_backbone(folder: Path) -> dict[str, Any]:
    """Return the ``config.json`` of a Qwen2, Qwen2.5 or Qwen3 folder.

    Raises:
        ChatTSError: no such folder, another kind of model, a quantised one, or a ChatTS base already.
    """
    if not (folder / "config.json").is_file():
        raise ChatTSError(
            "there is no config.json, so this is no model folder", where=str(folder), fix="Name a Qwen folder on disk"
        )

    config = read_json(folder / "config.json")
    if is_chatts(config) or config.get("model_type") in (QWEN2_TYPE, QWEN3_TYPE):
        raise ChatTSError("this is a ChatTS base already", where=str(folder), fix="Use it as it is")

    if config.get("model_type") not in BACKBONES:
        raise ChatTSError(
            f"model_type is {config.get('model_type')!r}",
            where=str(folder / "config.json"),
            fix="Use a dense text model of the Qwen2, Qwen2.5 or Qwen3 family",
        )

    if config.get("quantization_config"):
        raise ChatTSError(
            "the model is quantised", where=str(folder / "config.json"), fix="Use the folder in bfloat16 or float16"
        )

    return config


def check_weights(weights: Weights, config: dict[str, Any]) -> torch.dtype:
    """Return the dtype of the language model; raise a :class:`ChatTSError` where its weights do not fit."""
    needed = [EMBEDDING] if config.get("tie_word_embeddings", False) else [EMBEDDING, HEAD]
    absent = [key for key in needed if weights.entry(key) is None]
    if absent:
        raise ChatTSError(f"no tensor {absent[0]}", where=str(weights.folder), fix="Use a causal language model")

    if any(key.startswith("ts_encoder.") for shard in weights.shards.values() for key in shard):
        raise ChatTSError("the weights hold a ts_encoder already", where=str(weights.folder), fix="Use it as it is")

    name = (weights.entry(EMBEDDING) or {}).get("dtype")
    if name not in DTYPES:
        raise ChatTSError(f"{EMBEDDING} is {name}", where=str(weights.folder), fix=f"Use one of: {', '.join(DTYPES)}")

    return DTYPES[name]


def grow(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """Return ``tensor`` with ``rows`` rows; new ones are the mean row, which no prompt ever prefers."""
    mean = tensor.float().mean(dim=0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(rows - tensor.shape[0], -1)]).contiguous()


def copy_shard(source: Path, target: Path, rows: int | None) -> None:
    """Copy a shard as a file; with ``rows``, rewrite it with embeddings of that many rows."""
    if rows is None:
        shutil.copyfile(source, target)
        return

    with safe_open(str(source), framework="pt") as shard:
        tensors = {key: shard.get_tensor(key) for key in shard.keys()}
        metadata = shard.metadata() or {}

    for key in {EMBEDDING, HEAD} & tensors.keys():
        tensors[key] = grow(tensors[key], rows)

    save_file(tensors, str(target), metadata={"format": "pt", **metadata})


def write_weights(weights: Weights, encoder: dict[str, torch.Tensor], rows: int | None, target: Path) -> None:
    """Write all shards, one with the encoder behind them, and the index.

    Args:
        weights: of the Qwen folder.
        encoder: tensors of the last shard.
        rows: rows of the embeddings if they grow, else None.
        target: the new folder.
    """
    total = len(weights.shards) + 1
    weight_map: dict[str, str] = {}
    size = parameters = 0
    for number in range(1, total + 1):
        name = f"model-{number:05d}-of-{total:05d}.safetensors"
        if number == total:
            save_file(encoder, str(target / name), metadata={"format": "pt"})
        else:
            old_name, header = list(weights.shards.items())[number - 1]
            grows = rows is not None and not header.keys().isdisjoint((EMBEDDING, HEAD))
            copy_shard(weights.folder / old_name, target / name, rows if grows else None)

        for key, entry in read_header(target / name).items():
            weight_map[key] = name
            size += entry["data_offsets"][1] - entry["data_offsets"][0]
            parameters += torch.Size(entry["shape"]).numel()

    metadata = {**weights.metadata, "total_size": size}
    if "total_parameters" in metadata:
        metadata["total_parameters"] = parameters

    write_json(target / INDEX, {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))})


def init_from_qwen(
    qwen_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    seed: int = 0,
    patch_size: int = 8,
    num_layers: int = 5,
    embedding_dim: int = 16,
    max_sequence_length: int = 32768,
    overwrite: bool = False,
) -> Path:
    """Turn a Qwen2, Qwen2.5 or Qwen3 folder into a ChatTS base with an untrained encoder.

    Shards are copied one by one, so memory holds the encoder and at most one shard (only when the embeddings
    must grow). The width of the encoder is that of the backbone: its output takes the place of embeddings.

    Args:
        qwen_dir: local folder with safetensors weights and a fast tokenizer.
        out_dir: new or empty folder; needs the space of the Qwen folder.
        seed: of the encoder's weights.
        patch_size: points per patch.
        num_layers: linear layers of the encoder.
        embedding_dim: width of a point's position embedding.
        max_sequence_length: points of the longest series.
        overwrite: replace a model folder that is there.

    Returns:
        the folder.

    Raises:
        ChatTSError: no usable Qwen folder (see :func:`read_backbone`, :func:`read_weights`), a setting that is
            not positive, or ``out_dir`` may not be written.
    """
    given = {
        "patch_size": patch_size,
        "num_layers": num_layers,
        "embedding_dim": embedding_dim,
        "max_sequence_length": max_sequence_length,
    }
    for name, value in given.items():
        if value < 1:
            raise ChatTSError(f"{value} is not positive", where=name, fix="Give a whole number from 1")

    source, out = Path(qwen_dir).expanduser().resolve(), check_target(out_dir, overwrite)
    config = read_backbone(source)
    if out == source or out in source.parents:
        raise ChatTSError("the result would replace the Qwen folder", where=str(out_dir), fix="Name another folder")

    weights = read_weights(source)
    dtype = check_weights(weights, config)
    backbone = config["model_type"]
    ts = {**TS_DEFAULTS, **given, "hidden_size": config["hidden_size"], "max_length": max_sequence_length}
    with fresh_folder(out, overwrite) as folder:
        start, end = add_tokens(source, folder)
        rows: int | None = pad_vocabulary(max(start, end) + 1)
        entry = weights.entry(EMBEDDING)
        if entry is not None and max(start, end) < entry["shape"][0]:
            rows = None
        else:
            config["vocab_size"] = rows

        config["model_type"], architecture = BACKBONES[backbone]
        config["architectures"] = [architecture]
        config.update(ts=ts, ts_token_start_index=start, ts_token_end_index=end)
        config.pop("auto_map", None)
        write_json(folder / "config.json", config)
        for path in sorted(source.iterdir()):
            if path.is_file() and (path.name in CARRIED or path.name.startswith(CARRIED_STARTS)):
                shutil.copyfile(path, folder / path.name)

        write_weights(weights, fresh_encoder(ts, seed, dtype), rows, folder)
        load_processor(str(folder))  # config and tokenizer agree, or nothing is left behind

    return out
