"""From a change to suggested messages: the one way for the hook, the commands and the prefetch.

    change ─▶ SuggestionRequest ─▶ cache, or the model ─▶ select_suggestions ─▶ Offer

`suggest_for_staged` runs the model in a confined child process, `suggest_for_commit` in this one. Both ask it
through `_ask_model` and select what may be offered in the same way, so the first suggestion for a change does
not depend on who asks, or for how many.
"""

import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.bundle.bundle import open_active_bundle, read_active_id
from gitpeft.config import Config
from gitpeft.diff.compact import compact_change
from gitpeft.diff.patch import FileChange, parse_patch
from gitpeft.errors import GitpeftError
from gitpeft.errors import NothingStagedError as NothingStagedError
from gitpeft.git.repository import DIFF_OPTIONS, Repository
from gitpeft.lazy import lazy_dataclass, replace_fields
from gitpeft.runtime.worker import RequestHandler, Worker
from gitpeft.suggest import cache, recent_exemplars
from gitpeft.suggest.suggestion import Suggestion
from gitpeft.trace import HookTrace

if TYPE_CHECKING:
    from gitpeft.suggest.suggester import Suggester

SPARE_MESSAGES = 1
"""Messages asked for beyond those shown, because some may not be fit to be offered."""

_PREFETCH_FRESH_SECONDS = 600.0


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
        """Its name in the cache of a model's suggestions."""
        return cache.compute_cache_key(self.change, self.previous, self.n, model, self.least)


@lazy_dataclass(frozen=True, slots=True)
class Offer:
    """Suggestions that may be offered for a change, best first."""

    suggestions: list[Suggestion]
    request: SuggestionRequest

    @property
    def messages(self) -> list[str]:
        """The messages alone, best first."""
        return [one.message for one in self.suggestions]


@lazy_dataclass(slots=True)
class SuggestionLimits:
    """What an answer may cost: `deadline` is a moment of `time.monotonic`, `waiting` is called meanwhile."""

    deadline: float
    memory_mb: int
    waiting: Callable[[], None] = lambda: None


# --- requests -----------------------------------------------------------------------------------------------


def build_staged_request(
    repo: Repository, config: Config, wanted: int = 0, base: str = ""
) -> SuggestionRequest:
    """The request for the staged change, against `base` (default: HEAD), to show `wanted` messages.

    NothingStagedError when nothing is staged, or all of it is excluded.
    """
    from gitpeft.redaction import mask_secrets

    patch = (
        repo.run("diff-index", "--cached", *DIFF_OPTIONS, base, "--") if base else repo.read_staged_patch()
    )
    files = _parse_described_files(repo, patch, config)
    if not files and patch:
        raise NothingStagedError("everything that is staged is excluded", "see `git config gitpeft.exclude`")
    if not files:
        raise NothingStagedError("nothing is staged", "use `git add` first")
    previous = mask_secrets(repo.find_previous_subject())
    change = mask_secrets(compact_change(files))
    return SuggestionRequest(change, previous, _count_asked(config, wanted), base or "HEAD", config.min_score)


def build_commit_request(repo: Repository, config: Config, wanted: int, rev: str) -> SuggestionRequest:
    """The request for a commit's change, as if it were staged on its parent; its message is not looked at.

    Any score will do: who names a commit wants to see a message.
    """
    from gitpeft.redaction import mask_secrets

    change = mask_secrets(compact_change(_parse_described_files(repo, repo.read_commit_patch(rev), config)))
    previous = mask_secrets(repo.find_subject_before(rev))
    return SuggestionRequest(change, previous, _count_asked(config, wanted), f"{rev}^")


def _count_asked(config: Config, wanted: int) -> int:
    """How many messages the model is asked for: never fewer than the hook asks, whoever asks."""
    return max(wanted, 1 + config.alternatives) + SPARE_MESSAGES


def _parse_described_files(repo: Repository, patch: bytes, config: Config) -> list[FileChange]:
    """The files of a patch that a message may speak of, as mining sees them."""
    files = [
        file for file in parse_patch(patch) if not any(fnmatch(file.path, glob) for glob in config.exclude)
    ]
    repo.mark_generated_files(files)
    return files


# --- offers -------------------------------------------------------------------------------------------------


def suggest_for_staged(
    repo: Repository,
    config: Config,
    limits: SuggestionLimits,
    trace: HookTrace,
    *,
    wanted: int = 0,
    base: str = "",
) -> Offer:
    """What may be offered for the staged change: `wanted` messages, or as many as the hook shows.

    From the cache, or from the model in a confined child. The child starts before git is asked what is
    staged, because loading the model takes longer; not so where a pre-commit stage has probably left the
    suggestions in the cache. GitpeftError when there is no model, or it fails, or is late.
    """
    state, model = repo.state_dir, read_active_id(repo.state_dir)
    if not model:
        raise GitpeftError("no model here yet, nothing suggested", "run `gitpeft init`")
    worker = None if _take_prefetch_mark(state) else _start_worker(state, limits)
    try:
        from gitpeft.suggest import postprocess  # while the model loads, this import costs nothing

        request = build_staged_request(repo, config, wanted, base)
        facts = postprocess.gather_facts(repo, config, request.change)
        trace.mark_step("change")
        key = request.cache_key(model)
        found = _wait_for_cached(state, key, limits)
        if found is not None:
            trace.mark_step("cached")
        else:
            worker = worker or _start_worker(state, limits)
            found = _ask_worker(repo, worker, request, limits, trace)
            _store_suggestions(state, key, found)
    finally:
        if worker is not None:
            worker.kill()
    shown = wanted or 1 + config.alternatives
    return Offer(postprocess.select_suggestions(found, facts, shown, _count_asked(config, 0)), request)


def suggest_for_commit(
    repo: Repository, config: Config, suggester: "Suggester", rev: str, wanted: int
) -> Offer:
    """What could have been offered for the change of a commit, with the commits before it as exemplars.

    The branch's ticket is left out: it belongs to what is staged.
    """
    from gitpeft.suggest import postprocess

    sha = repo.resolve_commit(rev)
    request = build_commit_request(repo, config, wanted, sha)
    since = recent_exemplars.refresh_recent_commits(repo, suggester.bundle.newest_commit, request.after)
    found = _ask_model(suggester, repo.state_dir, request, since, sha) if request.change else []
    facts = replace_fields(postprocess.gather_facts(repo, config, request.change), branch="")
    return Offer(postprocess.select_suggestions(found, facts, wanted, _count_asked(config, 0)), request)


def prefetch_suggestions(repo: Repository, config: Config, limits: SuggestionLimits) -> None:
    """Work out what the hook will offer for what is staged now, and leave it in the cache."""
    state, model = repo.state_dir, read_active_id(repo.state_dir)
    if not model:
        return
    (state / "answers").mkdir(parents=True, exist_ok=True)
    (state / "answers" / "prefetched").touch()
    request = build_staged_request(repo, config)
    key = request.cache_key(model)
    if cache.load_cached_suggestions(state, key) is not None:
        return
    mark = cache.claim_key(state, key)
    try:
        with _start_worker(state, limits) as worker:
            found = _ask_worker(repo, worker, request, limits, HookTrace())
            cache.store_cached_suggestions(state, key, found)
    finally:
        if mark:
            mark.unlink(missing_ok=True)


# --- the cache ----------------------------------------------------------------------------------------------


def _wait_for_cached(state: Path, key: str, limits: SuggestionLimits) -> list[Suggestion] | None:
    """The suggestions in the cache, waiting for them while the pre-commit stage still works on them."""
    found = cache.load_cached_suggestions(state, key)
    while found is None and cache.is_claimed(state, key) and time.monotonic() < limits.deadline:
        limits.waiting()
        time.sleep(0.01)
        found = cache.load_cached_suggestions(state, key)
    return found


def _store_suggestions(state: Path, key: str, suggestions: Sequence[Suggestion]) -> None:
    try:
        cache.store_cached_suggestions(state, key, suggestions)
    except OSError:
        pass  # a full disk costs the next run its cache, nothing more


def _take_prefetch_mark(state: Path) -> bool:
    """Whether a pre-commit stage started on this commit; the mark is used up by looking."""
    mark = state / "answers" / "prefetched"
    try:
        fresh = time.time() - mark.stat().st_mtime < _PREFETCH_FRESH_SECONDS
        mark.unlink()
    except OSError:
        return False
    return fresh


# --- the model ----------------------------------------------------------------------------------------------


def _start_worker(state: Path, limits: SuggestionLimits) -> Worker:
    return Worker(state, load_message_handler, limits.deadline, limits.memory_mb)


def _ask_worker(
    repo: Repository, worker: Worker, request: SuggestionRequest, limits: SuggestionLimits, trace: HookTrace
) -> list[Suggestion]:
    """Put a request to the confined child; the newest commits are read while it still loads the model."""
    since = recent_exemplars.refresh_recent_commits(
        repo, _find_newest_known_commit(repo.state_dir), request.after
    )
    trace.mark_step("recent")
    told = worker.get_answer(
        {
            "change": request.change,
            "previous": request.previous,
            "n": request.n,
            "least": request.least,
            "since": since,
        },
        limits.waiting,
    )
    trace.mark_step("answer")
    for step in ("started", "opened", "asked", "told", "timings"):
        trace.mark_step(step, told.get(step))
    rows = told.get("suggestions")
    return (cache.parse_suggestions(rows) if isinstance(rows, list) else None) or []


def _find_newest_known_commit(state: Path) -> str:
    """The newest commit that the active model knows."""
    try:
        bundle = open_active_bundle(state)
    except GitpeftError:
        return ""  # the worker finds the same, and says it
    return bundle.newest_commit if bundle else ""


def load_message_handler(state_dir: Path) -> RequestHandler:
    """Load the active model, in the child, and return what answers one request with it."""
    from gitpeft.suggest.suggester import open_active_suggester

    model = open_active_suggester(state_dir)
    model.prepare()

    def answer(told: dict[str, Any]) -> dict[str, Any]:
        request = SuggestionRequest(told["change"], told["previous"], told["n"], least=told.get("least", 0))
        found = _ask_model(model, state_dir, request, told.get("since") or ())
        return {"suggestions": [one.to_row() for one in found], "timings": model.timings}

    return answer


def _ask_model(
    model: "Suggester",
    state_dir: Path,
    request: SuggestionRequest,
    since: Sequence[str],
    before: str | None = None,
) -> list[Suggestion]:
    """The model's suggestions, best first, with the commits `since` it was made among its exemplars.

    For a commit of the past (`before`) only earlier ones serve as exemplars.
    """
    if since or before is not None:
        model.index_recent_commits(recent_exemplars.load_recent_entries(state_dir, since))
    least = request.least / 100
    return model.suggest(request.change, request.previous, request.n, least=least, before=before)
