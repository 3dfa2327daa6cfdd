"""The NVIDIA cards of this machine, as their driver sees them: works without torch, starts no CUDA context."""

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path

from .asking import answers, start


FIRST_WITH_BF16 = (8, 0)
"""Compute capability from which a card multiplies bf16 itself (Ampere); older ones emulate it."""

LIBRARY = "libnvidia-ml.so.1"
"""Comes with the driver. Only a program of its own calls it: a call into a driver that hangs never returns."""


@dataclass(frozen=True)
class Gpu:
    """One card, or a part of one (MIG). Memory in MiB; ``capability`` is () where the driver does not tell it."""

    index: int
    uuid: str
    name: str
    driver: str
    total: int
    free: int
    capability: tuple[int, ...]

    @property
    def has_bf16(self) -> bool:
        """Whether it multiplies bf16 itself; True where its capability is not known."""
        return not self.capability or self.capability >= FIRST_WITH_BF16


@dataclass(frozen=True)
class Process:
    """A process that computes on a card: the card's uuid, its own id and program, the MiB that it holds there."""

    card: str
    pid: int
    name: str
    used: int


@dataclass(frozen=True)
class Driver:
    """What the driver tells: all cards, whatever ``CUDA_VISIBLE_DEVICES`` says, parts of divided ones, processes."""

    cards: tuple[Gpu, ...] = ()
    parts: tuple[Gpu, ...] = ()
    processes: tuple[Process, ...] = ()


@functools.cache
def driver(seconds: float = 10.0) -> Driver:
    """Ask the driver; empty without one, or where it does not answer in time."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return Driver()

    found = answers(start(str(Path(__file__).with_name("nvml.py"))), seconds)
    devices = {
        kind: tuple(Gpu(**{**one, "capability": tuple(one["capability"])}) for one in found.get(kind, ()))
        for kind in ("cards", "parts")
    }
    return Driver(**devices, processes=tuple(Process(**one) for one in found.get("processes", ())))


def visible(found: Driver, setting: str | None = None) -> tuple[Gpu, ...]:
    """Return the cards that CUDA shows to a program, in its order.

    ``CUDA_VISIBLE_DEVICES`` (or ``setting``) names them by number, by UUID or the beginning of one, or names a part of
    a card (MIG), of which CUDA shows one only. ``NVIDIA_VISIBLE_DEVICES`` speaks to the container's runtime: what it
    leaves out is not there for the driver's library either.
    """
    setting = os.environ.get("CUDA_VISIBLE_DEVICES") if setting is None else setting
    if setting is None:
        return found.parts[:1] or found.cards

    chosen: list[Gpu] = []
    for word in map(str.strip, setting.split(",")):
        if word.startswith("MIG-"):
            return tuple(part for part in found.parts if part.uuid == word)[:1]

        card = next((card for card in found.cards if word == str(card.index) or _names(word, card)), None)
        if card is None:
            break  # CUDA ignores what stands behind a card that is not there

        if card in chosen:
            return ()  # and shows none when one is named twice

        chosen.append(card)

    return tuple(part for part in found.parts if part.index in [card.index for card in chosen])[:1] or tuple(chosen)


def _names(word: str, card: Gpu) -> bool:
    return word.startswith("GPU-") and card.uuid.startswith(word)
