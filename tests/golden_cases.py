"""The golden models and batches as test material, and small tokenizers. See ``tests/golden/README.md``."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


GOLDEN = Path(__file__).parent / "golden"
INDEX = json.loads((GOLDEN / "index.json").read_text())
MODELS = sorted({entry["model"] for entry in INDEX})
CASES = [(entry["model"], entry["case"]) for entry in INDEX]
LOGIT_COLUMNS = slice(None, None, 4)
"""The columns of the vocabulary that `valid_logits` keeps."""

PAD, TURN_END, START, END, NOT_LABELLED = 120, 121, 125, 126, -100


class Case(NamedTuple):
    """One batch: inputs as a model takes them, and the recorded results."""

    inputs: dict[str, torch.Tensor]
    expected: dict[str, torch.Tensor]
    padding: str
    series_lengths: list[list[int]]

    def row(self, index: int) -> dict[str, torch.Tensor]:
        """Return the inputs of one row without padding, ``timeseries`` only where it has series."""
        real = self.inputs["attention_mask"][index].bool()
        row = {key: self.inputs[key][index : index + 1, real] for key in ("input_ids", "attention_mask", "labels")}
        first = sum(len(lengths) for lengths in self.series_lengths[:index])
        series = self.inputs["timeseries"][first : first + len(self.series_lengths[index])]
        return {**row, "timeseries": series} if len(series) else row


@cache
def _cases(model: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"{model}.cases.safetensors")


def case(model: str, name: str) -> Case:
    """Return a recorded batch; its tensors may be changed."""
    tensors = {
        key.removeprefix(f"{name}."): value.clone()
        for key, value in _cases(model).items()
        if key.startswith(f"{name}.")
    }
    inputs = {key: tensors.pop(key) for key in ("input_ids", "attention_mask", "labels", "timeseries")}
    entry = next(item for item in INDEX if item["model"] == model and item["case"] == name)
    return Case(inputs, tensors, entry["padding"], entry["series_lengths"])


def expanded(inputs: dict[str, torch.Tensor], counts: list[int], padding: str) -> dict[str, torch.Tensor]:
    """Return the batch with ``<ts>`` once per patch, built token by token."""
    left, rows = iter(counts), []
    for index in range(inputs["input_ids"].shape[0]):
        row = []
        for token, mask, label in zip(
            *(inputs[key][index].tolist() for key in ("input_ids", "attention_mask", "labels")), strict=True
        ):
            if mask and token == START:
                row += [(START, NOT_LABELLED)] * next(left)
            elif mask and token != END:
                row.append((token, label))
        rows.append(row)

    longest = max(map(len, rows))
    batch: dict[str, list] = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        fill = [(PAD, NOT_LABELLED)] * (longest - len(row))
        tokens = row + fill if padding == "right" else fill + row
        masks = [1] * len(row) + [0] * len(fill) if padding == "right" else [0] * len(fill) + [1] * len(row)
        batch["input_ids"].append([token for token, _ in tokens])
        batch["labels"].append([label for _, label in tokens])
        batch["attention_mask"].append(masks)

    return {**{key: torch.tensor(value) for key, value in batch.items()}, "timeseries": inputs["timeseries"]}


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer for the golden models: words ``w0`` ... ``w119`` and the special tokens at their ids."""
    special = {"<|endoftext|>": PAD, "<|im_end|>": TURN_END, "<|im_start|>": 122, "<ts>": START, "<ts/>": END}
    words = {f"w{index}": index for index in range(128) if index not in special.values()}
    core = Tokenizer(models.WordLevel({**words, **special}, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens([AddedToken(token, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<|endoftext|>", eos_token="<|im_end|>", padding_side="left"
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer without merges: any text survives encoding and decoding."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({character: index for index, character in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<ts>", "<ts/>"]
    core.add_special_tokens([AddedToken(token, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<|endoftext|>", eos_token="<|im_end|>", padding_side="left"
    )


def folder(path: Path, model: str, tokenizer: Any = None, **changes: Any) -> Path:
    """Write a golden model as a checkpoint folder.

    Args:
        path: a folder that does not exist yet.
        model: name of the golden model.
        tokenizer: saved into the folder if given.
        changes: keys of ``config.json`` to set; None removes a key.
    """
    path.mkdir(parents=True)
    config = {**json.loads((GOLDEN / f"{model}.config.json").read_text()), **changes}
    config = {key: value for key, value in config.items() if value is not None or key not in changes}
    (path / "config.json").write_text(json.dumps(config, indent=1))
    shutil.copyfile(GOLDEN / f"{model}.safetensors", path / "model.safetensors")
    if tokenizer is not None:
        tokenizer.save_pretrained(path)

    return path
