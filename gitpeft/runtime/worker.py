"""The child process that runs a model: fork, pipes, deadline, and what is reported when the child fails.

The child is forked before anything heavy is imported. It loads the model while its parent still asks git
what changed; then it reads one request and writes one answer. A crash, an endless loop or exhausted memory
ends the child only.
"""

import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from gitpeft.errors import GitpeftError
from gitpeft.lazy import lazy_dataclass
from gitpeft.runtime import sandbox

ANSWER_LIMIT = 256 << 10
"""Bytes of the longest answer; a child that writes more is killed."""

_POLL_SECONDS = 0.05
_READ_BYTES = 64 << 10

RequestHandler = Callable[[dict[str, object]], Mapping[str, object]]
"""From a request to its answer; the values of both are what JSON can hold."""

HandlerFactory = Callable[[Path], RequestHandler]
"""Loads a handler from a state directory; called in the child."""


@lazy_dataclass(frozen=True, slots=True)
class _ChildLimits:
    """Seconds and megabytes that the child may use, and the process id of its parent."""

    seconds: float
    memory_mb: int
    parent: int


class Worker:
    """A sandboxed child of this process. Used as a context manager, it never outlives the block."""

    def __init__(
        self,
        state_dir: Path,
        prepare: HandlerFactory,
        deadline: float,
        memory_mb: int,
        missing: str = "no suggestion",
    ) -> None:
        """Start the child; `deadline` is a time of `time.monotonic`.

        `prepare` loads the handler in the child; `missing` names, in an error, what came too late.
        """
        self.deadline = deadline
        self._late = f"{missing} within the time allowed (gitpeft.timeoutMs)"
        self._answered = False
        child_reads, self._request_pipe = os.pipe()
        self._answer_pipe, child_writes = os.pipe()
        seconds = max(0.05, deadline - time.monotonic())
        limits = _ChildLimits(seconds, memory_mb, os.getpid())
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._request_pipe)
            os.close(self._answer_pipe)
            _run_child(partial(prepare, state_dir), (child_reads, child_writes), limits)
        os.close(child_reads)
        os.close(child_writes)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> int | None:
        """End the child and all processes that it started.

        Returns its wait status, None when it was not waited for: a child that has answered is not, because
        the system needs 20 ms and more to free its memory.
        """
        for descriptor in (self._request_pipe, self._answer_pipe):
            if descriptor >= 0:
                os.close(descriptor)
        self._request_pipe = self._answer_pipe = -1
        if not self.pid:
            return None
        pid, self.pid = self.pid, 0
        for target in (-pid, pid):  # a child that has only just started has no process group yet
            try:
                os.kill(target, signal.SIGKILL)
            except OSError:
                pass
        done, status = os.waitpid(pid, os.WNOHANG if self._answered else 0)
        return status if done else None

    def get_answer(
        self, request: Mapping[str, object], waiting: Callable[[], None] = lambda: None
    ) -> dict[str, object]:
        """Send the request and wait for the answer; `waiting` is called about every 50 ms meanwhile.

        GitpeftError when the child is late, answers too much, dies, or reports an error of its own.
        """
        self._send_request(json.dumps(request).encode())
        raw = self._receive_answer(waiting)
        try:
            answer = json.loads(raw)
        except ValueError:
            raise GitpeftError(self._explain_failure()) from None
        if not isinstance(answer, dict) or "error" in answer:
            problem = answer.get("error") if isinstance(answer, dict) else None
            raise GitpeftError(str(problem or "the model gave no answer")[:300])
        return answer

    def _send_request(self, request: bytes) -> None:
        try:
            os.write(self._request_pipe, request)  # far below the capacity of a pipe
        except OSError:
            pass  # the child is dead, which reading its answer will show
        os.close(self._request_pipe)
        self._request_pipe = -1

    def _receive_answer(self, waiting: Callable[[], None]) -> bytes:
        raw = b""
        while True:
            left = self.deadline - time.monotonic()
            if left <= 0:
                self.kill()
                raise GitpeftError(self._late)
            if not select.select([self._answer_pipe], [], [], min(left, _POLL_SECONDS))[0]:
                waiting()
                continue
            part = os.read(self._answer_pipe, _READ_BYTES)
            raw += part
            if len(raw) > ANSWER_LIMIT:
                self.kill()
                raise GitpeftError(f"the model answered too much (over {ANSWER_LIMIT >> 10} KiB)")
            if not part or part.endswith(b"\n"):  # the pipe itself ends only when the child has exited
                self._answered = bool(part)
                return raw

    def _explain_failure(self) -> str:
        """Why there is no answer, from the way the child ended."""
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


# --- in the child -------------------------------------------------------------------------------------------


def _run_child(prepare: Callable[[], RequestHandler], pipes: tuple[int, int], limits: _ChildLimits) -> None:
    """All that the child does; it exits here and never returns into its parent's code."""
    code, (request_pipe, answer_pipe) = 1, pipes
    try:
        os.setpgid(0, 0)
        _detach_descriptors({request_pipe, answer_pipe})
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.chdir("/")
        sandbox.restrict_process(limits.seconds + 0.5, limits.memory_mb, limits.parent)
        raw = json.dumps(_serve_request(prepare, request_pipe)).encode() + b"\n"
        while raw:
            raw = raw[os.write(answer_pipe, raw) :]
        code = 0
    finally:
        os._exit(code)


def _detach_descriptors(kept: set[int]) -> None:
    """Close the parent's files and send standard output to /dev/null, whatever native libraries print."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    for descriptor in range(3, 10):
        if descriptor not in kept and descriptor != null:
            try:
                os.close(descriptor)
            except OSError:
                pass


def _serve_request(prepare: Callable[[], RequestHandler], request_pipe: int) -> dict[str, object]:
    """The answer to one request, with the time (Unix seconds) of each step; {"error": …} when it failed."""
    started = time.time()
    try:
        handler = prepare()  # now: the parent has not sent the request yet
        loaded = time.time()
        with open(request_pipe, "rb") as pipe:
            request = json.loads(pipe.read())
        requested = time.time()
        answer = handler(request)
    except GitpeftError as error:
        return {"error": f"{error.message}{f' ({error.hint})' if error.hint else ''}"}
    except MemoryError:
        return {"error": "not enough memory for the model (gitpeft.memoryMb)"}
    except Exception as error:  # whatever a damaged model raises; its text could hold anything
        return {"error": f"the model failed ({type(error).__name__})"}
    times = {"started": started, "loaded": loaded, "requested": requested, "answered": time.time()}
    return {**answer, **times}
