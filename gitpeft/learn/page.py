"""A comparison as one HTML file: hides markup, scales and colours. It needs no network and no script.

Readable on a phone and on paper. Everything that comes from a repository is escaped.
"""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from gitpeft.learn.advice import AXES, axis

_STYLE = """
:root{--ink:#1c2330;--soft:#5c6675;--line:#d9dee6;--ground:#fff;--tint:#f4f6f9;--accent:#0b63c5}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--line:#343b47;--ground:#14181f;
--tint:#1c222b;--accent:#6db3ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1.2rem;font:16px/1.5 system-ui,sans-serif;color:var(--ink);
background:var(--ground)}
h1{font-size:1.5rem;line-height:1.25;margin:.2rem 0 .4rem}
h2{font-size:1.1rem;margin:2rem 0 .5rem}
p,ul{margin:.4rem 0}
.soft{color:var(--soft);font-size:.9rem}
.advice{background:var(--tint);border-left:4px solid var(--accent);padding:.8rem 1rem;border-radius:4px}
.advice p:first-child{font-size:1.1rem;font-weight:600}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(19rem,100%),1fr));gap:1rem}
figure{margin:0;border:1px solid var(--line);border-radius:6px;padding:.5rem}
figcaption{font-size:.9rem;color:var(--soft)}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--ink);font:12px system-ui,sans-serif}
svg .tick{fill:var(--soft)}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.85rem}
th,td{text-align:right;padding:.35rem .45rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft)}
th:first-child,td:first-child,.text td,.text th{text-align:left}
td{white-space:nowrap}
.text td:last-child{white-space:normal;min-width:12rem}
td:first-child{font-weight:600;white-space:normal;overflow-wrap:anywhere;min-width:8rem}
.key{display:inline-block;margin-right:.8em;overflow-wrap:anywhere}
.dot{display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.4em}
.sample{border:1px solid var(--line);border-radius:6px;padding:.6rem .8rem;margin:.6rem 0}
.sample dl{display:grid;grid-template-columns:minmax(8rem,14rem) 1fr;gap:.15rem .8rem;margin:.4rem 0 0}
.sample dt{color:var(--soft);overflow-wrap:anywhere}.sample dd{margin:0;overflow-wrap:anywhere}
@media(max-width:40rem){body{padding:.8rem}.sample dl{grid-template-columns:1fr}.sample dd{margin:0 0 .4rem}}
@media print{body{max-width:none}.plots,figure,.sample,tr{break-inside:avoid}}
"""

_COLOURS = ("#0b63c5", "#c2410c", "#15803d", "#a21caf", "#b45309", "#0e7490", "#be123c", "#4d7c0f")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 260, 40, 14, 14, 36


def html(report: dict[str, Any]) -> str:
    """The page of a report of `compare`."""
    title = f"{report['repository']}: which tuning method?"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p class='soft'>{escape(_facts(report))}</p>",
        _advice(report),
        _plots(report["finalists"]),
        _quality(report),
        _cost(report["finalists"]),
        _decision(report),
        _samples(report["samples"]),
        _short(report),
        _method(report),
    ]
    head = (
        "<meta charset='utf-8'><meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _facts(report: dict[str, Any]) -> str:
    used = f"{report['seconds'] / 60:.1f} of {report['budget_minutes']:g} minutes"
    return (
        f"{report['commits']:,} usable commits up to {report['tip'][:10]}; measured on {report['asked']} "
        f"commits of the validation tenth; {used} used on {report['device']}."
    )


def _advice(report: dict[str, Any]) -> str:
    words = "".join(f"<p>{escape(sentence)}</p>" for sentence in report["advice"]["words"])
    command = escape(f"gitpeft init --method {report['advice']['method']}")
    return f"<h2>Advice</h2><div class='advice'>{words}<p class='soft'><code>{command}</code></p></div>"


# --- plots --------------------------------------------------------------------------------------------------


def _plots(rows: Sequence[dict[str, Any]]) -> str:
    formats: dict[str, Callable[[float], str]] = {
        "share": lambda v: f"{v:.0%}" if v >= 0.1 else f"{v:.1%}",
        "memory": lambda v: f"{v / 2**30:.1f} GiB",
        "training": lambda v: f"{v:,.0f} s",
    }
    figures = [_figure(rows, name, formats[name]) for name in AXES]
    legend = " ".join(
        f"<span class='key'>{_dot(number)}{escape(row['label'])}</span>" for number, row in enumerate(rows)
    )
    return (
        f"<h2>Quality against cost</h2><p>{legend}</p><div class='plots'>{''.join(figures)}</div>"
        "<p class='soft'>Dots are means, bars 95 % bootstrap intervals of B-Norm. The line joins the Pareto "
        "front: nothing is both cheaper and better than what lies on it. Left and high is good.</p>"
    )


def _figure(rows: Sequence[dict[str, Any]], name: str, spell: Callable[[float], str]) -> str:
    costs = [axis(row, name) for row in rows]
    scores = [row["scores"]["b_norm"] for row in rows]
    across = _scale(costs, _LEFT + 12, _WIDTH - _RIGHT - 12, logarithmic=name == "share")
    low, high = min(s["low"] for s in scores), max(s["high"] for s in scores)
    up = _scale([low, high], _HEIGHT - _BOTTOM - 6, _TOP + 6)
    front = sorted(
        (across(cost), up(score["mean"]))
        for cost, score, row in zip(costs, scores, rows, strict=True)
        if row["front"][name]
    )
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in front)
    marks = [f"<polyline points='{line}' fill='none' stroke='var(--soft)' stroke-dasharray='4 3'/>"]
    for number, (cost, score) in enumerate(zip(costs, scores, strict=True)):
        marks.append(_mark(across(cost), up(score["mean"]), up(score["low"]), up(score["high"]), number))
    told = f"B-Norm against {AXES[name]}: " + "; ".join(
        f"{row['label']} {score['mean']:.1f} at {spell(cost)}"
        for row, score, cost in zip(rows, scores, costs, strict=True)
    )
    body = _frame([(up(v), f"{v:.0f}") for v in _ticks(low, high)], _ends(costs, across, spell))
    return (
        f"<figure><svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{escape(told, quote=True)}'>"
        f"{body}{''.join(marks)}</svg><figcaption>B-Norm against {AXES[name]}</figcaption></figure>"
    )


def _mark(x: float, y: float, low: float, high: float, number: int) -> str:
    colour = _COLOURS[number % len(_COLOURS)]
    return (
        f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{low:.1f}' y2='{high:.1f}' stroke='{colour}' stroke-width='2' "
        f"opacity='.55'/><circle cx='{x:.1f}' cy='{y:.1f}' r='5.5' fill='{colour}'/>"
    )


def _frame(heights: Sequence[tuple[float, str]], widths: Sequence[tuple[float, str]]) -> str:
    floor, end = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    lines = [f"<line x1='{_LEFT}' x2='{end}' y1='{floor}' y2='{floor}' stroke='var(--line)'/>"]
    for y, text in heights:
        lines.append(f"<line x1='{_LEFT}' x2='{end}' y1='{y:.1f}' y2='{y:.1f}' stroke='var(--line)'/>")
        lines.append(f"<text class='tick' x='{_LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{text}</text>")
    for x, text in widths:
        anchor = "start" if x < _WIDTH / 3 else "end" if x > 2 * _WIDTH / 3 else "middle"
        lines.append(
            f"<text class='tick' x='{x:.1f}' y='{floor + 18}' text-anchor='{anchor}'>{escape(text)}</text>"
        )
    return "".join(lines)


def _ends(
    costs: Sequence[float], across: Callable[[float], float], spell: Callable[[float], str]
) -> list[tuple[float, str]]:
    """The smallest and the largest cost, as the labels of the lower axis."""
    return [(across(value), spell(value)) for value in sorted({min(costs), max(costs)})]


def _scale(
    values: Sequence[float], start: float, end: float, logarithmic: bool = False
) -> Callable[[float], float]:
    """From a value to a place on the drawing; one value alone lies in the middle."""

    def place(value: float) -> float:
        return math.log(max(value, 1e-12)) if logarithmic else value

    low, high = place(min(values)), place(max(values))
    if high - low < 1e-12:
        return lambda _value: (start + end) / 2
    return lambda value: start + (end - start) * (place(value) - low) / (high - low)


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers in a range; its ends, where there are none."""
    step = next((s for s in (0.5, 1, 2, 5, 10, 20, 50) if (high - low) / s <= 5), 100)
    found = [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return found or [low, high]


def _dot(number: int) -> str:
    return f"<span class='dot' style='background:{_COLOURS[number % len(_COLOURS)]}'></span>"


# --- tables -------------------------------------------------------------------------------------------------

_METRICS = {
    "b_norm": "B-Norm",
    "rouge_l": "ROUGE-L",
    "edit_similarity": "edit similarity",
    "first_word": "EM@1",
}


def _quality(report: dict[str, Any]) -> str:
    names = [name for name in _METRICS if name in report["finalists"][0]["scores"]]
    heads = ["", *(_METRICS[name] for name in names), "B-Norm by seed", "to the best", "validation loss"]
    rows = []
    for number, row in enumerate(report["finalists"]):
        cells = [_interval(row["scores"][name]) for name in names]
        seeds = " ".join(f"{score:.1f}" for score in row["by_seed"])
        cells += [seeds, _to_best(row, number), f"{row['valid_loss']:.3f}"]
        rows.append([_dot(number) + escape(row["label"]), *map(escape, cells)])
    for row in report["baselines"]:
        cells = [_interval(row["scores"][name]) for name in names]
        rows.append([escape(row["label"]) + " <span class='soft'>(baseline)</span>", *cells, "", "", ""])
    return _table("Quality", heads, rows)


def _to_best(row: dict[str, Any], number: int) -> str:
    gap = row["against_best"]
    if number == 0:
        return "best"
    verdict = "clear" if gap["clear"] else "noise"
    return f"{gap['mean']:+.1f} ({gap['low']:+.1f} to {gap['high']:+.1f}), {verdict}"


def _interval(score: dict[str, float]) -> str:
    return f"{score['mean']:.1f} ({score['low']:.1f}–{score['high']:.1f})"


def _cost(rows: Sequence[dict[str, Any]]) -> str:
    heads = ["", "trained weights", "share", "peak memory", "steps", "training", "to its best", "tokens/s",
             "checkpoint", "in the hook", "per answer, warm"]  # fmt: skip
    found = []
    for number, row in enumerate(rows):
        cost = row["cost"]
        cells = (
            f"{cost['trainable']:,.0f}", f"{cost['share']:.1%}", f"{cost['memory'] / 2**30:.2f} GiB",
            f"{row['steps']}", f"{cost['seconds']:,.0f} s", f"{cost['seconds_to_best']:,.0f} s",
            f"{cost['tokens_per_second']:,.0f}", f"{cost['adapter_bytes'] / 1e6:.1f} MB",
            f"{cost['exported_bytes'] / 1e6:.1f} MB", f"{cost['answer_ms']:,.0f} ms",
        )  # fmt: skip
        found.append([_dot(number) + escape(row["label"]), *cells])
    return _table("Cost", heads, found)


_SKILL = {
    "lora": "low: one size and a place to choose",
    "adapter": "low: one width to choose; stays in the model, a little slower to answer",
    "full": "middle: forgets more easily, the rate matters most; a whole model to keep for each repository",
    "hybrid": "high: which layers to tune is another choice; probing makes it",
}


def _decision(report: dict[str, Any]) -> str:
    """What a decision maker asks: operating cost, time until it is known to work, skill needed."""
    heads = ["", "operating cost: a retraining", "time to verify: until its best, and asked", "skill needed"]
    found = []
    for number, row in enumerate(report["finalists"]):
        cost = row["cost"]
        verify = cost["seconds_to_best"] + cost["answer_ms"] * report["asked"] / 1000
        kept = f"{cost['adapter_bytes'] / 1e6:.1f} MB"
        retrain = f"{cost['seconds']:,.0f} s, {cost['memory'] / 2**30:.1f} GiB, {kept}"
        skill = escape(_SKILL[row["name"]])
        found.append([_dot(number) + escape(row["label"]), retrain, f"{verify:,.0f} s", skill])
    return _table("For a decision", heads, found, "text")


def _short(report: dict[str, Any]) -> str:
    rows = [
        [
            escape(row["label"]),
            str(row["steps"]),
            f"{row['valid_loss']:.3f}",
            "yes" if row["promoted"] else "no",
        ]
        for row in report["short"]
    ]
    left = "".join(f"<li>{escape(one)}</li>" for one in report["left_out"])
    said = f"<h2>Left out for want of time</h2><ul>{left}</ul>" if left else ""
    table = _table("Short runs", ["", "steps", "validation loss", "went on"], rows) if rows else ""
    return table + said


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Cells are markup already."""
    top = "".join(f"<th scope='col'>{escape(head)}</th>" for head in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f"<h2>{title}</h2><div class='wide'><table class='{kind}'><thead><tr>{top}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _samples(samples: Sequence[dict[str, Any]]) -> str:
    parts = []
    for one in samples:
        offers = "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(said) or '<i>nothing</i>'}</dd>"
            for name, said in one["offers"].items()
        )
        parts.append(
            f"<div class='sample'><code>{escape(one['sha'])}</code> {escape(one['team'])}"
            f"<dl>{offers}</dl></div>"
        )
    return "<h2>The same commits, side by side</h2>" + "".join(parts)


_HOW = """\
<h2>How this was measured</h2><p>Every run had the same examples, batches and schedule: {steps}, {seeds},
each method at its own learning rate. {rungs} The oldest 80 % of the history taught; commits of the next
10 % were asked about and chose between methods; the newest 10 % were not looked at. What is offered is
the consensus of a model's candidates. “Clear” means that a 95 % paired bootstrap interval excludes zero;
everything else is noise. Times are of a machine that may have done other work meanwhile.</p>"""


def _method(report: dict[str, Any]) -> str:
    seeds = "one seed" if report["seeds"] == 1 else f"{report['seeds']} seeds"
    short, long = report["steps"]["short"], report["steps"]["long"]
    steps = f"{short} steps in the short runs, {long} in the long ones" if short else f"{long} steps"
    rungs = "The best half of the short runs, and the best of each method, went on (successive halving)."
    return _HOW.format(seeds=seeds, steps=steps, rungs=rungs if short else "")
