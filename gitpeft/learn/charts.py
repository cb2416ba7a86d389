"""Renders HTML pages with tables and SVG charts, without any library.

A page is one file: nothing in it is fetched from anywhere and no script runs. It is readable on a phone, in
dark mode and in print; whatever is not `Markup` is escaped. Systems are distinguished by a number as well as
by colour.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]
Points = Sequence[Point]
NumberFormat = Callable[[float], str]

WIDTH, HEIGHT = 360, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 16, 26, 40
_LEGEND_ROW = 15  # height of a name in a legend
_PHONE_CHARS = 43  # so many digits of a table fit beside each other on a phone of 360 points
_CELL_PADDING_CHARS = 2.5
_FIRST_COLUMN_CHARS = 15
_TAG = re.compile(r"<[^>]*>")
_COLOURS = ("#0b63c5", "#c2410c", "#15803d", "#a21caf", "#8a6100", "#0e7490", "#be123c", "#4d7c0f")

_PAGE_STYLE = """
:root{--ink:#1c2330;--soft:#566070;--line:#d9dee6;--ground:#fff;--tint:#f4f6f9;--accent:#0b63c5;
--bad:#c42b2b}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--line:#343b47;
--ground:#14181f;--tint:#1c222b;--accent:#6db3ff;--bad:#ff7b72}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:1.4rem 1.2rem 3rem;color:var(--ink);background:var(--ground);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;-webkit-text-size-adjust:100%}
h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0 .3rem}
h2{font-size:1.25rem;line-height:1.3;margin:2.6rem 0 .5rem;padding-top:.6rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.6rem 0 .4rem}
p,ul{margin:.4rem 0;max-width:46rem}
ul{padding-left:1.2rem}
code{font:.9em ui-monospace,monospace;overflow-wrap:anywhere}
.soft{color:var(--soft);font-size:.9rem}
.advice{background:var(--tint);border-left:4px solid var(--accent);padding:1rem 1.2rem;border-radius:4px;
margin:1rem 0}
.advice p,.advice ul{max-width:none}
.advice>p:first-child{font-size:1.15rem;font-weight:600;line-height:1.35;margin-top:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.6rem;margin:.9rem 0}
.tiles div{background:var(--ground);border:1px solid var(--line);border-radius:6px;padding:.5rem .7rem}
.tiles b{display:block;font-size:1.25rem;line-height:1.25}
.tiles span{color:var(--soft);font-size:.8rem;line-height:1.3;display:block}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(19rem,100%),1fr));gap:1rem;
margin:.6rem 0}
figure{margin:0;border:1px solid var(--line);border-radius:6px;padding:.6rem .6rem .3rem;max-width:32rem}
figcaption{font-size:.9rem;font-weight:600;line-height:1.3}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--ink);font:12px system-ui,sans-serif}
svg .tick{fill:var(--soft);font-size:11px}
svg .mark,.mark{fill:#fff;color:#fff;font:700 10px system-ui,sans-serif}
.mark{display:inline-block;width:1.6em;height:1.6em;line-height:1.6em;border-radius:50%;text-align:center;
margin-right:.5em;flex:none;print-color-adjust:exact;-webkit-print-color-adjust:exact}
.name{display:inline-flex;align-items:flex-start}
.key{display:inline-block;margin:0 1.1em .2em 0}
.wide{overflow-x:auto;margin:.4rem 0;-webkit-overflow-scrolling:touch;
background:linear-gradient(90deg,var(--ground) 30%,transparent) 0/2rem 100% no-repeat local,
linear-gradient(270deg,var(--ground) 30%,transparent) 100%/2rem 100% no-repeat local,
linear-gradient(90deg,var(--line),transparent) 0/.8rem 100% no-repeat scroll,
linear-gradient(270deg,var(--line),transparent) 100%/.8rem 100% no-repeat scroll}
.scrolls{display:none;color:var(--soft);font-size:.8rem;margin:.4rem 0 -.2rem}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums;min-width:100%}
th,td{text-align:right;padding:.4rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);vertical-align:bottom;line-height:1.25}
td{white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}
td:first-child{font-weight:600;white-space:normal;min-width:10rem}
.empty{color:var(--soft)}
td .soft{font-weight:400}td ul{margin:0;padding-left:1rem}
.text th,.text td{text-align:left}.text td:not(:first-child){white-space:normal;min-width:9rem}
.sample{border:1px solid var(--line);border-radius:6px;padding:.6rem .8rem;margin:.6rem 0}
.sample dl{display:grid;grid-template-columns:minmax(8rem,14rem) 1fr;gap:.15rem .8rem;margin:.4rem 0 0;
font-size:.92rem}
.sample dt{color:var(--soft);overflow-wrap:anywhere}.sample dd{margin:0;overflow-wrap:anywhere}
@media(max-width:40rem){body{padding:.9rem .9rem 2rem}.advice{padding:.8rem .9rem}
.sample dl{grid-template-columns:1fr}.sample dd{margin:0 0 .4rem}
.scrolls{display:block}td:first-child{min-width:7rem}
.text thead{display:none}.text td{display:block;border:0;padding:.1rem 0}.text tr{display:block;
border-bottom:1px solid var(--line);padding:.5rem 0}
.text td:not(:first-child)::before{content:attr(data-head) ": ";color:var(--soft)}}
@page{margin:14mm}
@media print{body{max-width:none;padding:0;font-size:10.5pt}.wide{overflow:visible;background:none}
table{font-size:7.5pt}
td,th{padding:.25rem .35rem}.plots{grid-template-columns:repeat(2,1fr)}
figure,.sample,.advice,tr{break-inside:avoid}h2,h3{break-after:avoid}}
"""


class Markup(str):
    """Text that is HTML already; every other text is escaped where it enters a page."""

    __slots__ = ()


def escape_text(value: str) -> Markup:
    """A text as markup."""
    return value if isinstance(value, Markup) else Markup(escape(value, quote=True))


def render_page(title: str, body: str) -> str:
    """A whole page; `body` is markup."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_PAGE_STYLE}</style>"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><h1>{escape(title)}</h1>\n{body}</body>'
        "</html>\n"
    )


def render_table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> Markup:
    """A table; with the kind "text" its cells are sentences and not numbers.

    Without rows there is only the word "none". Numbers too wide for a phone have a hint there to scroll.
    """
    if not rows:
        return Markup("<p class='empty'>none</p>")
    hint = ""
    if kind != "text" and _estimate_width(head, rows) > _PHONE_CHARS:
        hint = "<p class='scrolls'>Scroll sideways if columns are cut off →</p>"
    top = "".join(f"<th scope='col'>{escape_text(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{_render_cells(head, row)}</tr>\n" for row in rows)
    return Markup(
        f"{hint}<div class='wide'><table class='{kind}'><thead><tr>{top}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>\n"
    )


def _estimate_width(head: Sequence[str], rows: Sequence[Sequence[str]]) -> float:
    """The width of a table of numbers, in digits: only its headings and its first column are wrapped."""
    columns = list(zip(*rows, strict=True))
    widths = [max(len(_TAG.sub("", cell)) for cell in column) for column in columns]
    words = [max(map(len, name.split()), default=0) for name in head]
    widths[0] = _FIRST_COLUMN_CHARS
    return sum(map(max, widths, words)) + _CELL_PADDING_CHARS * len(head)


def _render_cells(head: Sequence[str], row: Sequence[str]) -> str:
    """Cells with the name of their column, which stands before each sentence on a phone."""
    pairs = zip(head, row, strict=True)
    return "".join(
        f"<td data-head='{escape(name, quote=True)}'>{escape_text(cell)}</td>" for name, cell in pairs
    )


def pick_colour(number: int) -> str:
    """The colour of the system with this number, from 0."""
    return _COLOURS[number % len(_COLOURS)]


def render_badge(number: int) -> Markup:
    """The numbered mark of a system in every plot and table of a page."""
    return Markup(f"<span class='mark' style='background:{pick_colour(number)}'>{number + 1}</span>")


def render_system_name(number: int, name: str) -> Markup:
    """A system's mark and name, which may only be broken between its settings."""
    broken = escape_text(name).replace(":", ":<wbr>").replace(",", ",<wbr>")
    return Markup(f"<span class='name'>{render_badge(number)}<span>{broken}</span></span>")


def render_legend(names: Sequence[str]) -> Markup:
    """The marks and names of several systems."""
    keys = (
        f"<span class='key'>{render_system_name(number, name)}</span>" for number, name in enumerate(names)
    )
    return Markup(f"<p>{' '.join(keys)}</p>")


# --- plots --------------------------------------------------------------------------------------------------


def format_short_number(value: float) -> str:
    """A number with three significant digits, or without decimals from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of a plot: its name, the values at its ends, whether it is logarithmic, how values are written.

    `ticks` are the values that are labelled; by default they are round numbers.
    """

    name: str
    low: float
    high: float
    log: bool = False
    format: NumberFormat = format_short_number
    ticks: tuple[float, ...] = ()

    def scale_value(self, value: float) -> float:
        """The position of a value between the ends, 0 to 1; 0.5 where the ends are the same."""
        low, high, at = map(self._transform_value, (self.low, self.high, value))
        return (at - low) / (high - low) if high - low > 1e-12 else 0.5

    def _transform_value(self, value: float) -> float:
        return math.log(max(value, 1e-12)) if self.log else value

    def list_ticks(self) -> list[float]:
        """The values that are labelled."""
        if self.ticks:
            return list(self.ticks)
        if self.log or self.high - self.low < 1e-12:
            return sorted({self.low, self.high})
        size = 10 ** math.floor(math.log10(self.high - self.low))
        steps = (size * factor for factor in (0.1, 0.2, 0.25, 0.5, 1, 2, 2.5))
        step = next(step for step in steps if (self.high - self.low) / step <= 5.01)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(step * i, 10) for i in range(first, last + 1)]


def fit_axis(
    name: str, values: Sequence[float], log: bool = False, write: NumberFormat = format_short_number
) -> Axis:
    """An axis from the smallest to the largest of some values."""
    return Axis(name, min(values, default=0.0), max(values, default=1.0), log, write)


class Plot:
    """A drawing between two axes."""

    def __init__(self, x: Axis, y: Axis) -> None:
        self._x, self._y = x, y
        self._parts: list[str] = []
        self._height = HEIGHT

    def locate_point(self, point: Point) -> Point:
        """The coordinates of a point in the drawing."""
        across, up = self._x.scale_value(point[0]), self._y.scale_value(point[1])
        x = _LEFT + 10 + across * (WIDTH - _LEFT - _RIGHT - 20)
        y = HEIGHT - _BOTTOM - 8 - up * (HEIGHT - _BOTTOM - _TOP - 16)
        return round(x, 1), round(y, 1)

    def draw_line(self, points: Points, stroke: str, dashes: str = "") -> None:
        """A line through points."""
        through = " ".join(f"{x},{y}" for x, y in map(self.locate_point, points))
        dashed = f" stroke-dasharray='{dashes}'" if dashes else ""
        self._parts.append(
            f"<polyline points='{through}' fill='none' stroke='{stroke}' stroke-width='2'{dashed}/>"
        )

    def draw_interval(self, x: float, low: float, high: float, stroke: str) -> None:
        """A vertical bar from `low` to `high`."""
        (at, bottom), (_, top) = self.locate_point((x, low)), self.locate_point((x, high))
        self._parts.append(
            f"<path d='M{at} {bottom}V{top}' stroke='{stroke}' stroke-width='2' opacity='.5'/>"
        )

    def draw_dot(self, point: Point, fill: str, radius: float = 3.0) -> None:
        """A point."""
        x, y = self.locate_point(point)
        self._parts.append(f"<circle cx='{x}' cy='{y}' r='{radius}' fill='{fill}'/>")

    def draw_badge(self, point: Point, number: int) -> None:
        """A point with the mark of the system with this number."""
        x, y = self.locate_point(point)
        self.draw_dot(point, pick_colour(number), 8)
        self._parts.append(
            f"<text class='mark' x='{x}' y='{y + 3.5:.1f}' text-anchor='middle'>{number + 1}</text>"
        )

    def draw_legend(self, names: Sequence[str]) -> None:
        """The names in their colours, below the drawing."""
        for number, name in enumerate(names):
            at = f"x='{_LEFT}' y='{self._height + 10 + _LEGEND_ROW * number}'"
            self._parts.append(f"<text {at} style='fill:{pick_colour(number)}'>{escape(name)}</text>")
        self._height += _LEGEND_ROW * len(names) + 4

    def render_figure(self, title: str, description: str = "") -> Markup:
        """The drawing with its title; `description` is for screen readers."""
        label = escape(description or title, quote=True)
        return Markup(
            f"<figure><figcaption>{escape(title)}</figcaption><svg role='img' aria-label='{label}' "
            f"viewBox='0 0 {WIDTH} {self._height}'>{self._render_axes()}{''.join(self._parts)}"
            "</svg></figure>\n"
        )

    def _render_axes(self) -> str:
        floor, end = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        parts = [f"<path d='M{_LEFT} {floor}H{end}' stroke='var(--soft)' fill='none'/>"]
        for value in self._y.list_ticks():
            _, y = self.locate_point((self._x.low, value))
            parts.append(f"<path d='M{_LEFT} {y}H{end}' stroke='var(--line)' fill='none'/>")
            parts.append(_render_tick(_LEFT - 6, y + 4, "end", self._y.format(value)))
        labels = _label_ticks(self._x)
        for number, (label, value) in enumerate(labels.items()):
            x, _ = self.locate_point((value, self._y.low))
            outer = {0: "start", len(labels) - 1: "end"} if len(labels) > 1 else {}
            near = {"start": x - 10, "end": x + 10}
            anchor = outer.get(number, "middle")
            parts.append(_render_tick(near.get(anchor, x), floor + 15, anchor, label))
        parts.append(_render_tick((_LEFT + end) / 2, HEIGHT - 8, "middle", self._x.name))
        parts.append(_render_tick(4, 14, "start", self._y.name))
        return "".join(parts)


def _label_ticks(axis: Axis) -> dict[str, float]:
    """The labels of an axis and their values; of values that are written alike only the first."""
    found: dict[str, float] = {}
    for value in axis.list_ticks():
        found.setdefault(axis.format(value), value)
    return found


def _render_tick(x: float, y: float, anchor: str, label: str) -> str:
    return f"<text class='tick' x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(label)}</text>"


def render_line_chart(
    title: str,
    x: str,
    y: str,
    lines: Mapping[str, Points],
    *,
    diagonal: bool = False,
    top: float | None = None,
) -> Markup:
    """Lines by name over shared axes that start at 0; `top` is the end of the y axis, else the largest."""
    every = [point for points in lines.values() for point in points]
    right = max((px for px, _ in every), default=1.0) or 1.0
    high = top or max((py for _, py in every), default=1.0) or 1.0
    plot = Plot(Axis(x, 0.0, right), Axis(y, 0.0, high))
    if diagonal:
        plot.draw_line([(0, 0), (min(right, high), min(right, high))], "var(--soft)", "4 4")
    for number, points in enumerate(lines.values()):
        plot.draw_line(points, pick_colour(number))
        for point in points if len(points) < 30 else ():
            plot.draw_dot(point, pick_colour(number))
    plot.draw_legend(list(lines))
    return plot.render_figure(title)


def render_scatter_plot(title: str, x: str, y: str, points: Points, marked: Sequence[bool]) -> Markup:
    """Points, the marked ones in red on top."""
    plot = Plot(fit_axis(x, [px for px, _ in points]), fit_axis(y, [py for _, py in points]))
    pairs = list(zip(points, marked, strict=True))
    for point in (point for point, mark in pairs if not mark):
        plot.draw_dot(point, "var(--soft)", 1.5)
    for point in (point for point, mark in pairs if mark):
        plot.draw_dot(point, "var(--bad)", 2.5)
    return plot.render_figure(title)
