"""Work on another thread: its result and its exception reach whoever waits for them."""

import threading
import time

import pytest

from gitpeft.runtime.background import BackgroundTask


def test_the_result_is_returned() -> None:
    assert BackgroundTask(lambda: 3).get_result() == 3


def test_an_exception_is_raised_each_time_the_result_is_asked_for() -> None:
    def fail() -> int:
        raise ValueError("no")

    task = BackgroundTask(fail)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            task.get_result()


def test_waiting_ends_with_the_work_or_after_the_time_given() -> None:
    ending = threading.Event()
    task = BackgroundTask(ending.wait)
    started = time.monotonic()
    task.wait(0.05)
    assert 0.04 < time.monotonic() - started < 10
    ending.set()
    task.wait(60)
    assert task.get_result() and time.monotonic() - started < 30
