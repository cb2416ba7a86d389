"""From a change to suggested messages, in one way for the hook, the commands and the prefetch.

    change ─▶ SuggestionRequest ─▶ cache, or the model ─▶ select_suggestions ─▶ Offer

`suggest_for_staged` runs the model in a sandboxed child process, `suggest_for_commit` in this one. Both go
through `_ask_model` and `postprocess.select_suggestions`, so the first suggestion for a change depends
neither on the command nor on the number of messages asked for. It may depend on whether somebody waits:
a language model reads less of a long change then.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gitpeft.bundle.bundle import open_active_bundle, read_active_id
from gitpeft.config import Config
from gitpeft.diff.compact import compact_change
from gitpeft.diff.patch import FileChange, parse_patch
from gitpeft.diff.stored import store_change
from gitpeft.errors import GitpeftError
from gitpeft.errors import NothingStagedError as NothingStagedError
from gitpeft.git.repository import Repository
from gitpeft.lazy import lazy_dataclass, replace_fields
from gitpeft.runtime.worker import PRELIMINARY, RequestHandler, Worker
from gitpeft.suggest import cache, recent_exemplars
from gitpeft.suggest.suggestion import ModelAnswer, Suggestion
from gitpeft.trace import HookTrace

if TYPE_CHECKING:
    from gitpeft.diff.ignore_patterns import PathExclusion
    from gitpeft.runtime.helper import Helper, HelperHandler
    from gitpeft.suggest.suggester import Suggester

SPARE_MESSAGES = 1
"""Messages asked for beyond those shown, because some may have to be left out."""

_MAX_BRANCH_LENGTH = 200
_SEE_EXCLUDE = "see `git config gitpeft.exclude` and the file .gitpeft"
_PREFETCH_FRESH_SECONDS = 600.0
"""Seconds for which the mark of a pre-commit stage counts."""


@lazy_dataclass(frozen=True, slots=True)
class SuggestionRequest:
    """A request to the model: the masked change, the author's previous subject, how many messages.

    `after` is the revision on which the change is based, `least` the score in percent that a message needs;
    -1 stands for what the model was found to need on validation commits. `branch` is where it is to be
    committed: a message may take numbers and names from it.
    """

    change: str
    previous: str
    n: int
    after: str = "HEAD"
    least: int = 0
    branch: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "SuggestionRequest":
        """Read what `to_dict` wrote; KeyError or TypeError when it is malformed."""
        change, previous, n, least = data["change"], data["previous"], data["n"], data.get("least", 0)
        branch = data.get("branch", "")
        if not (isinstance(change, str) and isinstance(previous, str) and isinstance(branch, str)):
            raise TypeError("change, previous and branch need to be text")
        if not (isinstance(n, int) and isinstance(least, int)):
            raise TypeError("n and least need to be whole numbers")
        return cls(change, previous, n, least=least, branch=branch)

    def to_dict(self) -> dict[str, object]:
        """The request as the child process reads it."""
        return {
            "change": self.change,
            "previous": self.previous,
            "n": self.n,
            "least": self.least,
            "branch": self.branch,
        }

    def get_least_score(self) -> float | None:
        """The least score, 0 to 1; None for what the model was found to need."""
        return None if self.least < 0 else self.least / 100

    def get_cache_key(self, model: str) -> str:
        """The key of the request in the cache, for the model with this id."""
        return cache.compute_cache_key(self.change, self.previous, self.n, model, self.least, self.branch)


@lazy_dataclass(frozen=True, slots=True)
class Offer:
    """Suggestions that may be offered for a change, best first.

    `problem` says why the model has no part in them: it was late, or failed. They are retrieved ones then.
    `withheld` is whether there are none because no message reached the least score; `best_score` (0..1) is
    the highest one then, None where there was no message at all.
    """

    suggestions: list[Suggestion]
    request: SuggestionRequest
    problem: str = ""
    withheld: bool = False
    best_score: float | None = None

    @property
    def messages(self) -> list[str]:
        """The messages alone, best first."""
        return [one.message for one in self.suggestions]

    @property
    def is_below_threshold(self) -> bool:
        """Whether nothing is offered because the model's own threshold, not a setting, is not reached."""
        return self.best_score is not None and self.request.least < 0

    @property
    def reason(self) -> str:
        """Why nothing is offered, "" where something is."""
        if self.suggestions:
            return ""
        if self.best_score is None:
            return "no suggestion for this change"
        if self.is_below_threshold:
            return "no suggestion is good enough to offer"
        best = int(100 * self.best_score)
        return f"no suggestion reaches gitpeft.minScore ({self.request.least}); the best scores {best}"


@lazy_dataclass(slots=True)
class SuggestionLimits:
    """Limits of an answer: `deadline` in the time of `time.monotonic`, and the child's memory in MiB.

    `waiting` is called about every 50 ms while the answer is not there.
    """

    deadline: float
    memory_mb: int
    waiting: Callable[[], None] = lambda: None


# --- requests -----------------------------------------------------------------------------------------------


def build_staged_request(
    repo: Repository, config: Config, wanted: int = 0, base: str = ""
) -> SuggestionRequest:
    """The request for the staged change, relative to `base` (default: HEAD), for at least `wanted` messages.

    NothingStagedError when nothing is staged, or all of it is excluded.
    """
    from gitpeft.redaction import mask_secrets

    read_patch = partial(repo.read_staged_patch, base or "HEAD")
    files = _read_described_files(repo, config, read_patch, "everything that is staged")
    if not files:
        raise NothingStagedError("nothing is staged", "use `git add` first")
    previous = mask_secrets(repo.find_previous_subject())
    change = _write_change(repo, files)
    branch = mask_secrets(repo.read_branch_name()[:_MAX_BRANCH_LENGTH])
    asked = _count_asked(config, wanted)
    return SuggestionRequest(change, previous, asked, base or "HEAD", config.min_score, branch)


def build_commit_request(repo: Repository, config: Config, wanted: int, rev: str) -> SuggestionRequest:
    """The request for a commit's change, as if it were staged on its parent; its message is not read.

    There is no least score: whoever names a commit wants to see a message. NothingStagedError when all of its
    change is excluded.
    """
    from gitpeft.redaction import mask_secrets

    read_patch = partial(repo.read_commit_patch, rev)
    files = _read_described_files(repo, config, read_patch, "everything that this commit changes")
    change = _write_change(repo, files)
    previous = mask_secrets(repo.find_subject_before(rev))
    return SuggestionRequest(change, previous, _count_asked(config, wanted), f"{rev}^")


def _write_change(repo: Repository, files: Sequence[FileChange]) -> str:
    """The change in the form that the active model reads, with its secrets masked.

    The stored form is for prompts; the compact one, which is a tenth of the work, for all other models.
    """
    from gitpeft.redaction import mask_secrets

    try:
        bundle = open_active_bundle(repo.state_dir)
    except GitpeftError:
        bundle = None  # whoever loads the model reports why
    reads_prompts = bundle is not None and bundle.manifest.reads_prompts
    return mask_secrets(store_change(files) if reads_prompts else compact_change(files))


def _count_asked(config: Config, wanted: int) -> int:
    """How many messages the model is asked for: at least as many as the hook asks for."""
    return max(wanted, 1 + config.alternatives) + SPARE_MESSAGES


def _read_described_files(
    repo: Repository, config: Config, read_patch: Callable[..., bytes], everything: str
) -> list[FileChange]:
    """The files of a patch without the excluded ones, with generated files marked as in mining.

    A file that was moved out of what is excluded, or into it, is one that was added or deleted: its other
    name is not read. For these, `read_patch` reads the same change again with an option of git.
    NothingStagedError when `everything` is excluded.
    """
    patch = read_patch()
    files = parse_patch(patch)
    if config.exclude:
        from gitpeft.diff.ignore_patterns import PathExclusion  # most repositories exclude nothing

        files = _leave_out_excluded(files, read_patch, PathExclusion(config.exclude, config.ignore_case))
    if not files and patch:
        raise NothingStagedError(f"{everything} is excluded", _SEE_EXCLUDE)
    repo.mark_generated_files(files)
    return files


def _leave_out_excluded(
    files: Sequence[FileChange], read_again: Callable[[str], bytes], exclusion: "PathExclusion"
) -> list[FileChange]:
    def is_excluded(path: str, file: FileChange) -> bool:
        return exclusion.excludes(path, is_folder=file.kind == "submodule")

    kept, split = [], []
    for file in files:
        sides = {is_excluded(path, file) for path in (file.old_path, file.path) if path is not None}
        if sides == {False}:
            kept.append(file)
        elif len(sides) == 2:
            split += [path for path in (file.old_path, file.path) if path and not is_excluded(path, file)]
    if split:
        apart = parse_patch(read_again("--no-renames"))
        kept += [file for file in apart if file.path in split]
    return kept


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
    """The suggestions for the staged change: at most `wanted`, or by default as many as the hook shows.

    They come from the cache, or from the model in a sandboxed child. The child starts before git is asked for
    the staged change, because loading the model takes longer; but not if a pre-commit stage has probably left
    the suggestions in the cache. Where the model fails or is late, earlier messages are offered; GitpeftError
    when none can be, or there is no model.
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
        key = request.get_cache_key(model)
        answer = _wait_for_cached(state, key, limits)
        if answer is not None:
            trace.mark_step("cached")
        else:
            worker = worker or _start_worker(state, limits)
            with cache.hold_claim(state, key):
                answer = _ask_worker(repo, worker, request, limits, trace, hurried=True)
                if not answer.problem:
                    _store_answer(state, key, answer)
    finally:
        if worker is not None:
            worker.kill()
    shown = wanted or 1 + config.alternatives
    chosen = postprocess.select_suggestions(answer.suggestions, facts, shown, _count_asked(config, 0))
    if answer.problem and not chosen:
        raise GitpeftError(answer.problem)
    withheld = not answer.suggestions and not answer.problem
    return Offer(chosen, request, answer.problem, withheld, answer.best_score)


def rehearse_for_commit(repo: Repository, config: Config, limits: SuggestionLimits, rev: str) -> None:
    """Do for a commit's change what the hook does for a staged one, without the cache: to see if it answers.

    GitpeftError when there is no model, or it fails or is late.
    """
    from gitpeft.suggest import postprocess

    with _start_worker(repo.state_dir, limits) as worker:
        request = build_commit_request(repo, config, 0, rev)
        facts = postprocess.gather_facts(repo, config, request.change)
        answer = _ask_worker(repo, worker, request, limits, HookTrace(), hurried=True)
        if answer.problem:
            raise GitpeftError(answer.problem)
        postprocess.select_suggestions(
            answer.suggestions, facts, 1 + config.alternatives, _count_asked(config, 0)
        )


def suggest_for_commit(
    repo: Repository, config: Config, suggester: "Suggester", rev: str, wanted: int, least: int = 0
) -> Offer:
    """The suggestions for a commit's change, with only the commits before it as exemplars.

    `least` is the score in percent that each needs. The branch's ticket is left out: it belongs to the staged
    change. GitpeftError when there is no such commit.
    """
    from gitpeft.suggest import postprocess

    sha = repo.resolve_commit(rev)
    request = replace_fields(build_commit_request(repo, config, wanted, sha), least=least)
    since = recent_exemplars.refresh_recent_commits(repo, suggester.bundle.newest_commit, request.after)
    _index_recent_commits(suggester, repo.state_dir, since, sha)
    suggestions = _ask_model(suggester, request, sha) if request.change else []
    facts = replace_fields(postprocess.gather_facts(repo, config, request.change), branch="")
    return Offer(postprocess.select_suggestions(suggestions, facts, wanted, _count_asked(config, 0)), request)


def prefetch_suggestions(repo: Repository, config: Config, limits: SuggestionLimits) -> None:
    """Compute the suggestions that the hook will need for the staged change, and store them in the cache.

    Nothing is done where they are there already, or where another process is at work on them.
    """
    state, model = repo.state_dir, read_active_id(repo.state_dir)
    if not model:
        return
    (state / "answers").mkdir(parents=True, exist_ok=True)
    (state / "answers" / "prefetched").touch()
    request = build_staged_request(repo, config)
    key = request.get_cache_key(model)
    if cache.load_cached_answer(state, key) is not None:
        return
    with cache.hold_claim(state, key) as claimed:
        if not claimed:
            return
        with _start_worker(state, limits) as worker:
            answer = _ask_worker(repo, worker, request, limits, HookTrace())
            if not answer.problem:
                cache.store_cached_answer(state, key, answer)


# --- the cache ----------------------------------------------------------------------------------------------


def _wait_for_cached(state: Path, key: str, limits: SuggestionLimits) -> ModelAnswer | None:
    """The answer in the cache, after waiting for another process that still computes them.

    Waits for half of the time at most: one that works ahead gives way to everything else on a busy machine.
    """
    answer = cache.load_cached_answer(state, key)
    until = (time.monotonic() + limits.deadline) / 2
    while answer is None and cache.is_claimed(state, key) and time.monotonic() < until:
        limits.waiting()
        time.sleep(0.01)
        answer = cache.load_cached_answer(state, key)
    return answer


def _store_answer(state: Path, key: str, answer: ModelAnswer) -> None:
    try:
        cache.store_cached_answer(state, key, answer)
    except OSError:
        pass  # on a full disk the next run finds no cache, nothing more


def _take_prefetch_mark(state: Path) -> bool:
    """Whether a pre-commit stage has started a prefetch for this commit; removes its mark."""
    mark = state / "answers" / "prefetched"
    try:
        fresh = time.time() - mark.stat().st_mtime < _PREFETCH_FRESH_SECONDS
        mark.unlink()
    except OSError:
        return False
    return fresh


# --- the model ----------------------------------------------------------------------------------------------


def has_core_for_helper() -> bool:
    """Whether a helper of the child would have a core of its own."""
    return hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1


def load_helper(state_dir: Path) -> "HelperHandler":
    """As `model_files.load_helper`, which is imported in the helper alone."""
    from gitpeft.suggest import model_files

    return model_files.load_helper(state_dir)


def _start_worker(state: Path, limits: SuggestionLimits) -> Worker:
    """The child that runs the model, with a helper for its tokenizer where there is a core for it."""
    helper = load_helper if has_core_for_helper() else None
    return Worker(state, load_message_handler, limits.deadline, limits.memory_mb, helper=helper)


def _ask_worker(
    repo: Repository,
    worker: Worker,
    request: SuggestionRequest,
    limits: SuggestionLimits,
    trace: HookTrace,
    *,
    hurried: bool = False,
) -> ModelAnswer:
    """Send a request to the child, `hurried` where somebody waits for the answer.

    The newest commits are read here while it still loads the model.
    """
    since = recent_exemplars.refresh_recent_commits(
        repo, _find_newest_known_commit(repo.state_dir), request.after
    )
    trace.mark_step("recent")
    asked = {**request.to_dict(), "since": since, "hurried": hurried}
    answer = worker.get_answer(asked, limits.waiting)
    trace.mark_step("answer")
    for step in ("started", "loaded", "requested", "answered", "timings"):
        trace.mark_step(step, answer.get(step))
    parsed = ModelAnswer.from_dict(answer) or ModelAnswer()
    return replace_fields(parsed, problem=worker.problem)


def _find_newest_known_commit(state: Path) -> str:
    """The newest commit that the active model was trained on, "" if there is none."""
    try:
        bundle = open_active_bundle(state)
    except GitpeftError:
        return ""  # the child will fail to open it too, and report why
    return bundle.newest_commit if bundle else ""


def load_message_handler(state_dir: Path, helper: "Helper | None" = None) -> RequestHandler:
    """Load the active model, in the child, and return the function that answers a request with it."""
    from gitpeft.suggest.suggester import open_active_suggester

    suggester = open_active_suggester(state_dir, helper)
    suggester.prepare()

    def handle_request(data: Mapping[str, object]) -> Iterator[dict[str, object]]:
        since = data.get("since")
        shas = [str(sha) for sha in since] if isinstance(since, list) else []
        request = SuggestionRequest.from_dict(data)
        _index_recent_commits(suggester, state_dir, shas)
        steps = suggester.suggest_in_steps(
            request.change,
            request.previous,
            request.n,
            least=request.get_least_score(),
            branch=request.branch,
            hurried=data.get("hurried") is True,
        )
        if suggester.generates:  # something to offer should the model take too long
            yield {PRELIMINARY: True, **ModelAnswer(next(steps)).to_dict()}
        found = next(steps)
        yield {**ModelAnswer(found, suggester.best_score).to_dict(), "timings": suggester.timings}

    return handle_request


def _index_recent_commits(
    suggester: "Suggester", state_dir: Path, since: Sequence[str], before: str | None = None
) -> None:
    """Make exemplars of the commits `since` the model's training; for an earlier commit, of no others."""
    if since or before is not None:
        suggester.index_recent_commits(recent_exemplars.load_recent_entries(state_dir, since))


def _ask_model(
    suggester: "Suggester", request: SuggestionRequest, before: str | None = None
) -> list[Suggestion]:
    """The model's suggestions, best first; for an earlier commit (`before`) from commits before it."""
    return suggester.suggest(
        request.change,
        request.previous,
        request.n,
        least=request.get_least_score(),
        before=before,
        branch=request.branch,
    )
