"""Stands in for `gitpeft.suggest.suggester` in the interpreters that `support.hooking.make_python` makes.

The environment variable STANDIN says what the model does; the default is to answer at once. STANDIN_RETRIEVED
holds earlier messages that are found before that, with `|` between them, STANDIN_THRESHOLD what its best
message needs where no least score is set, STANDIN_SAW and STANDIN_HURRIED where to write what was asked and
whether somebody waits. Only an interpreter that a test made imports this: nothing in the package knows of it.
"""

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

from gitpeft.suggest.suggestion import Suggestion

MESSAGES = ("Teach the parser about tabs", "Accept tabs\n\nThey were refused so far.", "Allow tabs")


class Model:
    """Gives the same messages to every change."""

    timings: ClassVar[dict[str, float]] = {}
    generates = True
    best_score: float | None = None
    bundle = SimpleNamespace(newest_commit="")

    def prepare(self) -> None:
        pass

    def index_recent_commits(self, since: object) -> None:
        pass

    def suggest_in_steps(
        self, change: str, previous: str, n: int, *, least: float | None, branch: str, hurried: bool
    ) -> Iterator[list[Suggestion]]:
        if os.environ.get("STANDIN_HURRIED"):
            Path(os.environ["STANDIN_HURRIED"]).write_text(str(hurried))
        found = os.environ.get("STANDIN_RETRIEVED", "")
        yield [Suggestion(message, 0.1, "retrieved") for message in found.split("|")[:n] if message]
        yield self.suggest(change, previous, n, least=least, branch=branch)

    def suggest(
        self,
        change: str,
        previous: str,
        n: int,
        *,
        least: float | None,
        before: object = None,
        branch: str = "",
    ) -> list[Suggestion]:
        behaviour, _, detail = os.environ.get("STANDIN", "answer").partition(":")
        found = _BEHAVIOURS[behaviour](detail)
        if os.environ.get("STANDIN_SAW"):
            Path(os.environ["STANDIN_SAW"]).write_text(f"{change}\n---\n{previous}\n---\n{n}\n---\n{branch}")
        scored = [Suggestion(message, 0.5 / number) for number, message in enumerate(found, 1)]
        least = float(os.environ.get("STANDIN_THRESHOLD", "0")) if least is None else least
        kept = [one for one in scored if one.score >= least][:n]
        self.best_score = None if kept or not scored else scored[0].score
        return kept


def open_active_suggester(_: Path, __: object = None) -> Model:
    if os.environ.get("STANDIN", "").startswith("unopened"):
        raise ValueError("corrupt")
    return Model()


def _loop(_: str) -> list[str]:
    while True:
        pass


def _sleep(seconds: str) -> list[str]:
    time.sleep(float(seconds))
    return list(MESSAGES)


def _memory(_: str) -> list[str]:
    hoard = []
    while True:
        hoard.append(bytearray(64 << 20))


def _segfault(_: str) -> list[str]:
    ctypes.string_at(0)
    return []


def _noise(_: str) -> list[str]:
    os.write(1, b"\x1b[31mnoise on stdout\n")
    os.write(2, b"\x1b[31mnoise on stderr\n")
    return list(MESSAGES)


def _socket(_: str) -> list[str]:
    descriptor = ctypes.CDLL(None, use_errno=True).socket(2, 1, 0)
    return [f"socket gave {descriptor}"]


def _python_socket(_: str) -> list[str]:
    import socket  # noqa: TID251

    socket.create_connection(("127.0.0.1", 9), timeout=1)
    return ["connected"]


def _native_program(_: str) -> list[str]:
    code = ctypes.CDLL(None).system(b"touch /tmp/gitpeft-ran-a-program")
    return [f"a program gave {code != 0}"]


def _program(_: str) -> list[str]:
    os.system("touch ran")
    return ["ran a program"]


def _huge(_: str) -> list[str]:
    return ["x" * (1 << 20)] * 2


def _say(messages: str) -> list[str]:
    return messages.split("|")


def _fill(path: str) -> list[str]:
    Path(path).write_bytes(b"x" * (64 << 20))
    return list(MESSAGES)


def _exit(code: str) -> list[str]:
    os._exit(int(code))


_BEHAVIOURS: dict[str, Callable[[str], list[str]]] = {
    "answer": lambda _: list(MESSAGES),
    "loop": _loop,
    "sleep": _sleep,
    "memory": _memory,
    "segfault": _segfault,
    "noise": _noise,
    "socket": _socket,
    "python-socket": _python_socket,
    "program": _program,
    "native-program": _native_program,
    "huge": _huge,
    "say": _say,
    "fill": _fill,
    "exit": _exit,
}
