"""The child process that runs a model: hides fork, pipes, deadline and every way a child can die.

The child is forked before anything heavy is imported. It loads the model while its parent still asks git
what changed; then one request goes in, one answer comes out. A crash, a hang or an exhausted memory is the
child's alone.
"""

import json
import os
import select
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gitpeft.errors import GitpeftError
from gitpeft.runtime import sandbox

ANSWER_LIMIT = 256 << 10
"""Bytes of an answer; a child that says more is killed."""


RequestHandler = Callable[[dict[str, Any]], dict[str, Any]]
"""From a request to what is said of it, plain values both."""

HandlerFactory = Callable[[Path], RequestHandler]
"""Loads from a state directory, in the child, what will answer."""


class Worker:
    """A confined child of this process. Use it as a context manager: it never outlives the block."""

    def __init__(
        self,
        state_dir: Path,
        prepare: HandlerFactory,
        deadline: float,
        memory_mb: int,
        missing: str = "no suggestion",
    ) -> None:
        """Start the child; `deadline` is a moment of `time.monotonic`.

        `prepare` loads what answers; `missing` is what a late one has not brought.
        """
        self.deadline = deadline
        self._late = f"{missing} within the time allowed (gitpeft.timeoutMs)"
        self._answered = False
        question, self._ask = os.pipe()
        self._hear, answer = os.pipe()
        seconds = max(0.05, deadline - time.monotonic())
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._ask)
            os.close(self._hear)
            _run_child(partial(prepare, state_dir), (question, answer), (seconds, memory_mb, parent))
        os.close(question)
        os.close(answer)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> int | None:
        """End the child and all that it started. Its wait status, None when nobody waited for it.

        A child that has answered is not waited for: to take its memory apart costs the system 20 ms and more.
        """
        for descriptor in (self._ask, self._hear):
            if descriptor >= 0:
                os.close(descriptor)
        self._ask = self._hear = -1
        if not self.pid:
            return None
        pid, self.pid = self.pid, 0
        for target in (-pid, pid):  # the group does not exist yet when the child had no time to make it
            try:
                os.kill(target, signal.SIGKILL)
            except OSError:
                pass
        done, status = os.waitpid(pid, os.WNOHANG if self._answered else 0)
        return status if done else None

    def get_answer(
        self, request: dict[str, Any], waiting: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Put the question and wait for the answer; `waiting` is called about every 50 ms meanwhile.

        GitpeftError when the child is late, says too much, dies, or reports a failure of its own.
        """
        self._send_request(json.dumps(request).encode())
        said = self._receive_answer(waiting)
        try:
            answer = json.loads(said)
        except ValueError:
            raise GitpeftError(self._explain_failure()) from None
        if not isinstance(answer, dict) or "error" in answer:
            problem = answer.get("error") if isinstance(answer, dict) else None
            raise GitpeftError(str(problem or "the model gave no answer")[:300])
        return answer

    def _send_request(self, request: bytes) -> None:
        try:
            os.write(self._ask, request)  # far below the size of a pipe
        except OSError:
            pass  # the child is dead: the answer will say so
        os.close(self._ask)
        self._ask = -1

    def _receive_answer(self, waiting: Callable[[], None]) -> bytes:
        said = b""
        while True:
            left = self.deadline - time.monotonic()
            if left <= 0:
                self.kill()
                raise GitpeftError(self._late)
            if not select.select([self._hear], [], [], min(left, 0.05))[0]:
                waiting()
                continue
            part = os.read(self._hear, 65536)
            said += part
            if len(said) > ANSWER_LIMIT:
                self.kill()
                raise GitpeftError("the model said far too much")
            if not part or part.endswith(
                b"\n"
            ):  # the end of the pipe would come only after that of the child
                self._answered = bool(part)
                return said

    def _explain_failure(self) -> str:
        """Why there is no answer, from how the child ended."""
        if not self.pid:
            return "the model gave no answer"
        pid, self.pid = self.pid, 0
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSIGNALED(status):
            return f"the model stopped without an answer (exit {os.waitstatus_to_exitcode(status)})"
        number = os.WTERMSIG(status)
        if number == signal.SIGALRM:
            return self._late
        return f"the model crashed ({signal.Signals(number).name})"


def _run_child(
    prepare: Callable[[], RequestHandler], pipes: tuple[int, int], limits: tuple[float, int, int]
) -> None:
    """The life of the child; it ends here, and never returns into the parent's code."""
    code, (question, answer), (seconds, memory_mb, parent) = 1, pipes, limits
    try:
        os.setpgid(0, 0)
        _detach_descriptors({question, answer})
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.chdir("/")
        sandbox.restrict_process(seconds + 0.5, memory_mb, parent)
        said = json.dumps(_serve_request(prepare, question)).encode() + b"\n"
        while said:
            said = said[os.write(answer, said) :]
        code = 0
    finally:
        os._exit(code)


def _detach_descriptors(kept: set[int]) -> None:
    """No terminal and no descriptor of the parent: what native libraries print goes nowhere."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    for descriptor in range(3, 10):
        if descriptor not in kept and descriptor != nothing:
            try:
                os.close(descriptor)
            except OSError:
                pass


def _serve_request(prepare: Callable[[], RequestHandler], question: int) -> dict[str, Any]:
    started = time.time()
    try:
        answer = prepare()  # loads now: the question is still being put together
        opened = time.time()
        with open(question, "rb") as pipe:
            request = json.loads(pipe.read())
        asked = time.time()
        found = answer(request)
    except GitpeftError as error:
        return {"error": f"{error.message}{f' ({error.hint})' if error.hint else ''}"}
    except MemoryError:
        return {"error": "not enough memory for the model (gitpeft.memoryMb)"}
    except Exception as error:  # whatever a damaged model can raise ends here, without its text
        return {"error": f"the model failed ({type(error).__name__})"}
    return {**found, "started": started, "opened": opened, "asked": asked, "told": time.time()}
