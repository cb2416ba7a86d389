"""`gitpeft.history.pool`: work in copies of this process, and what becomes of one that ends early."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from gitpeft.errors import GitpeftError
from gitpeft.history import pool

pytestmark = pytest.mark.skipif(not pool.can_fork(), reason="no copies of a process here")


def count(share: range) -> Iterator[list[object]]:
    for number in share:
        yield [number, "é\0\n" * number, None]


def children() -> set[int]:
    """Processes that this one started and has not collected; other tests may have left some."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


def test_results_come_in_turn() -> None:
    found = list(pool.map_in_processes([range(3), range(10, 15), range(0)], count))
    assert [one[0] for one in found] == [0, 10, 1, 11, 2, 12, 13, 14]
    assert found[4] == [2, "é\0\né\0\n", None]


def test_items_are_shared_out_over_the_cores_and_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def name_process(items: Sequence[int]) -> Iterator[list[int]]:
        for item in items:
            yield [item, os.getpid()]

    monkeypatch.setattr(pool, "count_cores", lambda: 3)
    monkeypatch.setattr(pool, "can_fork", lambda: True)
    found = list(pool.map_over_cores(range(7), name_process))
    assert [item for item, _ in found] == list(range(7))
    assert len({process for _, process in found} - {os.getpid()}) == 3
    monkeypatch.setattr(pool, "can_fork", lambda: False)
    assert [process for _, process in pool.map_over_cores(range(3), name_process)] == [os.getpid()] * 3
    assert not list(pool.map_over_cores([], name_process))


def test_parts_larger_than_a_pipe_pass() -> None:
    [one, other] = pool.map_in_processes(["a", "b"], lambda share: [share * 3_000_000])
    assert (one, other) == ("a" * 3_000_000, "b" * 3_000_000)


def test_what_a_worker_refuses_is_refused_here() -> None:
    def work(share: int) -> Iterator[int]:
        yield share
        raise GitpeftError("no such thing", "Try another.")

    with pytest.raises(GitpeftError, match="no such thing") as caught:
        list(pool.map_in_processes([1, 2], work))
    assert caught.value.hint == "Try another."


def test_a_mistake_in_a_worker_is_told_with_its_place() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)in a worker.*test_pool.py.*ZeroDivisionError"):
        list(pool.map_in_processes([0], lambda share: [1 // share]))


def test_a_killed_worker_is_told_and_takes_the_others_along() -> None:
    def work(share: int) -> Iterator[int]:
        yield share
        if share:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    start = time.monotonic()
    with pytest.raises(GitpeftError, match="was killed") as caught:
        list(pool.map_in_processes([1, 0], work))
    assert "again" in caught.value.hint
    assert time.monotonic() - start < 30


def test_a_reader_that_stops_leaves_no_worker() -> None:
    results = pool.map_in_processes([range(10**6), range(10**6)], count)
    assert next(results)[0] == 0
    del results


def test_other_threads_forbid_it() -> None:
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait)
    thread.start()
    try:
        assert not pool.can_fork()
    finally:
        leave.set()
        thread.join()


REPEATING = """
import os, threading
from gitpeft.history import pool

called, threads, fork = threading.Event(), [], os.fork

def count_threads():
    threads.append(threading.active_count())
    return fork()

os.fork = count_threads
with pool.RepeatedCall(called.set, 0.01):
    assert called.wait(30) and pool.can_fork()
    assert list(pool.map_in_processes([[0], [5]], lambda share: share)) == [0, 5]
    assert threads == [1, 1]
    called.clear()
    assert called.wait(30), "it goes on afterwards"
assert threading.active_count() == 1 and pool.can_fork()
called.clear()
assert not called.wait(0.1)
"""


def test_a_repeated_call_stands_still_while_processes_are_forked() -> None:
    """In a process of its own: here other tests may have left threads."""
    done = subprocess.run([sys.executable, "-c", REPEATING], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


ENDLESS = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
from itertools import count
from gitpeft.history import pool
def work(share):
    yield os.getpid()
    yield from (["x" * 1000] for _ in count())
for found in pool.map_in_processes([0, 1], work):
    if isinstance(found, int):
        print(found, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(how: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    command = [sys.executable, "-c", ENDLESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        workers = [int(process.stdout.readline()) for _ in range(2)]
        os.kill(process.pid, how)
    until = time.monotonic() + 30
    while any(map(runs, workers)):
        assert time.monotonic() < until
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie that waits for an idle init."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
