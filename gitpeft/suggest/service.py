"""From a staged change to messages: hides what is asked, the cache, and when the model is started at all."""

import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from gitpeft.config import Config
from gitpeft.diff.compact import compact_change
from gitpeft.diff.patch import FileChange, parse_patch
from gitpeft.errors import GitpeftError
from gitpeft.errors import NothingStagedError as NothingStagedError
from gitpeft.git.repository import DIFF_OPTIONS, Repository
from gitpeft.lazy import lazy_dataclass
from gitpeft.runtime import worker as workers
from gitpeft.runtime.worker import Worker
from gitpeft.suggest import cache, recent_exemplars
from gitpeft.trace import HookTrace

SPARE_MESSAGES = 1
"""Messages asked for beyond those shown, because some may not be fit to be offered."""

_PREFETCH_MAX_AGE = 600.0  # seconds


@lazy_dataclass(frozen=True, slots=True)
class SuggestionRequest:
    """What the model is asked: the change (masked), the author's previous subject, how many messages.

    `after` is the revision that the change comes after, `least` the score in percent that a message needs.
    """

    change: str
    previous: str
    n: int
    after: str = "HEAD"
    least: int = 0

    def cache_key(self, model: str) -> str:
        """Its name in the cache of a model's answers."""
        return cache.compute_cache_key(self.change, self.previous, self.n, model, self.least)


@lazy_dataclass(frozen=True, slots=True)
class SuggestionResponse:
    """The model's messages as they came, best first, and the change that they are about."""

    messages: list[str]
    question: SuggestionRequest


@lazy_dataclass(slots=True)
class SuggestionLimits:
    """What an answer may cost: `deadline` is a moment of `time.monotonic`."""

    deadline: float
    memory_mb: int
    waiting: Callable[[], None] = lambda: None


def build_staged_request(repo: Repository, config: Config, n: int, base: str = "") -> SuggestionRequest:
    """What the staged change asks, against `base` (default: HEAD). NothingStagedError when nothing is."""
    from gitpeft.redaction import mask_secrets

    patch = (
        repo.run("diff-index", "--cached", *DIFF_OPTIONS, base, "--") if base else repo.read_staged_patch()
    )
    files = _select_described_files(repo, patch, config)
    if not files:
        raise NothingStagedError("nothing is staged", "use `git add` first")
    previous = mask_secrets(repo.find_previous_subject())
    return SuggestionRequest(
        mask_secrets(compact_change(files)), previous, n, base or "HEAD", config.least_score
    )


def build_commit_request(repo: Repository, config: Config, n: int, rev: str) -> SuggestionRequest:
    """What the change of a commit asks, as if it were staged on its parent; its message is not looked at."""
    from gitpeft.redaction import mask_secrets

    files = _select_described_files(repo, repo.read_commit_patch(rev), config)
    return SuggestionRequest(
        mask_secrets(compact_change(files)), mask_secrets(repo.find_subject_before(rev)), n, f"{rev}^"
    )


def _select_described_files(repo: Repository, patch: bytes, config: Config) -> list[FileChange]:
    """The files of a patch that a message may speak of, as mining sees them."""
    files = [
        file for file in parse_patch(patch) if not any(fnmatch(file.path, glob) for glob in config.exclude)
    ]
    repo.mark_generated_files(files)
    return files


def get_suggestions(
    repo: Repository,
    ask: Callable[[], SuggestionRequest],
    limits: SuggestionLimits,
    trace: HookTrace,
    *,
    fresh: bool = False,
) -> SuggestionResponse:
    """Answer the question that `ask` puts together: from the cache, or from the model in a confined child.

    The child starts before `ask` is called, because loading the model takes longer than asking git; not so
    when a pre-commit stage has probably left the answer in the cache. With `fresh` the cache is not read.
    GitpeftError when there is no model, or it fails, or is late.
    """
    state = repo.state_dir
    model = cache.read_active_model_id(state)
    if not model:
        raise GitpeftError("no model here yet, nothing suggested", "run `gitpeft init`")
    worker = (
        None
        if _consume_prefetch_mark(state) and not fresh
        else Worker(state, load_message_handler, limits.deadline, limits.memory_mb)
    )
    try:
        asked = ask()
        trace.mark_step("change")
        name = asked.cache_key(model)
        found = None if fresh else _wait_for_cached(state, name, limits)
        if found is not None:
            trace.mark_step("cached")
            return SuggestionResponse(found, asked)
        worker = worker or Worker(state, load_message_handler, limits.deadline, limits.memory_mb)
        found = _ask_model(repo, worker, asked, limits, trace)
    finally:
        if worker is not None:
            worker.kill()
    _cache_messages(state, name, found)
    return SuggestionResponse(found, asked)


def _wait_for_cached(state: Path, name: str, limits: SuggestionLimits) -> list[str] | None:
    """The answer in the cache, waiting for it while the pre-commit stage still works on it."""
    found = cache.load_cached_messages(state, name)
    while found is None and cache.is_claimed(state, name) and time.monotonic() < limits.deadline:
        limits.waiting()
        time.sleep(0.01)
        found = cache.load_cached_messages(state, name)
    return found


def _ask_model(
    repo: Repository, worker: Worker, asked: SuggestionRequest, limits: SuggestionLimits, trace: HookTrace
) -> list[str]:
    since = recent_exemplars.refresh_recent_commits(
        repo, _find_newest_known_commit(repo.state_dir), asked.after
    )  # while the worker still loads
    trace.mark_step("recent")
    request = {
        "change": asked.change,
        "previous": asked.previous,
        "n": asked.n,
        "least": asked.least,
        "since": since,
    }
    said = worker.get_answer(request, limits.waiting)
    trace.mark_step("answer")
    for step in ("started", "opened", "asked", "told", "timings"):
        trace.mark_step(step, said.get(step))
    messages = said.get("messages")
    return [text for text in messages if isinstance(text, str)] if isinstance(messages, list) else []


def _find_newest_known_commit(state: Path) -> str:
    """The newest commit that the active model knows."""
    from gitpeft.bundle import bundle as bundles

    try:
        bundle = bundles.open_active_bundle(state)
    except GitpeftError:
        return ""  # the worker finds the same, and says it
    return bundle.newest_commit if bundle else ""


def _cache_messages(state: Path, name: str, messages: Sequence[str]) -> None:
    try:
        cache.store_cached_messages(state, name, messages)
    except OSError:
        pass  # a full disk costs the next run its cache, nothing more


def _consume_prefetch_mark(state: Path) -> bool:
    """Whether a pre-commit stage started on this commit; the sign is used up by looking."""
    sign = state / "answers" / "prefetched"
    try:
        fresh = time.time() - sign.stat().st_mtime < _PREFETCH_MAX_AGE
        sign.unlink()
    except OSError:
        return False
    return fresh


def prefetch_suggestions(repo: Repository, config: Config, limits: SuggestionLimits, n: int) -> None:
    """Work out the answer for what is staged now and leave it in the cache."""
    state, model = repo.state_dir, cache.read_active_model_id(repo.state_dir)
    if not model:
        return
    (state / "answers").mkdir(parents=True, exist_ok=True)
    (state / "answers" / "prefetched").touch()
    asked = build_staged_request(repo, config, n)
    name = asked.cache_key(model)
    if cache.load_cached_messages(state, name) is not None:
        return
    mark = cache.claim_key(state, name)
    try:
        with Worker(state, load_message_handler, limits.deadline, limits.memory_mb) as worker:
            cache.store_cached_messages(state, name, _ask_model(repo, worker, asked, limits, HookTrace()))
    finally:
        if mark:
            mark.unlink(missing_ok=True)


def load_message_handler(state_dir: Path) -> workers.RequestHandler:
    """What suggests messages with the active model."""
    from gitpeft.suggest.suggester import open_active_suggester

    model = open_active_suggester(state_dir)
    load = getattr(model, "prepare", None)
    if load is not None:
        load()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if since := request.get("since"):
            model.index_recent_commits(recent_exemplars.load_recent_entries(state_dir, since))
        least = request.get("least", 0) / 100
        found = model.suggest(request["change"], request["previous"], request["n"], least=least)
        told = [suggestion.message for suggestion in found]
        return {"messages": told, "timings": getattr(model, "timings", {})}

    return answer
