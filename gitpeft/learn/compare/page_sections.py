"""The page's sections beyond the main comparison: hides how fewer commits, languages and layers are drawn."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gitpeft.learn import charts
from gitpeft.learn.charts import Axis, Plot, render_table
from gitpeft.learn.compare import layer_probes
from gitpeft.learn.compare.findings import format_gap_cell, format_interval_cell


def render_extra_sections(report: dict[str, Any]) -> list[str]:
    """Markup; "" for what was not tried."""
    return [_render_low_resource(report), _render_transfer(report), _render_probes(report)]


_GAIN_HEADS = ("tuning against doing without", "best tuned", "best without", "difference")


# --- fewer commits, another language ------------------------------------------------------------------------


def _render_low_resource(report: dict[str, Any]) -> str:
    """Curves over the number of commits that teach, and the table behind them."""
    low, metric = report["low"], report["metric"]
    if not low:
        return ""
    sizes, names = low["sizes"], _order_systems(report, low["systems"])
    scores = [one for known in low["systems"].values() for one in known if one]
    heights = Axis(metric["name"], *_find_range(one["mean"] for one in scores))
    across = Axis("commits that teach", sizes[0], sizes[-1], True, charts.format_short_number, tuple(sizes))
    plot = Plot(across, heights)
    for number, name in enumerate(names):
        points = [(size, one["mean"]) for size, one in zip(sizes, low["systems"][name], strict=True) if one]
        plot.draw_line(
            points,
            charts.pick_colour(number),
            "5 4" if number >= len(names) - _count_untrained(names, report) else "",
        )
        for point in points[:-1]:
            plot.draw_dot(point, charts.pick_colour(number))
        plot.draw_badge(points[-1], number)
    rows = [
        [
            charts.render_system_name(number, name),
            *(format_interval_cell(one, metric) if one else "" for one in low["systems"][name]),
        ]
        for number, name in enumerate(names)
    ]
    gains = [
        [f"{one['size']:,} commits", one["best"], one["over"], format_gap_cell(one, metric)]
        for one in low["gains"]
    ]
    heads = ["", *(f"{size:,} commits" for size in sizes)]
    figure = plot.render_figure(f"{metric['name']} by the number of commits that teach")
    note = (
        "As if the repository had only its newest commits; exemplars come from them as well, and the same "
        "validation commits are asked about. Dashed: no training. At most eight passes over what there is."
    )
    return (
        f"<h3>With fewer commits</h3><div class='plots'>{figure}</div>{render_table(heads, rows)}"
        f"<p class='soft'>{note}</p>{render_table(_GAIN_HEADS, gains)}"
    )


def _find_range(values: Any) -> tuple[float, float]:
    found = sorted(values)
    return found[0], found[-1]


def _order_systems(report: dict[str, Any], systems: Mapping[str, Any]) -> list[str]:
    """Methods as in the other tables, then what is not trained."""
    labels = [row["label"] for row in report["finalists"]]
    tuned = [name for name in labels if name in systems]
    return tuned + [name for name in systems if name not in tuned]


def _count_untrained(names: Sequence[str], report: dict[str, Any]) -> int:
    labels = {row["label"] for row in report["finalists"]}
    return sum(name not in labels for name in names)


def _render_transfer(report: dict[str, Any]) -> str:
    """For each pair of languages: taught by one, taught by the other, the difference."""
    parts = []
    metric = report["metric"]
    for one in report["transfer"]:
        heads = ["", f"taught by {one['taught']}", f"taught by {one['asked']}", "difference"]
        rows = [
            [
                row["label"],
                format_interval_cell(row["across"], metric),
                format_interval_cell(row["within"], metric) if "within" in row else "",
                format_gap_cell(row["gap"], metric) if "gap" in row else "",
            ]
            for row in one["rows"]
        ]
        pair = f"{one['taught']} → {one['asked']}"
        said = f"{one['examples']} commits teach either way, {one['n']} of {one['asked']} are asked about."
        head = f"<p><b>{escape(pair)}</b> <span class='soft'>{escape(said)}</span></p>"
        parts.append(head + render_table(heads, rows))
    if not parts:
        return ""
    note = (
        f"{metric['name']}. A commit is of the language of most of its changed lines. Exemplars come from "
        "what teaches, too."
    )
    return f"<h3>From one language to another</h3>{''.join(parts)}<p class='soft'>{note}</p>"


# --- layers -------------------------------------------------------------------------------------------------


def _render_probes(report: dict[str, Any]) -> str:
    """What each layer knows, untuned and tuned, and what that changed at the last one."""
    parts = []
    for base, tasks in report["probes"].items():
        names = _order_systems(report, next(iter(tasks.values()))["tuned"]) if tasks else []
        legend = charts.render_legend([*names, f"{base}, untuned (dashed)"])
        figures = "".join(_plot_layers(task, known, names) for task, known in tasks.items())
        rows = [
            [
                charts.render_system_name(number, name),
                *(format_gap_cell(known["change"][name], {"digits": 1}) for known in tasks.values()),
            ]
            for number, name in enumerate(names)
        ]
        heads = ["last layer, tuned minus untuned", *tasks]
        parts.append(f"{legend}<div class='plots'>{figures}</div>{render_table(heads, rows) if rows else ''}")
    if not parts:
        return ""
    counts = [known["commits"] for tasks in report["probes"].values() for known in tasks.values()]
    note = (
        (
            "A linear probe reads the encoder's frozen states, is fitted on older commits and asked about "
            f"{min(counts)} to {max(counts)} newer ones; accuracy in per cent, 50 is guessing. TYP asks "
            "about code that stands still (static), CCM and LTP about the change (dynamic). Layer 0 is the "
            "embeddings."
        )
        if counts
        else ""
    )
    return f"<h3>What each layer knows</h3>{''.join(parts)}<p class='soft'>{note}</p>"


def _plot_layers(task: str, known: dict[str, Any], names: Sequence[str]) -> str:
    curves = [known["tuned"][name] for name in names]
    means = [one["mean"] for curve in (*curves, known["untuned"]) for one in curve]
    last = len(known["untuned"]) - 1
    across = Axis("layer", 0, last, ticks=tuple(range(0, last + 1, max(1, last // 6))))
    plot = Plot(across, Axis("accuracy, %", min(50.0, *means), max(means)))
    plot.draw_line(_list_layer_points(known["untuned"]), charts.pick_colour(len(names)), "5 4")
    for number, curve in enumerate(curves):
        plot.draw_line(_list_layer_points(curve), charts.pick_colour(number))
        plot.draw_badge(_list_layer_points(curve)[-1], number)
    plot.draw_badge(_list_layer_points(known["untuned"])[0], len(names))
    return plot.render_figure(f"{task}: {layer_probes.PROBING_TASKS[task]}")


def _list_layer_points(curve: Sequence[Mapping[str, float]]) -> list[tuple[float, float]]:
    return [(float(layer), one["mean"]) for layer, one in enumerate(curve)]
