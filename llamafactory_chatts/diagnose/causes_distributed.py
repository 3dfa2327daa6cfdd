"""Several processes: ports, timeouts, lost peers."""

import re

from .causes import rule


_LOST = (
    "The other process's own log or traceback tells why; on several nodes read the log of each, then check "
    "network and "
    "NCCL_SOCKET_IFNAME"
)


def _timeout(match: re.Match[str]) -> str:
    took = match["ms"] or match["limit"]
    after = f" after {int(took) / 60000:.0f} min" if took and int(took) >= 60000 else ""
    return f"one process waited in vain for the others in {match['op'] or 'a collective operation'}{after}"


CAUSES = (
    rule(
        r"Address already in use|EADDRINUSE|errno: 98|Errno 98",
        "the port of the launcher is in use, most often by another or an earlier training",
        "Choose another port: MASTER_PORT=29xxx (torchrun and deepspeed: --master_port); `ss -ltnp` shows who has it",
        needles=("EADDRINUSE", "Address already in use"),
        benign=True,
    ),
    rule(
        r"Watchdog caught collective operation timeout: \w+\((?:[^)]*?OpType=(?P<op>\w+))?[^)]*?"
        r"(?:Timeout\(ms\)=(?P<limit>\d+))?\)"
        r"(?: ran for (?P<ms>\d+))?",
        _timeout,
        "Find the process that hung or stopped: the last rank without such a line, or an earlier error in its "
        "output. If "
        "one rank only prepares data longer, raise ddp_timeout (seconds); otherwise NCCL_DEBUG=INFO, and "
        "NCCL_P2P_DISABLE=1 on consumer cards",
        needles=("Watchdog caught collective operation timeout",),
    ),
    rule(
        r"Timed out waiting (?P<ms>\d+)ms for (?:recv|send) operation|(?P<op>)(?P<limit>)wait timeout after "
        r"(?P<other>\d+)ms",
        lambda match: f"one process waited {int(match['ms'] or match['other']) / 1000:.0f} s in vain for another one",
        "Find the process that hung: the rank that does not print this. If it only needs longer, raise ddp_timeout",
    ),
    rule(
        r"DistStoreError: Timed out|Socket Timeout|The client socket has timed out|RendezvousTimeoutError|"
        r"RendezvousConnectionError|Timed out after \d+ seconds waiting for clients",
        "not all processes or nodes met at the start",
        "Start the command on every node with the same MASTER_ADDR, MASTER_PORT and NNODES and its own "
        "NODE_RANK; check "
        "that the port is open: `nc -vz $MASTER_ADDR $MASTER_PORT`",
    ),
    rule(
        r"(?:failed to extend|Error while creating shared memory segment) /dev/shm",
        "shared memory (/dev/shm) is too small for NCCL",
        "Start the container with --shm-size=16g (or --ipc=host), or set NCCL_SHM_DISABLE=1; remove stale "
        "/dev/shm/nccl-*",
        needles=("Error while creating shared memory segment", "failed to extend /dev/shm"),
    ),
    rule(
        r"Duplicate GPU detected",
        "two processes use the same GPU",
        "Give each process its own GPU: NPROC_PER_NODE must not exceed the GPUs in CUDA_VISIBLE_DEVICES",
        needles=("Duplicate GPU detected",),
    ),
    rule(
        r"ncclSystemError|NCCL WARN .*Call to connect .* failed|ncclRemoteError|unhandled system error",
        "NCCL could not set up its connections",
        "Run again with NCCL_DEBUG=INFO and read the first WARN; NCCL_SOCKET_IFNAME names the network card, "
        "NCCL_P2P_DISABLE=1 helps on consumer cards",
        "likely",
    ),
    rule(
        r"ncclUnhandledCudaError|unhandled cuda error",
        "NCCL met a CUDA error in one of the processes",
        "Look for the first CUDA error of any rank; run again with NCCL_DEBUG=INFO",
        "likely",
        general=True,
    ),
    rule(
        r"Connection closed by peer|Connection reset by peer|Broken pipe|remote process exited|"
        r"NCCL communicator was aborted|Rank \d+ is dead|Socket closed|failed to recv, got 0 bytes|"
        r"failed to get (?:value|error)|Failed to check the \"should dump\" flag",
        "the connection to another process of this training was lost: that one ended first",
        _LOST,
        "likely",
        needles=("Connection closed by peer", "Connection reset by peer"),
        peer=True,
        benign=True,
        frame=r"^(?!.*/multiprocessing/)",
    ),
)
