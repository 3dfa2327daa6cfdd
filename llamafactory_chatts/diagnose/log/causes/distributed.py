"""Several processes: ports, timeouts, lost peers."""

import re

from ..facts import PREPARING
from ..row import Row


def _timeout(match: re.Match[str]) -> str:
    took = int(match["ms"] or match["limit"] or 0)
    after = f" after {took / 60000:.0f} min" if took >= 60000 else ""
    return f"one process waited in vain for the others in {match['op'] or 'a collective operation'}{after}"


# fmt: off
ROWS = (
    Row(r"error while attempting to bind on address \(?'?(?P<host>[^',]+)'?, ?(?P<port>\d+)|Cannot find empty port in "
        r"range: (?P<range>[\d-]+)",
        "the port of the API or the web page is in use: {port|range}",
        "Choose another one: API_PORT=8001 (GRADIO_SERVER_PORT=7861 for the web page); `ss -ltnp` shows who has it",
        lines=("attempting to bind on address", "Cannot find empty port")),
    Row(r"Address already in use|EADDRINUSE|errno: 98|Errno 98",
        "the port of the launcher is in use, most often by another or an earlier training",
        "Choose another port: MASTER_PORT=29xxx (torchrun and deepspeed: --master_port); `ss -ltnp` shows who has it",
        lines=("EADDRINUSE", "Address already in use"), benign=True),
    Row(r"Watchdog caught collective operation timeout|Timed out waiting \d+ms for|(?:DistStoreError|DistBackendError|"
        r"TimeoutError|RuntimeError)[^\n]*[Tt]im(?:ed out|eout)|wait timeout after \d+ms|Socket Timeout",
        "one process still prepared (tokenised) the dataset while the others waited for it, longer than the time-out "
        "allows",
        "Prepare once without a launcher: the same recipe with tokenized_path: DIR in one process "
        "(CUDA_VISIBLE_DEVICES=0), then start all of them with it; or raise ddp_timeout (seconds, for example "
        "180000000) and preprocessing_num_workers", lines=("Watchdog caught collective operation timeout",),
        phase=re.escape(PREPARING)),
    Row(r"Watchdog caught collective operation timeout: "
        r"\w+\((?:[^)]*?OpType=(?P<op>\w+))?[^)]*?(?:Timeout\(ms\)=(?P<limit>\d+))?\)(?: ran for (?P<ms>\d+))?",
        _timeout,
        "Find the process that hung or stopped: the last rank without such a line, or an earlier error in its output. "
        "If one rank only prepares data longer, raise ddp_timeout (seconds); otherwise NCCL_DEBUG=INFO, and "
        "NCCL_P2P_DISABLE=1 on consumer cards", lines=("Watchdog caught collective operation timeout",)),
    Row(r"Timed out waiting (?P<ms>\d+)ms for (?:recv|send) operation|(?P<op>)(?P<limit>)wait timeout after "
        r"(?P<other>\d+)ms",
        lambda m: f"one process waited {int(m['ms'] or m['other']) / 1000:.0f} s in vain for another one",
        "Find the process that hung: the rank that does not print this. If it only needs longer, raise ddp_timeout"),
    Row(r"DistStoreError: Timed out|Socket Timeout|The client socket has timed out|RendezvousTimeoutError|"
        r"RendezvousConnectionError|Cannot assign requested address|Timed out after \d+ seconds waiting for clients",
        "not all processes or nodes met at the start",
        "Start the command on every node with the same MASTER_ADDR, MASTER_PORT and NNODES and its own NODE_RANK; "
        "check that the port is open: `nc -vz $MASTER_ADDR $MASTER_PORT`"),
    Row(r"(?:failed to extend|Error while creating shared memory segment) /dev/shm",
        "shared memory (/dev/shm) is too small for NCCL",
        "Start the container with --shm-size=16g (or --ipc=host), or set NCCL_SHM_DISABLE=1; remove stale "
        "/dev/shm/nccl-*", lines=("Error while creating shared memory segment", "failed to extend /dev/shm")),
    Row(r"Duplicate GPU detected",
        "two processes use the same GPU",
        "Give each process its own GPU: NPROC_PER_NODE must not exceed the GPUs in CUDA_VISIBLE_DEVICES",
        lines=("Duplicate GPU detected",)),
    Row(r"WARN NET/(?:IB|OFI)|ibv_\w+[^\n]*(?:fail|error)|IBV_WC_\w+ERR|NET/IB: Got completion|No device "
        r"found[^\n]*IB",
        "the connection between the nodes over InfiniBand or RoCE does not work for NCCL",
        "Check it: `ibstat` (state Active), the same NCCL_IB_HCA and NCCL_IB_GID_INDEX on every node, memlock "
        "unlimited; NCCL_IB_DISABLE=1 with NCCL_SOCKET_IFNAME=eth0 goes over TCP instead",
        lines=("WARN NET/", "ibv_", "IBV_WC_"), benign=True, explains=r"nccl|NCCL|peer|timeout|Timeout|ChildFailed"),
    Row(r"no socket interface found|[Nn]o usable (?:network )?interface|NCCL_SOCKET_IFNAME[^\n]*(?:not found|no "
        r"match)",
        "NCCL finds no network card by the name that is set, or none at all",
        "`ip addr` lists them: set NCCL_SOCKET_IFNAME (and GLOO_SOCKET_IFNAME) to the card that connects the nodes, "
        "on every node", lines=("no socket interface found",)),
    Row(r"RTX 4000 series doesn't support faster communication|peer access is not supported between these two devices|"
        r"NVLS[^\n]*(?:fail|error)|Failed to bind NVLink SHARP",
        "these GPUs cannot exchange memory the way NCCL tries it (peer to peer, NVLink multicast)",
        "Set NCCL_P2P_DISABLE=1 and NCCL_IB_DISABLE=1 on consumer cards; NCCL_NVLS_ENABLE=0 where the multicast "
        "(NVLS) fails", lines=("Failed to bind NVLink SHARP",)),
    Row(r"monitoredBarrier|[Bb]arrier[^\n]*(?:timed out|timeout)",
        "one process did not reach a barrier in time",
        "Find the process that hung: the rank that prints nothing; if it only needs longer, raise ddp_timeout"),
    Row(r"checkpoint being loaded used a DP world size of (?P<old>\d+) but the current world size is (?P<new>\d+)",
        "the DeepSpeed checkpoint was written by {old} processes, now there are {new}",
        "Resume with as many processes, or make whole weights of it (`python zero_to_fp32.py . OUT`) and start from "
        "them"),
    Row(r"validation errors? for DeepSpeed\w+\s+(?P<key>[\w.]+)",
        "the DeepSpeed file has a value of the wrong kind: {key}",
        "Write a whole number (or \"auto\") there, as in examples/deepspeed; older DeepSpeed takes no fractions from "
        "\"auto\""),
    Row(r"fp16 (?:mode )?and (?:bf16|bfloat16)[^\n]*(?:simultaneously|both)|bfloat16 and fp16 modes cannot|Found "
        r"`?(?:optimizer|scheduler)`? configured in the DeepSpeed config",
        "the DeepSpeed file and the recipe set the same thing twice (precision, optimizer, scheduler)",
        "Write \"auto\" for fp16 and bf16 in the DeepSpeed file and remove its optimizer and scheduler, as in "
        "examples/deepspeed"),
    Row(r"ncclSystemError|NCCL WARN .*Call to connect .* failed|ncclRemoteError|unhandled system error",
        "NCCL could not set up its connections",
        "Run again with NCCL_DEBUG=INFO and read the first WARN; NCCL_SOCKET_IFNAME names the network card, "
        "NCCL_P2P_DISABLE=1 helps on consumer cards", likely=True),
    Row(r"ncclUnhandledCudaError|unhandled cuda error",
        "NCCL met a CUDA error in one of the processes",
        "Look for the first CUDA error of any rank; run again with NCCL_DEBUG=INFO", likely=True, general=True),
    Row(r"Connection closed by peer|Connection reset by peer|Broken pipe|remote process exited|NCCL communicator was "
        r"aborted|Rank \d+ is dead|Socket closed|failed to recv, got 0 bytes|failed to get (?:value|error)|Failed to "
        r"check the \"should dump\" flag",
        "the connection to another process of this training was lost: that one ended first",
        "The other process's own log or traceback tells why; on several nodes read the log of each, then check "
        "network and NCCL_SOCKET_IFNAME", likely=True, peer=True, benign=True,
        lines=("Connection closed by peer", "Connection reset by peer"), frame=r"^(?!.*/multiprocessing/)"),
    Row(r"inconsistent tensor size|Detected mismatch between collectives on ranks|different (?:number|order) of "
        r"collectives|mismatched? (?:shapes|sizes) between ranks|status.*INFLIGHT",
        "the processes do not do the same: one met other modules or shapes than the others",
        "Same recipe, data and versions on every node; TORCH_DISTRIBUTED_DEBUG=DETAIL names the first difference; "
        "under ZeRO-3 every process must run every module", likely=True),
    Row(r"[Zz]ero-?3[^\n]*(?:not compatible|incompatible|low_cpu_mem_usage|device_map)|low_cpu_mem_usage=True`? or "
        r"with passing a `device_map",
        "ZeRO-3 places the weights itself: it takes no device_map and no low_cpu_mem_usage",
        "Remove low_cpu_mem_usage and device_map; quantised bases train with ZeRO-2 or without DeepSpeed"),
    Row(r"ZeRO-Offload with a client provided optimizer|zero_force_ds_cpu_optimizer",
        "DeepSpeed offloads the optimizer to the CPU and wants its own CPU Adam, the recipe brings another optimizer",
        "Set optim: adamw_torch, or \"zero_force_ds_cpu_optimizer\": false in the DeepSpeed file"),
)
# fmt: on
