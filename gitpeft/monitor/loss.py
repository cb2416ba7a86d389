"""How well a model still predicts what the team writes: its validation loss before and since it was made.

The loss is in nats per token of the team's own subject, given the change and the exemplars of that day. It
is measured on the newest commits that the model knew but was neither trained nor selected on (the old level),
and on the newest ones since. Losses are cached in `<state_dir>/level.json`, which may be deleted at any time.
Nothing is trained, and torch is not needed.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance

from gitpeft.bundle.bundle import Bundle
from gitpeft.config import Config
from gitpeft.errors import GitpeftError
from gitpeft.files import write_json_cache
from gitpeft.git.repository import Repository
from gitpeft.suggest import recent_exemplars, service
from gitpeft.suggest.retrieval import CommitIndex
from gitpeft.suggest.suggester import Suggester
from gitpeft.suggest.terms import IndexEntry

MIN_COMMITS, MAX_COMMITS = 20, 40
"""Commits of each kind that are needed, and that are used at most."""

TIME_LIMIT_SECONDS = 8.0
"""How long one measurement may take; the commits that are left over are measured in the next one."""

MIN_RISE_SIGMAS = 2.58
"""Beyond this many standard errors a rise is not chance (99 %); `status` is run again and again."""

MIN_RELATIVE_RISE = 0.05
"""A rise by less than this share of the old level is not worth a training, however certain it is."""


@dataclass(frozen=True, slots=True)
class LossShift:
    """Mean loss (nats a token) on commits before and since the model was made, how many of each, and the
    standard error of the difference."""

    old: float
    new: float
    n_old: int
    n_new: int
    error: float

    @property
    def has_risen(self) -> bool:
        """Whether the model has fallen behind, beyond chance."""
        rise = self.new - self.old
        return rise > MIN_RISE_SIGMAS * self.error and rise > MIN_RELATIVE_RISE * self.old


@dataclass(frozen=True, slots=True)
class _EvaluationCommit:
    """A commit to ask about: its id, its subject, and those since the model that came before it."""

    sha: str
    subject: str
    since: Sequence[IndexEntry]


def measure_loss_shift(repo: Repository, bundle: Bundle, config: Config) -> LossShift | None:
    """The old level and the new one; None with too few commits, or a bundle without a model."""
    if bundle.manifest.kind != "model":
        return None
    groups = [[*_list_held_out_commits(bundle)], [*_list_new_commits(repo, bundle)]]
    if min(map(len, groups)) < MIN_COMMITS:
        return None
    known = _load_losses(repo.state_dir, bundle.id)
    unasked = [one for group in groups for one in group if one.sha not in known]
    if unasked:
        known |= _compute_losses(repo, bundle, config, unasked)
        wanted = {one.sha for group in groups for one in group}
        kept = {sha: loss for sha, loss in known.items() if sha in wanted}
        write_json_cache(repo.state_dir / "level.json", {"model": bundle.id, "losses": kept})
    old, new = ([loss for one in group if (loss := known.get(one.sha)) is not None] for group in groups)
    if min(len(old), len(new)) < MIN_COMMITS:
        return None
    error = math.sqrt(variance(old) / len(old) + variance(new) / len(new))
    return LossShift(fmean(old), fmean(new), len(old), len(new), error)


def _list_held_out_commits(bundle: Bundle) -> Iterator[_EvaluationCommit]:
    """The newest commits of the index that the model was neither trained nor selected on, newest first."""
    index = CommitIndex.load_from_bundle(bundle)
    held = min(MAX_COMMITS, int(bundle.manifest.commits.get("held", len(index) // 10)))
    for place in reversed(range(len(index) - held, len(index))):
        yield _EvaluationCommit(*index.get_commit(place), ())


def _list_new_commits(repo: Repository, bundle: Bundle) -> Iterator[_EvaluationCommit]:
    """The newest usable commits since the model, newest first."""
    shas: list[str] = []
    while len(more := recent_exemplars.refresh_recent_commits(repo, bundle.newest_commit)) > len(
        shas
    ):  # it reads a few at a time
        shas = more
    entries = recent_exemplars.load_recent_entries(repo.state_dir, shas)
    for place in reversed(range(max(0, len(entries) - MAX_COMMITS), len(entries))):
        yield _EvaluationCommit(entries[place].sha, entries[place].subject, entries[:place])


def _compute_losses(
    repo: Repository, bundle: Bundle, config: Config, asked: Sequence[_EvaluationCommit]
) -> dict[str, float | None]:
    """Nats per token by commit; None for one that cannot be measured (it is no longer here, say)."""
    until = time.monotonic() + TIME_LIMIT_SECONDS
    suggester = Suggester(bundle)
    found: dict[str, float | None] = {}
    for one in asked:
        if time.monotonic() > until:
            break
        try:
            question = service.build_commit_request(repo, config, 1, one.sha)
        except GitpeftError:
            found[one.sha] = None
            continue
        suggester.index_recent_commits(one.since)
        loss = suggester.compute_loss(question.change, question.previous, one.subject, before=one.sha)
        found[one.sha] = round(loss, 4)
    return found


def _load_losses(state_dir: Path, model: str) -> dict[str, float | None]:
    try:
        data = json.loads((state_dir / "level.json").read_text(encoding="utf-8"))
        losses = data["losses"] if data["model"] == model else {}
        return {str(sha): None if loss is None else float(loss) for sha, loss in losses.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
