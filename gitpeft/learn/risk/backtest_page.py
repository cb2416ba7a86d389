"""Renders a risk backtest as one HTML page."""

import html
from collections.abc import Sequence

import numpy as np

from gitpeft.learn import charts
from gitpeft.learn.charts import Markup, Point
from gitpeft.learn.evaluation import ranking_metrics
from gitpeft.learn.risk.backtest_report import (
    BACKTEST_METRICS,
    BacktestReport,
    Interval,
    JudgedCommit,
    describe_commits,
    describe_dismissals,
    describe_effort,
    describe_flags,
    describe_quiet,
    describe_verdict,
    explain_models,
    format_model_name,
    format_precision,
)
from gitpeft.learn.risk.prequential import RiskTrial
from gitpeft.terminal import replace_unprintable

_MAX_LISTED = 200
_CURVE_POINTS = 60
_UNCERTAIN_AUC = 0.03  # half an interval that is wider than most effects of an alteration
_PROBABILITY = "estimated bug probability"


def render_backtest_page(trial: RiskTrial, report: BacktestReport) -> str:
    """The page; without scores where there are too few bugs to judge them by."""
    sentences = [*describe_verdict(report), *describe_commits(report)]
    head = "".join(f"<p>{html.escape(line)}</p>" for line in sentences)
    parts = [f"<div class='advice'>{head}{_render_tiles(report)}</div>"]
    parts.append(_render_flags(report))
    parts += [_render_missed(report), _render_quiet(report)] if report.is_judged else [_render_bugs(report)]
    parts.append(_render_dismissed(report))
    parts.append(_render_months(report))
    if report.is_judged:
        parts += [
            _render_calibration(report),
            f"<div class='plots'>{''.join(_render_plots(trial, report))}</div>",
            _render_flag_counts(report),
            _render_metrics(report),
            _render_ablations(report),
        ]
    return charts.render_page(f"{report.repository}: risk backtest", "".join(parts))


def _render_tiles(report: BacktestReport) -> str:
    tiles = [
        (f"{len(report.flags):,}", "would be flagged" if report.off else "flagged"),
        (f"{len(report.caught):,} of {report.buggy:,}", "bugs caught: fixed later, and flagged"),
        (f"{len(report.missed):,}", "bugs missed: fixed later, not flagged"),
    ]
    zone = report.quiet
    if zone.below is not None:
        tiles.append((f"{zone.n:,} of {zone.commits:,}", "of the newest commits called quiet"))
        tiles.append((f"{zone.bugs:,}", "of the quiet ones fixed later"))
    shown = "".join(f"<div><b>{number}</b><span>{text}</span></div>" for number, text in tiles)
    return f"<div class='tiles'>{shown}</div>"


# --- commits ------------------------------------------------------------------------------------------------


def _render_flags(report: BacktestReport) -> str:
    title = (
        f"Commits that “{report.chosen}” would flag (off)" if report.off else "Look twice: flagged commits"
    )
    said = [f"{describe_flags(report)}.", f"{effort}." if (effort := describe_effort(report)) else ""]
    heads = ["change, newest first", "what the history said then", _PROBABILITY, "fixed later by"]
    rows = [
        [_render_name(one), _render_facts(one), f"{one.score}%", _render_fix(one)]
        for one in report.flags[:_MAX_LISTED]
    ]
    return _render_list(title, said, heads, rows, len(report.flags))


def _render_missed(report: BacktestReport) -> str:
    said = ["Commits that were fixed later and had no flag."] if report.missed else []
    return _render_bug_list("Missed bugs", said, report.missed)


def _render_bugs(report: BacktestReport) -> str:
    return _render_bug_list("Commits that were fixed later", [], report.bugs)


def _render_quiet(report: BacktestReport) -> str:
    sentence = describe_quiet(report)
    said = [f"{sentence[:1].upper()}{sentence[1:]}."]
    if report.quiet.below is None:
        return _render_list("Quiet: let through", said, [], [], 0)
    said.append(
        f"Quiet is what ranks below the {report.quiet.below:.0f}th percentile, a limit that was chosen on "
        "the commits before these."
    )
    return _render_bug_list("Quiet: let through, and fixed later", said, report.let_through)


def _render_dismissed(report: BacktestReport) -> str:
    if not report.dismissed:
        return ""
    heads = ["change, newest first", "why it was dismissed", "flagged", "fixed later by"]
    rows = [
        [_render_name(one), one.dismissed, "yes" if one.flagged else "no", _render_fix(one)]
        for one in report.dismissed[:_MAX_LISTED]
    ]
    said = [f"{describe_dismissals(report)}."]
    return _render_list("Dismissed", said, heads, rows, len(report.dismissed))


def _render_bug_list(title: str, said: Sequence[str], commits: Sequence[JudgedCommit]) -> str:
    heads = ["change, newest first", "riskier than … of recent commits", _PROBABILITY, "fixed later by"]
    rows = [
        [_render_name(one), f"{one.percentile:.0f}%", f"{one.score}%", _render_fix(one)]
        for one in commits[:_MAX_LISTED]
    ]
    return _render_list(title, said, heads, rows, len(commits))


def _render_list(
    title: str, said: Sequence[str], heads: Sequence[str], rows: Sequence[Sequence[str]], count: int
) -> str:
    head = "".join(f"<p>{html.escape(line)}</p>" for line in said if line)
    more = f"<p class='soft'>and {count - len(rows):,} older ones</p>" if count > len(rows) else ""
    table = charts.render_table(heads, rows, "text") if heads else ""
    return f"<h2>{html.escape(title)}</h2>{head}{table}{more}"


def _render_name(one: JudgedCommit) -> str:
    """A change by its subject; the date and the id, with which git finds it, stand below."""
    name = charts.escape_text(replace_unprintable(one.subject) or "(no subject)")
    lines = f"{one.lines:,} line{'' if one.lines == 1 else 's'}"
    return Markup(f"{name}<br><span class='soft'>{one.day}, {lines}, <code>{one.commit[:10]}</code></span>")


def _render_facts(one: JudgedCommit) -> str:
    facts = "".join(f"<li>{charts.escape_text(replace_unprintable(fact))}</li>" for fact in one.evidence)
    return Markup(f"<ul>{facts}</ul>") if facts else "nothing unusual but the words and metrics of the change"


def _render_fix(one: JudgedCommit) -> str:
    if not one.fixed_by:
        return "no fix known"
    return Markup(
        f"{charts.escape_text(replace_unprintable(one.fix_name))}<br>"
        f"<span class='soft'><code>{charts.escape_text(one.fixed_by[:10])}</code></span>"
    )


# --- by month, calibration ----------------------------------------------------------------------------------


def _render_months(report: BacktestReport) -> str:
    period = "month" if all("-" in one.month for one in report.by_month) else "year"
    heads = [period, "commits", "flagged", "caught", "missed", "called quiet", "fixed later", "expected"]
    rows = [
        [
            one.month,
            *(f"{n:,}" for n in (one.commits, one.flagged, one.caught, one.missed, one.quiet, one.buggy)),
            f"{one.expected:.1f}",
        ]
        for one in reversed(report.by_month)
    ]
    note = "Expected: the sum of the estimated probabilities."
    if report.quiet.below is not None:
        note += f" Only of the newest {report.quiet.commits:,} commits some are called quiet."
    if not report.is_judged:
        heads, rows = heads[:-1], [row[:-1] for row in rows]
        note = ""
    return f"<h2>By {period}</h2>{charts.render_table(heads, rows)}<p class='soft'>{note}</p>"


def _render_calibration(report: BacktestReport) -> str:
    """Estimated probabilities of the selected model beside what happened."""
    heads = ["estimated", "commits", "fixed later", "share"]
    rows = [
        [f"{said:.0%}", f"{n:,}", f"{round(seen * n):,}", f"{seen:.0%}"]
        for said, seen, n in report.models[report.chosen].reliability
    ]
    note = f"Commits by the bug probability that “{report.chosen}” estimated (mean of each group)."
    return f"<h2>Calibration</h2>{charts.render_table(heads, rows)}<p class='soft'>{html.escape(note)}</p>"


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
    title = f"Scores compared: flags at a budget of {report.budget:g}%"
    note = html.escape(explain_models(report))
    return f"<h2>{title}</h2>{charts.render_table(heads, rows)}<p class='soft'>{note}</p>"


def _render_metrics(report: BacktestReport) -> str:
    rows = [
        [label, *(_format_interval(one.metrics[key]) for one in report.models.values())]
        for key, label in BACKTEST_METRICS.items()
    ]
    note = (
        "Mean and 95% bootstrap interval. ECE is the expected calibration error. Effort is the share of the "
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
    note += _warn_of_uncertainty(report)
    return f"<h2>Ablations (AUC)</h2>{charts.render_table(['model', *ways], rows)}<p class='soft'>{note}</p>"


def _warn_of_uncertainty(report: BacktestReport) -> str:
    """Where few bugs leave much to chance, so much is said beside small differences."""
    _, low, high = report.models[report.chosen].metrics["auc"]
    half = ((high or 0.0) - (low or 0.0)) / 2
    if half <= _UNCERTAIN_AUC:
        return ""
    return (
        f" With {report.buggy} bugs, the AUC itself is uncertain by ±{half:.2f}: "
        "small differences may be chance."
    )


def _format_number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _format_interval(interval: Interval) -> str:
    mean, low, high = (_format_number(value, 3) for value in interval)
    return "–" if "–" in (mean, low, high) else f"{mean} ({low}–{high})"
