"""The NVIDIA cards of this machine, as ``nvidia-smi`` sees them: works without torch, starts no CUDA context."""

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass


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
    found = []
    for row in _query("gpu", "index,uuid,name,driver_version,memory.total,memory.free,compute_cap", seconds):
        capability = tuple(int(part) for part in row[6].split(".") if part.isdigit())
        total, free = (int(cell) if cell.isdigit() else 0 for cell in row[4:6])
        found.append(Gpu(int(row[0]), row[1], row[2], row[3], total, free, capability))

    return tuple(found)


def visible(cards: tuple[Gpu, ...], setting: str | None = None) -> tuple[Gpu, ...]:
    """Return the cards that ``CUDA_VISIBLE_DEVICES`` (or ``setting``) leaves, in its order."""
    setting = os.environ.get("CUDA_VISIBLE_DEVICES") if setting is None else setting
    if setting is None:
        return cards

    chosen = []
    for word in setting.split(","):
        word = word.strip()
        card = next((card for card in cards if word == str(card.index) or word and card.uuid.startswith(word)), None)
        if card is None:
            break  # CUDA ignores what stands behind a card that is not there

        chosen.append(card)

    return tuple(chosen)


def processes(seconds: float = 10.0) -> list[tuple[str, int, str, int]]:
    """Return (card's uuid, process id, program, MiB) of each process that computes on a card."""
    rows = _query("compute-apps", "gpu_uuid,pid,process_name,used_memory", seconds)
    return [(row[0], int(row[1]), row[2], int(row[3]) if row[3].isdigit() else 0) for row in rows if row[1].isdigit()]
