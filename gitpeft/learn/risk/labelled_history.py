"""Labels the commits of a history as buggy or clean, by what was known at a moment.

A commit is buggy once a fix of it is known, and clean only when it is older than the repository's own wait
for a fix (the `PATIENCE_QUANTILE` of its latencies); younger commits are left out, not taken for clean.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gitpeft.config import load_config
from gitpeft.diff.stored import shorten_change
from gitpeft.git.log import NO_TIME
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn.risk.classifiers import Array, LabelledCommits
from gitpeft.learn.risk.line_check import FixedLineLookup, make_fixed_line_lookup
from gitpeft.learn.risk.metric_replay import MeasuredCommit, find_latest_time, measure_history
from gitpeft.learn.szz import szz
from gitpeft.risk.change_metrics import DAY_SECONDS

Listener = Callable[[str, float, str], None]
"""Is called with (step, share done 0..1, detail) while a step goes on."""

PATIENCE_QUANTILE = 0.5
"""The quantile of the latency from a bug to its fix after which a commit without a fix counts as clean."""

_DEFAULT_PATIENCE_DAYS = 365.0
"""The wait for a fix where too few latencies are known."""


class BugLabels(Protocol):
    """The bugs that SZZ found (see `learn.szz`)."""

    def bugs_known_at(self, time: int) -> set[str]:
        """The commits that were known to be buggy at a moment (unix seconds)."""
        ...

    def latency_quantile(self, quantile: float) -> float | None:
        """Days from a bug to its first fix, at a quantile; None where too few are known."""
        ...


@dataclass(frozen=True, slots=True)
class LabelledHistory:
    """The commits of a history, oldest first, and the bug labels known `now` (unix seconds).

    `texts` are the compact changes by commit; `find_fixed_lines` looks up which lines of them fixes changed;
    `report` counts what was traced.
    """

    measured: Sequence[MeasuredCommit]
    found: BugLabels
    now: int
    texts: Mapping[str, str] = field(default_factory=dict)
    find_fixed_lines: FixedLineLookup | None = None
    report: szz.TraceReport | None = None


def label_commits(
    measured: Sequence[MeasuredCommit],
    found: BugLabels,
    now: int,
    patience: float = PATIENCE_QUANTILE,
    texts: Mapping[str, str] | None = None,
) -> LabelledCommits:
    """The commits that have a label at `now` (unix seconds), without later, too young and undated ones.

    `texts` are the compact changes by commit, for models that read them.
    """
    known = found.bugs_known_at(now)
    limit = find_label_limit(found, now, patience)
    kept = [
        one
        for one in measured
        if NO_TIME < one.change.time <= now
        and one.metrics.nf
        and (one.sha in known or one.change.time <= limit)
    ]
    return build_labelled_commits(kept, np.array([one.sha in known for one in kept], dtype=float), texts)


def find_label_limit(found: BugLabels, now: int, patience: float = PATIENCE_QUANTILE) -> float:
    """The moment (unix seconds) up to which commits have a label at `now`, whatever becomes of them.

    Of later ones only those have one whose fix came early: a share of bugs among these would be too high.
    """
    return now - (found.latency_quantile(patience) or _DEFAULT_PATIENCE_DAYS) * DAY_SECONDS


def build_labelled_commits(
    measured: Sequence[MeasuredCommit], truth: Array, texts: Mapping[str, str] | None
) -> LabelledCommits:
    """Measured commits with their labels: 1 for buggy, 0 for clean."""
    times = np.array([one.change.time for one in measured], dtype=float)
    shas = tuple(one.sha for one in measured)
    changes = tuple(texts.get(sha, "") for sha in shas) if texts else ()
    return LabelledCommits(tuple(one.metrics for one in measured), truth, times, shas, changes)


def read_labelled_history(
    history: History,
    repository: Repository,
    until: str,
    listen: Listener = lambda *_: None,
    limit: szz.TraceLimit | None = None,
) -> LabelledHistory | None:
    """The history and labels at the commit `until` (an id), whose past is mined already; None without any.

    With a `limit` it has the newest commits only, measured by all that came before them.
    """
    found = szz.trace_bug_introducing_commits(repository, until, load_config(repository), listen, limit)
    measured = measure_history(history, repository, until, found.untraced)
    if not measured:
        return None
    texts = dict.fromkeys((one.sha for one in measured), "")
    texts.update((sha, shorten_change(change)) for sha, change in history.iter_changes(list(texts)))
    lines = make_fixed_line_lookup(repository, found.verdicts)
    return LabelledHistory(measured, found, find_latest_time(measured), texts, lines, found.report)
