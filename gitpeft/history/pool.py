"""Several processes for one long piece of work: hides fork, pipes, and workers that end before their time.

A worker is a copy of this process that computes and sends what it finds through a pipe; it shares no file and
no database with it. It ends when nobody reads its pipe any more, so none outlives its parent.
"""

import json
import os
import signal
import struct
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, NoReturn, TypeVar

from gitpeft.errors import GitpeftError

WorkShare = TypeVar("WorkShare")

_PART_HEADER = struct.Struct(">cI")  # what a part is, and its size in bytes
_FOUND, _DONE, _REFUSED, _FAILED = b"+", b".", b"!", b"?"


def can_fork() -> bool:
    """Whether this process can be copied: on Linux, and while no other thread of Python runs.

    macOS has libraries that do not survive a fork, Windows has none.
    """
    return sys.platform == "linux" and threading.active_count() == 1


def map_in_processes(
    shares: Sequence[WorkShare], work: Callable[[WorkShare], Iterable[Any]]
) -> Iterator[Any]:
    """What `work` finds in each share (JSON types), a worker for each, taken in turn: always in one order.

    What a worker raises is raised here; GitpeftError when one was killed. No worker is left afterwards.
    """
    workers: list[_ForkedWorker] = []
    try:
        for share in shares:
            workers.append(_ForkedWorker(share, work, [other.pipe for other in workers]))
        turns = workers[:]
        while turns:
            for worker in turns[:]:
                kind, found = worker.receive_part()
                if kind == _DONE:
                    turns.remove(worker)
                else:
                    yield found
    finally:
        for worker in workers:
            worker.kill_and_wait()


class _ForkedWorker:
    """One copy of this process, seen from here."""

    def __init__(
        self, share: WorkShare, work: Callable[[WorkShare], Iterable[Any]], others: list[IO[bytes]]
    ) -> None:
        read, write = os.pipe()
        with warnings.catch_warnings():
            # other threads are those of libraries for arithmetic, which a worker does not call
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            for other in (*others, os.fdopen(read, "rb")):
                other.close()
            _run_worker(share, work, write)
        os.close(write)
        self.pipe = os.fdopen(read, "rb")

    def receive_part(self) -> tuple[bytes, Any]:
        """The next part of what it found, or that there is no more."""
        kind, size = _PART_HEADER.unpack(self._read_pipe(_PART_HEADER.size))
        content = json.loads(self._read_pipe(size))
        if kind == _REFUSED:
            raise GitpeftError(*content)
        if kind == _FAILED:
            raise RuntimeError(f"in a worker process:\n{content}")
        return kind, content

    def _read_pipe(self, size: int) -> bytes:
        found = self.pipe.read(size)
        if len(found) < size:
            raise GitpeftError(
                "a process that read the history was killed", "Run the command again: what was read is kept."
            )
        return found

    def kill_and_wait(self) -> None:
        """Stop it if it still runs, and collect it."""
        self.pipe.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _run_worker(share: WorkShare, work: Callable[[WorkShare], Iterable[Any]], pipe: int) -> NoReturn:
    """The life of a worker; nothing of the parent's is run or written on the way out."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for found in work(share):
            _send_part(pipe, _FOUND, found)
        _send_part(pipe, _DONE, None)
    except BrokenPipeError:
        pass
    except GitpeftError as error:
        _send_part(pipe, _REFUSED, [error.message, error.hint])
    except BaseException:
        _send_part(pipe, _FAILED, traceback.format_exc())
    finally:
        os._exit(0)


def _send_part(pipe: int, kind: bytes, content: Any) -> None:
    raw = json.dumps(content).encode()
    view = memoryview(_PART_HEADER.pack(kind, len(raw)) + raw)
    while view:
        view = view[os.write(pipe, view) :]
