"""How the rows of a dataset are written: which column holds what. The same reading as LLaMA-Factory's converters."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.contract import COLUMN, TEMPLATE
from ..core.errors import ChatTSError


CHATTS_COLUMNS = {"prompt": "input", "response": "output", COLUMN: COLUMN}
ALPACA_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
ROLES = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "observation",
    "function_tag": "function",
    "system_tag": "system",
}
"""Tag -> role of a turn, whatever the file calls it."""

_GPT = ("human", "gpt", "observation", "function_call", "system")
_OPENAI = ("user", "assistant", "tool", "function", "system")
SHAREGPT_TAGS = {"role_tag": "from", "content_tag": "value", **dict(zip(ROLES, _GPT))}
OPENAI_TAGS = {"role_tag": "role", "content_tag": "content", **dict(zip(ROLES, _OPENAI))}
TEXT = {"type": ["string", "null"]}

Row = Mapping[str, Any]
"""A row of a file; it is read by roles only after it was held against the schema of its layout."""


@dataclass(frozen=True)
class Conversation:
    """A row by its roles: the turns before the answer, the answers (two for preferences), the series cell.

    Attributes:
        tools: their description as it stands, "" without.
        desired: of a KTO row, whether its answer is a good one; None in other rows.
    """

    turns: list[dict[str, str]]
    answers: list[str]
    system: str
    cell: object
    tools: str = ""
    desired: bool | None = None


@dataclass(frozen=True)
class Layout:
    """Columns and tags of a dataset, as an entry of dataset_info.json names them."""

    formatting: str = "alpaca"
    columns: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    ranking: bool = False

    @classmethod
    def of_entry(cls, entry: Row) -> "Layout":
        """Return the layout that an entry of dataset_info.json describes."""
        formatting = entry.get("formatting", "alpaca")
        columns = {role: name for role, name in (entry.get("columns") or {}).items() if name is not None}
        if formatting == TEMPLATE:
            columns = {**CHATTS_COLUMNS, **columns}
        elif formatting == "alpaca" and "columns" not in entry:
            columns = dict(ALPACA_COLUMNS)

        tags = {**SHAREGPT_TAGS, **(entry.get("tags") or {})} if "messages" in columns else {}
        return cls(formatting, columns, tags, bool(entry.get("ranking")))

    @classmethod
    def of_row(cls, row: Row, where: str) -> "Layout":
        """Recognise the layout of a file that no entry describes by the columns of its first row.

        Raises:
            ChatTSError: none is known.
        """
        common = {COLUMN: COLUMN} if COLUMN in row else {}
        common |= {"tools": "tools"} if isinstance(row.get("tools"), (str, list, dict)) else {}
        tag = next((name for name in ("kto_tag", "label") if isinstance(row.get(name), bool)), None)
        common |= {"kto_tag": tag} if tag else {}
        ranked = {"chosen", "rejected"} <= row.keys()
        pair: dict[str, str] = {"chosen": "chosen", "rejected": "rejected"} if ranked else {}
        for name in ("conversations", "messages"):
            turns = row.get(name)
            if isinstance(turns, list):
                openai = bool(turns) and isinstance(turns[0], dict) and "role" in turns[0]
                tags = OPENAI_TAGS if openai else SHAREGPT_TAGS
                system = {"system": "system"} if "system" in row else {}
                columns = {"messages": name, **system, **common, **pair}
                return cls("openai" if openai else "sharegpt", columns, dict(tags), bool(pair))

        extra: dict[str, str] = {name: name for name in ("system", "history") if name in row}
        for prompt in (["instruction", "input"], ["instruction"], ["input"], ["prompt"], ["question"]):
            if all(name in row for name in prompt):
                roles = dict(zip(("prompt", "query"), prompt))
                answer = next((name for name in ("output", "response", "answer") if name in row), None)
                answers = pair or ({"response": answer} if answer else {})
                return cls("alpaca", {**roles, **answers, **extra, **common}, {}, bool(pair))

        raise ChatTSError(
            f"the columns {', '.join(map(repr, row))} are not recognised",
            where=where,
            fix="Describe them once: lmf-chatts dataset-info add NAME FILE --prompt ... --response ...",
        )

    def entry(self) -> dict[str, object]:
        """Return the keys of an entry in dataset_info.json that describe this layout."""
        found: dict[str, object] = {} if self.formatting == "alpaca" else {"formatting": self.formatting}
        found |= {"ranking": True} if self.ranking else {}
        tags = {key: value for key, value in self.tags.items() if SHAREGPT_TAGS[key] != value}
        return {**found, "columns": dict(self.columns), **({"tags": tags} if tags else {})}

    def schema(self) -> dict[str, object]:
        """Return the JSON schema (draft 2020-12) of a row. It does not look into series: numpy does that faster."""
        named = self.columns
        kinds: dict[str, object] = {role: TEXT for role in ("prompt", "query", "response", "system", "tools")}
        kinds["history"] = {
            "type": ["array", "null"],
            "items": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "string"}},
        }
        kinds[COLUMN] = {"type": ["array", "string", "null"]}
        if self.formatting == "openai":  # the host writes them as JSON
            kinds["tools"] = {"type": ["string", "array", "object", "null"]}

        kinds["kto_tag"] = {"type": "boolean"}
        kinds["chosen"] = kinds["rejected"] = {"type": "string"}
        if "messages" in named:
            role, content = self.tags["role_tag"], self.tags["content_tag"]
            turn = {
                "type": "object",
                "required": [role, content],
                "properties": {
                    role: {"enum": [self.tags[tag] for tag in ROLES]},
                    content: TEXT if self.formatting == "openai" else {"type": "string"},  # null beside tool calls
                },
            }
            kinds["messages"] = {"type": "array", "minItems": 1, "items": turn}
            kinds["chosen"] = kinds["rejected"] = turn

        properties = {column: kinds[role] for role, column in named.items() if role in kinds}
        return {"type": "object", "required": sorted(properties), "properties": properties}

    def read(self, row: Row) -> Conversation:
        """Return a row, which matches :meth:`schema`, by its roles.

        Raises:
            ChatTSError: user and assistant do not take turns.
        """
        talk = self._read(row)
        tools, desired = (row.get(self.columns[key]) if key in self.columns else None for key in ("tools", "kto_tag"))
        tools = tools if isinstance(tools, str) else json.dumps(tools) if tools else ""
        return replace(talk, tools=tools, desired=desired)

    def _read(self, row: Row) -> Conversation:
        named = self.columns
        cell = row[named[COLUMN]] if COLUMN in named else None
        system = (row[named["system"]] or "") if "system" in named else ""
        if "messages" in named:
            return self._conversation(row, system, cell)

        turns = []
        for old, answer in (row[named["history"]] or []) if "history" in named else []:
            turns += [{"role": "user", "content": old}, {"role": "assistant", "content": answer}]

        texts = [row[named[key]] for key in ("prompt", "query") if key in named]
        turns.append({"role": "user", "content": "\n".join(text for text in texts if text)})
        keys = ("chosen", "rejected") if self.ranking else ("response",)
        return Conversation(turns, [row[named[key]] or "" for key in keys if key in named], system, cell)

    def _conversation(self, row: Row, system: str, cell: object) -> Conversation:
        turns = list(self._turns(row[self.columns["messages"]]))
        if turns and turns[0]["role"] == "system":
            system = turns.pop(0)["content"]

        allowed = (("user", "observation"), ("assistant", "function"))
        for index, turn in enumerate(turns):
            if turn["role"] not in allowed[index % 2]:
                raise ChatTSError(f"turn {index + 1} is of the {turn['role']}, not of the {allowed[index % 2][0]}")

        if len(turns) % 2 != self.ranking:
            wanted = "user" if self.ranking else "assistant"
            raise ChatTSError(f"{len(turns)} turns, the last one not of the {wanted}")

        if self.ranking:
            pair = [row[self.columns[key]][self.tags["content_tag"]] for key in ("chosen", "rejected")]
            return Conversation(turns, pair, system, cell)

        return Conversation(turns[:-1], [turn["content"] for turn in turns[-1:]], system, cell)

    def _turns(self, messages: list[Row]) -> Iterator[dict[str, str]]:
        roles = {self.tags[tag]: role for tag, role in ROLES.items()}
        tools: list[str] = []
        for message in messages:
            role, content = roles[message[self.tags["role_tag"]]], message[self.tags["content_tag"]] or ""
            if self.formatting == "openai" and role == "observation":  # the host makes one turn of several results
                tools.append(content)
                continue

            if tools:
                yield {"role": "observation", "content": "\n".join(tools)}
                tools = []

            yield {"role": role, "content": content or str(message.get("tool_calls") or "")}
