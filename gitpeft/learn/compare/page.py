"""A comparison as one HTML file: hides what is shown, in which order, and how it is worded."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from gitpeft.learn import charts
from gitpeft.learn.charts import Axis, Markup, Plot, escape_text, render_table
from gitpeft.learn.compare import page_sections
from gitpeft.learn.compare.advice import COST_AXES, get_axis_cost
from gitpeft.learn.compare.findings import format_gap_cell, format_interval_cell

SKILL_NEEDED = {
    "lora": "low: one size and a place to choose; folded into the model, nothing else changes",
    "adapter": "low: one width to choose; stays in the model, a little slower to answer",
    "full": "middle: forgets more easily, the rate matters most; a whole model to keep for each version",
    "hybrid": "high: which layers to tune is another choice; probing makes it",
}
"""What a method asks of the people who keep it running."""

_TASK_HEADINGS = {"messages": "Commit messages", "risk": "Risky changes"}


def render_comparison_page(report: dict[str, Any]) -> str:
    """The page of a report of `compare`."""
    parts = [f"<p class='soft'>{escape(_describe_comparison(report))}</p>"]
    parts += [f"<p>Left out: {escape(why)}.</p>" for why in report["left_out"]]
    parts += [_render_advice(task) for task in report["tasks"]]
    for task in report["tasks"]:
        parts += [f"<h2>{_TASK_HEADINGS[task['task']]}</h2>", *_render_task(task)]
    parts.append(_render_method(report))
    return charts.render_page(f"{report['repository']}: which tuning method?", "".join(parts))


def _describe_comparison(report: dict[str, Any]) -> str:
    used = f"{report['seconds'] / 60:.1f} of {report['budget_minutes']:g} minutes"
    return (
        f"{report['commits']:,} usable commits up to {report['tip'][:10]}; {used} used on "
        f"{report['device']}. Made by gitpeft compare; nothing left this machine."
    )


def _render_task(report: dict[str, Any]) -> list[str]:
    """All that was found out about one task."""
    return [
        _render_decision_table(report),
        _render_plots(report),
        _render_quality_table(report),
        _render_cost_table(report["finalists"]),
        *page_sections.render_extra_sections(report),
        _render_samples(report["samples"]),
        _render_short_runs(report),
    ]


# --- the answer ---------------------------------------------------------------------------------------------


def _render_advice(report: dict[str, Any]) -> str:
    """What a manager reads: the advice, four numbers, the reasons, the command."""
    first, *words = report["advice"]["words"]
    chosen = _find_chosen(report)
    tiles = "".join(
        f"<div><b>{escape_text(big)}</b><span>{escape_text(small)}</span></div>"
        for big, small in _make_tiles(report)
    )
    reasons = "".join(f"<li>{escape(sentence)}</li>" for sentence in words)
    return (
        f"<div class='advice'><p>{escape(first)}</p><div class='tiles'>{tiles}</div><ul>{reasons}</ul>"
        f"{_render_command(report['task'], chosen)}</div>"
    )


def _render_command(task: str, chosen: dict[str, Any]) -> str:
    if task != "messages":
        return ""
    base = f" --base {chosen['base']}" if chosen["base"] != "mini" else ""
    command = f"gitpeft init --method {chosen['spelt']}{base}"
    return f"<p class='soft'>To do so: <code>{escape(command)}</code></p>"


def _find_chosen(report: dict[str, Any]) -> dict[str, Any]:
    """The finalist that the advice is for."""
    advice = report["advice"]
    rows = report["finalists"]
    return next(row for row in rows if (row["spelt"], row["base"]) == (advice["method"], advice["base"]))


def _make_tiles(report: dict[str, Any]) -> list[tuple[str, str]]:
    row, metric = _find_chosen(report), report["metric"]
    score, cost = row["scores"][metric["key"]], row["cost"]
    ends = f"{score['low']:.{metric['digits']}f} to {score['high']:.{metric['digits']}f}"
    return [
        (f"{score['mean']:.{metric['digits']}f}", f"{metric['name']}, 95 % interval {ends}"),
        (f"{cost['share']:.1%}", "of the weights are trained"),
        (f"{cost['seconds']:,.0f} s", f"of training, {cost['memory'] / 2**30:.1f} GiB of memory"),
        (f"{cost['adapter_bytes'] / 1e6:.1f} MB", "to keep for each version"),
    ]


def _render_decision_table(report: dict[str, Any]) -> str:
    """What a decision maker asks: operating cost, time until it is known to work, skill needed."""
    heads = ["", "operating cost", "time to verify", "skill needed"]
    full = next((row for row in report["finalists"] if row["name"] == "full"), None)
    found = []
    for number, row in enumerate(report["finalists"]):
        cost = row["cost"]
        verify = cost["seconds_to_best"] + cost["answer_ms"] * report["asked"] / 1000
        each = f"{cost['seconds']:,.0f} s and {cost['memory'] / 2**30:.1f} GiB a retraining, "
        each += f"{cost['adapter_bytes'] / 1e6:.1f} MB a version{_format_saving(row, full)}"
        found.append(
            [
                charts.render_system_name(number, row["label"]),
                each,
                f"{verify:,.0f} s",
                SKILL_NEEDED[row["name"]],
            ]
        )
    note = "Time to verify: training until its best, and asking it about the validation commits."
    return f"<h3>For a decision</h3>{render_table(heads, found, 'text')}<p class='soft'>{note}</p>"


def _format_saving(row: dict[str, Any], full: dict[str, Any] | None) -> str:
    if full is None or row is full:
        return ""
    saved = row["cost"]["adapter_bytes"] / full["cost"]["adapter_bytes"] - 1
    return f" ({saved:+.0%} against full)"


# --- quality against cost -----------------------------------------------------------------------------------

_COST_FORMATS: Mapping[str, Callable[[float], str]] = {
    "share": lambda v: f"{v:.0%}" if v >= 0.1 else f"{v:.1%}",
    "memory": lambda v: f"{v / 2**30:.1f} GiB",
    "training": lambda v: f"{v:,.0f} s",
}


def _render_plots(report: dict[str, Any]) -> str:
    rows = report["finalists"]
    legend = charts.render_legend([row["label"] for row in rows])
    figures = "".join(_plot_tradeoff(report, name) for name in COST_AXES)
    return (
        f"<h3>Quality against cost</h3>{legend}<div class='plots'>{figures}</div><p class='soft'>Bars are "
        "95 % intervals. The dashed line joins the Pareto front: nothing is both cheaper and better than "
        "what lies on it. Left and high is good.</p>"
    )


def _plot_tradeoff(report: dict[str, Any], name: str) -> str:
    rows, metric, spell = report["finalists"], report["metric"], _COST_FORMATS[name]
    scores = [row["scores"][metric["key"]] for row in rows]
    costs = [get_axis_cost(row, name) for row in rows]
    across = charts.fit_axis(COST_AXES[name], costs, name == "share", spell)
    plot = Plot(across, _make_quality_axis(metric, scores))
    front = sorted(
        (cost, score["mean"])
        for cost, score, row in zip(costs, scores, rows, strict=True)
        if row["front"][name]
    )
    plot.draw_line(front, "var(--soft)", "4 3")
    for number, (cost, score) in enumerate(zip(costs, scores, strict=True)):
        plot.draw_interval(cost, score["low"], score["high"], charts.pick_colour(number))
    for number, (cost, score) in enumerate(zip(costs, scores, strict=True)):
        plot.draw_badge((cost, score["mean"]), number)
    told = "; ".join(
        f"{row['label']} {score['mean']:.{metric['digits']}f} at {spell(cost)}"
        for row, score, cost in zip(rows, scores, costs, strict=True)
    )
    title = f"{metric['name']} against {COST_AXES[name]}"
    return plot.render_figure(title, f"{title}: {told}")


def _make_quality_axis(metric: Mapping[str, Any], scores: Sequence[Mapping[str, float]]) -> Axis:
    low, high = min(one["low"] for one in scores), max(one["high"] for one in scores)
    return Axis(metric["name"], low, high)


# --- tables -------------------------------------------------------------------------------------------------


def _render_quality_table(report: dict[str, Any]) -> str:
    metric, first = report["metric"], report["finalists"][0]["scores"]
    names = [name for name in metric["all"] if name in first]
    heads = ["", *(metric["all"][name] for name in names), "by seed", "to the best", "validation loss"]
    rows = []
    for number, row in enumerate(report["finalists"]):
        cells = [format_interval_cell(row["scores"][name], metric) for name in names]
        seeds = " ".join(f"{score:.{metric['digits']}f}" for score in row["by_seed"])
        cells += [seeds, _format_gap_to_best(row, number, metric), f"{row['valid_loss']:.3f}"]
        rows.append([charts.render_system_name(number, row["label"]), *cells])
    for row in report["baselines"]:
        cells = [format_interval_cell(row["scores"][name], metric) for name in names]
        rows.append(
            [Markup(f"{escape_text(row['label'])} <span class='soft'>(baseline)</span>"), *cells, "", "", ""]
        )
    note = (
        f"{report['asked']} commits of the validation tenth, mean and 95 % bootstrap interval. “To the best” "
        "is paired by commit; noise is a difference whose interval holds zero."
    )
    return f"<h3>Quality</h3>{render_table(heads, rows)}<p class='soft'>{note}</p>"


def _format_gap_to_best(row: dict[str, Any], number: int, metric: Mapping[str, Any]) -> str:
    return "best" if number == 0 else format_gap_cell(row["against_best"], metric)


def _render_cost_table(rows: Sequence[dict[str, Any]]) -> str:
    heads = ["", "trained weights", "share", "peak memory", "steps", "training", "to its best", "tokens/s",
             "checkpoint", "in the hook", "per answer, warm"]  # fmt: skip
    found = []
    for number, row in enumerate(rows):
        cost = row["cost"]
        cells = (
            f"{cost['trainable']:,.0f}", f"{cost['share']:.1%}", f"{cost['memory'] / 2**30:.2f} GiB",
            f"{row['steps']}", f"{cost['seconds']:,.0f} s", f"{cost['seconds_to_best']:,.0f} s",
            f"{cost['tokens_per_second']:,.0f}", f"{cost['adapter_bytes'] / 1e6:.1f} MB",
            f"{cost['exported_bytes'] / 1e6:.1f} MB" if cost["exported_bytes"] else "–",
            f"{cost['answer_ms']:,.0f} ms",
        )  # fmt: skip
        found.append([charts.render_system_name(number, row["label"]), *cells])
    halved = [f"{row['label']} ran out of memory and went on with smaller batches" for row in rows
              if row["cost"]["halved"]]  # fmt: skip
    note = f"<p class='soft'>{escape('; '.join(halved))}.</p>" if halved else ""
    return f"<h3>Cost</h3>{render_table(heads, found)}{note}"


# --- the rest -----------------------------------------------------------------------------------------------


def _render_samples(samples: Sequence[dict[str, Any]]) -> str:
    parts = []
    for one in samples:
        offers = "".join(
            f"<dt>{escape(name)}</dt><dd>{_format_answer(said)}</dd>" for name, said in one["offers"].items()
        )
        parts.append(
            f"<div class='sample'><code>{escape(one['sha'])}</code> {escape(one['team'])}"
            f"<dl>{offers}</dl></div>"
        )
    return "<h3>The same commits, side by side</h3>" + "".join(parts)


def _format_answer(answer: Any) -> str:
    if isinstance(answer, float):
        return f"{answer:.0%}"
    return escape(answer) or "<i>nothing</i>"


def _render_short_runs(report: dict[str, Any]) -> str:
    rows = [
        [row["label"], str(row["steps"]), f"{row['valid_loss']:.3f}", "yes" if row["promoted"] else "no"]
        for row in report["short"]
    ]
    left = "".join(f"<li>{escape(one)}</li>" for one in report["left_out"])
    said = f"<h3>Left out for want of time</h3><ul>{left}</ul>" if left else ""
    shown = (
        "<h3>Short runs</h3>" + render_table(["", "steps", "validation loss", "went on"], rows)
        if rows
        else ""
    )
    return shown + said


_METHOD_TEXT = """\
<h2>How this was measured</h2><p>Every run of a task had the same examples, batches and schedule: {steps}.
Each method had its own learning rate. {rungs} The oldest 80 % of the history taught; commits of the next
10 % were asked about and chose between methods; the newest 10 % were not looked at. “Clear” means that a
95 % paired bootstrap interval excludes zero; everything else is noise. Times are of a machine that may have
done other work meanwhile.</p>"""


def _render_method(report: dict[str, Any]) -> str:
    rungs = "The best half of the short runs, and the best of each method, went on (successive halving)."
    halved = any(task["steps"]["short"] for task in report["tasks"])
    steps = "; ".join(
        f"{_TASK_HEADINGS[task['task']].lower()}, {_describe_steps(task)}" for task in report["tasks"]
    )
    return _METHOD_TEXT.format(steps=steps, rungs=rungs if halved else "")


def _describe_steps(report: dict[str, Any]) -> str:
    seeds = "one seed" if report["seeds"] == 1 else f"{report['seeds']} seeds"
    short, long = report["steps"]["short"], report["steps"]["long"]
    return (
        f"{short} steps in short runs and {long} in long ones" if short else f"{long} steps"
    ) + f", {seeds}"
