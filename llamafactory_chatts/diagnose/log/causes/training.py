"""The training itself: numbers, shapes, host memory, workers; several processes: ports, timeouts, lost peers."""

import re

from ..facts import PREPARING
from ..row import row


def _timeout(match: re.Match[str]) -> str:
    took = int(match["ms"] or match["limit"] or 0)
    after = f" after {took / 60000:.0f} min" if took >= 60000 else ""
    return f"one process waited in vain for the others in {match['op'] or 'a collective operation'}{after}"


# fmt: off
ROWS = (
    row(r"can't allocate memory: you tried to allocate (?P<size>\d+) bytes|DefaultCPUAllocator: not enough memory: "
        r"you tried to allocate (?P<more>\d+) bytes",
        lambda m: f"host memory ran out: {int(m['size'] or m['more']) / 2**30:.1f} GiB more could not be had",
        "Free memory (`free -g`, cgroup limit, `ulimit -v`); offload less with DeepSpeed, or use llamafactory-cli "
        "with quantization_bit: 4; `lmf-chatts plan` predicts the need"),
    row(r"\bMemoryError|node running low on memory|ray\.exceptions\.OutOfMemoryError|std::bad_alloc|Cannot allocate "
        r"memory|ArrowMemoryError|Unable to allocate [\d.]+ [KMG]iB",
        "host memory ran out",
        "Free memory (`free -g`, cgroup limit, `ulimit -v`); lower preprocessing_num_workers and "
        "dataloader_num_workers; `lmf-chatts plan` predicts the need",
        lines=("std::bad_alloc", "Cannot allocate memory")),
    row(r"DataLoader worker \(pid[^)]*\) is killed by signal: Bus error|Unexpected bus error encountered in worker|"
        r"insufficient shared memory|unable to (?:mmap|write to file|open shared memory object).*(?:shm|torch_)",
        "shared memory (/dev/shm) is too small for the data loader's workers",
        "Start the container with --shm-size=16g (or --ipc=host), or set dataloader_num_workers: 0",
        lines=("Unexpected bus error encountered in worker",)),
    row(r"DataLoader worker \(pid\(?s?\)? ?(?P<pid>[\d, ]+)\) (?:is killed by signal: (?P<signal>[\w ]+?)\.|exited "
        r"unexpectedly)",
        "data loader worker {pid} was ended from outside[ (signal: {signal})]; most often the host's memory (RAM) or "
        "/dev/shm ran out",
        "`dmesg -T | grep -iE 'oom|killed process'` shows whether the kernel did it; lower dataloader_num_workers, "
        "or 0 to see the worker's own error", likely=True),
    row(r"ConnectionResetError|ConnectionRefusedError|EOFError|BrokenPipeError",
        "a worker process on this machine (data loader or preprocessing) ended while its result was being fetched",
        "`dmesg -T | grep -iE 'oom|killed process'` shows whether the kernel did it; lower dataloader_num_workers "
        "and preprocessing_num_workers, or 0 to see the worker's own error", likely=True, frame="/multiprocessing/"),
    row(r"One of the subprocesses has abruptly died during map operation",
        "a worker of the preprocessing was ended from outside or crashed",
        "`dmesg -T | grep -iE 'oom|killed process'` shows whether the kernel did it; set preprocessing_num_workers: "
        "1 to see the worker's own error"),
    row(r"(?:JOB|STEP|TASK) \S+ ON \S+ CANCELLED(?: AT \S+)?(?: DUE TO (?P<why>[A-Z ]+?))?(?: \*|$)|job killed: "
        r"walltime",
        lambda m: f"the scheduler ended the job{': ' + m['why'].lower() if m['why'] else ''}",
        "Ask for more time (or memory) for the job, set save_steps so that a checkpoint lies before the limit, then "
        "resume_from_checkpoint: true", lines=("CANCELLED", "walltime")),
    row(r"Current loss scale already at minimum",
        "fp16 overflows at every step: gradients are NaN or infinite, and DeepSpeed cannot lower the loss scale "
        "further",
        "Use bf16: true where the card has it; else a lower learning_rate, warmup_ratio: 0.1 and max_grad_norm: 1.0; "
        "check the series for extreme values with `lmf-chatts check`",
        lines=("Current loss scale already at minimum",)),
    row(r"FloatingPointError[^\n]*\b(?:nan|NaN|inf)\b|[Ll]oss (?:is|became) (?:nan|NaN|inf)|Function '\w+' returned "
        r"nan values",
        "loss or gradients became NaN or infinite",
        "Go back to a checkpoint from before; lower learning_rate (a tenth), warmup_ratio: 0.1, max_grad_norm: 1.0, "
        "bf16 in place of fp16; check the series for extreme values: `lmf-chatts check`", likely=True, general=True),
    row(r"Attempting to unscale FP16 gradients",
        "weights that are trained are stored in fp16, where fp16: true wants them in fp32",
        "Remove pure_bf16/upcast settings that keep trained weights in 16 bit, or use bf16: true; with LoRA the "
        "adapter stays in fp32 by itself"),
    row(r"probability tensor contains either `inf`, `nan` or element < 0",
        "the model's output is NaN or infinite while it generates",
        "The weights diverged: look for the first nan in the training log and lower learning_rate; or use bf16 in "
        "place of fp16"),
    row(r"Please correct the following DeepSpeed config values that mismatch TrainingArguments "
        r"values:(?P<what>[\s\S]*?)(?:The easiest|$)",
        "the DeepSpeed file contradicts the recipe: {what}",
        "Write \"auto\" for these values in the DeepSpeed JSON"),
    row(r"Check batch related parameters\. train_batch_size is not equal to micro_batch_per_gpu",
        "the batch sizes in the DeepSpeed file contradict each other",
        "Write \"auto\" for train_batch_size, train_micro_batch_size_per_gpu and gradient_accumulation_steps"),
    row(r"Expected a string path to an existing deepspeed config, or a dictionary, or a base64 encoded "
        r"string\.[^:]*: (?P<file>\S+)|DeepSpeedConfigError: (?P<what>.+)",
        "DeepSpeed's configuration cannot be used: [{what}][{file} is not there]",
        "Correct `deepspeed:` in the recipe; examples/deepspeed holds files that work"),
    row(r"element 0 of tensors does not require grad|does not require grad and does not have a grad_fn",
        "nothing that is trained takes part in the loss: gradient checkpointing got inputs that need no gradient, or "
        "everything is frozen",
        "Set use_reentrant_gc: false (or disable_gradient_checkpointing: true); own code calls "
        "model.enable_input_require_grads(). Then check finetuning_type, lora_target and the freeze keys: 'trainable "
        "params' above must not be 0"),
    row(r"None of the inputs have requires_grad=True",
        "gradient checkpointing gets inputs that need no gradient: what lies in front of it is not trained",
        "Set use_reentrant_gc: false, or disable_gradient_checkpointing: true; own code calls "
        "model.enable_input_require_grads()", likely=True, lines=("None of the inputs have requires_grad",),
        benign=True),
    row(r"backward through the graph a second time|modified by an inplace operation|Trying to backward through",
        "backward went through the same graph twice, or a value that it needs was overwritten: gradient "
        "checkpointing and another wrapper do not go together",
        "Set use_reentrant_gc: false, or disable_gradient_checkpointing: true; with DDP also "
        "ddp_find_unused_parameters: false", likely=True),
    row(r"module must have its parameters and buffers on device cuda:\d|in replica \d+ on device|parallel_apply|"
        r"nn\.DataParallel|'DataParallel' object has no attribute|chunk expects at least a 1-dimensional tensor|"
        r"Gather got an input of invalid size|grad can be implicitly created only for scalar outputs",
        "one plain process drives several GPUs (DataParallel), which this training cannot do",
        "Start one process per GPU: FORCE_TORCHRUN=1 llamafactory-cli train RECIPE.yaml (or torchrun), or show it "
        "one GPU: CUDA_VISIBLE_DEVICES=0"),
    row(r"[Ee]xpected all tensors to be on the same device|tensors? (?:is|are) on cuda:\d+, different from other "
        r"tensors on|device than the one you're training on|loaded with `?device_map='auto'`? in any distributed",
        "the model's parts lie on different devices",
        "One GPU per process: FORCE_TORCHRUN=1 for several, CUDA_VISIBLE_DEVICES=0 for one; no device_map: auto in "
        "training; if it is split because it does not fit, quantization_bit: 4 or ZeRO-3"),
    row(r"Expected to have finished reduction in the prior iteration",
        "DDP: some trained parameters got no gradient in one process",
        "Set ddp_find_unused_parameters: true"),
    row(r"mark a variable ready only once",
        "DDP with reentrant gradient checkpointing uses a parameter twice",
        "Set use_reentrant_gc: false, or ddp_find_unused_parameters: false"),
    row(r"RecursionError: ",
        "a recursion did not end",
        "The frame named above repeats itself; report it with the log", likely=True, general=True),
    row(r"error while attempting to bind on address \(?'?(?P<host>[^',]+)'?, ?(?P<port>\d+)|Cannot find empty port "
        r"in range: (?P<range>[\d-]+)",
        "the port of the API or the web page is in use: {port|range}",
        "Choose another one: API_PORT=8001 (GRADIO_SERVER_PORT=7861 for the web page); `ss -ltnp` shows who has it",
        lines=("attempting to bind on address", "Cannot find empty port")),
    row(r"Address already in use|EADDRINUSE|errno: 98|Errno 98",
        "the port of the launcher is in use, most often by another or an earlier training",
        "Choose another port: MASTER_PORT=29xxx (torchrun and deepspeed: --master_port); `ss -ltnp` shows who has it",
        lines=("EADDRINUSE", "Address already in use"), benign=True),
    row(r"Watchdog caught collective operation timeout|Timed out waiting \d+ms for|(?:DistStoreError|"
        r"DistBackendError|TimeoutError|RuntimeError)[^\n]*[Tt]im(?:ed out|eout)|wait timeout after \d+ms|Socket "
        r"Timeout",
        "one process still prepared (tokenised) the dataset while the others waited for it, longer than the time-out "
        "allows",
        "Prepare once without a launcher: the same recipe with tokenized_path: DIR in one process "
        "(CUDA_VISIBLE_DEVICES=0), then start all of them with it; or raise ddp_timeout (seconds, for example "
        "180000000) and preprocessing_num_workers", lines=("Watchdog caught collective operation timeout",),
        phase=re.escape(PREPARING)),
    row(r"Watchdog caught collective operation timeout: "
        r"\w+\((?:[^)]*?OpType=(?P<op>\w+))?[^)]*?(?:Timeout\(ms\)=(?P<limit>\d+))?\)(?: ran for (?P<ms>\d+))?",
        _timeout,
        "Find the process that hung or stopped: the last rank without such a line, or an earlier error in its "
        "output. If one rank only prepares data longer, raise ddp_timeout (seconds); otherwise NCCL_DEBUG=INFO, and "
        "NCCL_P2P_DISABLE=1 on consumer cards", lines=("Watchdog caught collective operation timeout",)),
    row(r"Timed out waiting (?P<ms>\d+)ms for (?:recv|send) operation|(?P<op>)(?P<limit>)wait timeout after "
        r"(?P<other>\d+)ms",
        lambda m: f"one process waited {int(m['ms'] or m['other']) / 1000:.0f} s in vain for another one",
        "Find the process that hung: the rank that does not print this. If it only needs longer, raise ddp_timeout"),
    row(r"DistStoreError: Timed out|Socket Timeout|The client socket has timed out|RendezvousTimeoutError|"
        r"RendezvousConnectionError|Cannot assign requested address|Timed out after \d+ seconds waiting for clients",
        "not all processes or nodes met at the start",
        "Start the command on every node with the same MASTER_ADDR, MASTER_PORT and NNODES and its own NODE_RANK; "
        "check that the port is open: `nc -vz $MASTER_ADDR $MASTER_PORT`"),
    row(r"(?:failed to extend|Error while creating shared memory segment) /dev/shm",
        "shared memory (/dev/shm) is too small for NCCL",
        "Start the container with --shm-size=16g (or --ipc=host), or set NCCL_SHM_DISABLE=1; remove stale "
        "/dev/shm/nccl-*", lines=("Error while creating shared memory segment", "failed to extend /dev/shm")),
    row(r"Duplicate GPU detected",
        "two processes use the same GPU",
        "Give each process its own GPU: NPROC_PER_NODE must not exceed the GPUs in CUDA_VISIBLE_DEVICES",
        lines=("Duplicate GPU detected",)),
    row(r"WARN NET/(?:IB|OFI)|ibv_\w+[^\n]*(?:fail|error)|IBV_WC_\w+ERR|NET/IB: Got completion|No device "
        r"found[^\n]*IB",
        "the connection between the nodes over InfiniBand or RoCE does not work for NCCL",
        "Check it: `ibstat` (state Active), the same NCCL_IB_HCA and NCCL_IB_GID_INDEX on every node, memlock "
        "unlimited; NCCL_IB_DISABLE=1 with NCCL_SOCKET_IFNAME=eth0 goes over TCP instead",
        lines=("WARN NET/", "ibv_", "IBV_WC_"), benign=True, explains="nccl|NCCL|peer|timeout|Timeout|ChildFailed"),
    row(r"no socket interface found|[Nn]o usable (?:network )?interface|NCCL_SOCKET_IFNAME[^\n]*(?:not found|no "
        r"match)",
        "NCCL finds no network card by the name that is set, or none at all",
        "`ip addr` lists them: set NCCL_SOCKET_IFNAME (and GLOO_SOCKET_IFNAME) to the card that connects the nodes, "
        "on every node", lines=("no socket interface found",)),
    row(r"RTX 4000 series doesn't support faster communication|peer access is not supported between these two "
        r"devices|NVLS[^\n]*(?:fail|error)|Failed to bind NVLink SHARP",
        "these GPUs cannot exchange memory the way NCCL tries it (peer to peer, NVLink multicast)",
        "Set NCCL_P2P_DISABLE=1 and NCCL_IB_DISABLE=1 on consumer cards; NCCL_NVLS_ENABLE=0 where the multicast "
        "(NVLS) fails", lines=("Failed to bind NVLink SHARP",)),
    row(r"monitoredBarrier[^\n]*|[Bb]arrier[^\n]*(?:timed out|timeout)",
        "one process did not reach a barrier in time",
        "Find the process that hung: the rank that prints nothing; if it only needs longer, raise ddp_timeout"),
    row(r"checkpoint being loaded used a DP world size of (?P<old>\d+) but the current world size is (?P<new>\d+)",
        "the DeepSpeed checkpoint was written by {old} processes, now there are {new}",
        "Resume with as many processes, or make whole weights of it (`python zero_to_fp32.py . OUT`) and start from "
        "them"),
    row(r"validation errors? for DeepSpeed\w+\s+(?P<key>[\w.]+)",
        "the DeepSpeed file has a value of the wrong kind: {key}",
        "Write a whole number (or \"auto\") there, as in examples/deepspeed; older DeepSpeed takes no fractions from "
        "\"auto\""),
    row(r"fp16 (?:mode )?and (?:bf16|bfloat16)[^\n]*(?:simultaneously|both)|bfloat16 and fp16 modes cannot|Found "
        r"`?(?:optimizer|scheduler)`? configured in the DeepSpeed config",
        "the DeepSpeed file and the recipe set the same thing twice (precision, optimizer, scheduler)",
        "Write \"auto\" for fp16 and bf16 in the DeepSpeed file and remove its optimizer and scheduler, as in "
        "examples/deepspeed"),
    row(r"ncclSystemError|NCCL WARN .*Call to connect .* failed|ncclRemoteError|unhandled system error",
        "NCCL could not set up its connections",
        "Run again with NCCL_DEBUG=INFO and read the first WARN; NCCL_SOCKET_IFNAME names the network card, "
        "NCCL_P2P_DISABLE=1 helps on consumer cards", likely=True),
    row(r"ncclUnhandledCudaError|unhandled cuda error",
        "NCCL met a CUDA error in one of the processes",
        "Look for the first CUDA error of any rank; run again with NCCL_DEBUG=INFO", likely=True, general=True),
    row(r"Connection closed by peer|Connection reset by peer|Broken pipe|remote process exited|NCCL communicator was "
        r"aborted|Rank \d+ is dead|Socket closed|failed to recv, got 0 bytes|failed to get (?:value|error)|Failed to "
        r"check the \"should dump\" flag",
        "the connection to another process of this training was lost: that one ended first",
        "The other process's own log or traceback tells why; on several nodes read the log of each, then check "
        "network and NCCL_SOCKET_IFNAME", likely=True, lines=("Connection closed by peer", "Connection reset by peer"), peer=True, benign=True,
        frame="^(?!.*/multiprocessing/)"),
    row(r"inconsistent tensor size|Detected mismatch between collectives on ranks|different (?:number|order) of "
        r"collectives|mismatched? (?:shapes|sizes) between ranks|'status': 'INFLIGHT'|status.*INFLIGHT",
        "the processes do not do the same: one met other modules or shapes than the others",
        "Same recipe, data and versions on every node; TORCH_DISTRIBUTED_DEBUG=DETAIL names the first difference; "
        "under ZeRO-3 every process must run every module", likely=True),
    row(r"[Zz]ero-?3[^\n]*(?:not compatible|incompatible|low_cpu_mem_usage|device_map)|low_cpu_mem_usage=True`? or "
        r"with passing a `device_map",
        "ZeRO-3 places the weights itself: it takes no device_map and no low_cpu_mem_usage",
        "Remove low_cpu_mem_usage and device_map; quantised bases train with ZeRO-2 or without DeepSpeed"),
    row(r"ZeRO-Offload with a client provided optimizer|zero_force_ds_cpu_optimizer",
        "DeepSpeed offloads the optimizer to the CPU and wants its own CPU Adam, the recipe brings another optimizer",
        "Set optim: adamw_torch, or \"zero_force_ds_cpu_optimizer\": false in the DeepSpeed file"),
)
# fmt: on
