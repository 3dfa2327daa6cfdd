"""In the place of the NVIDIA driver's library: devices as the environment describes them, and a driver that hangs.

``FAKE_NVML`` holds JSON: ``cards``, each with ``uuid``, ``name``, and where told ``total``, ``free`` (MiB),
``capability``, ``parts`` (the same), ``processes`` ([pid, MiB]); a card that is None is lost. ``hangs`` and
``crashes`` name a function that never returns, and one that ends the program.
"""

import json
import os
import time
from types import SimpleNamespace


STATE = json.loads(os.environ["FAKE_NVML"])


class NVMLError(Exception):
    pass


def _function(name, answer):
    def call(*words):
        if STATE.get("hangs") == name:
            time.sleep(600)

        if STATE.get("crashes") == name:
            os.abort()

        value = answer(*words)
        if value is None:
            raise NVMLError("not told")

        return value

    return call


def _size(device):
    known = {key: device[key] * 2**20 + 5 for key in ("total", "free") if key in device}
    return SimpleNamespace(**known) if known else None


def _processes(card):
    return [SimpleNamespace(pid=pid, usedGpuMemory=size and size * 2**20) for pid, size in card.get("processes", [])]


def _part(card, index):
    return card["parts"][index] if index < len(card["parts"]) else None


for _name, _answer in {
    "nvmlInit": lambda: True,
    "nvmlSystemGetDriverVersion": lambda: "550.54",
    "nvmlSystemGetProcessName": lambda pid: {4711: "python"}.get(pid),
    "nvmlDeviceGetCount": lambda: len(STATE["cards"]),
    "nvmlDeviceGetHandleByIndex": lambda index: STATE["cards"][index],
    "nvmlDeviceGetUUID": lambda device: device["uuid"],
    "nvmlDeviceGetName": lambda device: device["name"],
    "nvmlDeviceGetMemoryInfo": _size,
    "nvmlDeviceGetCudaComputeCapability": lambda card: card.get("capability"),
    "nvmlDeviceGetMaxMigDeviceCount": lambda card: 7 if "parts" in card else None,
    "nvmlDeviceGetMigDeviceHandleByIndex": _part,
    "nvmlDeviceGetComputeRunningProcesses": _processes,
}.items():
    globals()[_name] = _function(_name, _answer)
