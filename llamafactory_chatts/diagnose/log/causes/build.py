"""Compilers, headers and CUDA toolkits: Triton, nvcc, DeepSpeed's operations, bitsandbytes' library."""

import re

from ..row import Row


_COMPILING = "CalledProcessError|Error building extension|compil|Triton|ninja|build|Unable to JIT|Inductor|ImportError"
# fmt: off
_HEADERS = (
    (r"Python\.h|pyconfig\.h", "Python's header files",
     "Install them: `apt install python3-dev` (python3.11-dev for Python 3.11, python3-devel on Red Hat), or use a "
     "conda environment, which brings them"),
    ("cu|nv|thrust|cooperative_groups", "a header of the CUDA toolkit",
     "Install the CUDA toolkit of torch's CUDA version with its development files (`conda install -c nvidia "
     "cuda-toolkit`; curand: libcurand-dev) and set CUDA_HOME; without offload to the CPU in the DeepSpeed file "
     "nothing is compiled"),
    ("libaio", "the header of libaio", "`apt install libaio-dev`; it is needed for offloading to NVMe only"),
    (r"crypt\.h", "a header of the C library", "`apt install libcrypt-dev` (conda: `conda install libxcrypt`)"),
)
# fmt: on
"""The header's name, what it is, how it is had."""


def _header(match: re.Match[str]) -> tuple[str, str]:
    name = match["header"].rsplit("/", 1)[-1]
    other = ("", "a header file", f"Install the development package (-dev, -devel) that holds {name}")
    _, what, fix = next((known for known in _HEADERS if re.match(known[0], name)), other)
    return f"something is compiled at run time and {match['header']} is missing: {what}", fix


def _not_compiled(match: re.Match[str]) -> str:
    missing = re.search(r"(\S+): (?:command )?not found", match.string)
    end = f": {missing[1]} is not there" if missing else ""
    return f"DeepSpeed could not compile its operation {match['name'] or match['op']}{end}"


# fmt: off
ROWS = (
    Row(r"fatal error: ['\"]?(?P<header>[\w./+-]+\.h(?:pp|h)?)['\"]?:? (?:No such file|file not found)",
        _header, lines=("fatal error:",), explains=_COMPILING),
    Row(r"Failed to find C compiler|unable to find (?:a )?C\+?\+? ?compiler|No such file or directory: '(?:gcc|cc|"
        r"g\+\+|c\+\+|x86_64-linux-gnu-gcc)'|(?:gcc|g\+\+|cc): (?:command )?not found|C compiler cannot create "
        r"executables|InvalidCxxCompiler|No working C\+\+ compiler found",
        "Triton or PyTorch compiles at run time and found no C compiler",
        "Install one: `apt install build-essential` (gcc and g++) or `conda install gxx_linux-64`, or set "
        "CC=/path/to/gcc; without a compiler set enable_liger_kernel: false",
        lines=("gcc: not found", "g++: not found", "gcc: command not found"), explains=_COMPILING),
    Row(r"Compiler: cl is not found|Error checking compiler version for cl|Microsoft Visual C\+\+ 14\.\d or greater "
        r"is required",
        "a package compiles at run time and found no C++ compiler of Visual Studio",
        "Install the Build Tools for Visual Studio (C++), start from their prompt; or set enable_liger_kernel: false"),
    Row(r"ptxas fatal\s+: Value '(?P<sm>sm_\w+)' is not defined|gpu-name '(?P<name>sm_\w+)'|nvcc fatal\s+: "
        r"Unsupported gpu architecture '(?P<arch>compute_\w+)'|Unknown CUDA arch \((?P<cuda>[\w.]+)\)",
        "the compiler (ptxas or nvcc) is older than the card: it does not know {sm|name|arch|cuda}",
        "Install torch for a newer CUDA, with the Triton that belongs to it: {pip torch torchvision torchaudio}; a "
        "CUDA toolkit that knows the card for nvcc; unset TRITON_PTXAS_PATH and TORCH_CUDA_ARCH_LIST if they are set",
        lines=("ptxas fatal", "nvcc fatal"), explains=_COMPILING + "|PTX"),
    Row(r"ptxas (?:fatal|error)|PTXASError|Internal Triton PTX codegen error|`ptxas` (?:failed|stderr|raised)|Cannot "
        r"find ptxas|PTX was compiled with an unsupported toolchain",
        "Triton's code could not be translated for this card (ptxas): toolkit, driver and Triton are of different "
        "CUDA versions",
        "Take the Triton that torch brings: {pip --force-reinstall torch}; unset TRITON_PTXAS_PATH, update the "
        "driver; or set enable_liger_kernel: false", lines=("ptxas fatal", "Internal Triton PTX codegen error")),
    Row(r"unsupported GNU version! gcc versions later than (?P<gcc>\d+) are not supported",
        "nvcc does not take this gcc: it knows versions up to {gcc}",
        "Install gcc-{gcc} and g++-{gcc} and set CC, CXX and NVCC_PREPEND_FLAGS='-ccbin g++-{gcc}'; or a newer CUDA "
        "toolkit", lines=("unsupported GNU version",)),
    Row(r"cannot find -l(?P<lib>cuda|curand|cublas|cudart|cusparse|cusolver|nvrtc|aio|stdc\+\+)\b|lib(?P<so>cuda)\.so "
        r"cannot found|AssertionError: libcuda\.so cannot (?:be )?found",
        "the linker does not find lib{lib|so|cuda}.so",
        "libcuda comes with the driver: run `ldconfig`, or make libcuda.so a link to libcuda.so.1 (WSL: "
        "/usr/lib/wsl/lib); the others come with the CUDA toolkit: set CUDA_HOME and LIBRARY_PATH=$CUDA_HOME/lib64",
        lines=("cannot find -l",), benign=True, explains=_COMPILING),
    Row(r"out of resources?: shared memory, Required: (?P<need>\d+), Hardware limit: (?P<limit>\d+)|"
        r"triton\S*OutOfResources",
        "a Triton kernel wants more shared memory than this card has",
        "Set enable_liger_kernel: false, or flash_attn: sdpa if it is an attention kernel"),
    Row(r"Cannot find a working triton installation|TritonMissing|No module named 'triton(?!\.ops)|[Tt]riton is not "
        r"(?:installed|available|supported)|triton not found|0 active drivers \(\[\]\)|cannot import name '\w+' from "
        r"'triton",
        "Triton is missing, has no driver here, or does not fit this torch",
        "On Linux it comes with torch: {pip --force-reinstall torch}; on Windows and on the CPU set "
        "enable_liger_kernel: false", likely=True),
    Row(r"CUDA_HOME does not exist|CUDA_HOME environment variable is not set|\bnvcc: (?:command )?not found|No such "
        r"file or directory: '[^']*/bin/nvcc'|nvcc was not found|MissingCUDAException",
        "a CUDA operation is to be compiled (DeepSpeed, flash-attn), but there is no CUDA toolkit (nvcc, CUDA_HOME)",
        "Install the toolkit of torch's CUDA version and set CUDA_HOME; or take the offload to the CPU out of the "
        "DeepSpeed file, then nothing is compiled", lines=("nvcc: not found", "nvcc: command not found"),
        explains=_COMPILING),
    Row(r"Ninja is required to load C\+\+ extensions|due to ninja not being installed",
        "DeepSpeed compiles an operation at start and has no ninja",
        "pip install ninja"),
    Row(r"does not match the version torch was compiled with|CUDAMismatchException|The detected CUDA version \(.*?\) "
        r"mismatches",
        "the CUDA toolkit (nvcc) is of another version than the one torch was built with",
        "Install the toolkit of the same major version, or set DS_SKIP_CUDA_CHECK=1 for the CPU Adam"),
    Row(r"(?P<symbol>(?:GLIBC|GLIBCXX|CXXABI)_[\d.]+)[`']? not found",
        "a binary needs a newer C or C++ library (glibc, libstdc++) than this system has: {symbol}",
        "Use a newer system or container image; for libstdc++ (GLIBCXX, CXXABI) `conda install -c conda-forge "
        "libstdcxx-ng` and LD_LIBRARY_PATH=$CONDA_PREFIX/lib", lines=("GLIBCXX_", "GLIBC_", "CXXABI_"), benign=True,
        explains=r"Error building extension|bitsandbytes|not found|Failed to import|native library|NoneType|"
                 r"ImportError|OSError"),
    Row(r"Error building extension '(?P<name>\w+)'|Unable to JIT load the (?P<op>\w+) op",
        _not_compiled,
        "Look at the compiler's first error above; install g++ and ninja (and nvcc for GPU operations), delete "
        "~/.cache/torch_extensions and try again"),
    Row(r"'DeepSpeedCPUAdam' object has no attribute 'ds_opt_adam'",
        "the CPU Adam of DeepSpeed was not built; this message only follows from that",
        "Look for the compiler's error above; delete ~/.cache/torch_extensions and try again", general=True),
    Row(r"CalledProcessError: Command '\[?'?[^']*(?P<tool>gcc|g\+\+|cc|nvcc|ptxas|ninja|clang)\b",
        "{tool} failed while something was compiled at run time (Triton, DeepSpeed)",
        "Look at its first error above this traceback; Python's headers (python3-dev), the CUDA toolkit and g++ are "
        "what is missing most often; or set enable_liger_kernel: false", likely=True, general=True),
    Row(r"Error compiling objects for extension|ninja: build stopped",
        "a CUDA operation could not be compiled",
        "Look at the compiler's first error above; g++, ninja, python3-dev and a CUDA toolkit of torch's version are "
        "needed; what ChatTS needs has wheels: leave flash-attn out (flash_attn: sdpa)", likely=True, general=True),
    Row(r"triton\.\S*Error\b|Triton Error \[\w+\]",
        "a Triton kernel could not be compiled or run on this GPU",
        "Set enable_liger_kernel: false; take the Triton that torch brings: {pip --force-reinstall torch}",
        likely=True, general=True),
    Row(r"BackendCompilerFailed|InductorError|torch\._inductor\S*Error|torch\._dynamo\.exc\.\w+",
        "torch.compile failed",
        "Set TORCHDYNAMO_DISABLE=1 (torch_compile: false), and look at the first error above", likely=True,
        general=True),
    Row(r"[Uu]sing `?bitsandbytes`?[^\n]*requires|bitsandbytes[^\n]*(?:is not installed|not found in your "
        r"environment)|No package metadata was found for (?:The ')?bitsandbytes|No module named '(?:bitsandbytes'|"
        r"triton\.ops)|requires the latest version of bitsandbytes|bitsandbytes library requires|Please install "
        r"bitsandbytes|bitsandbytes[^\n]*to be installed|is_bitsandbytes_available",
        "4 or 8 bits (or an 8-bit optimizer) are asked for and bitsandbytes is not installed here, or is too old",
        "Run: {pip bitsandbytes}"),
    Row(r"bitsandbytes.*(?:without (?:GPU|CUDA) support|compiled without)|Configured (?:CUDA|ROCm) binary not found|"
        r"Required library version not found: libbitsandbytes|libbitsandbytes_\w+\.(?:so|dll)(?:: cannot open|"
        r"[^\n]*undefined symbol)|'NoneType' object has no attribute 'c(?:quantize|get_|adam|dequantize|gemm|allocate|"
        r"igemm)|CUDA [Ss]etup failed despite|name 'str2optimizer\w+' is not defined|bitsandbytes[^\n]*native library|"
        r"bitsandbytes was not compiled with CUDA|(?:cadam|cget_|cquantize)\w* ?(?:not found|is not)|CUDA SETUP: "
        r"(?:ERROR|CUDA detection failed|Something unexpected)",
        "bitsandbytes has no library for this CUDA version, or could not load it",
        "{pip --upgrade --force-reinstall --no-deps bitsandbytes}; `python -m bitsandbytes` shows what it finds, "
        "`lmf-chatts doctor` whether it quantises; unset BNB_CUDA_VERSION and a foreign LD_LIBRARY_PATH",
        lines=("CUDA Setup failed despite", "Could not load bitsandbytes native library",
               "was compiled without GPU support"), benign=True,
        explains=r"bitsandbytes|str2optimizer|NoneType' object has no attribute 'c|libbitsandbytes"),
    Row(r"Error (?P<what>[\w ]+?) at line \d+ in file \S*(?:ops\.cu|bitsandbytes)",
        "bitsandbytes' kernels failed on this GPU ({what}): it was built for another CUDA version or card",
        "{pip --upgrade --force-reinstall --no-deps bitsandbytes}; `python -m bitsandbytes` shows what it finds",
        lines=("ops.cu",)),
    Row(r"No GPU found\. A GPU is needed for quantization|requires CUDA, but CUDA is not available|None of the "
        r"available devices|supported by the bitsandbytes version|bnb_supported_devices",
        "4 or 8 bits are asked for, and bitsandbytes sees no device that it supports: PyTorch finds no GPU",
        "Look at `nvidia-smi` and `lmf-chatts doctor`: driver, CUDA_VISIBLE_DEVICES, a CPU-only torch; without a GPU "
        "remove quantization_bit"),
    Row(r"Some modules are dispatched on the CPU or the disk\. Make sure you have enough GPU",
        "the quantised model does not fit the free memory of the GPU",
        "Free the card (`nvidia-smi`), or take a smaller base; `lmf-chatts plan RECIPE.yaml` predicts the need"),
)
# fmt: on
