"""The child process that runs a model: fork, pipes, deadline, and what is reported when the child fails.

The child is forked before anything heavy is imported. It loads the model while its parent still asks git
what changed; then it reads one request and writes its answer, after a preliminary one where it has that. A
crash, an endless loop or exhausted memory ends the child only.
"""

import gc
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gitpeft.errors import GitpeftError
from gitpeft.lazy import lazy_dataclass
from gitpeft.runtime import sandbox

if TYPE_CHECKING:
    from gitpeft.runtime.helper import HelperHandler

ANSWER_LIMIT = 256 << 10
"""Bytes of the longest answer; a child that writes more is killed."""

PRELIMINARY_SECONDS = 0.1
"""How long before the deadline a preliminary answer is taken, so that there is time to use it."""

_POLL_SECONDS = 0.05
_READ_BYTES = 64 << 10

RequestHandler = Callable[[dict[str, object]], Mapping[str, object] | Iterator[Mapping[str, object]]]
"""From a request to its answer, after any number of others that set `PRELIMINARY`.

The values of all are what JSON can hold.
"""

PRELIMINARY = "preliminary"
"""The key that marks an answer as one to fall back on when the real one does not come."""

HandlerFactory = Callable[..., RequestHandler]
"""Loads a handler from a state directory; called in the child, with its `Helper` where it has one."""

HelperFactory = Callable[[Path], "HelperHandler"]
"""Loads the handler of a helper from a state directory; called in the helper."""


@lazy_dataclass(frozen=True, slots=True)
class _ChildLimits:
    """Seconds and megabytes that the child may use, and the process id of its parent."""

    seconds: float
    memory_mb: int
    parent: int


class Worker:
    """A sandboxed child of this process. Used as a context manager, it never outlives the block.

    `problem` says, after an answer, why it is only a preliminary one; "" where it is not.
    """

    def __init__(
        self,
        state_dir: Path,
        prepare: HandlerFactory,
        deadline: float,
        memory_mb: int,
        missing: str = "no suggestion",
        helper: HelperFactory | None = None,
    ) -> None:
        """Start the child; `deadline` is a time of `time.monotonic`.

        `prepare` loads the handler in the child; `missing` names, in an error, what came too late. With
        `helper` the child has a helper, which ends with it and is confined as it is.
        """
        self.deadline = deadline
        self._late = f"{missing} within the time allowed (gitpeft.timeoutMs)"
        self._answered = False
        self._preliminary: dict[str, object] | None = None
        self.problem = ""
        child_reads, self._request_pipe = os.pipe()
        self._answer_pipe, child_writes = os.pipe()
        seconds = max(0.05, deadline - time.monotonic())
        self._margin = min(PRELIMINARY_SECONDS, seconds / 10)
        limits = _ChildLimits(seconds, memory_mb, os.getpid())
        self.pid = os.fork()
        if self.pid == 0:
            # What the parent has left to collect stays uncollected: a session of ONNX Runtime would wait for
            # its threads to end, and a fork has none of its parent's threads. (A hook has opened no session.)
            gc.freeze()
            os.close(self._request_pipe)
            os.close(self._answer_pipe)
            assist = partial(helper, state_dir) if helper else None
            _run_child(partial(prepare, state_dir), (child_reads, child_writes), limits, assist)
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

        When the child is late, answers too much, dies, or reports an error of its own, `problem` is set and
        its preliminary answer returned; GitpeftError where there is none.
        """
        self._send_request(json.dumps(request).encode())
        try:
            return self._read_answer(waiting)
        except GitpeftError as error:
            if self._preliminary is None:
                raise
            self.problem = error.message
            return self._preliminary

    def _read_answer(self, waiting: Callable[[], None]) -> dict[str, object]:
        """The answer; a preliminary one is kept meanwhile."""
        for raw in self._receive_lines(waiting):
            try:
                answer = json.loads(raw)
            except ValueError:
                break
            if not isinstance(answer, dict) or "error" in answer:
                problem = answer.get("error") if isinstance(answer, dict) else None
                raise GitpeftError(str(problem or "the model gave no answer")[:300])
            if not answer.get(PRELIMINARY):
                self._answered = True
                return answer
            self._preliminary = answer
        raise GitpeftError(self._explain_failure())

    def _send_request(self, request: bytes) -> None:
        try:
            os.write(self._request_pipe, request)  # far below the capacity of a pipe
        except OSError:
            pass  # the child is dead, which reading its answer will show
        os.close(self._request_pipe)
        self._request_pipe = -1

    def _receive_lines(self, waiting: Callable[[], None]) -> Iterator[bytes]:
        """Each line as it comes, the last one also without its end."""
        raw, total = b"", 0
        while True:
            left = self.deadline - time.monotonic() - (self._margin if self._preliminary else 0)
            if left <= 0:
                self.kill()
                raise GitpeftError(self._late)
            if not select.select([self._answer_pipe], [], [], min(left, _POLL_SECONDS))[0]:
                waiting()
                continue
            part = os.read(self._answer_pipe, _READ_BYTES)
            total += len(part)
            if total > ANSWER_LIMIT:
                self.kill()
                raise GitpeftError(f"the model answered too much (over {ANSWER_LIMIT >> 10} KiB)")
            *lines, raw = (raw + part).split(b"\n")
            yield from lines
            if not part:
                yield raw
                return

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


def _run_child(
    prepare: Callable[..., RequestHandler],
    pipes: tuple[int, int],
    limits: _ChildLimits,
    assist: "Callable[[], HelperHandler] | None" = None,
) -> None:
    """All that the child does; it exits here and never returns into its parent's code."""
    code, (request_pipe, answer_pipe) = 1, pipes
    try:
        os.setpgid(0, 0)
        try:
            ends = _fork_helper(assist, pipes, limits) if assist else ()
        except OSError:  # no process or file to be had: this one does it all
            ends = ()
        _confine_process({request_pipe, answer_pipe, *ends}, limits)
        if ends:
            from gitpeft.runtime.helper import Helper

            prepare = partial(prepare, Helper(*ends))
        for answer in _produce_answers(prepare, request_pipe):
            raw = json.dumps(answer).encode() + b"\n"
            while raw:
                raw = raw[os.write(answer_pipe, raw) :]
        code = 0
    finally:
        os._exit(code)


def _fork_helper(
    assist: "Callable[[], HelperHandler]", pipes: tuple[int, int], limits: _ChildLimits
) -> tuple[int, int]:
    """Start the helper, which stays in the child's process group; returns the child's ends of its pipes."""
    helper_reads, requests = os.pipe()
    answers, helper_writes = os.pipe()
    parent = os.getpid()
    if os.fork() == 0:
        try:
            from gitpeft.runtime.helper import serve_requests

            for descriptor in (*pipes, requests, answers):
                os.close(descriptor)
            kept = {helper_reads, helper_writes}
            _confine_process(kept, _ChildLimits(limits.seconds, limits.memory_mb, parent))
            serve_requests(assist, helper_reads, helper_writes)
        finally:
            os._exit(0)
    os.close(helper_reads)
    os.close(helper_writes)
    return requests, answers


def _confine_process(kept: set[int], limits: _ChildLimits) -> None:
    """Keep no open file but `kept`, and set all restrictions."""
    _detach_descriptors(kept)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.chdir("/")
    sandbox.restrict_process(limits.seconds + 0.5, limits.memory_mb, limits.parent)


def _detach_descriptors(kept: set[int]) -> None:
    """Close the parent's files and send standard output to /dev/null, whatever native libraries print."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    for descriptor in range(3, 16):
        if descriptor not in kept and descriptor != null:
            try:
                os.close(descriptor)
            except OSError:
                pass


def _produce_answers(
    prepare: Callable[[], RequestHandler], request_pipe: int
) -> Iterator[Mapping[str, object]]:
    """The answers to one request; the last one is {"error": …} when it failed."""
    try:
        yield from _serve_request(prepare, request_pipe)
    except GitpeftError as error:
        yield {"error": f"{error.message}{f' ({error.hint})' if error.hint else ''}"}
    except MemoryError:
        yield {"error": "not enough memory for the model (gitpeft.memoryMb)"}
    except Exception as error:  # whatever a damaged model raises; its text could hold anything
        yield {"error": f"the model failed ({type(error).__name__})"}


def _serve_request(
    prepare: Callable[[], RequestHandler], request_pipe: int
) -> Iterator[Mapping[str, object]]:
    """Preliminary answers, then the answer, with the time (Unix seconds) of each step."""
    started = time.time()
    handler = prepare()  # now: the parent has not sent the request yet
    loaded = time.time()
    with open(request_pipe, "rb") as pipe:
        request = json.loads(pipe.read())
    times = {"started": started, "loaded": loaded, "requested": time.time()}
    answers = handler(request)
    for answer in [answers] if isinstance(answers, Mapping) else answers:
        yield {**answer, **times, "answered": time.time()}
