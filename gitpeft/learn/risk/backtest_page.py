"""Renders a risk backtest as one HTML page."""

import html
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from gitpeft.learn import charts
from gitpeft.learn.charts import Point
from gitpeft.learn.evaluation import ranking_metrics
from gitpeft.learn.risk.backtest_report import (
    BACKTEST_METRICS,
    BacktestReport,
    FlaggedCommit,
    Interval,
    describe_commits,
    describe_verdict,
    format_model_name,
    format_precision,
)
from gitpeft.learn.risk.prequential import RiskTrial

_MAX_LISTED = 200
_CURVE_POINTS = 60


def render_backtest_page(trial: RiskTrial, report: BacktestReport) -> str:
    """The page; without scores where there are too few bugs to judge them by."""
    sentences = [*describe_verdict(report), *describe_commits(report)]
    head = "".join(f"<p>{html.escape(line)}</p>" for line in sentences)
    parts = [f"<div class='advice'>{head}</div>"]
    if report.is_judged:
        parts += [
            _render_flag_counts(report),
            f"<div class='plots'>{''.join(_render_plots(trial, report))}</div>",
            _render_metrics(report),
            _render_ablations(report),
        ]
    else:
        parts.append(_render_commits("Commits that were fixed later", report.bugs))
    parts.append(_render_commits(_title_flags(report), report.flags))
    return charts.render_page(f"{report.repository}: risk backtest", "".join(parts))


def _title_flags(report: BacktestReport) -> str:
    return f"Commits that “{report.chosen}” would flag (off)" if report.off else "Flagged commits"


# --- plots --------------------------------------------------------------------------------------------------


def _render_plots(trial: RiskTrial, report: BacktestReport) -> list[str]:
    plots: list[str] = [
        charts.render_line_chart(
            "Bugs found in the riskiest commits",
            "share of commits",
            "share of bugs",
            _build_capture_curves(trial),
        ),
        charts.render_line_chart(
            "Calibration",
            "predicted probability",
            "observed share of bugs",
            {name: [(x, y) for x, y, _ in one.reliability] for name, one in report.models.items()},
            diagonal=True,
        ),
    ]
    drift = _build_auc_curves(report)
    if max(map(len, drift.values())) > 1:
        plots.append(charts.render_line_chart("AUC by period", "period", "ROC AUC", drift, top=1.0))
    points = _build_size_points(trial)
    plots.append(
        charts.render_scatter_plot(
            f"Score and size, {report.chosen} (red: fixed later)", "log10 of changed lines", "score", *points
        )
    )
    return plots


def _build_capture_curves(trial: RiskTrial) -> dict[str, list[Point]]:
    shares = [i / _CURVE_POINTS for i in range(1, _CURVE_POINTS + 1)]
    return {
        name: [(0.0, 0.0), *((x, ranking_metrics.capture_rate(one.truth, one.scores, x)) for x in shares)]
        for name, one in trial.ranked.items()
    }


def _build_auc_curves(report: BacktestReport) -> dict[str, list[Point]]:
    return {
        name: [(float(n), block.auc) for n, block in enumerate(one.drift, 1) if block.auc is not None]
        for name, one in report.models.items()
    }


def _build_size_points(trial: RiskTrial) -> tuple[list[Point], list[bool]]:
    ranked = trial.ranked[trial.chosen]
    points = zip(np.log10(ranked.effort), ranked.scores, strict=True)
    return [(float(x), float(y)) for x, y in points], [bool(x) for x in ranked.truth]


# --- tables -------------------------------------------------------------------------------------------------


def _render_flag_counts(report: BacktestReport) -> str:
    heads = [
        "model",
        "flagged",
        "fixed later (precision)",
        "false alarms a week",
        "correlation with size",
    ]
    rows = [
        [
            format_model_name(name, report),
            f"{one.flagged:,}",
            f"{one.right:,}{format_precision(one)}",
            f"{one.false_alarms_a_week:.2f}",
            _format_number(one.rank_correlation_with_size, 2),
        ]
        for name, one in report.models.items()
    ]
    return f"<h2>Flags at a budget of {report.budget:g} %</h2>{charts.render_table(heads, rows)}"


def _render_metrics(report: BacktestReport) -> str:
    rows = [
        [label, *(_format_interval(one.metrics[key]) for one in report.models.values())]
        for key, label in BACKTEST_METRICS.items()
    ]
    note = (
        "Mean and 95 % bootstrap interval. ECE is the expected calibration error. Effort is the share of the "
        "changed lines that one has to review: Recall@20%Effort is the share of the bugs found in a fifth of "
        "the lines, Popt the area under that curve relative to the best one."
    )
    table = charts.render_table(["metric", *report.models], rows)
    return f"<h2>Metrics</h2>{table}<p class='soft'>{html.escape(note)}</p>"


def _render_ablations(report: BacktestReport) -> str:
    altered = {name: one.counterfactual for name, one in report.models.items()}
    ways = list(next(iter(altered.values())))
    rows = [[name, *(_format_number(found[way], 3) for way in ways)] for name, found in altered.items()]
    note = "AUC within each period when the changes are altered; a model loses by what it depends on."
    return f"<h2>Ablations (AUC)</h2>{charts.render_table(['model', *ways], rows)}<p class='soft'>{note}</p>"


def _render_commits(title: str, commits: Sequence[FlaggedCommit]) -> str:
    heads = ["commit, newest first", "date", "subject", "estimated bug probability", "fixed by"]
    rows = [
        [
            one.commit[:10],
            datetime.fromtimestamp(one.time, UTC).strftime("%Y-%m-%d"),
            one.subject or "–",
            f"{one.score} %",
            one.fixed_by[:10] or "–",
        ]
        for one in commits[:_MAX_LISTED]
    ]
    more = len(commits) - len(rows)
    note = f"<p class='soft'>and {more:,} older ones</p>" if more > 0 else ""
    return f"<h2>{html.escape(title)}</h2>{charts.render_table(heads, rows, 'text')}{note}"


def _format_number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _format_interval(interval: Interval) -> str:
    mean, low, high = (_format_number(value, 3) for value in interval)
    return "–" if "–" in (mean, low, high) else f"{mean} ({low}–{high})"
