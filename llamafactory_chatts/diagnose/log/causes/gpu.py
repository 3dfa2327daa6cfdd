"""CUDA and the driver: asserts, builds that do not fit the card."""

import re

from ..row import Row
from .gpu_memory import OUT_OF_MEMORY


_OF_CUDA = "(?i)cuda|cublas|cudnn|bf16|bfloat16|fp16|half|gpu|nccl|bitsandbytes|device|nvml|amp|deepspeed"


def _old_driver(match: re.Match[str]) -> str:
    version = int(match["found"] or 0)
    knows = f": it knows CUDA {version // 1000}.{version % 1000 // 10} only" if version else ""
    return f"the NVIDIA driver is too old for this PyTorch build{knows}"


# fmt: off
ROWS = (
    OUT_OF_MEMORY,
    Row(r"CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_NOT_INITIALIZED|"
        r"CUDNN_STATUS_NOT_INITIALIZED|valid cuDNN algorithm",
        "a CUDA library (cuBLAS, cuDNN) could not get its work space; most often the GPU's memory is used up, else an "
        "index was out of range before, or a foreign CUDA library is loaded",
        "Look at `nvidia-smi` for other processes; halve per_device_train_batch_size; `unset LD_LIBRARY_PATH`; or run "
        "once with CUDA_LAUNCH_BLOCKING=1 to see the operation", likely=True),
    Row(r"cuDNN version incompatibility|CUBLAS_STATUS_(?P<what>INVALID_VALUE|NOT_SUPPORTED|EXECUTION_FAILED|"
        r"INTERNAL_ERROR|ARCH_MISMATCH|NOT_IMPLEMENTED)|CUDNN_STATUS_\w+",
        "a CUDA library (cuBLAS, cuDNN) refused a call: most often another version than torch's own is loaded, or "
        "driver and build do not fit the card",
        "`unset LD_LIBRARY_PATH` (a system CUDA, an nvidia-* package) and try again; reinstall torch with its "
        "libraries: {pip --force-reinstall torch torchvision torchaudio}; update the driver; CUDA_LAUNCH_BLOCKING=1 "
        "shows the operation", likely=True),
    Row(r"indexSelect\w+Index|srcIndex < srcSelectDimSize|vectorized_gather_kernel.*index out of bounds|index out of "
        r"range in self|`t >= 0 && t < n_classes`|-sizes\[i\] <= index",
        "an index is outside a table on the GPU: a token id beyond the embedding, or tokenizer and weights do not "
        "belong together",
        "Train once with use_cpu: true, which names the row; check that tokenizer.json and config.json's vocab_size "
        "come from the same base", lines=("Assertion `srcIndex", "index out of bounds", "Assertion `t >= 0")),
    Row(r"device-side assert triggered",
        "an assertion failed on the GPU; the Python line in the traceback may be a later one",
        "Run again with CUDA_LAUNCH_BLOCKING=1, or once with use_cpu: true: the message then names the operation",
        lines=("device-side assert triggered",), general=True),
    Row(r"CUDA error: an illegal memory access was encountered|CUDA error: misaligned address",
        "a GPU kernel touched memory that is not its own; the Python line in the traceback may be a later one",
        "Run again with CUDA_LAUNCH_BLOCKING=1 to see the operation; try flash_attn: sdpa and enable_liger_kernel: "
        "false to find the kernel", lines=("an illegal memory access was encountered",)),
    Row(r"no kernel image is available|CUDA error: invalid device function",
        "this PyTorch build has no kernels for this card",
        "Install the PyTorch build for a CUDA version that knows the card (cards of 2025 need CUDA 12.8 or later; "
        "very old ones CUDA 12.6); `lmf-chatts doctor` shows card and build", lines=("no kernel image is available",)),
    Row(r"with CUDA capability (?P<sm>sm_\d+) is not compatible with the current PyTorch installation",
        "this PyTorch build has no kernels for the card ({sm})",
        "Install the PyTorch build for a CUDA version that knows the card; `lmf-chatts doctor` shows card and build",
        likely=True, lines=("is not compatible with the current PyTorch",), benign=True,
        explains=r"(?i)cublas|invalid device function|kernel launch"),
    Row(r"system has unsupported display driver|Error 803|Driver/library version mismatch|Error 804|forward "
        r"compatibility was attempted|kernel driver (?:version )?[\d.]+ does not match|API mismatch: the client has",
        "the NVIDIA driver's kernel module and its libraries are of different versions: the driver was updated "
        "without a restart, or a container or cuda-compat package brings libraries that this card's driver does not "
        "take",
        "Restart the machine, or reload the nvidia kernel modules; in a container take /usr/local/cuda/compat out of "
        "LD_LIBRARY_PATH; `nvidia-smi` must work first",
        lines=("unsupported display driver", "Driver/library version mismatch", "forward compatibility was attempted"),
        explains=_OF_CUDA),
    Row(r"driver on your system is too old \(found version (?P<found>\d+)\)|CUDA driver version is insufficient for "
        r"CUDA runtime version|requires? (?:a )?(?:NVIDIA )?driver (?:version )?[^\n]*(?:newer|at least|>=)",
        _old_driver,
        "Update the driver, or install the PyTorch build of an older CUDA version that `nvidia-smi` allows",
        lines=("driver on your system is too old", "driver version is insufficient"), benign=True, explains=_OF_CUDA),
    Row(r"Error 802|system not yet initialized",
        "the GPUs' NVLink switch is not started: the Fabric Manager does not run, or is of another version than the "
        "driver",
        "`systemctl status nvidia-fabricmanager`; install the one of the driver's exact version and start it",
        lines=("system not yet initialized",), explains=_OF_CUDA),
    Row(r"CUDA unknown error - this may be due to an incorrectly set up environment|Error 999|Unexpected error from "
        r"cudaGetDeviceCount",
        "CUDA cannot be initialised: the driver hangs (after suspend or an update), or CUDA_VISIBLE_DEVICES names no "
        "card of this machine",
        "See whether `nvidia-smi` works and CUDA_VISIBLE_DEVICES is right; `sudo rmmod nvidia_uvm && sudo modprobe "
        "nvidia_uvm`, or restart the machine; in a container also restart Docker",
        lines=("CUDA unknown error", "Unexpected error from cudaGetDeviceCount"), benign=True, explains=_OF_CUDA),
    Row(r"Can't initialize NVML|Failed to initialize NVML|NVML_SUCCESS|nvmlInit|NVML: Unknown Error",
        "the NVIDIA driver does not answer (NVML): it is not loaded, or the container lost it",
        "`nvidia-smi` must work first: restart the machine or the container (`--gpus all`; systemd's cgroups take "
        "GPUs away after a reload)", likely=True, lines=("Can't initialize NVML", "Failed to initialize NVML"),
        benign=True, explains=_OF_CUDA),
    Row(r"CUDA initialization: (?P<what>[^\n]+?)(?: \(Triggered|$)|CUDA driver initialization failed",
        "CUDA cannot be initialised, so PyTorch sees no GPU: {what|the driver does not start}",
        "`nvidia-smi` must work first (in a container `--gpus all`); check CUDA_VISIBLE_DEVICES, update the driver or "
        "restart the machine; `lmf-chatts doctor` shows card, driver and build",
        lines=("CUDA initialization:", "CUDA driver initialization failed"), benign=True, explains=_OF_CUDA),
    Row(r"devices are busy or unavailable",
        "the GPU is taken: it is in exclusive mode and another process holds it, or its MIG part is not there",
        "`nvidia-smi` shows both: end the other process, or `nvidia-smi -c 0`; name the MIG part in "
        "CUDA_VISIBLE_DEVICES"),
    Row(r"re-initialize CUDA in forked subprocess|CUDA error: initialization error",
        "CUDA was used in a process that was forked from one that already used it (workers of preprocessing or "
        "loading)",
        "Set preprocessing_num_workers: 1 and dataloader_num_workers: 0; own code must not touch the GPU before the "
        "workers start"),
    Row(r"Found no NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device is detected|cuInit[^\n]*(?:100|no "
        r"device)",
        "PyTorch sees no NVIDIA GPU",
        "Check `nvidia-smi` and CUDA_VISIBLE_DEVICES; in a container add `--gpus all`; on a machine without a GPU set "
        "use_cpu: true", lines=("Found no NVIDIA driver",), benign=True, explains=_OF_CUDA),
    Row(r"Torch not compiled with CUDA enabled|torch\S*\+cpu\b[^\n]*(?:no CUDA|CPU-only)",
        "a CPU-only PyTorch build is installed",
        "Install the CUDA build of the same PyTorch version; `lmf-chatts doctor` shows the command"),
    Row(r"CUDA error: invalid device ordinal",
        "a process asked for a GPU that is not there: more processes than visible GPUs",
        "Make NPROC_PER_NODE (torchrun --nproc_per_node) equal to the number of GPUs in CUDA_VISIBLE_DEVICES",
        lines=("invalid device ordinal",)),
    Row(r"uncorrectable ECC error|GPU is lost|has fallen off the bus|unspecified launch failure|CUDA error: unknown "
        r"error",
        "the GPU itself failed",
        "Look at `dmesg -T | grep -i xid` and `nvidia-smi -q -d ECC`; restart the machine, and leave this GPU out "
        "until it is checked", lines=("uncorrectable ECC error", "GPU is lost", "fallen off the bus")),
    Row(r"doesn't support bf16/gpu|Bfloat16 is only supported on GPUs|does not support bfloat16|doest not suppo?rt "
        r"bfloat16|bf16 is not supported on this",
        "this device has no bf16",
        "Set bf16: false and fp16: true on cards before Ampere (RTX 20 series, V100, T4); use_cpu: true where there "
        "is no GPU"),
    Row(r"requires Ampere or a newer GPU arch|--tf32 requires",
        "tf32 wants a card from Ampere on",
        "Remove tf32, or set it to false; look at `nvidia-smi` if the card should have it: PyTorch may not see it"),
    Row(r"(?:HIP|CUDA|XPU|NPU|MPS) error: (?P<what>[^\n]+)|cuda runtime error \(\d+\) : (?P<old>[^\n]+)|CUDA driver "
        r"error: (?P<driver>[^\n]+)",
        "the GPU or its driver reports: {what|old|driver}",
        "Run again with CUDA_LAUNCH_BLOCKING=1 to see the operation; `nvidia-smi` and `dmesg -T | grep -i xid` show "
        "the card's state", likely=True, general=True),
)
# fmt: on
