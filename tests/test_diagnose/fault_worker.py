"""A training in which one rank meets a fault at a step: ``FAULT=kind:rank:step fault_worker.py RECIPE``.

Started by torchrun or deepspeed in place of LLaMA-Factory's launcher.py; used by ``produce_logs.py`` only.
"""

import os
import resource
import signal
import time

from transformers import TrainerCallback


def leak():
    """Take host memory until there is none."""
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20)) * 64)


def limit_memory(gib: float = 1.0):
    """Allow the process ``gib`` more address space than it uses now, then ask PyTorch for four times that."""
    import torch

    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + int(gib * 2**30), -1))
    torch.ones(int(gib * 2**30))


def raise_error():
    raise RuntimeError("the series of row 17 has no variance")


FAULTS = {
    "raise": raise_error,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segv": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "abort": os.abort,
    "sleep": lambda: time.sleep(60),
    "leak": leak,
    "limit": limit_memory,
}


class Fault(TrainerCallback):
    def __init__(self, kind: str, rank: int, step: int) -> None:
        self.kind, self.rank, self.step = kind, rank, step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step and int(os.environ.get("RANK", "0")) == self.rank:
            FAULTS[self.kind]()


if __name__ == "__main__":
    from llamafactory.train.tuner import run_exp

    kind, rank, step = os.environ["FAULT"].split(":")
    run_exp(callbacks=[Fault(kind, int(rank), int(step))])
