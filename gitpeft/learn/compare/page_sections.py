"""Renders the page's sections beyond the main comparison: fewer commits, other languages, layer probes."""

from collections.abc import Mapping, Sequence
from html import escape

from gitpeft.learn import charts
from gitpeft.learn.charts import Axis, Plot, render_table
from gitpeft.learn.compare import layer_probes
from gitpeft.learn.compare.findings import format_gap_cell, format_interval_cell
from gitpeft.learn.compare.report import LowResource, MetricInfo, ProbeSummary, TaskReport, TransferTable
from gitpeft.learn.evaluation.text_metrics import ConfidenceInterval


def render_extra_sections(report: TaskReport) -> list[str]:
    """Markup of each section; "" for what was not tried."""
    return [_render_low_resource(report), _render_transfer(report), _render_probes(report)]


_GAIN_HEADS = ("tuning against no training", "best tuned", "best baseline", "difference")


# --- fewer commits, another language ------------------------------------------------------------------------


def _render_low_resource(report: TaskReport) -> str:
    """Curves over the number of training commits, and the table behind them."""
    low, digits = report.facts.low, report.metric.digits
    if not low:
        return ""
    names = _order_systems(report, low.systems)
    rows = [
        [
            charts.render_system_name(number, name),
            *(format_interval_cell(one, digits) if one else "" for one in low.systems[name]),
        ]
        for number, name in enumerate(names)
    ]
    gains = [
        [f"{one.size:,} commits", one.best, one.over, format_gap_cell(one.gap, digits)] for one in low.gains
    ]
    heads = ["", *(f"{size:,} commits" for size in low.sizes)]
    note = (
        "As if the repository had only its newest commits: they are trained on and give the exemplars, and "
        "the same validation commits are evaluated. Dashed: no training. At most eight passes over the "
        "training commits."
    )
    return (
        f"<h3>With fewer commits</h3><div class='plots'>{_plot_low_resource(report, low, names)}</div>"
        f"{render_table(heads, rows)}<p class='soft'>{note}</p>{render_table(_GAIN_HEADS, gains)}"
    )


def _plot_low_resource(report: TaskReport, low: LowResource, names: Sequence[str]) -> str:
    means = [one.mean for scores in low.systems.values() for one in scores if one]
    sizes, metric = low.sizes, report.metric
    ticks = tuple(map(float, sizes))
    across = Axis("training commits", sizes[0], sizes[-1], True, charts.format_short_number, ticks)
    plot = Plot(across, Axis(metric.name, min(means), max(means)))
    labels = {row.label for row in report.finalists}
    for number, name in enumerate(names):
        points = [(size, one.mean) for size, one in zip(sizes, low.systems[name], strict=True) if one]
        plot.draw_line(points, charts.pick_colour(number), "" if name in labels else "5 4")
        for point in points[:-1]:
            plot.draw_dot(point, charts.pick_colour(number))
        plot.draw_badge(points[-1], number)
    return plot.render_figure(f"{metric.name} by the number of training commits")


def _order_systems(report: TaskReport, systems: Mapping[str, object]) -> list[str]:
    """Methods as in the other tables, then baselines."""
    labels = [row.label for row in report.finalists]
    tuned = [name for name in labels if name in systems]
    return tuned + [name for name in systems if name not in tuned]


def _render_transfer(report: TaskReport) -> str:
    """A table for each pair of languages."""
    if not report.facts.transfer:
        return ""
    tables = "".join(_render_pair(one, report.metric) for one in report.facts.transfer)
    note = (
        f"{report.metric.name}. The language of a commit is that of most of its changed lines. Exemplars "
        "come from the training commits as well. n.s.: not significant."
    )
    return f"<h3>From one language to another</h3>{tables}<p class='soft'>{note}</p>"


def _render_pair(one: TransferTable, metric: MetricInfo) -> str:
    heads = ["", f"trained on {one.taught}", f"trained on {one.asked}", "difference"]
    rows = [
        [
            row.label,
            format_interval_cell(row.across, metric.digits),
            format_interval_cell(row.within, metric.digits) if row.within else "",
            format_gap_cell(row.gap, metric.digits) if row.gap else "",
        ]
        for row in one.rows
    ]
    pair = f"{one.taught} → {one.asked}"
    counts = f"{one.examples} training commits each, evaluated on {one.n} commits in {one.asked}."
    head = f"<p><b>{escape(pair)}</b> <span class='soft'>{escape(counts)}</span></p>"
    return head + render_table(heads, rows)


# --- layers -------------------------------------------------------------------------------------------------


def _render_probes(report: TaskReport) -> str:
    """Probe accuracies by layer, before and after tuning, and the change at the last layer."""
    probes = report.facts.probes
    if not probes:
        return ""
    sections = "".join(_render_base_probes(report, base, tasks) for base, tasks in probes.items())
    counts = [known.commits for tasks in probes.values() for known in tasks.values()]
    note = (
        (
            "A linear probe is fitted on the encoder's frozen states for older commits and scored on "
            f"{min(counts)} to {max(counts)} newer ones; accuracy in per cent, 50 is guessing. TYP asks "
            "about unchanged code (static), CCM and LTP about the change (dynamic). Layer 0 is the "
            "embeddings. n.s.: not significant."
        )
        if counts
        else ""
    )
    return f"<h3>Layer probes</h3>{sections}<p class='soft'>{note}</p>"


def _render_base_probes(report: TaskReport, base: str, tasks: Mapping[str, ProbeSummary]) -> str:
    names = _order_systems(report, next(iter(tasks.values())).tuned) if tasks else []
    legend = charts.render_legend([*names, f"{base}, untuned (dashed)"])
    figures = "".join(_plot_layers(task, known, names) for task, known in tasks.items())
    rows = [
        [
            charts.render_system_name(number, name),
            *(format_gap_cell(known.change[name], 1) for known in tasks.values()),
        ]
        for number, name in enumerate(names)
    ]
    table = render_table(["last layer, tuned minus untuned", *tasks], rows) if rows else ""
    return f"{legend}<div class='plots'>{figures}</div>{table}"


def _plot_layers(task: str, known: ProbeSummary, names: Sequence[str]) -> str:
    curves = [known.tuned[name] for name in names]
    means = [one.mean for curve in (*curves, known.untuned) for one in curve]
    last = len(known.untuned) - 1
    across = Axis("layer", 0, last, ticks=tuple(range(0, last + 1, max(1, last // 6))))
    plot = Plot(across, Axis("accuracy, %", min(50.0, *means), max(means)))
    plot.draw_line(_list_layer_points(known.untuned), charts.pick_colour(len(names)), "5 4")
    for number, curve in enumerate(curves):
        plot.draw_line(_list_layer_points(curve), charts.pick_colour(number))
        plot.draw_badge(_list_layer_points(curve)[-1], number)
    plot.draw_badge(_list_layer_points(known.untuned)[0], len(names))
    return plot.render_figure(f"{task}: {layer_probes.PROBING_TASKS[task]}")


def _list_layer_points(curve: Sequence[ConfidenceInterval]) -> list[tuple[float, float]]:
    return [(float(layer), one.mean) for layer, one in enumerate(curve)]
