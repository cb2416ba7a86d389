"""Work on a thread of its own, whose result is waited for when it is needed."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

Result = TypeVar("Result")


class BackgroundTask(Generic[Result]):
    """The result of a function that a daemon thread has started to run."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run_work, daemon=True)
        self._thread.start()

    def _run_work(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error

    def wait(self, seconds: float) -> None:
        """Wait for the result, at most that long; an exception of the function is not raised here."""
        self._thread.join(seconds)

    def get_result(self) -> Result:
        """Wait for the result; an exception of the function is raised here."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return cast(Result, self._result)
