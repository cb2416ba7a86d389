"""Peak memory of a piece of work, on the CPU and on a GPU, and giving memory back."""

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")

_PROCESS_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")

_OUT_OF_MEMORY = (
    *("can't allocate memory", "not enough memory", "cuda error: out of memory", "cuda out of memory"),
    *(
        "cublas_status_alloc_failed",
        "cudnn_status_alloc_failed",
        "cudnn_status_internal_error_host_allocation",
    ),
)
"""What torch and the libraries below it say, in lower case, where memory runs out; not all of it is raised as
`torch.cuda.OutOfMemoryError`."""


def reset_peak_memory(device: str = "cpu") -> None:
    """Reset the peaks, where the system supports it: Linux since 4.0, and GPUs."""
    try:
        _CLEAR_REFS.write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        pass
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def read_peak_resident() -> int:
    """Peak resident memory of this process in bytes: since `reset_peak_memory`, or since its start."""
    import resource

    try:
        for line in _PROCESS_STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def read_peak_device(device: str) -> tuple[int, int]:
    """Most device memory allocated and reserved since `reset_peak_memory`, in bytes; zeros without a GPU."""
    if not device.startswith("cuda"):
        return 0, 0
    import torch

    return int(torch.cuda.max_memory_allocated(device)), int(torch.cuda.max_memory_reserved(device))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory, on a GPU or not, was not enough."""
    import torch

    said = str(error).lower()
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in said for sign in _OUT_OF_MEMORY)


def halve_until_it_fits(size: int, work: Callable[[int], Found]) -> Found:
    """What `work` gives for a size, which is halved each time that memory runs out.

    The error itself where 1 is too much.
    """
    while True:
        try:
            return work(size)
        except (RuntimeError, MemoryError) as error:
            if size < 2 or not is_out_of_memory(error):
                raise
        release_memory()  # not before: the error keeps what failed alive
        size = -(-size // 2)


def describe_error(error: BaseException) -> str:
    """The kind of an exception and its first line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def trim_heap() -> None:
    """Return what is free to the system, where the C library can (glibc)."""
    if sys.platform == "linux" and (give := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        give(0)


def release_memory() -> None:
    """Give back all that is no longer used, here and on a GPU."""
    import gc

    import torch

    gc.collect()
    trim_heap()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
