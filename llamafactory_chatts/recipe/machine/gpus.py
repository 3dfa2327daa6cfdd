"""The NVIDIA cards of this machine, as ``nvidia-smi`` sees them: works without torch, starts no CUDA context."""

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace


FIRST_WITH_BF16 = (8, 0)
"""Compute capability from which a card multiplies bf16 itself (Ampere); older ones emulate it."""


@dataclass(frozen=True)
class Gpu:
    """One card. Memory in MiB; ``capability`` is () where the driver does not tell it."""

    index: int
    uuid: str
    name: str
    driver: str
    total: int
    free: int
    capability: tuple[int, ...]

    @property
    def has_bf16(self) -> bool:
        return not self.capability or self.capability >= FIRST_WITH_BF16


def _query(what: str, fields: str, seconds: float) -> list[list[str]]:
    """Return the cells of ``nvidia-smi --query-WHAT=FIELDS``; no rows without a card, a driver or an answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []

    command = [tool, f"--query-{what}={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired):
        return []

    count = fields.count(",") + 1
    rows = (
        [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
        if not done.returncode
        else []
    )
    return [row for row in rows if len(row) == count]


@functools.cache
def gpus(seconds: float = 10.0) -> tuple[Gpu, ...]:
    """Return all cards of the machine, whatever ``CUDA_VISIBLE_DEVICES`` says."""
    found, fields = [], "index,uuid,name,driver_version,memory.total,memory.free"
    rows = _query("gpu", f"{fields},compute_cap", seconds) or [
        [*row, ""]
        for row in _query("gpu", fields, seconds)  # drivers before 510
    ]
    for row in rows:
        capability = tuple(int(part) for part in row[6].split(".") if part.isdigit())
        total, free = (int(cell) if cell.isdigit() else 0 for cell in row[4:6])
        found.append(Gpu(int(row[0]), row[1], row[2], row[3], total, free, capability))

    return tuple(found)


def visible(cards: tuple[Gpu, ...], setting: str | None = None) -> tuple[Gpu, ...]:
    """Return the cards that CUDA shows to a program, in its order.

    ``CUDA_VISIBLE_DEVICES`` (or ``setting``) names them by number, by UUID or the beginning of one, or names a part of
    a card (MIG), of which CUDA shows one only. ``NVIDIA_VISIBLE_DEVICES`` speaks to the container's runtime: what it
    leaves out is not there for ``nvidia-smi`` either.
    """
    setting = os.environ.get("CUDA_VISIBLE_DEVICES") if setting is None else setting
    divisible = "MIG-" in (setting or "") or any(card.capability[1:] == (0,) for card in cards)
    parts = mig_parts() if divisible else ()
    if setting is None:
        return parts[:1] or cards

    chosen: list[Gpu] = []
    for word in map(str.strip, setting.split(",")):
        if word.startswith("MIG-"):
            return tuple(part for part in parts if part.uuid == word)[:1]

        card = next((card for card in cards if word == str(card.index) or _names(word, card)), None)
        if card is None:
            break  # CUDA ignores what stands behind a card that is not there

        if card in chosen:
            return ()  # and shows none when one is named twice

        chosen.append(card)

    return tuple(part for part in parts if part.index in [card.index for card in chosen])[:1] or tuple(chosen)


def _names(word: str, card: Gpu) -> bool:
    return word.startswith("GPU-") and card.uuid.startswith(word)


@functools.cache
def mig_parts(seconds: float = 10.0) -> tuple[Gpu, ...]:
    """Return the parts (MIG devices) that cards are divided into; their memory is that of the profile's name."""
    tool, found, card = shutil.which("nvidia-smi"), [], None
    try:
        text = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=seconds).stdout if tool else ""
    except (OSError, subprocess.TimeoutExpired):
        return ()

    for line in text.splitlines():
        if whole := re.match(r"GPU (\d+): ", line):
            card = next((one for one in gpus(seconds) if one.index == int(whole[1])), None)
        elif (part := re.match(r"\s+MIG (\d+g\.(\d+)gb\S*)\s.*\(UUID: (MIG-[^)]+)\)", line)) and card is not None:
            size = int(part[2]) * 1024
            name = f"{card.name} MIG {part[1]}"
            found.append(replace(card, uuid=part[3], name=name, total=size, free=min(size, card.free)))

    return tuple(found)


def processes(seconds: float = 10.0) -> list[tuple[str, int, str, int]]:
    """Return (card's uuid, process id, program, MiB) of each process that computes on a card."""
    rows = _query("compute-apps", "gpu_uuid,pid,process_name,used_memory", seconds)
    return [(row[0], int(row[1]), row[2], int(row[3]) if row[3].isdigit() else 0) for row in rows if row[1].isdigit()]
