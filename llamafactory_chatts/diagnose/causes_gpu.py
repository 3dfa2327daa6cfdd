"""CUDA and the driver: asserts, builds that do not fit the card."""

from .causes import rule
from .causes_gpu_memory import OUT_OF_MEMORY


CAUSES = (
    OUT_OF_MEMORY,
    rule(
        r"CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_NOT_INITIALIZED",
        "a CUDA library could not get its work space; most often the GPU's memory is used up",
        "Look at `nvidia-smi` for other processes; halve per_device_train_batch_size, or run once with "
        "CUDA_LAUNCH_BLOCKING=1 to see the operation",
        "likely",
    ),
    rule(
        r"indexSelect\w+Index|srcIndex < srcSelectDimSize|vectorized_gather_kernel.*index out of bounds",
        "an index is outside a table on the GPU: a token id beyond the embedding, or tokenizer and weights do "
        "not belong "
        "together",
        "Train once with use_cpu: true, which names the row; check that tokenizer.json and config.json's "
        "vocab_size come "
        "from the same base",
        needles=("Assertion `srcIndex", "index out of bounds"),
    ),
    rule(
        r"device-side assert triggered",
        "an assertion failed on the GPU; the Python line in the traceback may be a later one",
        "Run again with CUDA_LAUNCH_BLOCKING=1, or once with use_cpu: true: the message then names the operation",
        needles=("device-side assert triggered",),
        general=True,
    ),
    rule(
        r"CUDA error: an illegal memory access was encountered|CUDA error: misaligned address",
        "a GPU kernel touched memory that is not its own; the Python line in the traceback may be a later one",
        "Run again with CUDA_LAUNCH_BLOCKING=1 to see the operation; try flash_attn: sdpa and "
        "enable_liger_kernel: false to find the kernel",
        needles=("an illegal memory access was encountered",),
    ),
    rule(
        r"no kernel image is available for execution on the device",
        "this PyTorch build has no kernels for this card",
        "Install the PyTorch build for a CUDA version that knows the card (cards of 2025 need CUDA 12.8 or "
        "later; very old "
        "ones CUDA 12.6); `lmf-chatts doctor` shows card and build",
        needles=("no kernel image is available",),
    ),
    rule(
        r"with CUDA capability (?P<sm>sm_\d+) is not compatible with the current PyTorch installation",
        "this PyTorch build has no kernels for the card ({sm})",
        "Install the PyTorch build for a CUDA version that knows the card; `lmf-chatts doctor` shows card and build",
        "likely",
        needles=("is not compatible with the current PyTorch",),
        benign=True,
    ),
    rule(
        r"driver on your system is too old \(found version (?P<found>\d+)\)|"
        r"CUDA driver version is insufficient for CUDA runtime version|forward compatibility was attempted",
        "the NVIDIA driver is too old for this PyTorch build",
        "Update the driver, or install the PyTorch build of an older CUDA version that `nvidia-smi` allows",
        needles=("driver on your system is too old", "driver version is insufficient"),
        benign=True,
    ),
    rule(
        r"Driver/library version mismatch",
        "the NVIDIA kernel module and its libraries are of different versions: the driver was updated without a "
        "restart",
        "Restart the machine, or reload the nvidia kernel modules",
        needles=("Driver/library version mismatch",),
    ),
    rule(
        r"Found no NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device is detected",
        "PyTorch sees no NVIDIA GPU",
        "Check `nvidia-smi` and CUDA_VISIBLE_DEVICES; in a container add `--gpus all`; on a machine without a GPU set "
        "use_cpu: true",
        needles=("Found no NVIDIA driver",),
        benign=True,
    ),
    rule(
        r"Torch not compiled with CUDA enabled",
        "a CPU-only PyTorch build is installed",
        "Install the CUDA build of the same PyTorch version; `lmf-chatts doctor` shows the command",
    ),
    rule(
        r"CUDA error: invalid device ordinal",
        "a process asked for a GPU that is not there: more processes than visible GPUs",
        "Make NPROC_PER_NODE (torchrun --nproc_per_node) equal to the number of GPUs in CUDA_VISIBLE_DEVICES",
        needles=("invalid device ordinal",),
    ),
    rule(
        r"uncorrectable ECC error|GPU is lost|has fallen off the bus|unspecified launch failure|CUDA error: "
        r"unknown error",
        "the GPU itself failed",
        "Look at `dmesg -T | grep -i xid` and `nvidia-smi -q -d ECC`; restart the machine, and leave this GPU "
        "out until "
        "it is checked",
        needles=("uncorrectable ECC error", "GPU is lost", "fallen off the bus"),
    ),
    rule(
        r"doesn't support bf16/gpu|does not support bfloat16|doest not suppo?rt bfloat16|bf16 is not supported "
        r"on this",
        "this device has no bf16",
        "Set bf16: false and fp16: true on cards before Ampere (RTX 20 series, V100, T4); use_cpu: true where "
        "there is no "
        "GPU",
    ),
)
