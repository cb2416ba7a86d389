"""Peak memory of a piece of work, on the CPU and on a GPU, and giving memory back."""

import ctypes
import sys
from pathlib import Path

_PROCESS_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in said or "not enough memory" in said
    )


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
