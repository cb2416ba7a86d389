"""A second process beside the one that runs a model, for work that would hold it up.

Libraries written in C often let no other Python thread run while they load something: in one process they
load one after the other, and other cores stand idle. A helper answers requests over pipes, one line of JSON
each.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping

from gitpeft.errors import GitpeftError

HelperHandler = Callable[[dict[str, object]], object]
"""From a request to its answer; the values of both are what JSON can hold."""


class Helper:
    """The helper as the process sees it that asks: the ends of two pipes, for requests and for answers."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests = os.fdopen(requests, "wb")
        self._answers = os.fdopen(answers, "rb")
        self._turn = threading.Lock()

    def close(self) -> None:
        """End the helper."""
        self._requests.close()
        self._answers.close()

    def ask(self, request: Mapping[str, object]) -> object:
        """The answer to a request; GitpeftError when the helper reports one, or has died."""
        with self._turn:
            try:
                self._requests.write(json.dumps(request).encode() + b"\n")
                self._requests.flush()
                answer = json.loads(self._answers.readline())
            except (OSError, ValueError):
                raise GitpeftError("the second process of the model died") from None
        if "error" in answer:
            raise GitpeftError(*answer["error"])
        return answer["result"]


def serve_requests(prepare: Callable[[], HelperHandler], requests: int, answers: int) -> None:
    """All that a helper does, until the other end is closed. `prepare` loads the handler, before a request.

    Its failure is the answer to every request.
    """
    try:
        handler = prepare()
    except Exception as error:
        handler = _make_failing_handler(error)
    with open(requests, "rb") as incoming, open(answers, "wb") as outgoing:
        for line in incoming:
            outgoing.write(json.dumps(_answer(handler, json.loads(line))).encode() + b"\n")
            outgoing.flush()


def _make_failing_handler(error: Exception) -> HelperHandler:
    def fail(_: dict[str, object]) -> object:
        raise error

    return fail


def _answer(handler: HelperHandler, request: dict[str, object]) -> dict[str, object]:
    try:
        return {"result": handler(request)}
    except GitpeftError as error:
        return {"error": [error.message, error.hint]}
    except Exception as error:  # whatever a damaged file raises; its text could hold anything
        return {"error": [f"the model failed ({type(error).__name__})", ""]}
