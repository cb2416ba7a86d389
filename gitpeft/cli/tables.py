"""Tables of scores, drawn with rich: evaluations and comparisons."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from gitpeft.cli.progress import escape_markup

if TYPE_CHECKING:
    from gitpeft.learn.compare.report import (
        ComparisonReport,
        LowResource,
        MetricInfo,
        TaskReport,
        TransferTable,
    )
    from gitpeft.learn.compare.results import Difference
    from gitpeft.learn.evaluation.messages import MeasuredMessages
    from gitpeft.learn.evaluation.text_metrics import ConfidenceInterval, MetricScores

stdout_console = Console(highlight=False, soft_wrap=False)

METRIC_LABELS = {
    "keystrokes_saved": "saved",
    "kept": "kept",
    "nearly_kept": "nearly",
    "coverage": "offered",
    "b_norm": "B-Norm",
    "rouge_l": "ROUGE-L",
    "edit_similarity": "edit sim.",
    "first_word": "first word",
}


def print_evaluation(measured: "MeasuredMessages") -> None:
    """The scores of all systems, and suggestions beside what the team wrote."""
    samples = measured.samples
    stdout_console.print(_build_scores_table(measured.scores))
    stdout_console.print(
        "saved: % of keystrokes, 0 where nothing is offered. kept, nearly: % of offers that save 60%, 40%. "
        "offered: % of commits. B-Norm: smoothed BLEU, 0-100. first word: % right."
    )
    if samples:
        stdout_console.print(_build_samples_table(samples))


def _build_scores_table(scores: "Mapping[str, MetricScores]") -> Table:
    """Systems by metrics, each mean with its 95 % interval."""
    first = next(iter(scores.values()))
    table = Table(title=f"Newest {first.n} usable commits (mean, 95% interval)", title_justify="left")
    table.add_column("")
    names = [name for name in METRIC_LABELS if any(name in row.metrics for row in scores.values())]
    for name in names:
        table.add_column(METRIC_LABELS[name], justify="right")
    for system, row in scores.items():
        table.add_row(system, *(_format_score(row.metrics.get(name)) for name in names))
    return table


def _format_score(one: "ConfidenceInterval | None") -> str:
    return f"{one.mean:.1f} ({one.low:.1f}-{one.high:.1f})" if one else ""


def _build_samples_table(found: Sequence[tuple[str, str, str]]) -> Table:
    table = Table(title="Samples from those commits", title_justify="left")
    for name in ("commit", "the team wrote", "gitpeft suggests"):
        table.add_column(name, overflow="fold")
    for sha, theirs, ours in found:
        table.add_row(sha, escape_markup(theirs), escape_markup(ours) or "(nothing)")
    return table


def print_comparison(report: "ComparisonReport") -> None:
    """A comparison on one screen: quality and cost, the advice, and where the page is."""
    for task in report.tasks:
        stdout_console.print(_build_finalists_table(task))
        if task.facts.low:
            stdout_console.print(_build_low_resource_table(task.facts.low, task.metric))
        for one in task.facts.transfer:
            stdout_console.print(_build_transfer_table(one, task.metric))
        if task.facts.left_out:
            skipped = "; ".join(task.facts.left_out)
            stdout_console.print(escape_markup(f"Skipped (time budget): {skipped}"))
        for note in task.facts.notes:
            stdout_console.print(escape_markup(f"Note: {note}"))
        stdout_console.print(f"[bold]{escape_markup(task.advice.verdict)}[/]")
        stdout_console.print(escape_markup(task.advice.reason))
        stdout_console.print(f"Next: {escape_markup(task.advice.command)}", soft_wrap=True)
    for why in report.left_out:
        stdout_console.print(escape_markup(f"Skipped: {why}"))
    stdout_console.print(escape_markup(f"Details: {report.page}"), soft_wrap=True)


def _build_finalists_table(task: "TaskReport") -> Table:
    metric, best = task.metric, task.finalists[0]
    heads = (metric.name, "to the best", "trained", "memory", "training", "on disk")
    table = _make_titled_table(
        f"{task.facts.task}: {task.asked} validation commits (mean, 95% interval)", heads
    )
    for row in task.finalists:
        cost = row.cost
        table.add_row(
            escape_markup(row.label), _format_interval(task.get_score(row), metric),
            "" if row is best else _format_difference(row.against_best, metric), f"{cost.share:.1%}",
            f"{cost.memory / 2**30:.1f} GiB", f"{cost.seconds:,.0f} s", f"{cost.adapter_bytes / 1e6:.1f} MB",
        )  # fmt: skip
    for one in task.baselines:
        table.add_row(escape_markup(one.label), _format_interval(task.get_score(one), metric), *[""] * 5)
    return table


def _build_low_resource_table(low: "LowResource", metric: "MetricInfo") -> Table:
    table = _make_titled_table("by the number of training commits", [f"{size:,}" for size in low.sizes])
    for name, scores in low.systems.items():
        table.add_row(escape_markup(name), *(_format_interval(one, metric) if one else "" for one in scores))
    return table


def _build_transfer_table(one: "TransferTable", metric: "MetricInfo") -> Table:
    title = f"{one.examples} training commits, evaluated on {one.n} commits in {one.asked}"
    table = _make_titled_table(title, (f"trained on {one.taught}", f"on {one.asked}", "difference"))
    for row in one.rows:
        own = (
            (_format_interval(row.within, metric), _format_difference(row.gap, metric))
            if row.within and row.gap
            else ("", "")
        )
        table.add_row(escape_markup(row.label), _format_interval(row.across, metric), *own)
    return table


def _make_titled_table(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=escape_markup(title), title_justify="left")
    table.add_column("", overflow="fold")
    for name in heads:
        table.add_column(escape_markup(name), justify="right")
    return table


def _format_interval(score: "ConfidenceInterval", metric: "MetricInfo") -> str:
    mean, low, high = (f"{value:.{metric.digits}f}" for value in score)
    return f"{mean} ({low}-{high})"


def _format_difference(gap: "Difference", metric: "MetricInfo") -> str:
    return f"{gap.mean:+.{metric.digits}f}{'' if gap.excludes_zero else ' n.s.'}"
