"""The last months again, as if the flag had been there: hides how they are replayed, counted and shown.

Each month (a longer stretch where there are more than 24) is judged by models that were fitted on what was
known when it began (`defects.prequential`). The models stand side by side; the better one is marked. An
encoder is tuned where the caller brings a teacher, once, on what was known when the first month began.
"""

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gitpeft.config import load_config
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn import charts
from gitpeft.learn.evaluation import ranking_metrics
from gitpeft.learn.evaluation.ranking_metrics import RankedCommits
from gitpeft.learn.risk import selection
from gitpeft.learn.risk.metric_replay import find_latest_time, measure_history
from gitpeft.learn.risk.selection import EvaluationBlock, RiskTrial
from gitpeft.learn.szz import szz
from gitpeft.risk.change_metrics import DAY_SECONDS, ChangeMetrics
from gitpeft.risk.encoder import OnnxRiskEncoder
from gitpeft.risk.model import scale_features

MONTH = 30.44 * DAY_SECONDS
WEEK = 7 * DAY_SECONDS
_MAX_BLOCKS = 24
_MAX_LISTED_FLAGS = 200
_CURVE_POINTS = 60
_SIZE_METRICS = ("la", "ld", "nf", "nd", "ns", "entropy", "functions", "new")

_LINE_COUNTS = re.compile(r" \+(\d+) -(\d+)")

ChangeRewrite = Callable[[ChangeMetrics, str, ChangeMetrics], tuple[ChangeMetrics, str]]
"""Metrics and text of a change, told differently; the last argument are medians."""

BACKTEST_METRICS = {
    "auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "brier": "Brier",
    "ece": "ECE",
    "capture_5": "bugs in the riskiest 5 %",
    "capture_10": "in 10 %",
    "capture_20": "in 20 %",
    "recall_at_20_effort": "Recall@20%Effort",
    "effort_at_20_recall": "Effort@20%Recall",
    "popt": "Popt",
}


@dataclass(frozen=True, slots=True)
class RiskBacktest:
    """What would have been flagged and what came of it; `data` is plain, `page` the HTML."""

    data: dict[str, Any]
    page: str


@dataclass(frozen=True, slots=True)
class BacktestPeriod:
    """The `months` before the commit `until`, and the percent of commits that may be flagged."""

    until: str
    months: int
    budget: float


def run_risk_backtest(
    repository: Repository,
    period: BacktestPeriod,
    listen: selection.Listener,
    teach: selection.TrainEncoder | None = None,
) -> RiskBacktest:
    """Replay a period. GitpeftError where too little was known in it.

    With an encoder at most `defects.MOST_READ` commits are judged, the newest ones.
    """
    until, months, budget = period.until, period.months, period.budget
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository, until)
        measured = measure_history(history, repository, until)
        texts = {one.sha: one.change for one in history.load_records(repository, until)}
    if not measured:
        raise GitpeftError("there is no commit to look back at", "choose an earlier --until, or fewer months")
    now = find_latest_time(measured)
    found = szz.trace_bug_introducing_commits(repository, until, load_config(repository), listen)
    since = now - months * MONTH
    listen("risk", 0.0, "an encoder learns first" if teach is not None else "month by month")
    trial = selection.evaluate_prequential(
        measured, found, now, since, min(months, _MAX_BLOCKS), texts, teach
    )
    if trial is None:
        raise GitpeftError(
            f"not enough history ({len(found.bugs_known_at(now))} known bugs, too few of them known in time)",
            "look back over more months with --months",
        )
    after = sum(one.change.time > since for one in measured) - len(trial.data)
    known = int((selection.label_commits(measured, found, now).times >= since).sum())
    unread = max(0, known - selection.MAX_ENCODER_COMMITS) if trial.reader is not None else 0
    fixes = {sha: verdict.fixes[0] for sha, verdict in found.verdicts.items() if verdict.fixes}
    data = _count_results(trial, budget) | {
        "until": until,
        "months": months,
        "budget": budget,
        "left_out": max(0, after - unread),
        "unread": unread,
        "latency_days": found.latency_quantile(selection.PATIENCE_QUANTILE),
        "flags": _list_flags(trial, budget, fixes),
    }
    listen("risk", 1.0, "")
    return RiskBacktest(data, _render_page(trial, data))


def _count_results(trial: RiskTrial, budget: float) -> dict[str, Any]:
    """The numbers of each model."""
    weeks = max(1.0, float(trial.data.times[-1] - trial.data.times[0]) / WEEK)
    told = {
        name: {"counterfactual": {what: _round_or_none(auc) for what, auc in found.items()}}
        for name, found in measure_counterfactuals(trial).items()
    }
    models = {name: _evaluate_model(name, trial, budget, weeks) | told[name] for name in trial.ranked}
    truth = trial.data.truth
    return {"commits": len(truth), "buggy": int(truth.sum()), "chosen": trial.chosen, "models": models}


def _evaluate_model(name: str, trial: RiskTrial, budget: float, weeks: float) -> dict[str, Any]:
    said, truth = trial.ranked[name], trial.data.truth
    flags = np.concatenate([selection.flag_commits(name, part, budget) for part in trial.parts])
    hits = int((flags * truth).sum())
    return {
        "flagged": int(flags.sum()),
        "right": hits,
        "precision": hits / max(1.0, float(flags.sum())),
        "recall": hits / float(truth.sum()),
        "f1": ranking_metrics.f1_score(truth, flags),
        "false_alarms_a_week": float(flags.sum() - hits) / weeks,
        "rank_correlation_with_size": _round_or_none(
            ranking_metrics.spearman_correlation(said.scores, trial.data.effort)
        ),
        "metrics": {
            key: [_round_or_none(x) for x in interval]
            for key, interval in ranking_metrics.summarise_ranking(said).items()
        },
        "reliability": ranking_metrics.reliability_bins(truth, said.chances),
        "drift": [_summarise_block(name, part, budget) for part in trial.parts],
    }


def _round_or_none(x: float) -> float | None:
    return None if x != x else round(float(x), 4)


def _summarise_block(name: str, part: EvaluationBlock, budget: float) -> dict[str, Any]:
    """One block: from when on, how many commits, bugs and flags, and the AUC in it."""
    said = selection.standardise_scores(name, part)
    return {
        "from": int(part.block.times[0]),
        "commits": len(part.block),
        "buggy": int(part.block.truth.sum()),
        "flagged": int(selection.flag_commits(name, part, budget).sum()),
        "auc": _round_or_none(ranking_metrics.roc_auc(said.truth, said.scores)),
        "expected": round(float(said.chances.sum()), 1),
    }


def measure_counterfactuals(trial: RiskTrial) -> dict[str, dict[str, float]]:
    """ROC AUC of each model when changes are told differently; one that reads what it should loses by that.

    `added and removed swapped`, in counts and in text; `size held constant`: lines and files of every change
    at their median, its text as it is; `message removed`: what the message says of a fix is taken away, which
    no shipped model may notice.
    """
    changed: dict[str, ChangeRewrite] = {
        "as it is": lambda one, text, _: (one, text),
        "added and removed swapped": lambda one, text, _: (_swap_counts(one), _swap_signs(text)),
        "size held constant": lambda one, text, usual: (_set_median_size(one, usual), text),
        "message removed": lambda one, text, _: (replace(one, fix=0), text),
    }
    found: dict[str, dict[str, float]] = {name: {} for name in trial.parts[0].models}
    for what, tell in changed.items():
        told = [_rewrite_block(part, tell, trial.reader) for part in trial.parts]
        for name in found:
            found[name][what] = _compute_block_auc(name, told)
    return found


def _swap_counts(one: ChangeMetrics) -> ChangeMetrics:
    return replace(one, la=one.ld, ld=one.la)


def _swap_signs(text: str) -> str:
    """A compact text with added lines as removed ones, and the other way round; counts of files too."""
    signs = {"+": "-", "-": "+"}
    lines = (f"{signs.get(line[:1], line[:1])}{line[1:]}" for line in text.split("\n"))
    return "\n".join(
        _LINE_COUNTS.sub(r" +\2 -\1", line) if line[:1] not in "#@+-" else line for line in lines
    )


def _set_median_size(one: ChangeMetrics, usual: ChangeMetrics) -> ChangeMetrics:
    return replace(one, **{key: getattr(usual, key) for key in _SIZE_METRICS})


def _compute_block_auc(name: str, parts: Sequence[EvaluationBlock]) -> float:
    """Over pairs of a buggy and a clean commit of the same block, so that no drift between them helps."""
    right = pairs = 0.0
    for part in parts:
        bad = float(part.block.truth.sum())
        weight = bad * (len(part.block) - bad)
        if weight:
            said = selection.standardise_scores(name, part)
            right += weight * ranking_metrics.roc_auc(said.truth, said.scores)
            pairs += weight
    return right / pairs if pairs else float("nan")


def _rewrite_block(
    part: EvaluationBlock, tell: ChangeRewrite, reader: OnnxRiskEncoder | None
) -> EvaluationBlock:
    """A block told differently; an encoder reads again what is not told as it was."""
    block, usual = part.block, _compute_medians(part.before.metrics)
    texts = block.changes or ("",) * len(block)
    told = [tell(one, text, usual) for one, text in zip(block.metrics, texts, strict=True)]
    metrics = tuple(one for one, _ in told)
    changes = tuple(text for _, text in told) if block.changes else ()
    found = replace(block, metrics=metrics, changes=changes)
    if reader is not None and block.readings is not None:
        rows = zip(block.readings, block.metrics, texts, told, strict=True)
        found = replace(found, readings=np.array([_reread_change(reader, *row) for row in rows], dtype=float))
    return replace(part, block=found)


def _reread_change(
    reader: OnnxRiskEncoder, known: float, one: ChangeMetrics, text: str, told: tuple[ChangeMetrics, str]
) -> float:
    """What an encoder, which sees `FEATURES` and the text, reads in a change as it is told."""
    if np.isnan(known) or (told[1] == text and scale_features(told[0]) == scale_features(one)):
        return known
    return reader.score_change(told[1], told[0]).logit


def _compute_medians(metrics: Sequence[ChangeMetrics]) -> ChangeMetrics:
    return ChangeMetrics(
        **{
            key: type(getattr(ChangeMetrics(), key))(np.median([getattr(m, key) for m in metrics]))
            for key in _SIZE_METRICS
        }
    )


def _list_flags(trial: RiskTrial, budget: float, fixes: dict[str, str]) -> list[dict[str, Any]]:
    """What the shipped model would have flagged, newest first."""
    rows = []
    for part in trial.parts:
        marks = selection.flag_commits(trial.chosen, part, budget)
        for sha, time, mark, bad in zip(
            part.block.shas, part.block.times, marks, part.block.truth, strict=True
        ):
            if mark:
                rows.append({"commit": sha, "time": int(time), "fixed_by": fixes.get(sha, "") if bad else ""})
    return rows[::-1]


# --- shown --------------------------------------------------------------------------------------------------


def format_backtest_summary(data: dict[str, Any]) -> list[str]:
    """The numbers as lines for a terminal."""
    lines = _describe_commits(data)
    for name, one in data["models"].items():
        auc, low, high = one["metrics"]["auc"]
        capture = "/".join(f"{one['metrics'][f'capture_{k}'][0]:.0%}" for k in (5, 10, 20))
        shipped = " (shipped)" if name == data["chosen"] else ""
        lines += [
            f"{name}{shipped}: AUC {auc:.3f} ({low:.3f}-{high:.3f}), captures {capture} of the bugs in "
            f"the riskiest 5/10/20 %, ECE {one['metrics']['ece'][0]:.3f}",
            f"  at a budget of {data['budget']:g} %: {one['flagged']} flagged, {one['right']} rightly "
            f"({one['precision']:.0%}), {one['false_alarms_a_week']:.2f} false alarms a week; "
            f"rank correlation with size {one['rank_correlation_with_size']}",
            "  AUC within each block, the changes told differently: "
            + ", ".join(f"{what} {auc}" for what, auc in one["counterfactual"].items()),
        ]
    return lines


def _describe_commits(data: dict[str, Any]) -> list[str]:
    """Which commits the numbers are about."""
    lines = [
        f"{data['commits']:,} commits of {data['months']} months, {data['buggy']} of them later fixed; "
        f"{data['left_out']} left out: too young to tell, only generated files, or too little known before"
    ]
    if data["unread"]:
        lines.append(f"{data['unread']} older ones were not judged, for want of time to read them")
    return lines


def _render_page(trial: RiskTrial, data: dict[str, Any]) -> str:
    chosen = f"What ships: {data['chosen']}. Flags are given to about {data['budget']:g} % of the commits."
    head = "".join(f"<p>{html.escape(line)}</p>" for line in [*_describe_commits(data), chosen])
    plots = [
        charts.render_line_chart(
            "Bugs found by looking at the riskiest commits",
            "share of commits",
            "share of bugs",
            _build_capture_curves(trial),
        ),
        charts.render_line_chart(
            "Probabilities and what came true",
            "said",
            "happened",
            _build_reliability_curves(data),
            diagonal=True,
        ),
        charts.render_line_chart("AUC by time", "block", "ROC AUC", _build_auc_curves(data), top=1.0),
        charts.render_scatter_plot(
            "Score and size of the shipped model",
            "log10 of changed lines",
            "score",
            *_build_size_points(trial),
        ),
    ]
    return charts.render_page(
        "gitpeft: the last months in hindsight",
        f"{head}{_render_alarm_table(data)}<div class='plots'>{''.join(plots)}</div>"
        f"{_render_metric_table(data)}{_render_counterfactual_table(data)}{_render_flag_table(data)}",
    )


def _build_capture_curves(trial: RiskTrial) -> dict[str, list[tuple[float, float]]]:
    shares = [i / _CURVE_POINTS for i in range(1, _CURVE_POINTS + 1)]
    return {
        name: [(0.0, 0.0), *((x, ranking_metrics.capture_rate(said.truth, said.scores, x)) for x in shares)]
        for name, said in trial.ranked.items()
    }


def _build_reliability_curves(data: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    return {name: [(x, y) for x, y, _ in one["reliability"]] for name, one in data["models"].items()}


def _build_auc_curves(data: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    return {
        name: [
            (float(n), month["auc"]) for n, month in enumerate(one["drift"], 1) if month["auc"] is not None
        ]
        for name, one in data["models"].items()
    }


def _build_size_points(trial: RiskTrial) -> tuple[list[tuple[float, float]], list[bool]]:
    said: RankedCommits = trial.ranked[trial.chosen]
    points = zip(np.log10(said.effort), said.scores, strict=True)
    return [(float(x), float(y)) for x, y in points], [bool(x) for x in said.truth]


def _render_metric_table(data: dict[str, Any]) -> str:
    rows = [
        [BACKTEST_METRICS[key], *(_format_interval(one["metrics"][key]) for one in data["models"].values())]
        for key in BACKTEST_METRICS
    ]
    return charts.render_table(["metric (95 % interval)", *data["models"]], rows)


def _render_alarm_table(data: dict[str, Any]) -> str:
    head = ["model", "flagged", "rightly", "false alarms a week", "rank correlation with size"]
    rows = [
        [
            name,
            str(one["flagged"]),
            f"{one['right']} ({one['precision']:.0%})",
            f"{one['false_alarms_a_week']:.2f}",
            f"{one['rank_correlation_with_size']}",
        ]
        for name, one in data["models"].items()
    ]
    return charts.render_table(head, rows)


def _render_counterfactual_table(data: dict[str, Any]) -> str:
    """The AUC within each block when changes are told differently."""
    told = {name: one["counterfactual"] for name, one in data["models"].items()}
    ways = list(next(iter(told.values())))
    rows = [[name, *(f"{found[way]}" for way in ways)] for name, found in told.items()]
    return charts.render_table(["AUC within each block, the changes told", *ways], rows)


def _format_interval(interval: Sequence[float | None]) -> str:
    if None in interval:
        return "–"
    mean, low, high = interval
    return f"{mean:.3f} ({low:.3f}–{high:.3f})"


def _render_flag_table(data: dict[str, Any]) -> str:
    rows = [[one["commit"][:12], one["fixed_by"][:12] or "–"] for one in data["flags"][:_MAX_LISTED_FLAGS]]
    return charts.render_table(["flagged commit, newest first", "later fixed by"], rows)
