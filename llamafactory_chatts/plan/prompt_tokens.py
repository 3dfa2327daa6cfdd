"""How many tokens the host makes of a conversation, with the base's tokenizer and template ``chatts``.

``tokenizers`` alone does it in milliseconds; transformers would import torch first. It is asked only where a recipe
changes the tokenizer, or its tokenizer.json is missing or has not all tokens.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.contract import DEFAULT_SYSTEM, TS_START
from ..core.errors import ChatTSError, shorten
from ..recipe.context import read_json
from ..recipe.reading import Recipe


if TYPE_CHECKING:
    from tokenizers import Tokenizer


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

    tokenizer = None if any(recipe[key] for key in CHANGED_BY) else _read_tokenizer(folder)
    if tokenizer is None:
        return _with_transformers(folder, recipe), True

    _check(tokenizer.token_to_id(TS_START), folder)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

    def count(texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    return count, True


def _check(token: int | None, folder: Path) -> None:
    if token is None:
        raise ChatTSError(
            f"the tokenizer does not know {TS_START}",
            where=str(folder),
            fix="Use the tokenizer files of the ChatTS checkpoint, or build a base with lmf-chatts init-base",
        )


def _read_tokenizer(folder: Path) -> "Tokenizer | None":
    """Return the tokenizer of tokenizer.json; None without one that has all tokens of tokenizer_config.json."""
    from tokenizers import Tokenizer

    whole = folder / "tokenizer.json"
    if not whole.is_file():
        return None

    tokenizer = Tokenizer.from_file(str(whole))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    added = (read_json(folder / "tokenizer_config.json") or {}).get("added_tokens_decoder") or {}
    return tokenizer if all(tokenizer.token_to_id(one["content"]) is not None for one in added.values()) else None


def _with_transformers(folder: Path, recipe: Recipe) -> Counter:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=recipe["split_special_tokens"])
    except (OSError, ValueError) as error:
        what = f"there is no readable tokenizer ({shorten(error)})"
        raise ChatTSError(what, where=str(folder), fix="Use a complete ChatTS checkpoint") from None

    for key, special in (("add_tokens", False), ("add_special_tokens", True)):
        if recipe.names(key):
            tokenizer.add_tokens(recipe.names(key), special_tokens=special)

    _check(tokenizer.get_vocab().get(TS_START), folder)

    def count(texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    return count


def guess_tokens(text: str) -> int:
    """Estimate the tokens of a text: one for a digit or sign, for five letters, for two characters of Chinese.

    Within about a fifth on prompts as ChatTS's are written.
    """
    return len(_PIECES.findall(text.replace("<|im_start|>", "\n").replace("<|im_end|>", "\n")))
