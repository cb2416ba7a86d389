"""The second process beside the one that runs a model: answers, failures, restrictions, and its end."""

import os
import signal
import socket  # noqa: TID251
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from gitpeft.errors import GitpeftError
from gitpeft.runtime import worker
from gitpeft.runtime.helper import Helper, HelperHandler
from gitpeft.runtime.worker import RequestHandler, Worker


def ask(handler: Callable[[Path], HelperHandler], folder: Path, *requests: Mapping[str, object]) -> object:
    """What a child hears of its helper, in answer to the last of these requests."""

    def load(_: Path, helper: Helper) -> RequestHandler:
        def handle(_: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
            yield {"heard": [helper.ask(one) for one in requests][-1]}

        return handle

    with Worker(folder, load, time.monotonic() + 20, 256, helper=handler) as child:
        return child.get_answer({})["heard"]


def _echo(_: Path) -> HelperHandler:
    return lambda request: {"pid": os.getpid(), **request}


def _fail_to_load(_: Path) -> HelperHandler:
    raise GitpeftError("the tokenizer is damaged", "build it again")


def _die(_: Path) -> HelperHandler:
    return lambda _: os.kill(os.getpid(), signal.SIGKILL)


def _raise(_: Path) -> HelperHandler:
    return lambda _: 1 // 0


def test_a_helper_answers_one_request_after_the_other(tmp_path: Path) -> None:
    heard = ask(_echo, tmp_path, {"text": "a\nb"}, {"text": "ü" * 20_000})
    assert isinstance(heard, dict) and heard["text"] == "ü" * 20_000 and heard["pid"] != os.getpid()


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (_fail_to_load, r"the tokenizer is damaged \(build it again\)"),
        (_die, "the second process of the model died"),
        (_raise, "the model failed \\(ZeroDivisionError\\)"),
    ],
    ids=["not loaded", "dead", "an error"],
)
def test_what_goes_wrong_in_a_helper_is_said(
    tmp_path: Path, handler: Callable[[Path], HelperHandler], reason: str
) -> None:
    with pytest.raises(GitpeftError, match=reason):
        ask(handler, tmp_path, {})


def test_where_no_process_is_to_be_had_the_child_does_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    def load(_: Path, helper: Helper | None = None) -> RequestHandler:
        return lambda _: iter([{"alone": helper is None}])

    monkeypatch.setattr(worker, "_fork_helper", fail)
    with Worker(tmp_path, load, time.monotonic() + 20, 256, helper=_echo) as child:
        assert child.get_answer({})["alone"] is True


def test_a_helper_is_confined_as_its_child_is(tmp_path: Path) -> None:
    def connect(_: dict[str, object]) -> object:
        try:
            socket.socket()
        except PermissionError as error:
            return str(error)
        return "connected"

    assert ask(lambda _: connect, tmp_path, {}) == "gitpeft opens no connection"


def test_a_helper_ends_with_its_child(tmp_path: Path) -> None:
    heard = ask(_echo, tmp_path, {})
    assert isinstance(heard, dict)
    deadline = time.monotonic() + 10
    while _is_running(int(heard["pid"])):
        assert time.monotonic() < deadline, "the helper outlives its child"
        time.sleep(0.01)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
