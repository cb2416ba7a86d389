"""A process that dies by SIGKILL before a chosen step: what a power cut or the OOM killer leaves behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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


_LOOP = """
import sys
from pathlib import Path
from gitpeft.suggest.suggester import open_active_suggester
state, change = Path(sys.argv[1]), sys.argv[2]
print("asking", flush=True)
count = 0
while not Path(sys.argv[3]).exists():
    assert open_active_suggester(state).suggest(change, ""), "nothing was suggested"
    count += 1
print(count)
"""


@contextmanager
def asked_meanwhile(state_dir: Path, scratch: Path, change: str) -> Iterator[None]:
    """Another process opens the active model and asks it, as hooks do, over and over; it may never fail."""
    stop = scratch / "stop asking"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", _LOOP, str(state_dir), change, str(stop)]
    loop = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True)
    assert loop.stdout is not None
    assert loop.stdout.readline() == "asking\n"
    try:
        yield
    finally:
        stop.touch()
        said, complaints = loop.communicate(timeout=60)
    assert loop.returncode == 0, complaints
    assert int(said) > 5, "it was hardly asked"
