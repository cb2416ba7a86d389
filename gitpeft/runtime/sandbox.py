"""What the working child of the hook may do: hides limits, the ban on sockets, and who dies with whom."""

import os
import resource
import signal
import struct
import sys

FILE_LIMIT = 8 << 20
"""Bytes that the child may write into any one file; its answer goes through a pipe."""

OFFLINE = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set before any library loads; the bans below hold without them."""

_PROGRAMS = frozenset({"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"})
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 1, 38, 22, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with EPERM
# Architecture in the kernel's audit numbers, and the numbers of socket, execve and execveat there.
_SYSTEMS = {"x86_64": (0xC000003E, (41, 59, 322)), "aarch64": (0xC00000B7, (198, 221, 281))}
_IO_URING_SETUP = 425


def enter(seconds: float, memory_mb: int, parent: int) -> None:
    """Limit this process for good: time, memory, file size, no core dump, no socket, no program, death with
    its parent (the process id, which it knows from before it was forked).

    The memory is what this process may take beyond what it was forked with: a parent that has trained a model
    holds gigabytes. Each limit is set where the system knows it, and skipped where not: the parent's clock
    holds anyway.
    """
    os.environ.update(OFFLINE)
    sys.addaudithook(_refuse)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, FILE_LIMIT)
    _limit(resource.RLIMIT_DATA, _held() + (memory_mb << 20))
    _limit(resource.RLIMIT_CPU, int(seconds * (os.cpu_count() or 1)) + 1)
    if sys.platform == "linux":
        _restrict_kernel(parent)


def limit_memory(megabytes: int) -> None:
    """Bound what this process may allocate, so that an enormous change ends in a MemoryError."""
    _limit(resource.RLIMIT_DATA, megabytes << 20)


def _held() -> int:
    """Bytes of data and stack of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as status:
            return int(status.read().split()[5]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


def _limit(kind: int, value: int) -> None:
    try:
        hard = resource.getrlimit(kind)[1]
        if hard == resource.RLIM_INFINITY or hard >= value:
            resource.setrlimit(kind, (value, hard))
    except (OSError, ValueError):
        pass


def _refuse(event: str, _: tuple[object, ...]) -> None:
    if event.startswith("socket."):
        raise PermissionError("gitpeft opens no connection")
    if event in _PROGRAMS:
        raise PermissionError("gitpeft runs nothing here")


def _restrict_kernel(parent: int) -> None:
    """Ask Linux itself: to open a socket or start a program is EPERM, in native code and in children too."""
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
        program = _program(*_SYSTEMS[os.uname().machine])
        code = ctypes.create_string_buffer(program, len(program))
        head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
            libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.c_char_p(head), 0, 0)
    except (ImportError, OSError, KeyError, AttributeError):
        pass


def _program(architecture: int, calls: tuple[int, ...]) -> bytes:
    """The filter, as struct sock_filter: refuse the calls, io_uring_setup, and any foreign architecture."""
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    refused = (*calls, _IO_URING_SETUP)
    lines = [
        (load, 0, 0, 4),  # seccomp_data.arch
        (equal, 0, 2 + len(refused), architecture),
        (load, 0, 0, 0),  # seccomp_data.nr
        (at_least, len(refused), 0, 0x40000000),  # the second set of numbers that x86 has
        *((equal, left, 0, number) for left, number in zip(range(len(calls), 0, -1), calls, strict=True)),
        (equal, 0, 1, _IO_URING_SETUP),
        (give, 0, 0, _REFUSE),
        (give, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in lines)
