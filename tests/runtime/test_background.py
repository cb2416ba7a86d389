"""Work on another thread: its result and its exception reach whoever waits for them."""

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
