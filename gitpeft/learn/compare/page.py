"""Renders a comparison as one HTML page: advice, summary, quality, cost, samples, and how it was measured."""

from collections.abc import Callable, Mapping, Sequence
from html import escape

from gitpeft.learn import charts
from gitpeft.learn.charts import Axis, Markup, Plot, escape_text, render_table
from gitpeft.learn.compare import page_sections
from gitpeft.learn.compare.findings import format_gap_cell, format_interval_cell
from gitpeft.learn.compare.report import ComparisonReport, Finalist, Sample, TaskReport
from gitpeft.learn.compare.results import Answer
from gitpeft.learn.compare.task_report import COST_AXES, get_axis_cost
from gitpeft.learn.evaluation.text_metrics import ConfidenceInterval

TUNING_EFFORT = {
    "lora": "low: choose a rank and where it applies; merged into the model, so the hook stays as fast",
    "adapter": "low: choose a width; stays in the model, answers are a little slower",
    "full": "medium: forgets more easily, sensitive to the learning rate; a whole model to keep per version",
    "hybrid": "high: also choose which layers are tuned in full (probing does it)",
}
"""What a method asks of the people who maintain it."""

_TASK_HEADINGS = {"messages": "Commit messages", "risk": "Risk of changes"}


def render_comparison_page(report: ComparisonReport) -> str:
    """The page of a comparison."""
    parts = [f"<p class='soft'>{escape(_describe_comparison(report))}</p>"]
    parts += [f"<p>Left out: {escape(why)}.</p>" for why in report.left_out]
    for task in report.tasks:
        if len(report.tasks) > 1:
            parts.append(f"<h3>{_TASK_HEADINGS[task.facts.task]}</h3>")
        parts.append(_render_advice(task))
    for task in report.tasks:
        parts += [f"<h2>{_TASK_HEADINGS[task.facts.task]}</h2>", *_render_task(task)]
    parts.append(_render_method(report))
    return charts.render_page(f"{report.repository}: comparison of tuning methods", "".join(parts))


def _describe_comparison(report: ComparisonReport) -> str:
    used = f"{report.seconds / 60:.1f} of {report.budget_minutes:g} minutes"
    return (
        f"{report.commits:,} usable commits up to {report.tip[:10]}; {used} used on {report.device}. "
        "Made by gitpeft compare; nothing left this machine."
    )


def _render_task(report: TaskReport) -> list[str]:
    """Everything that was measured on one task."""
    return [
        _render_summary_table(report),
        _render_plots(report),
        _render_quality_table(report),
        _render_cost_table(report.finalists),
        *page_sections.render_extra_sections(report),
        _render_samples(report.samples),
        _render_short_runs(report),
    ]


# --- the answer ---------------------------------------------------------------------------------------------


def _render_advice(report: TaskReport) -> str:
    """The verdict, the reason, the next command, four numbers, and details."""
    advice = report.advice
    tiles = "".join(
        f"<div><b>{escape_text(big)}</b><span>{escape_text(small)}</span></div>"
        for big, small in _make_tiles(report)
    )
    details = "".join(f"<li>{escape(sentence)}</li>" for sentence in advice.details)
    return (
        f"<div class='advice'><p>{escape(advice.verdict)}</p><p>{escape(advice.reason)}</p>"
        f"<p>Next: <code>{escape(advice.command)}</code></p>"
        f"<div class='tiles'>{tiles}</div><ul>{details}</ul></div>"
    )


def _make_tiles(report: TaskReport) -> list[tuple[str, str]]:
    """Four figures of the finalist that the advice is about."""
    row = next(row for row in report.finalists if row.label == report.advice.label)
    digits, cost, score = report.metric.digits, row.cost, report.get_score(row)
    ends = f"{score.low:.{digits}f} to {score.high:.{digits}f}"
    return [
        (f"{score.mean:.{digits}f}", f"{report.metric.name} of {row.label}, 95% interval {ends}"),
        (f"{cost.share:.1%}", "of the weights are trained"),
        (f"{cost.seconds:,.0f} s", f"of training, {cost.memory / 2**30:.1f} GiB of memory"),
        (f"{cost.adapter_bytes / 1e6:.1f} MB", "to keep per version"),
    ]


def _render_summary_table(report: TaskReport) -> str:
    """What a decision needs: the cost of a retraining, the time until it is verified, the effort."""
    heads = ["", "cost of a retraining", "time to verify", "tuning effort"]
    full = next((row for row in report.finalists if row.name == "full"), None)
    rows = []
    for number, row in enumerate(report.finalists):
        cost = row.cost
        verify = cost.seconds_to_best + cost.answer_ms * report.asked / 1000
        each = f"{cost.seconds:,.0f} s, {cost.memory / 2**30:.1f} GiB of memory, "
        each += f"{cost.adapter_bytes / 1e6:.1f} MB per version{_format_saving(row, full)}"
        rows.append(
            [charts.render_system_name(number, row.label), each, f"{verify:,.0f} s", TUNING_EFFORT[row.name]]
        )
    note = "Time to verify: training up to the best step, and evaluation on the validation commits."
    return f"<h3>Summary</h3>{render_table(heads, rows, 'text')}<p class='soft'>{note}</p>"


def _format_saving(row: Finalist, full: Finalist | None) -> str:
    if full is None or row is full:
        return ""
    saved = row.cost.adapter_bytes / full.cost.adapter_bytes - 1
    return f" ({saved:+.0%} compared with full)" if abs(saved) >= 0.005 else ""


# --- quality against cost -----------------------------------------------------------------------------------

_COST_FORMATS: Mapping[str, Callable[[float], str]] = {
    "share": lambda v: f"{v:.0%}" if v >= 0.1 else f"{v:.1%}",
    "memory": lambda v: f"{v / 2**30:.2f} GiB",
    "training": lambda v: f"{v:,.0f} s",
}


def _render_plots(report: TaskReport) -> str:
    legend = charts.render_legend([row.label for row in report.finalists])
    figures = "".join(_plot_tradeoff(report, name) for name in COST_AXES)
    return (
        f"<h3>Quality against cost</h3>{legend}<div class='plots'>{figures}</div><p class='soft'>Bars are "
        "95% intervals. The dashed line is the Pareto front: no other method is both cheaper and better "
        "than those on it. Up and to the left is better.</p>"
    )


def _plot_tradeoff(report: TaskReport, name: str) -> str:
    rows, metric, format_cost = report.finalists, report.metric, _COST_FORMATS[name]
    scores = [report.get_score(row) for row in rows]
    costs = [get_axis_cost(row, name) for row in rows]
    across = charts.fit_axis(COST_AXES[name], costs, name == "share", format_cost)
    plot = Plot(across, _make_quality_axis(metric.name, scores))
    front = sorted(
        (cost, score.mean) for cost, score, row in zip(costs, scores, rows, strict=True) if row.front[name]
    )
    plot.draw_line(front, "var(--soft)", "4 3")
    for number, (cost, score) in enumerate(zip(costs, scores, strict=True)):
        plot.draw_interval(cost, score.low, score.high, charts.pick_colour(number))
    for number, (cost, score) in enumerate(zip(costs, scores, strict=True)):
        plot.draw_badge((cost, score.mean), number)
    description = "; ".join(
        f"{row.label} {score.mean:.{metric.digits}f} at {format_cost(cost)}"
        for row, score, cost in zip(rows, scores, costs, strict=True)
    )
    title = f"{metric.name} against {COST_AXES[name]}"
    return plot.render_figure(title, f"{title}: {description}")


def _make_quality_axis(name: str, scores: Sequence[ConfidenceInterval]) -> Axis:
    return Axis(name, min(one.low for one in scores), max(one.high for one in scores))


# --- tables -------------------------------------------------------------------------------------------------

_QUALITY_NOTES = {
    "messages": (
        "Keystrokes saved: 1 minus the edit distance from the suggestion to what the team wrote, divided by "
        "the length of the latter; kept: suggestions that save 60%. B-Norm is a smoothed BLEU score of "
        "words, 0 to 100. gitpeft init can show higher scores for the same base model and commits: there, "
        "earlier validation commits are among the exemplars, and the best of several rankings of the "
        "suggestions is reported. Here exemplars come from the training commits only, and every method is "
        "ranked in the same way."
    ),
    "risk": "ROC AUC is 1 for a perfect ranking of buggy before clean commits, and 0.5 for a random one.",
}


def _render_quality_table(report: TaskReport) -> str:
    metric, first = report.metric, report.finalists[0].scores.metrics
    names = [name for name in metric.all if name in first]
    heads = [
        "",
        *(metric.all[name] for name in names),
        "by seed",
        "difference to the best",
        "validation loss",
    ]
    rows = []
    for number, row in enumerate(report.finalists):
        cells = [format_interval_cell(row.scores.metrics[name], metric.digits) for name in names]
        seeds = " ".join(f"{score:.{metric.digits}f}" for score in row.by_seed)
        gap = "best" if number == 0 else format_gap_cell(row.against_best, metric.digits)
        cells += [seeds, gap, f"{row.valid_loss:.3f}"]
        rows.append([charts.render_system_name(number, row.label), *cells])
    for one in report.baselines:
        cells = [format_interval_cell(one.scores.metrics[name], metric.digits) for name in names]
        label = Markup(f"{escape_text(one.label)} <span class='soft'>(baseline)</span>")
        rows.append([label, *cells, "", "", ""])
    note = (
        f"{report.asked:,} validation commits, mean and 95% bootstrap interval. Differences are paired by "
        "commit; n.s. is not significant: the interval contains zero. "
        f"{_QUALITY_NOTES[report.facts.task]}"
    )
    return f"<h3>Quality</h3>{render_table(heads, rows)}<p class='soft'>{escape(note)}</p>"


def _render_cost_table(rows: Sequence[Finalist]) -> str:
    heads = ["", "trained weights", "share", "peak memory", "steps", "training", "to its best step",
             "tokens/s", "checkpoint", "in the hook", "per suggestion"]  # fmt: skip
    found = []
    for number, row in enumerate(rows):
        cost = row.cost
        cells = (
            f"{cost.trainable:,.0f}", f"{cost.share:.1%}", f"{cost.memory / 2**30:.2f} GiB",
            f"{row.steps:,}", f"{cost.seconds:,.0f} s", f"{cost.seconds_to_best:,.0f} s",
            f"{cost.tokens_per_second:,.0f}", f"{cost.adapter_bytes / 1e6:.1f} MB",
            f"{cost.exported_bytes / 1e6:.1f} MB" if cost.exported_bytes else "–",
            f"{cost.answer_ms:,.0f} ms",
        )  # fmt: skip
        found.append([charts.render_system_name(number, row.label), *cells])
    halved = [
        f"{row.label} ran out of memory and divided its batches further" for row in rows if row.cost.halved
    ]
    note = f"<p class='soft'>{escape('; '.join(halved))}.</p>" if halved else ""
    return f"<h3>Cost</h3>{render_table(heads, found)}{note}"


# --- the rest -----------------------------------------------------------------------------------------------


def _render_samples(samples: Sequence[Sample]) -> str:
    parts = []
    for one in samples:
        offers = "".join(
            f"<dt>{escape(name)}</dt><dd>{_format_answer(answer)}</dd>" for name, answer in one.offers.items()
        )
        parts.append(
            f"<div class='sample'><code>{escape(one.sha)}</code> {escape(one.team)}<dl>{offers}</dl></div>"
        )
    return "<h3>Samples</h3>" + "".join(parts)


def _format_answer(answer: Answer) -> str:
    if isinstance(answer, float):
        return f"{answer:.0%}"
    return escape(answer) or "<i>nothing</i>"


def _render_short_runs(report: TaskReport) -> str:
    rows = [
        [run.label, f"{run.steps:,}", f"{run.valid_loss:.3f}", "yes" if run.promoted else "no"]
        for run in report.facts.short
    ]
    shown = (
        "<h3>Short runs</h3>" + render_table(["", "steps", "validation loss", "promoted"], rows)
        if rows
        else ""
    )
    skipped = "".join(f"<li>{escape(one)}</li>" for one in report.facts.left_out)
    noted = "".join(f"<li>{escape(one)}</li>" for one in report.facts.notes)
    shown += f"<h3>Skipped (time budget)</h3><ul>{skipped}</ul>" if skipped else ""
    return shown + (f"<h3>Notes</h3><ul>{noted}</ul>" if noted else "")


_METHOD_TEXT = """\
<h2>How this was measured</h2><p>All runs of a task had the same examples, batches and schedule: {steps}.
Each method had its own learning rate. {rungs} The oldest 80% of the commits were trained on, the next 10%
were used to evaluate and to choose between methods; the newest 10% were not used. A difference is
significant where its 95% paired bootstrap interval excludes zero. Times are those of a machine that may have
done other work as well.</p>"""


def _render_method(report: ComparisonReport) -> str:
    rungs = (
        "The better half of the short runs, and the best of each method, were promoted (successive halving)."
    )
    halved = any(task.facts.steps.short for task in report.tasks)
    steps = "; ".join(
        f"{_TASK_HEADINGS[task.facts.task].lower()}, {_describe_steps(task)}" for task in report.tasks
    )
    return _METHOD_TEXT.format(steps=steps, rungs=rungs if halved else "")


def _describe_steps(report: TaskReport) -> str:
    facts = report.facts
    seeds = "one seed" if facts.seeds == 1 else f"{facts.seeds} seeds"
    short, long = facts.steps.short, facts.steps.long
    return (
        f"{short} steps in short runs and {long} in long ones" if short else f"{long} steps"
    ) + f", {seeds}"
