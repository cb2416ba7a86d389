"""One page with plots and tables: hides HTML and SVG. Nothing in it is fetched from anywhere."""

import html
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT, _EDGE = 420, 280, 44
_COLOURS = ("#888888", "#1f6feb", "#d1242f", "#1a7f37")
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1f2328}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "td,th{border:1px solid #d0d7de;padding:.2rem .6rem;text-align:left}"
    "figure{display:inline-block;margin:0 1rem 1rem 0}figcaption{font-weight:600}svg text{font-size:11px}"
    "@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}svg text{fill:#e6edf3}}"
)


def document(title: str, body: str) -> str:
    """A whole page; `body` is HTML already."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n{body}</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts."""
    first = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    rest = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    return f"<table><tr>{first}</tr>\n{rest}</table>\n"


def chart(
    title: str,
    x: str,
    y: str,
    lines: Mapping[str, Points],
    *,
    diagonal: bool = False,
    top: float | None = None,
) -> str:
    """Lines by name over shared axes that start at 0; `top` is the end of the y axis, else the largest."""
    every = [point for points in lines.values() for point in points]
    right = max((px for px, _ in every), default=1.0) or 1.0
    high = top or max((py for _, py in every), default=1.0) or 1.0
    frame = _Frame(0.0, right, 0.0, high)
    parts = [frame.axes(x, y)]
    if diagonal:
        end = min(right, high)
        parts.append(frame.line([(0, 0), (end, end)], "#bbbbbb", dashed=True))
    for number, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(frame.line(points, colour))
        parts += [frame.dot(point, colour, 2.5) for point in points] if len(points) < 30 else []
        place = _EDGE + 14 + 14 * number
        parts.append(f'<text x="{_EDGE + 10}" y="{place}" style="fill:{colour}">{html.escape(name)}</text>')
    return _figure(title, parts)


def scatter(title: str, x: str, y: str, points: Points, marked: Sequence[bool]) -> str:
    """Points, the marked ones in red on top."""
    xs, ys = [px for px, _ in points] or [0.0], [py for _, py in points] or [0.0]
    frame = _Frame(min(xs), max(xs), min(ys), max(ys))
    pairs = list(zip(points, marked, strict=True))
    parts = [frame.axes(x, y)]
    parts += [frame.dot(point, _COLOURS[0], 1.5) for point, mark in pairs if not mark]
    parts += [frame.dot(point, _COLOURS[2], 2.5) for point, mark in pairs if mark]
    return _figure(title, parts)


def _figure(title: str, parts: Sequence[str]) -> str:
    label, inside = html.escape(title, quote=True), "".join(parts)
    return (
        f'<figure><figcaption>{html.escape(title)}</figcaption><svg role="img" aria-label="{label}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}">{inside}</svg></figure>\n'
    )


class _Frame:
    """Axes, and where a point lies between them."""

    def __init__(self, left: float, right: float, low: float, high: float) -> None:
        self.left, self.low = left, low
        self.wide, self.tall = (right - left) or 1.0, (high - low) or 1.0

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        """Pixels of a point."""
        x = _EDGE + (point[0] - self.left) / self.wide * (_WIDTH - 2 * _EDGE)
        y = _HEIGHT - _EDGE - (point[1] - self.low) / self.tall * (_HEIGHT - 2 * _EDGE)
        return round(x, 1), round(y, 1)

    def line(self, points: Points, colour: str, dashed: bool = False) -> str:
        """A line through points."""
        through = " ".join(f"{x},{y}" for x, y in map(self.place, points))
        dashes = ' stroke-dasharray="4 4"' if dashed else ""
        return f'<polyline points="{through}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'

    def dot(self, point: tuple[float, float], colour: str, radius: float) -> str:
        """A point."""
        x, y = self.place(point)
        return f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{colour}"/>'

    def axes(self, x: str, y: str) -> str:
        """Both axes with their names and the numbers at their ends."""
        bottom, right = _HEIGHT - _EDGE, _WIDTH - _EDGE
        ends = (
            (_EDGE, bottom + 14, f"{self.left:.3g}", "middle"),
            (right, bottom + 14, f"{self.left + self.wide:.3g}", "middle"),
            (_EDGE - 4, bottom, f"{self.low:.3g}", "end"),
            (_EDGE - 4, _EDGE + 4, f"{self.low + self.tall:.3g}", "end"),
            ((_EDGE + right) / 2, bottom + 30, x, "middle"),
            (_EDGE, _EDGE - 12, y, "start"),
        )
        texts = (
            f'<text x="{px}" y="{py}" text-anchor="{anchor}" fill="currentColor">{html.escape(text)}</text>'
            for px, py, text, anchor in ends
        )
        path = f"M{_EDGE} {_EDGE}V{bottom}H{right}"
        return f'<path d="{path}" fill="none" stroke="currentColor"/>' + "".join(texts)
