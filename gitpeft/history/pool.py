"""A pool of forked worker processes, each of which streams its results through a pipe.

Not `concurrent.futures.ProcessPoolExecutor`, because its workers outlive their parent: of two workers, two
were still running five seconds after a SIGKILL or SIGTERM of the parent (Python 3.11, fork). It also returns
one result per task, and would hold the results of a whole history in memory unless submission is throttled.
Here a worker ends as soon as nobody reads its pipe, and waits while nobody does.
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
from contextlib import contextmanager
from typing import IO, Generic, NoReturn, Self, TypeVar, cast

from gitpeft.errors import GitpeftError

WorkShare = TypeVar("WorkShare")
Item = TypeVar("Item")
Result = TypeVar("Result")

_PART_HEADER = struct.Struct(">cI")  # the kind of a part, and its size in bytes
_RESULT, _DONE, _USER_ERROR, _CRASH = b"+", b".", b"!", b"?"


_repeated_calls: list["RepeatedCall"] = []


class RepeatedCall:
    """A function that a thread calls every few seconds; the thread is ended while a process is forked.

    A fork takes no other thread along, but the locks that it holds, which then nobody releases. Also a
    context manager. To be used by the main thread.
    """

    def __init__(self, function: Callable[[], object], seconds: float) -> None:
        self._function, self._seconds = function, seconds
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, first after the time between two calls; nothing where it runs already."""
        self._ended.clear()
        if self._thread is None:
            self._thread = threading.Thread(target=self._repeat, daemon=True)
            self._thread.start()
            _repeated_calls.append(self)

    def stop(self) -> None:
        """End, after a call that is under way."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            _repeated_calls.remove(self)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _repeat(self) -> None:
        while not self._ended.wait(self._seconds):
            self._function()


@contextmanager
def _pause_repeated_calls() -> Iterator[None]:
    paused = _repeated_calls[:]
    try:
        for call in paused:
            call.stop()
        yield
    finally:
        for call in paused:
            call.start()


def can_fork() -> bool:
    """Whether this process can be forked: on Linux, and while no Python thread runs but a `RepeatedCall`.

    Some libraries of macOS do not survive a fork, and Windows has none.
    """
    return sys.platform == "linux" and threading.active_count() == 1 + len(_repeated_calls)


def count_cores() -> int:
    """The processor cores that this process may use."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:
        return os.cpu_count() or 1


def map_in_processes(
    shares: Sequence[WorkShare], work: Callable[[WorkShare], Iterable[Result]]
) -> Iterator[Result]:
    """Run `work` on each share in a process of its own, and yield the results, one of each share in turn.

    Results are JSON values (tuples arrive as lists), and their order is always the same. An exception in a
    worker is raised here: a GitpeftError as it is, others as RuntimeError with the traceback. Raises
    GitpeftError when a worker was killed. No worker is left afterwards.
    """
    workers: list[_ForkedWorker[WorkShare, Result]] = []
    try:
        with _pause_repeated_calls():
            for share in shares:
                workers.append(_ForkedWorker(share, work, [other.pipe for other in workers]))
        turns = workers[:]
        while turns:
            for worker in turns[:]:
                kind, result = worker.receive_part()
                if kind == _DONE:
                    turns.remove(worker)
                else:
                    yield result
    finally:
        for worker in workers:
            worker.kill_and_wait()


def map_over_cores(
    items: Sequence[Item], work: Callable[[Sequence[Item]], Iterable[Result]]
) -> Iterator[Result]:
    """The results of `work`, which gives one for each item, in the order of the items: from a process on each
    core where that can be, as with `map_in_processes`, else from this one."""
    count = min(count_cores(), len(items)) if can_fork() else 1
    if count < 2:
        return iter(work(items))
    return map_in_processes([items[i::count] for i in range(count)], work)


class _ForkedWorker(Generic[WorkShare, Result]):
    """A forked worker, as its parent sees it."""

    def __init__(
        self, share: WorkShare, work: Callable[[WorkShare], Iterable[Result]], others: list[IO[bytes]]
    ) -> None:
        read, write = os.pipe()
        with warnings.catch_warnings():
            # threads that Python does not know are those of linear algebra libraries, which no worker calls
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            for other in (*others, os.fdopen(read, "rb")):
                other.close()
            _run_worker(share, work, write)
        os.close(write)
        self.pipe = os.fdopen(read, "rb")

    def receive_part(self) -> tuple[bytes, Result]:
        """Read the next part: a result, or the end."""
        kind, size = _PART_HEADER.unpack(self._read_pipe(_PART_HEADER.size))
        content = json.loads(self._read_pipe(size))
        if kind == _USER_ERROR:
            raise GitpeftError(*content)
        if kind == _CRASH:
            raise RuntimeError(f"in a worker process:\n{content}")
        return kind, cast(Result, content)

    def _read_pipe(self, size: int) -> bytes:
        content = self.pipe.read(size)
        if len(content) < size:
            raise GitpeftError(
                "a process that was reading the history was killed",
                "Run the command again; what was read so far is kept.",
            )
        return content

    def kill_and_wait(self) -> None:
        """Kill the worker if it still runs, and wait for it."""
        self.pipe.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _run_worker(share: WorkShare, work: Callable[[WorkShare], Iterable[object]], pipe: int) -> NoReturn:
    """The main function of a worker; it exits without running or writing anything of the parent's."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for result in work(share):
            _send_part(pipe, _RESULT, result)
        _send_part(pipe, _DONE, None)
    except BrokenPipeError:
        pass
    except GitpeftError as error:
        _send_part(pipe, _USER_ERROR, [error.message, error.hint])
    except BaseException:
        _send_part(pipe, _CRASH, traceback.format_exc())
    finally:
        os._exit(0)


def _send_part(pipe: int, kind: bytes, content: object) -> None:
    raw = json.dumps(content).encode()
    view = memoryview(_PART_HEADER.pack(kind, len(raw)) + raw)
    while view:
        view = view[os.write(pipe, view) :]
