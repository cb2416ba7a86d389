"""The commits of a backtest one by one: flag, place, evidence of that time, what became of them, by month."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn.risk import prequential, quiet
from gitpeft.learn.risk.backtest_report import JudgedCommit, MonthResult, QuietResult
from gitpeft.learn.risk.classifiers import Array
from gitpeft.learn.risk.prequential import RiskTrial
from gitpeft.risk import dismissals
from gitpeft.risk.assessor import RiskAssessor, RiskReport
from gitpeft.risk.dismissal_cover import is_open_at
from gitpeft.risk.model import RiskModel

MAX_WITH_EVIDENCE = 200
"""For so many commits, the newest, the evidence is looked up."""

_SIZE_QUANTILES = 101
_MAX_MONTHS_SHOWN = 36


@dataclass(frozen=True, slots=True)
class CommitRows:
    """The judged commits of a trial, oldest first, as arrays (n).

    `places` are percentiles, `chances` probabilities, `truth` is 1 for a commit that was fixed later. `zone`
    is what is called quiet among the newest of them.
    """

    shas: Sequence[str]
    times: Array
    truth: Array
    flags: Array
    places: Array
    quiet: Array
    chances: Array
    lines: Array
    zone: QuietResult


def build_rows(trial: RiskTrial, budget: float) -> CommitRows:
    """The commits of a trial as the selected model judges them."""
    name, data = trial.chosen, trial.data
    flags = np.concatenate([prequential.flag_commits(name, part, budget) for part in trial.parts])
    places = quiet.compute_percentiles(name, trial)
    zone = quiet.find_quiet_zone(places, data.truth)
    marks, lines = np.zeros(len(data)), trial.ranked[name].effort
    tried = slice(len(data) - zone.commits, None)
    if zone.below is not None:
        marks[tried] = places[tried] < zone.below
    share = float(lines[marks > 0].sum() / max(1.0, lines[tried].sum()))
    found = QuietResult(zone.below, zone.why, zone.commits, zone.n, zone.bugs, zone.of, share)
    chances = trial.ranked[name].chances
    return CommitRows(data.shas, data.times, data.truth, flags, places, marks, chances, lines, found)


def list_commits(
    rows: CommitRows, chosen: Array, subjects: Mapping[str, str], fixes: Mapping[str, str]
) -> list[JudgedCommit]:
    """The commits that `chosen` (n) marks, newest first; `fixes` has their first fixes."""
    return [_describe_row(rows, i, subjects, fixes) for i in np.flatnonzero(chosen)[::-1]]


def _describe_row(
    rows: CommitRows, i: int, subjects: Mapping[str, str], fixes: Mapping[str, str]
) -> JudgedCommit:
    sha = rows.shas[i]
    fix = fixes.get(sha, "") if rows.truth[i] else ""
    return JudgedCommit(
        commit=sha,
        time=int(rows.times[i]),
        fixed_by=fix,
        subject=subjects.get(sha, ""),
        score=round(100 * float(rows.chances[i])),
        percentile=round(float(rows.places[i]), 1),
        lines=int(rows.lines[i]),
        flagged=bool(rows.flags[i]),
        quiet=bool(rows.quiet[i]),
        fix_subject=subjects.get(fix, ""),
    )


def measure_read_share(rows: CommitRows) -> float:
    """The share of the changed lines that is in flagged commits."""
    return round(float(rows.lines[rows.flags > 0].sum() / max(1.0, rows.lines.sum())), 4)


# --- by month -----------------------------------------------------------------------------------------------


def summarise_months(rows: CommitRows) -> list[MonthResult]:
    """The commits by calendar month (UTC), oldest first; by year where there are more than 36 months."""
    months = np.array([datetime.fromtimestamp(time, UTC).strftime("%Y-%m") for time in rows.times])
    if len(set(months)) > _MAX_MONTHS_SHOWN:
        months = np.array([month[:4] for month in months])
    return [_summarise_month(str(month), rows, months == month) for month in sorted(set(months))]


def _summarise_month(month: str, rows: CommitRows, here: Array) -> MonthResult:
    truth, flags = rows.truth[here], rows.flags[here]
    caught = int((truth * flags).sum())
    return MonthResult(
        month,
        commits=len(truth),
        buggy=int(truth.sum()),
        flagged=int(flags.sum()),
        caught=caught,
        missed=int(truth.sum()) - caught,
        quiet=int(rows.quiet[here].sum()),
        expected=round(float(rows.chances[here].sum()), 1),
    )


# --- evidence and dismissals --------------------------------------------------------------------------------


def add_past_facts(
    repository: Repository, history: History, trial: RiskTrial, commits: Sequence[JudgedCommit]
) -> list[JudgedCommit]:
    """The same commits, newest first, with the evidence before each, and the reason of a dismissal."""
    now = repository.read_commit_time()
    entries = dismissals.load_dismissals(repository, now).entries
    assessors = _AssessorsByBlock(repository, history, trial)
    found = dict[str, JudgedCommit]()
    for number, one in sorted(enumerate(commits), key=lambda pair: pair[1].time):
        wanted = one.flagged and number < MAX_WITH_EVIDENCE
        if wanted or any(is_open_at(entry, one.time) for entry in entries):
            found[one.commit] = _add_facts(one, assessors.assess(one))
    return [found.get(one.commit, one) for one in commits]


def _add_facts(one: JudgedCommit, report: RiskReport | None) -> JudgedCommit:
    if report is None:
        return one
    evidence = tuple(fact.text for fact in report.evidence) if one.flagged else ()
    reasons = dict.fromkeys(entry.why for entry in report.dismissals) if report.dismissed else ()
    return replace(one, evidence=evidence, dismissed="; ".join(reasons))


class _AssessorsByBlock:
    """Gathers evidence on commits, each with the sizes of the commits that were recent before its block."""

    def __init__(self, repository: Repository, history: History, trial: RiskTrial) -> None:
        self._repository, self._history = repository, history
        self._parts = {sha: part for part in trial.parts for sha in part.block.shas}
        self._made: dict[int, RiskAssessor] = {}

    def assess(self, one: JudgedCommit) -> RiskReport | None:
        """The evidence before a commit; None where it cannot be read."""
        part = self._parts[one.commit]
        if id(part) not in self._made:
            recent = part.before.metrics[-prequential.RECENT_COMMITS :]
            sizes = np.quantile([m.la + m.ld for m in recent], np.linspace(0, 1, _SIZE_QUANTILES))
            model = RiskModel(why="only evidence", sizes=tuple(map(float, sizes)))
            self._made[id(part)] = RiskAssessor(self._history, self._repository, model, budget=0)  # no score
        try:
            return self._made[id(part)].assess_commit(one.commit)
        except GitpeftError:  # git or the history cannot read it, which the evidence is not worth failing for
            return None
