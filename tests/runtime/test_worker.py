"""The child that runs a model: preliminary answers, and what becomes of them."""

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from gitpeft.errors import GitpeftError
from gitpeft.runtime import worker
from gitpeft.runtime.worker import PRELIMINARY, RequestHandler, Worker

LONG = 60


def preliminary_then(rest: Callable[[], Mapping[str, object]]) -> Callable[[Path], RequestHandler]:
    """A child that has an answer at once, and then a better one by `rest`."""

    def handle(_: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
        yield {PRELIMINARY: True, "who": "earlier"}
        yield rest()

    return lambda _: handle


def ask(rest: Callable[[], Mapping[str, object]], folder: Path, seconds: float = 20) -> tuple[object, str]:
    with Worker(folder, preliminary_then(rest), time.monotonic() + seconds, 256) as child:
        answer = child.get_answer({})
        return answer["who"], child.problem


def _sleep() -> Mapping[str, object]:
    time.sleep(LONG)
    return {}


def _kill() -> Mapping[str, object]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def _fail() -> Mapping[str, object]:
    raise ValueError("a damaged model")


def test_the_last_answer_counts(tmp_path: Path) -> None:
    assert ask(lambda: {"who": "model"}, tmp_path) == ("model", "")


class _LeftByTheParent:
    """Garbage that only a collection finds, and whose end waits for a thread of the parent."""

    def __init__(self) -> None:
        self.itself, self.owner = self, os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.owner:
            time.sleep(LONG)


def test_what_the_parent_left_to_collect_does_not_hold_up_the_child(tmp_path: Path) -> None:
    def collect() -> Mapping[str, object]:
        gc.collect()
        return {"who": "model"}

    _LeftByTheParent()
    assert ask(collect, tmp_path) == ("model", "")


def test_a_late_model_leaves_time_to_use_the_preliminary_answer(tmp_path: Path) -> None:
    started = time.monotonic()
    who, problem = ask(_sleep, tmp_path, seconds=2.0)
    assert who == "earlier"
    assert "within the time allowed" in problem
    assert time.monotonic() - started < 2.0


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (_kill, "crashed (SIGKILL)"),
        (lambda: os._exit(3), "exit 3"),
        (_fail, "ValueError"),
        (lambda: {"who": "x" * (worker.ANSWER_LIMIT + 1)}, "too much"),
    ],
    ids=["killed", "exit", "error", "too much"],
)
def test_whatever_ends_the_model_leaves_the_preliminary_answer(
    tmp_path: Path, rest: Callable[[], Mapping[str, object]], reason: str
) -> None:
    who, problem = ask(rest, tmp_path)
    assert who == "earlier"
    assert reason in problem


@pytest.mark.parametrize(
    ("written", "who"),
    [
        (b'{"preliminary": true, "who": "earlier"}\n{"who": "mod', "earlier"),
        (b'{"preliminary": true, "who": "earlier"}\n', "earlier"),
        (b'{"preliminary": true, "who": "earlier"}\n[1]\n', "earlier"),
        (b'{"preliminary": true, "who": "ear', None),
        (b"\n", None),
    ],
    ids=["cut", "missing", "no object", "itself cut", "empty"],
)
def test_a_truncated_answer_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bytes, who: str | None
) -> None:
    def run_child(_: object, pipes: tuple[int, int], *__: object) -> None:
        os.write(pipes[1], written)
        os._exit(0)

    monkeypatch.setattr(worker, "_run_child", run_child)
    with Worker(tmp_path, preliminary_then(dict), time.monotonic() + 20, 256) as child:
        if who is None:
            with pytest.raises(GitpeftError, match="answer"):
                child.get_answer({})
        else:
            assert child.get_answer({})["who"] == who
            assert child.problem
