"""Restrictions on the child process that runs a model: resource limits, no sockets, no programs, no orphan.

They hold three times over: environment variables that keep libraries from going online, a Python audit hook,
and on Linux a seccomp filter, which native code and grandchildren cannot avoid either.
"""

import os
import resource
import signal
import struct
import sys

FILE_LIMIT = 8 << 20
"""Bytes that the child may write into one file (RLIMIT_FSIZE); its answer goes through a pipe."""

OFFLINE_ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set before any library is loaded; the restrictions below do not depend on it."""

_PROGRAM_EVENTS = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"}
)
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 1, 38, 22, 2
_SECCOMP_ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
_SECCOMP_REFUSE = 0x00050000 | 1  # SECCOMP_RET_ERRNO with EPERM
# AUDIT_ARCH_… of the kernel, and the numbers of the system calls socket, execve and execveat.
_SYSCALL_NUMBERS = {"x86_64": (0xC000003E, (41, 59, 322)), "aarch64": (0xC00000B7, (198, 221, 281))}
_IO_URING_SETUP = 425


def restrict_process(seconds: float, memory_mb: int, parent: int) -> None:
    """Restrict this process for the rest of its life.

    It may run for `seconds` of wall-clock time and allocate `memory_mb` MiB beyond what it had when it was
    forked (a parent that has trained a model holds gigabytes). It writes no core dump and no large file,
    opens no socket, starts no program, and on Linux is killed when the process `parent` ends. A limit that
    the system does not have is skipped: the parent's own deadline holds anyway.
    """
    os.environ.update(OFFLINE_ENVIRONMENT)
    sys.addaudithook(_refuse_audit_event)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    _set_resource_limit(resource.RLIMIT_CORE, 0)
    _set_resource_limit(resource.RLIMIT_FSIZE, FILE_LIMIT)
    _set_resource_limit(resource.RLIMIT_DATA, _measure_data_size() + (memory_mb << 20))
    _set_resource_limit(resource.RLIMIT_CPU, int(seconds * (os.cpu_count() or 1)) + 1)
    if sys.platform == "linux":
        _restrict_kernel(parent)


def limit_memory(megabytes: int) -> None:
    """Let this process allocate at most that many MiB: an enormous change then ends in a MemoryError."""
    _set_resource_limit(resource.RLIMIT_DATA, megabytes << 20)


def _measure_data_size() -> int:
    """Bytes of data and stack of this process; 0 where the system has no /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as status:
            return int(status.read().split()[5]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


def _set_resource_limit(kind: int, value: int) -> None:
    try:
        hard = resource.getrlimit(kind)[1]
        if hard == resource.RLIM_INFINITY or hard >= value:
            resource.setrlimit(kind, (value, hard))
    except (OSError, ValueError):
        pass


def _refuse_audit_event(event: str, _: tuple[object, ...]) -> None:
    if event.startswith("socket."):
        raise PermissionError("gitpeft opens no connection")
    if event in _PROGRAM_EVENTS:
        raise PermissionError("gitpeft runs nothing here")


def _restrict_kernel(parent: int) -> None:
    """Let the Linux kernel answer EPERM to opening a socket or starting a program, and kill orphans."""
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(1)
        program = _build_seccomp_filter(*_SYSCALL_NUMBERS[os.uname().machine])
        code = ctypes.create_string_buffer(program, len(program))
        head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
            libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(head), 0, 0)
    except (ImportError, OSError, KeyError, AttributeError):
        pass


def _build_seccomp_filter(architecture: int, calls: tuple[int, ...]) -> bytes:
    """A seccomp filter, as an array of struct sock_filter.

    It refuses the given system calls, io_uring_setup (which could open sockets), and calls of any other
    architecture, whose numbers mean something else.
    """
    load, equal, at_least, result = 0x20, 0x15, 0x35, 0x06  # BPF: ld [k], jeq, jge, ret
    refused = (*calls, _IO_URING_SETUP)
    lines = [
        (load, 0, 0, 4),  # seccomp_data.arch
        (equal, 0, 2 + len(refused), architecture),
        (load, 0, 0, 0),  # seccomp_data.nr
        (at_least, len(refused), 0, 0x40000000),  # the x32 numbers of x86
        *((equal, left, 0, number) for left, number in zip(range(len(calls), 0, -1), calls, strict=True)),
        (equal, 0, 1, _IO_URING_SETUP),
        (result, 0, 0, _SECCOMP_REFUSE),
        (result, 0, 0, _SECCOMP_ALLOW),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in lines)
