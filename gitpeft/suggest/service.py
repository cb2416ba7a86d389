"""From a staged change to messages: hides what is asked, the cache, and when the model is started at all."""

import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from gitpeft.config import Config
from gitpeft.diff.patch import FileChange, compact, parse
from gitpeft.errors import GitpeftError
from gitpeft.errors import NothingStagedError as NothingStagedError
from gitpeft.git.repository import DIFF, Repository
from gitpeft.lazy import record
from gitpeft.runtime import worker as workers
from gitpeft.runtime.worker import Worker
from gitpeft.suggest import cache, recent_exemplars
from gitpeft.trace import Trace

SPARE = 1
"""Messages asked for beyond those shown, because some may not be fit to be offered."""

_PREFETCH_FRESH = 600.0  # seconds


@record(frozen=True, slots=True)
class Question:
    """What the model is asked: the change (masked), the author's previous subject, how many messages.

    `after` is the revision that the change comes after, `least` the score in percent that a message needs.
    """

    change: str
    previous: str
    n: int
    after: str = "HEAD"
    least: int = 0

    def key(self, model: str) -> str:
        """Its name in the cache of a model's answers."""
        return cache.key(self.change, self.previous, self.n, model, self.least)


@record(frozen=True, slots=True)
class Answer:
    """The model's messages as they came, best first, and the change that they are about."""

    messages: list[str]
    question: Question


@record(slots=True)
class Limits:
    """What an answer may cost: `deadline` is a moment of `time.monotonic`."""

    deadline: float
    memory_mb: int
    waiting: Callable[[], None] = lambda: None


def question(repo: Repository, config: Config, n: int, base: str = "") -> Question:
    """What the staged change asks, against `base` (default: HEAD). NothingStagedError when nothing is."""
    from gitpeft.redaction import mask

    patch = repo.run("diff-index", "--cached", *DIFF, base, "--") if base else repo.staged_patch()
    files = _described(repo, patch, config)
    if not files:
        raise NothingStagedError("nothing is staged", "use `git add` first")
    previous = mask(repo.previous_subject())
    return Question(mask(compact(files)), previous, n, base or "HEAD", config.least_score)


def question_of(repo: Repository, config: Config, n: int, rev: str) -> Question:
    """What the change of a commit asks, as if it were staged on its parent; its message is not looked at."""
    from gitpeft.redaction import mask

    files = _described(repo, repo.patch(rev), config)
    return Question(mask(compact(files)), mask(repo.previous_subject_of(rev)), n, f"{rev}^")


def _described(repo: Repository, patch: bytes, config: Config) -> list[FileChange]:
    """The files of a patch that a message may speak of, as mining sees them."""
    files = [file for file in parse(patch) if not any(fnmatch(file.path, glob) for glob in config.exclude)]
    repo.mark_generated(files)
    return files


def answer(
    repo: Repository, ask: Callable[[], Question], limits: Limits, trace: Trace, *, fresh: bool = False
) -> Answer:
    """Answer the question that `ask` puts together: from the cache, or from the model in a confined child.

    The child starts before `ask` is called, because loading the model takes longer than asking git; not so
    when a pre-commit stage has probably left the answer in the cache. With `fresh` the cache is not read.
    GitpeftError when there is no model, or it fails, or is late.
    """
    state = repo.state_dir
    model = cache.active_model(state)
    if not model:
        raise GitpeftError("no model here yet, nothing suggested", "run `gitpeft init`")
    worker = (
        None
        if _prefetched(state) and not fresh
        else Worker(state, messages, limits.deadline, limits.memory_mb)
    )
    try:
        asked = ask()
        trace.note("change")
        name = asked.key(model)
        found = None if fresh else _known(state, name, limits)
        if found is not None:
            trace.note("cached")
            return Answer(found, asked)
        worker = worker or Worker(state, messages, limits.deadline, limits.memory_mb)
        found = _from_model(repo, worker, asked, limits, trace)
    finally:
        if worker is not None:
            worker.kill()
    _keep(state, name, found)
    return Answer(found, asked)


def _known(state: Path, name: str, limits: Limits) -> list[str] | None:
    """The answer in the cache, waiting for it while the pre-commit stage still works on it."""
    found = cache.load(state, name)
    while found is None and cache.claimed(state, name) and time.monotonic() < limits.deadline:
        limits.waiting()
        time.sleep(0.01)
        found = cache.load(state, name)
    return found


def _from_model(repo: Repository, worker: Worker, asked: Question, limits: Limits, trace: Trace) -> list[str]:
    since = recent_exemplars.refresh(
        repo, _made_at(repo.state_dir), asked.after
    )  # while the worker still loads
    trace.note("recent")
    request = {
        "change": asked.change,
        "previous": asked.previous,
        "n": asked.n,
        "least": asked.least,
        "since": since,
    }
    said = worker.ask(request, limits.waiting)
    trace.note("answer")
    for step in ("started", "opened", "asked", "told", "timings"):
        trace.note(step, said.get(step))
    messages = said.get("messages")
    return [text for text in messages if isinstance(text, str)] if isinstance(messages, list) else []


def _made_at(state: Path) -> str:
    """The newest commit that the active model knows."""
    from gitpeft.bundle import bundle as bundles

    try:
        bundle = bundles.active(state)
    except GitpeftError:
        return ""  # the worker finds the same, and says it
    return bundle.made_at if bundle else ""


def _keep(state: Path, name: str, messages: Sequence[str]) -> None:
    try:
        cache.store(state, name, messages)
    except OSError:
        pass  # a full disk costs the next run its cache, nothing more


def _prefetched(state: Path) -> bool:
    """Whether a pre-commit stage started on this commit; the sign is used up by looking."""
    sign = state / "answers" / "prefetched"
    try:
        fresh = time.time() - sign.stat().st_mtime < _PREFETCH_FRESH
        sign.unlink()
    except OSError:
        return False
    return fresh


def prefetch(repo: Repository, config: Config, limits: Limits, n: int) -> None:
    """Work out the answer for what is staged now and leave it in the cache."""
    state, model = repo.state_dir, cache.active_model(repo.state_dir)
    if not model:
        return
    (state / "answers").mkdir(parents=True, exist_ok=True)
    (state / "answers" / "prefetched").touch()
    asked = question(repo, config, n)
    name = asked.key(model)
    if cache.load(state, name) is not None:
        return
    mark = cache.claim(state, name)
    try:
        with Worker(state, messages, limits.deadline, limits.memory_mb) as worker:
            cache.store(state, name, _from_model(repo, worker, asked, limits, Trace()))
    finally:
        if mark:
            mark.unlink(missing_ok=True)


def messages(state_dir: Path) -> workers.Answer:
    """What suggests messages with the active model."""
    from gitpeft.suggest.suggester import open_active

    model = open_active(state_dir)
    load = getattr(model, "prepare", None)
    if load is not None:
        load()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if since := request.get("since"):
            model.keep_up(recent_exemplars.entries(state_dir, since))
        least = request.get("least", 0) / 100
        found = model.suggest(request["change"], request["previous"], request["n"], least=least)
        told = [suggestion.message for suggestion in found]
        return {"messages": told, "timings": getattr(model, "timings", {})}

    return answer
