"""Programs that have a controlling terminal, as those that a person starts do."""

import fcntl
import os
import pty
import re
import struct
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


def run_in_window(command: Sequence[str], cwd: Path, env: Mapping[str, str], columns: int) -> list[str]:
    """The lines that a program shows in a window of so many columns, without colors."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with subprocess.Popen(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=inner, stderr=inner
    ) as process:
        os.close(inner)
        shown = b""
        try:
            while part := os.read(outer, 4096):
                shown += part
        except OSError:  # how Linux says that the other side is closed
            pass
        process.wait(60)
    os.close(outer)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).splitlines()
