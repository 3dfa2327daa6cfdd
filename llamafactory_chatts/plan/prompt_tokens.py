"""How many tokens the host makes of a conversation, with the base's tokenizer and template ``chatts``.

``tokenizers`` alone does it in milliseconds; transformers would import torch first. It is asked only where a recipe
changes the tokenizer.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..core.contract import DEFAULT_SYSTEM, TS_START
from ..core.errors import ChatTSError
from ..recipe.reading import Recipe


USER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
RESULT = "<|im_start|>user\n<tool_response>\n{}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
ANSWER = "{}<|im_end|>\n"
SYSTEM = "<|im_start|>system\n{}<|im_end|>\n"
TOOLS = (
    "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>{}"
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{{"name": <function-name>, '
    '"arguments": <args-json-object>}}\n</tool_call>'
)
"""The frame of the host package's template, whose tests hold the two against each other."""

CHANGED_BY = ("split_special_tokens", "add_tokens", "add_special_tokens", "new_special_tokens_config")
_PIECES = re.compile(r"\d|[A-Za-z]{1,5}|[^\W\dA-Za-z_]{1,2}|[^\w\s]|\n+")

Counter = Callable[[Sequence[str]], list[int]]
"""Texts -> tokens of each."""


def system_text(own: str, tools: str, recipe: Recipe) -> str:
    """Return the system element of a prompt: the row's own text, else the recipe's, else the template's."""
    default = recipe["default_system"]
    text = own or (DEFAULT_SYSTEM if default is None else default)
    if not text and not tools:
        return ""

    return SYSTEM.format(text + (_tools_text(tools) if tools else ""))


def _tools_text(tools: str) -> str:
    listed = json.loads(tools)
    wrapped = (t if t.get("type") == "function" else {"type": "function", "function": t} for t in listed)
    lines = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in wrapped)
    return TOOLS.format(lines) if listed else ""


def _calls_text(content: str) -> str:
    calls = json.loads(content)
    calls = calls if isinstance(calls, list) else [calls]
    texts = (json.dumps({"name": c["name"], "arguments": c["arguments"]}, ensure_ascii=False) for c in calls)
    return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)


def turn_text(role: str, content: str) -> str:
    """Return the element that the template makes of a turn."""
    if role == "function":
        return ANSWER.format(_calls_text(content))

    return {"user": USER, "observation": RESULT}.get(role, ANSWER).format(content)


def load_counter(folder: Path | None, recipe: Recipe) -> tuple[Counter, bool]:
    """Return a function that counts tokens, and whether its figures are exact.

    They are estimates where the base is not on this machine.

    Raises:
        ChatTSError: the folder has no tokenizer, or one that does not know ``<ts>``.
    """
    if folder is None:
        return lambda texts: [guess_tokens(text) for text in texts], False

    if any(recipe[key] for key in CHANGED_BY):
        return _with_transformers(folder, recipe), True

    tokenizer = _read_tokenizer(folder)
    if tokenizer.token_to_id(TS_START) is None:
        raise ChatTSError(
            f"the tokenizer does not know {TS_START}",
            where=str(folder),
            fix="Use the tokenizer files of the ChatTS checkpoint, or build a base with lmf-chatts init-base",
        )

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

    def count(texts: Sequence[str]) -> list[int]:
        return [len(found) for found in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    return count, True


def _read_tokenizer(folder: Path) -> Any:
    from tokenizers import AddedToken, Tokenizer

    whole, parts = folder / "tokenizer.json", (folder / "vocab.json", folder / "merges.txt")
    if whole.is_file():
        tokenizer = Tokenizer.from_file(str(whole))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    elif all(part.is_file() for part in parts):
        tokenizer = _qwen(*parts)
    else:
        raise ChatTSError("there is no tokenizer.json", where=str(folder), fix="Use a complete ChatTS checkpoint")

    for token, settings in _added_tokens(folder):
        if tokenizer.token_to_id(token) is None:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, **settings)])

    return tokenizer


def _qwen(vocab: Path, merges: Path) -> Any:
    """Return Qwen's byte-level BPE as transformers 5 builds it from the two files."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    split = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(BPE.from_file(str(vocab), str(merges)))
    tokenizer.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(Regex(split), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return tokenizer


def _added_tokens(folder: Path) -> Iterable[tuple[str, dict[str, bool]]]:
    """Yield the tokens that tokenizer_config.json adds, in the order of their ids."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return

    listed = config.get("added_tokens_decoder") or {}
    for _, entry in sorted(listed.items(), key=lambda item: int(item[0])):
        yield entry["content"], {key: bool(entry.get(key)) for key in ("lstrip", "rstrip", "single_word")}


def _with_transformers(folder: Path, recipe: Recipe) -> Counter:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=recipe["split_special_tokens"])
    for key, special in (("add_tokens", False), ("add_special_tokens", True)):
        if recipe.names(key):
            tokenizer.add_tokens(recipe.names(key), special_tokens=special)

    def count(texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    return count


def guess_tokens(text: str) -> int:
    """Estimate the tokens of a text: one for a digit or sign, for five letters, for two characters of Chinese.

    Within about a fifth on prompts as ChatTS's are written.
    """
    return len(_PIECES.findall(text.replace("<|im_start|>", "\n").replace("<|im_end|>", "\n")))
