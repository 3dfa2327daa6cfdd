"""Which series file a label means: rules as data, tried in order, and never a guess between two files.

A rule turns the name in a label into names to look for. The folder of the label's path is ignored, upper and lower
case are alike, and so are the two Unicode forms of one letter (NFC, NFD).
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...core.errors import ChatTSError, shorten
from ...files.column_files import SUFFIXES
from .folder_index import PICTURES, FolderIndex, base_name, fold, without_suffix


__all__ = ["FolderIndex", "Match", "NoMatch", "Rule", "match", "parse_rules"]

KINDS = ("exact", "suffix", "add_prefix", "remove_prefix", "regex", "all", "unique-stem")
CONTAINED = "unique-stem (contained)"


class NoMatch(ChatTSError):
    """A name that no rule leads to exactly one file.

    Attributes:
        reason: "no file" or "ambiguous".
        candidates: the first three of the files between which it is ambiguous, relative to the folder.
    """

    def __init__(self, name: str, reason: str, candidates: Iterable[str] = (), total: int = 0, rule: str = "") -> None:
        self.name, self.reason, self.candidates = name, reason, list(candidates)[:3]
        self.total, self.rule = total, rule
        if reason == "ambiguous":
            shown = ", ".join(self.candidates) + (", ..." if total > len(self.candidates) else "")
            what = f"{total} files for {shorten(repr(name))} ({rule}): {shown}"
            fix = "Rename all but one, or write a rule that tells them apart"
        else:
            what, fix = f"no file for {shorten(repr(name))}", "Add the file, or a rule that leads to it"

        super().__init__(what, fix=fix)

    def __reduce__(self):
        return type(self), (self.name, self.reason, self.candidates, self.total, self.rule)


@dataclass(frozen=True)
class Match:
    """The file that a name means.

    Attributes:
        path: the file.
        rule: label of the rule that led there, as counted in the provenance.
    """

    path: Path
    rule: str


@dataclass(frozen=True)
class Rule:
    """One parsed rule.

    Attributes:
        label: how it is called in messages and counts.
        names: turns a name (NFC, without folders) into the names to look for; empty where it does not apply.
            None for ``unique-stem``.
        whole: look for the whole name only, not for its stem with another ending.
        prefixes, suffixes: folded; those the rule mentions, which ``unique-stem`` leaves out.
    """

    label: str
    names: Callable[[str], list[str]] | None
    whole: bool = False
    prefixes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()


def _texts(value: object, where: str) -> list[str]:
    found = value if isinstance(value, list) else [value]
    texts = [item for item in found if isinstance(item, str) and item]
    if not texts or len(texts) < len(found):
        raise ChatTSError(
            f"{shorten(repr(value))} is no text", where=where, fix="Write a text in quotes, or a list of them"
        )

    return [unicodedata.normalize("NFC", text) for text in texts]


def _starts(name: str, prefix: str) -> bool:
    return fold(name[: len(prefix)]) == fold(prefix)


def _swap(swaps: list[tuple[str, list[str]]], name: str) -> list[str]:
    return [
        name[: -len(old)] + new
        for old, news in swaps
        if len(name) > len(old) and fold(name[-len(old) :]) == fold(old)
        for new in news
    ]


def _suffix_rule(value: object, where: str) -> Rule:
    if not isinstance(value, dict) or not value:
        raise ChatTSError(f"{shorten(repr(value))} is no table", where=where, fix='Write suffix: {".jpg": ".csv"}')

    swaps = [(_texts(old, where)[0], _texts(new, where)) for old, new in value.items()]
    swaps.sort(key=lambda swap: -len(swap[0]))
    label = "suffix " + ", ".join(f"{old} -> {' or '.join(news)}" for old, news in swaps)
    mentioned = {fold(text) for old, news in swaps for text in (old, *news)}
    mentioned |= {
        part for text in mentioned if (part := without_suffix(text, (*SUFFIXES, *PICTURES)))
    }  # .PV of .PV.jpg
    return Rule(label, partial(_swap, swaps), suffixes=tuple(sorted(mentioned)))


def _add(prefixes: list[str], name: str) -> list[str]:
    return [prefix + name for prefix in prefixes]


def _add_rule(value: object, where: str) -> Rule:
    prefixes = _texts(value, where)
    return Rule(f"add_prefix {', '.join(prefixes)}", partial(_add, prefixes), prefixes=tuple(map(fold, prefixes)))


def _remove(prefixes: list[str], name: str) -> list[str]:
    return [name[len(prefix) :] for prefix in prefixes if len(name) > len(prefix) and _starts(name, prefix)]


def _remove_rule(value: object, where: str) -> Rule:
    prefixes = sorted(_texts(value, where), key=len, reverse=True)
    label = f"remove_prefix {', '.join(prefixes)}"
    return Rule(label, partial(_remove, prefixes), prefixes=tuple(map(fold, prefixes)))


def _substitute(compiled: re.Pattern[str], replacement: str, name: str) -> list[str]:
    return [compiled.sub(replacement, name)] if compiled.search(name) else []


def _regex_rule(rule: Mapping[str, object], where: str) -> Rule:
    pattern, replacement = rule["regex"], rule.get("replace")
    if not isinstance(pattern, str) or not isinstance(replacement, str):
        raise ChatTSError("regex and replace must both be texts", where=where, fix="Write {regex: '...', replace: ''}")

    try:
        compiled = re.compile(unicodedata.normalize("NFC", pattern))
        re.compile(f"{compiled.pattern}|").sub(replacement, "")  # reads `replace`, which a mere compile does not
    except (re.error, IndexError) as error:
        raise ChatTSError(
            f"{shorten(repr(pattern))} is no regular expression ({error})", where=where, fix="Correct it"
        ) from None

    return Rule(f"regex {pattern} -> {replacement}", partial(_substitute, compiled, replacement))


def _one_after_another(steps: list[Rule], name: str) -> list[str]:
    found = [name]
    for step in steps:  # one that does not apply ends the chain
        found = list(dict.fromkeys(new for old in found for new in (step.names(old) if step.names else [])))

    return found


def _chain(value: object, where: str) -> Rule:
    if not isinstance(value, list) or not value:
        raise ChatTSError(f"{shorten(repr(value))} is no list of rules", where=where, fix="Write all: [rule, rule]")

    steps = [_parse(step, f"{where}[{index}]") for index, step in enumerate(value)]
    if any(step.names is None for step in steps):
        raise ChatTSError("unique-stem cannot be chained", where=where, fix="Put it last, by itself")

    return Rule(
        f"all({'; '.join(step.label for step in steps)})",
        partial(_one_after_another, steps),
        all(step.whole for step in steps),
        tuple(prefix for step in steps for prefix in step.prefixes),
        tuple(suffix for step in steps for suffix in step.suffixes),
    )


def _same(name: str) -> list[str]:
    return [name]


def _parse(rule: object, where: str) -> Rule:
    if rule == "exact":
        return Rule("exact", _same, whole=True)

    if rule in ("unique-stem", "unique_stem"):
        return Rule("unique-stem", None)

    if isinstance(rule, dict) and set(rule) == {"regex", "replace"}:
        return _regex_rule(rule, where)

    builders = {"suffix": _suffix_rule, "add_prefix": _add_rule, "remove_prefix": _remove_rule, "all": _chain}
    if isinstance(rule, dict) and len(rule) == 1 and (kind := next(iter(rule))) in builders:
        return builders[kind](rule[kind], f"{where}.{kind}")

    raise ChatTSError(
        f"{shorten(repr(rule))} is no matching rule",
        where=where,
        fix=f"Use one of {', '.join(KINDS)} (regex together with replace)",
    )


def parse_rules(rules: object) -> list[Rule]:
    """Return the rules of a recipe, in order.

    Args:
        rules: each one of ``"exact"``; ``{"suffix": {".PV.jpg": ".csv", ".jpg": ".csv"}}`` (the longest ending first;
            a new ending may be a list); ``{"add_prefix": "数据集"}`` and ``{"remove_prefix": "gdsh_second_"}`` (a
            text or a list); ``{"regex": "...", "replace": "..."}`` as for :func:`re.sub`, on the whole file name;
            ``{"all": [rule, rule]}``, one after the other; ``"unique-stem"``, only as the last.

    Raises:
        ChatTSError: no such rule; ``where`` is its place, such as ``match[2].suffix``.
    """
    if not isinstance(rules, list) or not rules:
        raise ChatTSError(f"{shorten(repr(rules))} is no list of rules", where="match", fix='Write match: ["exact"]')

    parsed = [_parse(rule, f"match[{index}]") for index, rule in enumerate(rules)]
    for index, rule in enumerate(parsed[:-1]):
        if rule.names is None:
            raise ChatTSError("unique-stem is the last resort", where=f"match[{index}]", fix="Put it last")

    return parsed


def match(name: str | None, index: FolderIndex, rules: list[Rule]) -> Match:
    """Return the file that a label's name means.

    Args:
        name: a name or path as the label has it, in the way of any system; only its last part counts.
        index: the files to choose from.
        rules: from :func:`parse_rules`; the first one that finds anything decides.

    Raises:
        NoMatch: no rule finds a file, or the first one that does finds several.
    """
    wanted = unicodedata.normalize("NFC", base_name(name or ""))
    if not wanted or wanted in (".", ".."):
        raise NoMatch(name or "", "no file")

    for rule in rules:
        attempts: Iterable[tuple[list[str], str]]
        if rule.names is None:
            cores = index.cores(
                tuple(dict.fromkeys(prefix for other in rules for prefix in other.prefixes)),
                tuple(dict.fromkeys(suffix for other in rules for suffix in other.suffixes)),
            )
            hits, contained = cores.find(wanted)
            attempts = [(hits, CONTAINED if contained else rule.label)]
        else:
            attempts = ((index.find(attempt, rule.whole), rule.label) for attempt in rule.names(wanted))

        for hits, label in attempts:
            if len(hits) == 1:
                return Match(Path(hits[0]), label)

            if hits:
                shown = [index.relative(path) for path in hits[:3]]
                raise NoMatch(name or "", "ambiguous", shown, len(hits), label)

    raise NoMatch(name or "", "no file")
