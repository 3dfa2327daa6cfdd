"""The base of a recipe without its weights: sizes from config.json, its folder, a table of published names."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...core.errors import ChatTSError
from ...core.memory import LINEAR, Shape, count_embedding_parameters, count_linear_parameters
from ...recipe.context import read_json
from ...recipe.reading import Recipe


PUBLISHED = {
    "bytedance-research/ChatTS-8B": {
        "model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936,
    },
    "bytedance-research/ChatTS-14B": {
        "model_type": "qwen2", "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40,
        "num_key_value_heads": 8, "intermediate_size": 13824, "vocab_size": 152064,
    },
}  # fmt: skip
"""Sizes of the published bases, for recipes that name them where they are not downloaded yet."""

_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class EncoderShape:
    """Settings of the series encoder, named as in the `ts` block of config.json, with the model package's defaults."""

    patch_size: int = 8
    num_layers: int = 5
    hidden_size: int | None = None
    embedding_dim: int = 16
    max_sequence_length: int = 32768
    use_position_embedding: bool = True
    use_position_idx: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "EncoderShape":
        """Read the settings that a `ts` block gives."""
        return cls(**{one.name: config[one.name] for one in fields(cls) if config.get(one.name) is not None})


@dataclass(frozen=True)
class BaseModel:
    """Sizes of a base.

    Attributes:
        name: as the recipe writes it.
        folder: where its files are; None: not on this machine.
        shape: of the decoder.
        qwen3: queries and keys are normalised, and the attention has no biases.
        ts: settings of the encoder.
        element: bytes of a stored weight.
        dtype: its name.
        tied: lm_head is the embedding.
    """

    name: str
    folder: Path | None
    shape: Shape
    qwen3: bool
    ts: EncoderShape
    element: int = 2
    dtype: str = "bfloat16"
    tied: bool = False

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers of one decoder layer, by name."""
        return dict(zip(LINEAR, self.shape.linear_layers, strict=True))

    @property
    def encoder_linear(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the encoder's linear layers."""
        ts, width = self.ts, self.ts.hidden_size or self.shape.hidden_size
        inputs = ts.patch_size
        if ts.use_position_embedding:
            inputs += ts.patch_size * ts.embedding_dim
        elif ts.use_position_idx:
            inputs *= 2

        return [(inputs if index == 0 else width, width) for index in range(ts.num_layers)]

    @property
    def encoder(self) -> int:
        """Parameters of the encoder."""
        ts = self.ts
        places = (ts.max_sequence_length + 1) * ts.embedding_dim if ts.use_position_embedding else 0
        return places + sum(inputs * outputs + outputs for inputs, outputs in self.encoder_linear)

    @property
    def small(self) -> int:
        """Parameters of the norms and biases of the decoder."""
        shape = self.shape
        queries, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
        own = 2 * shape.head_dim if self.qwen3 else queries + 2 * keys
        return shape.num_hidden_layers * (2 * shape.hidden_size + own) + shape.hidden_size

    @property
    def layers(self) -> int:
        """Parameters of the decoder's linear layers."""
        return count_linear_parameters(self.shape)

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding."""
        return count_embedding_parameters(self.shape)

    @property
    def head(self) -> int:
        """Parameters of lm_head; 0 where it is the embedding."""
        return 0 if self.tied else self.embedding

    @property
    def total(self) -> int:
        """Parameters of decoder and encoder."""
        return self.layers + self.small + self.embedding + self.head + self.encoder


def find_folder(recipe: Recipe) -> Path | None:
    """Return the folder of the recipe's base: local, or in the Hub's cache; None where it is not on this machine.

    Raises:
        ChatTSError: no base is named, or a local folder is not there.
    """
    name = recipe["model_name_or_path"]
    if not name:
        raise ChatTSError("no base is named", where=f"{recipe.path}: model_name_or_path", fix="Add model_name_or_path")

    folder = Path(str(name)).expanduser()
    if folder.is_dir():
        return folder

    if folder.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") != 1:
        raise ChatTSError(
            "the folder does not exist",
            where=f"model_name_or_path: {name}",
            fix="Name a folder that is there, or a name on the Hub as in bytedance-research/ChatTS-8B",
        )

    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(str(name), "config.json", cache_dir=recipe["cache_dir"])
    return Path(found).parent if isinstance(found, str) else None


def read_base(recipe: Recipe) -> BaseModel:
    """Read the sizes of the recipe's base.

    Raises:
        ChatTSError: no config.json, no ChatTS, or a name that is neither here nor in the table.
    """
    name = str(recipe["model_name_or_path"])
    folder = find_folder(recipe)
    if folder is None:
        known = next((config for key, config in PUBLISHED.items() if key.lower() == name.lower()), None)
        if known is None:
            raise ChatTSError(
                "it is neither a folder, nor in the Hub's cache, nor a published ChatTS base",
                where=f"model_name_or_path: {name}",
                fix=f"Download it first (hf download {name}), or name a folder",
            )

        config = {**known, "ts": {}, "ts_token_start_index": 0}
    else:
        config = read_json(folder / "config.json")

    if config is None:
        raise ChatTSError(
            "there is no readable config.json", where=str(folder), fix="Name the folder of a ChatTS checkpoint"
        )

    if config.get("ts") is None or config.get("ts_token_start_index") is None:
        raise ChatTSError(
            "this is no ChatTS checkpoint: its config.json has no `ts` block with `ts_token_start_index`",
            where=str(folder),
            fix="Use a ChatTS checkpoint, or turn a Qwen folder into a base: lmf-chatts init-base QWEN_DIR OUT",
        )

    needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    absent = [key for key in needed if not isinstance(config.get(key), int)]
    if absent:
        raise ChatTSError(
            f"there is no {absent[0]}", where=f"{folder}/config.json", fix="Use a complete ChatTS checkpoint"
        )

    dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    return BaseModel(
        name=name,
        folder=folder,
        shape=Shape.of(config),
        qwen3="qwen3" in str(config.get("model_type", "")).lower() or "Qwen3" in str(config.get("architectures")),
        ts=EncoderShape.of(config["ts"]),
        element=_SIZES.get(dtype, 2),
        dtype=dtype,
        tied=bool(config.get("tie_word_embeddings", False)),
    )
