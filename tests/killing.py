"""A process that dies by SIGKILL before a chosen step: what a power cut or the OOM killer leaves behind."""

import os
import signal
import sys
from collections.abc import Callable, Iterator

WATCHED = (
    *("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.link"),
    *("shutil.rmtree", "fcntl.flock", "subprocess.Popen"),
)
"""Every touch of the disk and every start of a program."""


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Run `work` in a child that dies by SIGKILL before its `step`-th touch of the disk; whether it died."""
    child = os.fork()
    if child == 0:
        count = 0

        def note(event: str, _: object) -> None:
            nonlocal count
            if event in WATCHED:
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(note)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, f"the work failed at step {step}"
    return os.WIFSIGNALED(status)


def every_kill(work: Callable[[], object], stride: int = 1) -> Iterator[int]:
    """Kill `work` at each step in turn (or at each `stride`-th), yielding after each kill until it lives."""
    step = 1
    while killed_at(step, work):
        yield step
        step += stride
