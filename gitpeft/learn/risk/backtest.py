"""`gitpeft backtest`: replays the last months to see what the risk score would have flagged.

Each month (a longer block where there are more than 24) is scored by models that were fitted on what was
known when it began (see `prequential`). An encoder is tuned where the caller brings a trainer, once, on what
was known when the first month began.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

import numpy as np

from gitpeft.bundle import bundle as bundles
from gitpeft.config import load_config
from gitpeft.diff.stored import shorten_change
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.history.stored_records import StoredRecords
from gitpeft.learn.evaluation import ranking_metrics
from gitpeft.learn.evaluation.ranking_metrics import summarise_ranking
from gitpeft.learn.risk import ablations, backtest_commits, prequential, selection
from gitpeft.learn.risk.backtest_commits import CommitRows
from gitpeft.learn.risk.backtest_page import render_backtest_page
from gitpeft.learn.risk.backtest_report import (
    BacktestReport,
    Interval,
    JudgedCommit,
    ModelResult,
    PeriodResult,
)
from gitpeft.learn.risk.labelled_history import PATIENCE_QUANTILE, Listener, find_label_limit, label_commits
from gitpeft.learn.risk.metric_replay import MeasuredCommit, find_latest_time, measure_history
from gitpeft.learn.risk.prequential import (
    MIN_KNOWN_BUGS,
    EvaluationBlock,
    RiskTrial,
    TrainEncoder,
    evaluate_prequential,
)
from gitpeft.learn.szz import szz
from gitpeft.learn.szz.szz import SzzLabels
from gitpeft.risk.change_metrics import DAY_SECONDS
from gitpeft.risk.model import LINES_ADDED, MIN_JUDGED_BUGS, load_risk_model

MONTH = 30.44 * DAY_SECONDS
WEEK = 7 * DAY_SECONDS
_MAX_BLOCKS = 24
_MAX_MONTHS = 240


@dataclass(frozen=True, slots=True)
class RiskBacktest:
    """The results of a backtest, and its HTML page."""

    report: BacktestReport
    page: str


@dataclass(frozen=True, slots=True)
class BacktestPeriod:
    """The last `months` that can be judged at the commit `until`, and the per cent of commits to flag.

    They end where commits become too new to tell what became of them (see `find_label_limit`).
    """

    until: str
    months: int
    budget: float


@dataclass(frozen=True, slots=True)
class _ReplayedHistory:
    """The commits up to the end of the period, their bug labels, and subjects and texts by commit."""

    measured: Sequence[MeasuredCommit]
    found: SzzLabels
    now: int
    subjects: Mapping[str, str]
    texts: Mapping[str, str]

    @property
    def until(self) -> float:
        """The end of the period: of later commits too little is known to count any (unix seconds)."""
        return find_label_limit(self.found, self.now)


def run_risk_backtest(
    repository: Repository,
    period: BacktestPeriod,
    listen: Listener,
    teach: TrainEncoder | None = None,
) -> RiskBacktest:
    """Replay a period. GitpeftError where too few bugs were known in it.

    With an encoder at most `prequential.MAX_ENCODER_COMMITS` commits are scored, the newest ones.
    """
    known = _read_history(repository, period.until, listen)
    since = known.until - period.months * MONTH
    listen("risk", 0.0, "tuning the encoder" if teach is not None else "month by month")
    blocks = min(period.months, _MAX_BLOCKS)
    trial = evaluate_prequential(
        known.measured, known.found, known.now, since, blocks, known.texts, teach,
        lambda number: listen("risk", number / blocks, f"part {number + 1} of {blocks}"),
    )  # fmt: skip
    if trial is None:
        raise _make_too_short_error(known)
    report = _build_report(repository, period, known, trial)
    listen("risk", 1.0, "")
    return RiskBacktest(report, render_backtest_page(trial, report))


def _make_too_short_error(known: _ReplayedHistory) -> GitpeftError:
    bugs, days = len(known.found.bugs_known_at(known.now)), (known.now - known.until) / DAY_SECONDS
    return GitpeftError(
        f"not enough history ({bugs} known bugs, too few of them known in time, or in commits older than "
        f"{days:.0f} days)",
        "look at more months with --months",
    )


def _read_history(repository: Repository, until: str, listen: Listener) -> _ReplayedHistory:
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository, until, listen=partial(listen, "mine"))
        measured = measure_history(history, repository, until)
        records = StoredRecords.open(history, repository, until)
    if not measured:
        raise GitpeftError("there is no commit to look at", "choose a later --until")
    found = szz.trace_bug_introducing_commits(repository, until, load_config(repository), listen)
    subjects: dict[str, str] = {}
    texts: dict[str, str] = {}
    for one in records:
        subjects[one.sha], texts[one.sha] = one.subject, shorten_change(one.change)
    return _ReplayedHistory(measured, found, find_latest_time(measured), subjects, texts)


def _build_report(
    repository: Repository, period: BacktestPeriod, known: _ReplayedHistory, trial: RiskTrial
) -> BacktestReport:
    since = known.until - period.months * MONTH
    times = label_commits(known.measured, known.found, known.now).times
    after = sum(one.change.time > since for one in known.measured) - len(trial.data)
    in_period = int(((times >= since) & (times <= known.until)).sum())
    unread = max(0, in_period - prequential.MAX_ENCODER_COMMITS) if trial.reader is not None else 0
    buggy = int(trial.data.truth.sum())
    judged = buggy >= MIN_JUDGED_BUGS
    rows = backtest_commits.build_rows(trial, period.budget)
    commits = _list_commits(repository, known, trial, rows)
    return BacktestReport(
        repository=(repository.work_tree or repository.common_dir).name,
        until=period.until,
        months=period.months,
        budget=period.budget,
        commits=len(trial.data),
        buggy=buggy,
        left_out=max(0, after - unread),
        young=sum(one.change.time > max(since, known.until) for one in known.measured),
        wait_days=round((known.now - known.until) / DAY_SECONDS),
        end=int(known.until),
        unread=unread,
        latency_days=known.found.latency_quantile(PATIENCE_QUANTILE),
        chosen=trial.chosen,
        models=_evaluate_models(trial, period.budget) if judged else {},
        flags=[one for one in commits if one.flagged],
        bugs=[one for one in commits if one.fixed_by],
        dismissed=[one for one in commits if one.dismissed],
        quiet=rows.zone,
        by_month=backtest_commits.summarise_months(rows),
        read=backtest_commits.measure_read_share(rows),
        off=_explain_inactive_score(repository, known, trial),
        advice="" if judged else _advise_on_months(known, period),
    )


def _list_commits(
    repository: Repository, known: _ReplayedHistory, trial: RiskTrial, rows: CommitRows
) -> list[JudgedCommit]:
    """The commits that were flagged or fixed later, newest first, with what was known before each."""
    verdicts = known.found.verdicts
    fixes = {sha: verdicts[sha].fixes[0] for sha, bad in zip(rows.shas, rows.truth, strict=True) if bad}
    marked = np.maximum(rows.flags, rows.truth)
    commits = backtest_commits.list_commits(rows, marked, known.subjects, fixes)
    with History.open(repository.state_dir) as history:
        return backtest_commits.add_past_facts(repository, history, trial, commits)


def _explain_inactive_score(repository: Repository, known: _ReplayedHistory, trial: RiskTrial) -> str:
    """Why the hook flags nothing, "" where it does: by the installed model, else by this backtest."""
    no_better = f"no model beats {LINES_ADDED}"
    active = bundles.open_active_bundle(repository.state_dir)
    if active is not None:
        model = load_risk_model(active)
        return model.why or ("" if model.warns else no_better)
    if not prequential.beats_lines_added(trial.ranked, trial.chosen):
        return no_better
    bugs = int(label_commits(known.measured, known.found, known.now).truth.sum())
    return selection.explain_few_bugs(bugs) if bugs < MIN_KNOWN_BUGS else ""


def _advise_on_months(known: _ReplayedHistory, period: BacktestPeriod) -> str:
    """A number of months with enough bugs in them and before them; in words where there is none."""
    labelled = label_commits(known.measured, known.found, known.now)
    times = labelled.times[(labelled.truth > 0) & (labelled.times <= known.until)]
    if len(times) >= MIN_JUDGED_BUGS + MIN_KNOWN_BUGS / 2:
        months = 12 * ceil((known.until - float(times[-MIN_JUDGED_BUGS])) / MONTH / 12)
        if period.months < months <= _MAX_MONTHS:
            return f"Try --months {months}."
    return f"This history has {len(times)} known bugs, too few for a backtest."


# --- results ------------------------------------------------------------------------------------------------


def _evaluate_models(trial: RiskTrial, budget: float) -> dict[str, ModelResult]:
    weeks = max(1.0, float(trial.data.times[-1] - trial.data.times[0]) / WEEK)
    altered = ablations.measure_ablations(trial)
    return {name: _evaluate_model(name, trial, budget, weeks, altered[name]) for name in trial.ranked}


def _evaluate_model(
    name: str, trial: RiskTrial, budget: float, weeks: float, altered: Mapping[str, float]
) -> ModelResult:
    ranked, truth = trial.ranked[name], trial.data.truth
    flags = np.concatenate([prequential.flag_commits(name, part, budget) for part in trial.parts])
    flagged, right = int(flags.sum()), int((flags * truth).sum())
    return ModelResult(
        flagged=flagged,
        right=right,
        precision=right / max(1, flagged),
        recall=right / float(truth.sum()),
        f1=ranking_metrics.f1_score(truth, flags),
        false_alarms_a_week=(flagged - right) / weeks,
        rank_correlation_with_size=_round_or_none(
            ranking_metrics.spearman_correlation(ranked.scores, trial.data.effort)
        ),
        metrics={key: _round_interval(*found) for key, found in summarise_ranking(ranked).items()},
        reliability=ranking_metrics.reliability_bins(truth, ranked.chances),
        drift=[_summarise_block(name, part, budget) for part in trial.parts],
        counterfactual={what: _round_or_none(auc) for what, auc in altered.items()},
    )


def _round_interval(mean: float, low: float, high: float) -> Interval:
    return _round_or_none(mean), _round_or_none(low), _round_or_none(high)


def _round_or_none(x: float) -> float | None:
    return None if x != x else round(float(x), 4)


def _summarise_block(name: str, part: EvaluationBlock, budget: float) -> PeriodResult:
    ranked = prequential.standardise_scores(name, part)
    judged = part.block.truth.sum() >= MIN_JUDGED_BUGS
    return PeriodResult(
        start=int(part.block.times[0]),
        commits=len(part.block),
        buggy=int(part.block.truth.sum()),
        flagged=int(prequential.flag_commits(name, part, budget).sum()),
        auc=_round_or_none(ranking_metrics.roc_auc(ranked.truth, ranked.scores)) if judged else None,
        expected=round(float(ranked.chances.sum()), 1),
    )
