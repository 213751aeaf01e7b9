"""The charts, each a function from numbers to SVG of a given width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgeconv.benchmarks.page import palette, svg
from edgeconv.benchmarks.page.svg import NARROW, Scale, number


@dataclass(frozen=True)
class Point:
    """A value with its interval; `note` is shown when a pointer rests on it."""

    x: float
    y: float
    low: float
    high: float
    note: str


@dataclass(frozen=True)
class Series:
    """One engine's line."""

    engine: str
    title: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Axes:
    """What the axes of a line chart say; both are logarithmic. `x_names` are the ticks."""

    x_title: str
    y_title: str
    x_names: Mapping[float, str]
    y_range: tuple[float, float] | None = None


def lines(series: Sequence[Series], axes: Axes, width: int, label: str) -> str:
    """Lines with intervals, the engine's name at the end of each where there is room."""
    narrow = width <= NARROW
    height = 300 if narrow else 380
    left, right, top, bottom = 46, (12 if narrow else 126), 26, 44
    xs = sorted(axes.x_names)
    values = [v for s in series for p in s.points for v in (p.low, p.high)]
    x = _x_scale(xs, left + 10, width - right - 10)
    y = svg.log_scale(axes.y_range or values, height - bottom, top)
    parts = [svg.text(4, 14, axes.y_title, "axis")]
    for tick in y.ticks():
        parts.append(svg.line(left, y(tick), width - right, y(tick), "grid"))
        parts.append(svg.text(left - 6, y(tick) + 4, number(tick), "tick", "end"))
    for value in xs:
        parts.append(
            svg.text(x(value), height - bottom + 18, axes.x_names[value], "tick", "middle")
        )
    middle = (left + width - right) / 2
    parts.append(svg.text(middle, height - 6, axes.x_title, "axis", "middle"))
    for one in sorted(series, key=lambda s: s.engine == "edgeconv"):  # edgeconv on top
        parts.append(_line(one, x, y))
    if not narrow:
        parts.append(_end_labels(series, x, y, top, height - bottom))
    return svg.picture("".join(parts), width, height, label)


def _x_scale(values: Sequence[float], start: float, end: float) -> Scale:
    if len(values) == 1:
        return Scale(values[0] / 2, values[0] * 2, start, end)
    return Scale(values[0], values[-1], start, end)


def _line(series: Series, x: Scale, y: Scale) -> str:
    own = " own" if series.engine == "edgeconv" else ""
    parts = [svg.polyline([(x(p.x), y(p.y)) for p in series.points], "line")]
    for p in series.points:
        if p.high > p.low:
            parts.append(svg.line(x(p.x), y(p.low), x(p.x), y(p.high), "whisker"))
        parts.append(svg.marker(palette.shape(series.engine), x(p.x), y(p.y), "mark", p.note))
    return svg.element("g", "".join(parts), class_=f"e e-{series.engine}{own}")


def _end_labels(series: Sequence[Series], x: Scale, y: Scale, low: float, high: float) -> str:
    kept = [s for s in series if s.points]
    places = svg.spread([y(s.points[-1].y) for s in kept], 14, low + 6, high)
    return "".join(
        svg.element(
            "g",
            svg.text(x(s.points[-1].x) + 12, place + 4, s.title, "label"),
            class_=f"e e-{s.engine}" + (" own" if s.engine == "edgeconv" else ""),
        )
        for s, place in zip(kept, places, strict=True)
    )


@dataclass(frozen=True)
class Cell:
    """A ratio; above 1 is good."""

    row: str
    column: str
    ratio: float
    note: str


def heat_map(
    cells: Sequence[Cell], columns: Sequence[str], width: int, label: str, x_title: str
) -> str:
    """Ratios by row and column: blue is above 1, red below, strong from four times on."""
    rows = list(dict.fromkeys(c.row for c in cells))
    narrow = width <= NARROW
    left, top, gap = (74 if narrow else 96), 34, 2
    step = (width - left - 2) / max(1, len(columns))
    tall = 30 if narrow else 38
    parts = [svg.text(left + step * len(columns) / 2, 12, x_title, "axis", "middle")]
    for i, name in enumerate(columns):
        parts.append(svg.text(left + (i + 0.5) * step, 28, name, "tick", "middle"))
    for k, name in enumerate(rows):
        parts.append(svg.text(left - 8, top + (k + 0.5) * tall + 4, name, "tick", "end"))
    for cell in cells:
        i, k = columns.index(cell.column), rows.index(cell.row)
        strength = min(1.0, abs(math.log(cell.ratio)) / math.log(4))
        box = svg.element(
            "rect",
            svg.tip(cell.note),
            x=left + i * step + gap / 2,
            y=float(top + k * tall + gap / 2),
            width=step - gap,
            height=float(tall - gap),
            rx=4,
            class_="up" if cell.ratio >= 1 else "down",
            fill_opacity=f"{0.12 + 0.78 * strength:.2f}",
        )
        strong = " strong" if strength > 0.62 else ""
        shown = f"{cell.ratio:.2f}" if not narrow else f"{cell.ratio:.1f}"
        middle = left + (i + 0.5) * step
        parts.append(
            box + svg.text(middle, top + (k + 0.5) * tall + 4, shown, f"cell{strong}", "middle")
        )
    return svg.picture("".join(parts), width, top + tall * len(rows) + 4, label)


@dataclass(frozen=True)
class Bar:
    """One engine in a group: its length is `value`."""

    engine: str
    title: str
    value: float
    shown: str
    note: str


def bars(groups: Mapping[str, Sequence[Bar]], width: int, label: str, axis: str) -> str:
    """Groups of horizontal bars on one linear axis from 0; a line marks 1."""
    narrow = width <= NARROW
    left, right, tall, head = (102 if narrow else 132), (88 if narrow else 132), 17, 26
    most = max(b.value for g in groups.values() for b in g)
    scale = Scale(0, most, left, width - right, log=False)
    y, parts = 22.0, list[str]()
    for name, group in groups.items():
        y += head
        parts.append(svg.text(0, y - 8, name, "head"))
        for bar in group:
            own = " own" if bar.engine == "edgeconv" else ""
            inside = svg.text(left - 8, y + 12, bar.title, "tick", "end") + svg.element(
                "rect",
                svg.tip(bar.note),
                x=float(left),
                y=y + 1.5,
                width=scale(bar.value) - left,
                height=float(tall - 3),
                rx=2,
                class_="bar",
            )
            inside += svg.text(scale(bar.value) + 6, y + 12, bar.shown, "value")
            parts.append(svg.element("g", inside, class_=f"e e-{bar.engine}{own}"))
            y += tall
    frame = [svg.text(left, 12, axis, "axis")]
    frame.append(svg.line(scale(1), 20, scale(1), y + 4, "one"))
    return svg.picture("".join(frame + parts), width, y + 10, label)


@dataclass(frozen=True)
class Dot:
    """A ratio in a strip; above 1 is good."""

    ratio: float
    note: str


def strips(rows: Mapping[str, Sequence[Dot]], width: int, label: str, axis: str) -> str:
    """One strip of dots a row on a common logarithmic axis, with the geometric mean of each."""
    narrow = width <= NARROW
    left, right, tall, top = (8 if narrow else 236), 14, (54 if narrow else 40), 24
    ratios = [d.ratio for dots in rows.values() for d in dots]
    x = svg.log_scale([*ratios, 0.8, 1.25], left + 8, width - right)
    bottom = top + tall * len(rows)
    parts = [svg.text(width - right, 12, axis, "axis", "end")]
    for tick in x.ticks(5 if narrow else 9):
        parts.append(svg.line(x(tick), top, x(tick), bottom, "grid"))
        parts.append(svg.text(x(tick), bottom + 16, number(tick), "tick", "middle"))
    parts.append(svg.line(x(1), top, x(1), bottom, "one"))
    for k, (name, dots) in enumerate(rows.items()):
        middle = top + (k + 0.5) * tall + (10 if narrow else 0)
        place = (left, middle - 18) if narrow else (left - 8, middle + 4)
        parts.append(svg.text(*place, name, "tick", "start" if narrow else "end"))
        for i, dot in enumerate(sorted(dots, key=lambda d: d.ratio)):
            offset = (i % 3 - 1) * (5 if narrow else 7)  # neighbours do not hide each other
            kind = "up dot" if dot.ratio >= 1 else "down dot"
            parts.append(svg.marker("circle", x(dot.ratio), middle + offset, kind, dot.note, 3.6))
        mean = math.exp(sum(math.log(d.ratio) for d in dots) / len(dots))
        parts.append(svg.line(x(mean), middle - 13, x(mean), middle + 13, "mean"))
    return svg.picture("".join(parts), width, bottom + 24, label)


@dataclass(frozen=True)
class Column:
    """One layer: its time, and its kind of convolution."""

    kind: str
    ms: float
    note: str


def columns(values: Sequence[Column], width: int, label: str, axis: str) -> str:
    """Layers in order as columns."""
    narrow = width <= NARROW
    height, left, top, bottom = (200 if narrow else 240), 46, 24, 22
    most = max(c.ms for c in values) * 1.05
    y = Scale(0, most, height - bottom, top, log=False)
    step = (width - left - 4) / len(values)
    parts = [svg.text(4, 14, axis, "axis")]
    for tick in y.ticks(5):
        parts.append(svg.line(left, y(tick), width - 4, y(tick), "grid"))
        parts.append(svg.text(left - 6, y(tick) + 4, number(tick), "tick", "end"))
    for i, column in enumerate(values):
        parts.append(
            svg.element(
                "rect",
                svg.tip(column.note),
                x=left + i * step + step * 0.08,
                y=y(column.ms),
                width=step * 0.84,
                height=max(0.5, y(0) - y(column.ms)),
                class_=f"bar k-{column.kind}",
            )
        )
    parts.append(svg.text((left + width) / 2, height - 4, "layers in order", "axis", "middle"))
    return svg.picture("".join(parts), width, height, label)


@dataclass(frozen=True)
class Work:
    """A point of a roofline: FLOP a byte, GFLOP/s."""

    engine: str
    intensity: float
    gflops: float
    note: str


@dataclass(frozen=True)
class Roof:
    """What one core reaches: GFLOP/s, and GB/s from memory if it was measured."""

    peak: float
    bandwidth: float | None = None
    marks: Mapping[str, str] = field(default_factory=dict)


def roofline(points: Sequence[Work], roof: Roof, width: int, label: str) -> str:
    """Speed over arithmetic intensity, under the machine's limits."""
    narrow = width <= NARROW
    height = 300 if narrow else 400
    left, right, top, bottom = 46, 14, 26, 44
    speeds = [*(p.gflops for p in points), roof.peak]
    x = svg.log_scale([p.intensity for p in points], left, width - right, 1.5)
    y = svg.log_scale(speeds, height - bottom, top, 1.5)
    parts = [svg.text(4, 14, "GFLOP/s", "axis")]
    for tick in y.ticks():
        parts.append(svg.line(left, y(tick), width - right, y(tick), "grid"))
        parts.append(svg.text(left - 6, y(tick) + 4, number(tick), "tick", "end"))
    for tick in x.ticks(5 if narrow else 9):
        parts.append(svg.line(x(tick), top, x(tick), height - bottom, "grid"))
        parts.append(svg.text(x(tick), height - bottom + 18, number(tick), "tick", "middle"))
    parts.append(svg.text((left + width) / 2, height - 6, "FLOP a byte moved", "axis", "middle"))
    line, name = _roof(roof, x, y)
    parts.append(line)
    for p in sorted(points, key=lambda p: p.engine == "edgeconv"):
        mark = svg.marker(palette.shape(p.engine), x(p.intensity), y(p.gflops), "mark", p.note)
        own = " own" if p.engine == "edgeconv" else ""
        parts.append(svg.element("g", mark, class_=f"e e-{p.engine}{own}"))
    parts.append(name)  # above the marks
    return svg.picture("".join(parts), width, height, label)


def _roof(roof: Roof, x: Scale, y: Scale) -> tuple[str, str]:
    """(the line, its name)."""
    peak = min(max(roof.peak, y.low), y.high)
    name = f"multiply-add peak, {number(roof.peak)} GFLOP/s"
    flat = svg.text(x.end, y(peak) - 6, name, "axis halo", "end")
    if roof.bandwidth is None:
        return svg.line(x.start, y(peak), x.end, y(peak), "roof"), flat
    knee = min(max(roof.peak / roof.bandwidth, x.low), x.high)
    first = max(x.low, y.low / roof.bandwidth)
    points = [(x(knee), y(peak)), (x.end, y(peak))]
    if first < knee:
        points.insert(0, (x(first), y(first * roof.bandwidth)))
    return svg.polyline(points, "roof"), flat
