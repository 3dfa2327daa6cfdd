"""What the device and the machine say: names and versions, matrix rate, GPU utilisation, host memory."""

import os
import platform
import subprocess
import threading
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path


GIB = 2**30
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "liger_kernel", "llamafactory", "flash_attn")
QUERY = ["--format=csv,noheader,nounits"]


def smi(field: str, *options: str) -> str | None:
    """Return one field of ``nvidia-smi``, None where the command is missing or fails."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={field}", *QUERY, *options], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None

    return done.stdout.strip().splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None


def versions() -> dict[str, str | None]:
    """Return the versions of what is measured; None for a package that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None

    return found


def describe_device() -> dict:
    """Return the device's name, memory, driver, the installed versions, and the matrix rate measured now."""
    import torch

    cuda = torch.cuda.is_available()
    seen = {"cuda": cuda, "device": "CPU", "cores": len(os.sched_getaffinity(0)), "memory_gib": None, "driver": None}
    if cuda:
        memory = round(torch.cuda.get_device_properties(0).total_memory / GIB, 1)
        seen.update(device=torch.cuda.get_device_name(0), memory_gib=memory, driver=smi("driver_version"))

    return {**seen, "versions": versions(), **measure_matmul()}


def measure_matmul(seconds: float = 1.0) -> dict:
    """Measure the rate of one large matrix product: bf16 8192 x 8192 x 8192 on CUDA, float32 1024 on CPU.

    Returns:
        ``matmul`` (what was measured) and ``matmul_tflops`` (10^12 operations a second).
    """
    import torch

    cuda = torch.cuda.is_available()
    size, dtype, device = (8192, torch.bfloat16, "cuda") if cuda else (1024, torch.float32, "cpu")
    left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    wait = torch.cuda.synchronize if cuda else lambda: None

    def products(number: int) -> float:
        started = time.perf_counter()
        for _ in range(number):
            left @ right

        wait()
        return time.perf_counter() - started

    products(3)
    number = max(3, int(seconds / max(products(3) / 3, 1e-6)))
    rate = number * 2 * size**3 / products(number)
    name = "bf16" if cuda else "float32"
    return {"matmul": f"{name} {size} x {size} x {size}", "matmul_tflops": rate / 1e12}


def host_memory(key: str = "VmHWM") -> float | None:
    """Return a line of /proc/self/status in GiB: VmHWM is the largest resident set so far, mapped pages included."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024 / GIB

    return None


class Utilisation:
    """Samples the GPU's utilisation five times a second in a thread, from one ``nvidia-smi`` that keeps running.

    Attributes:
        samples: (moment of ``time.perf_counter``, percent).
    """

    def __init__(self, every_ms: int = 200) -> None:
        self.samples: list[tuple[float, float]] = []
        self._process = None
        reader, writer = os.openpty()  # a terminal: nvidia-smi then writes each line at once
        try:
            command = ["nvidia-smi", "--query-gpu=utilization.gpu", *QUERY, "-lms", str(every_ms), "-i", self._gpu()]
            self._process = subprocess.Popen(command, stdout=writer, stderr=subprocess.DEVNULL)
        except OSError:
            os.close(reader)
            return
        finally:
            os.close(writer)

        self._thread = threading.Thread(target=self._read, args=(os.fdopen(reader),), daemon=True)
        self._thread.start()

    @staticmethod
    def _gpu() -> str:
        import torch

        uuid = str(torch.cuda.get_device_properties(0).uuid) if torch.cuda.is_available() else "0"
        return uuid if uuid == "0" or uuid.startswith("GPU-") else f"GPU-{uuid}"

    def _read(self, lines) -> None:
        with suppress(OSError):  # the terminal's end when the process is gone
            for line in lines:
                with suppress(ValueError):
                    self.samples.append((time.perf_counter(), float(line)))

    def stop(self) -> None:
        """End the sampling."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._thread.join(timeout=5)

    def between(self, first: float, last: float) -> dict[str, float] | None:
        """Return mean percent and the share of samples below 50 % in a span of time; None when there are none."""
        inside = [percent for moment, percent in self.samples if first <= moment <= last]
        if not inside:
            return None

        below = sum(percent < 50 for percent in inside) / len(inside)
        return {"mean_percent": sum(inside) / len(inside), "share_below_50": below, "samples": len(inside)}
