"""The machine that a run is planned for: its cards, how many, and the host memory beside them."""

import difflib
import functools
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from ...core.errors import ChatTSError
from . import gpus
from .host_limits import host_memory


USABLE = 0.985
"""Share of the memory that ``nvidia-smi`` shows which PyTorch can use."""


@dataclass(frozen=True)
class Card:
    """A kind of GPU. Fields as ``cards.json`` explains them; None where a figure is not known."""

    name: str
    gib: float
    bf16: bool | None = None
    capability: float | None = None
    tflops: float | None = None
    gbps: float | None = None


@dataclass(frozen=True)
class Machine:
    """One node, or several equal ones.

    Attributes:
        card: None: not known, nothing is judged.
        count: cards of a node, one process each.
        nodes: of the run.
        ram: GiB of host memory of a node; None: not known.
        fsdp: the run is started by ``accelerate launch`` with FSDP.
        notes: what limits this machine, where it is the one that the program runs on.
    """

    card: Card | None = None
    count: int = 1
    nodes: int = 1
    ram: float | None = None
    fsdp: bool = False
    notes: tuple[str, ...] = ()

    @property
    def world(self) -> int:
        """Processes of the run."""
        return self.count * self.nodes

    def __str__(self) -> str:
        if self.card is None:
            return "no card given"

        text = f"{self.card.name} ({self.card.gib:.1f} GiB)" + (f" x{self.count}" if self.count > 1 else "")
        text += f", {self.nodes} nodes" if self.nodes > 1 else ""
        return text + (f", {self.ram:.0f} GiB host memory" if self.ram else "")


@functools.cache
def known_cards() -> tuple[tuple[Card, tuple[str, ...]], ...]:
    """Return the table of cards: (card, its short names)."""
    rows = json.loads(Path(__file__).with_name("cards.json").read_text())["cards"]
    return tuple((Card(**{k: v for k, v in row.items() if k != "names"}), tuple(row["names"])) for row in rows)


def _squeeze(text: str) -> str:
    """Return a name without what tables and people disagree on: ``NVIDIA GeForce RTX 2080 Ti`` -> ``rtx2080ti``."""
    text = re.sub(r"nvidia|geforce|tesla|pcie|sxm\d*|hbm\d*e?|nvl|[\s-]\d+\s*gi?b\b", "", text.lower())
    return re.sub(r"[^a-z0-9]", "", text)


def find_card(name: str) -> Card:
    """Return the card that a name stands for, as people or ``nvidia-smi`` write it.

    Raises:
        ChatTSError: not in the table; so are cards of notebooks, which have less memory under the same name.
    """
    wanted, size = _squeeze(name), re.search(r"(\d+)\s*gi?b", name.lower())
    hits = [
        (len(short), card)
        for card, names in known_cards()
        for short in names
        if re.search(rf"{short}(?![0-9])", wanted)
    ]
    if hits and not re.search(r"laptop|max-?q|mobile", name.lower()):
        best = [card for length, card in hits if length == max(hits, key=lambda hit: hit[0])[0]]
        return min(best, key=lambda card: abs(card.gib - float(size[1]))) if size else best[0]

    every = [card.name for card, _ in known_cards()]
    near = difflib.get_close_matches(name, every, n=6, cutoff=0.4) or every[:6]
    fix = f"Give --vram GIB, or one of the {len(every)} cards in recipe/machine/cards.json, such as {', '.join(near)}"
    raise ChatTSError(f"{name!r} is not in the table of cards", where="--gpu", fix=fix)


def parse_gpu(text: str) -> tuple[Card, int]:
    """Return card and number for ``RTX 2080 Ti x2``, ``2x RTX 3090`` or ``H100``.

    Raises:
        ChatTSError: an unknown card, or a number below 1.
    """
    count, name = 1, text.strip()
    for pattern in (r"^(?P<name>.*\S)\s+[x*]\s*(?P<count>\d+)$", r"^(?P<count>\d+)\s*[x*]\s*(?P<name>\S.*)$"):
        found = re.match(pattern, name, re.IGNORECASE)
        if found:
            count, name = int(found["count"]), found["name"]
            break

    if count < 1:
        raise ChatTSError(f"{count} cards", where="--gpu", fix='Write it as "RTX 2080 Ti x2"')

    return find_card(name), count


def choose_machine(gpu: str | None, vram: float | None, ram: float | None, nodes: int = 1) -> Machine:
    """Return the machine that was asked for, or else the one this program runs on.

    Args:
        gpu: name and number of the cards.
        vram: GiB of a card; alone it stands for one unknown card, beside ``gpu`` it replaces the table's figure.
        ram: GiB of host memory of a node.
        nodes: of the run.

    Raises:
        ChatTSError: an unknown card or a figure that is none.
    """
    for key, value in (("--vram", vram), ("--ram", ram), ("--nodes", nodes)):
        if value is not None and not 0 < value < 1e6:
            raise ChatTSError(f"{value:g} is no size", where=key, fix="Write GiB, as in --vram 11 --ram 46")

    if gpu is not None:
        card, count = parse_gpu(gpu)
        return Machine(replace(card, gib=vram) if vram else card, count, nodes, ram)

    if vram is not None:
        return Machine(Card(f"{vram:g} GiB card", vram), 1, nodes, ram)

    card, count, notes = _own_cards()
    if card is not None and ram is None:
        memory = host_memory()
        ram = memory.largest
        if ram < memory.total:
            notes += (f"{ram:.0f} of {memory.total:.0f} GiB host memory: the limit of the control group",)

    return Machine(card, count, nodes, ram, notes=notes)


def _own_cards() -> tuple[Card | None, int, tuple[str, ...]]:
    """Return the card that decides, how many a run started here would use, and what to say about it.

    That is what CUDA shows (``CUDA_VISIBLE_DEVICES``, MIG), one process each, or as many as ``NPROC_PER_NODE`` says.
    """
    found = gpus.driver()
    every, seen = found.cards, gpus.visible(found)
    if not seen:
        return None, 1, (f"{_SETTING} hides all {len(every)} cards of this machine",) if every else ()

    notes = [f"{len(seen)} of {len(every)} cards: {_SETTING}"] if len(seen) < len(every) else []
    asked = os.environ.get("NPROC_PER_NODE", "")
    if asked.isdigit() and 0 < int(asked) < len(seen):
        notes.append(f"{asked} of {len(seen)} visible cards: NPROC_PER_NODE")
        seen = seen[: int(asked)]

    if len({card.name for card in every}) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        notes.append("cards differ, and CUDA may number them in another order: export CUDA_DEVICE_ORDER=PCI_BUS_ID")

    smallest = min(seen, key=lambda card: card.total)
    if len({card.name for card in seen}) > 1:
        notes.append(f"cards differ: the plan is for the smallest, {smallest.name}")

    size = smallest.total / 1024
    usable = round(size * USABLE, 2)
    try:
        card = find_card(f"{smallest.name} {size:.0f}GB")  # several cards have one name and different memory
    except ChatTSError:
        return Card(smallest.name, usable), len(seen), tuple(notes)

    return (card if abs(card.gib / usable - 1) < 0.1 else replace(card, gib=usable)), len(seen), tuple(notes)


_SETTING = "CUDA_VISIBLE_DEVICES or MIG"
