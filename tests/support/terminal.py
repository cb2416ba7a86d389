"""Programs that have a controlling terminal, as those that a person starts do."""

import fcntl
import os
import pty
import subprocess
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_terminal() -> Iterator[int]:
    """A pseudo-terminal; the descriptor of the side that programs see."""
    outer, inner = pty.openpty()
    try:
        yield inner
    finally:
        os.close(inner)
        os.close(outer)


def run_on_terminal(
    command: Sequence[str], terminal: int, cwd: Path, env: Mapping[str, str], input: str | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a session of its own, with this terminal; its output is captured nevertheless."""

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 1)

    return subprocess.run(
        command,
        cwd=cwd,
        env=env,
        input=None if input is None else input.encode(),
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        timeout=60,
        check=False,
        preexec_fn=take_terminal,
        pass_fds=[terminal],
    )
