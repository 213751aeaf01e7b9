"""SVG as text: elements, scales and ticks. Colours are CSS classes, so that themes apply."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDE, NARROW = 760, 360  # widths of a chart in CSS pixels: on a screen, on a phone


def escape(text: object) -> str:
    """Safe inside elements and attributes."""
    return html.escape(str(text), quote=True)


def element(name: str, content: str = "", **attributes: object) -> str:
    """<name …>content</name>; `class_` becomes class, underscores become hyphens."""
    parts = [
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    ]
    return f"<{name}{''.join(parts)}>{content}</{name}>"


def _value(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escape(value)


def text(x: float, y: float, content: object, kind: str = "", anchor: str = "start") -> str:
    """One line of text."""
    place = None if anchor == "start" else anchor
    return element("text", escape(content), x=x, y=y, class_=kind or None, text_anchor=place)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def polyline(points: Sequence[tuple[float, float]], kind: str) -> str:
    """Connected points."""
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("polyline", points=joined, class_=kind)


def tip(content: object) -> str:
    """What a pointer that rests on an element reads."""
    return element("title", escape(content))


def marker(shape: str, x: float, y: float, kind: str, note: str, size: float = 4.2) -> str:
    """A small shape at a point: engines differ by shape too, not only by colour."""
    title = tip(note)
    corners = _CORNERS.get(shape)
    if corners is None:
        return element("circle", title, cx=x, cy=y, r=size, class_=kind)
    points = " ".join(f"{x + size * 0.9 * a:.1f},{y + size * 0.9 * b:.1f}" for a, b in corners)
    return element("polygon", title, points=points, class_=kind)


_CORNERS: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "diamond": ((0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)),
    "up": ((0, -1.3), (1.2, 1), (-1.2, 1)),
    "down": ((0, 1.3), (1.2, -1), (-1.2, -1)),
    "bar": ((-1.4, -0.6), (1.4, -0.6), (1.4, 0.6), (-1.4, 0.6)),
}


def picture(content: str, width: float, height: float, label: str, *, sized: bool = False) -> str:
    """The whole drawing, scaled to the space it gets; `sized`: of its own size."""
    return element(
        "svg",
        content,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
        class_="chart",
        width=f"{width:g}" if sized else None,
        height=f"{height:g}" if sized else None,
        xmlns="http://www.w3.org/2000/svg",
    )


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` … `high` to pixels from `start` … `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = True

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 7) -> list[float]:
        """Round values inside, at most so many if that can be."""
        if not self.log:
            step = _round_step((self.high - self.low) / most)
            first = math.ceil(self.low / step - 1e-9)
            last = math.floor(self.high / step + 1e-9)
            return [n * step for n in range(first, last + 1)]
        for parts in ((1, 2, 5), (1, 3), (1,)):
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [p * 10.0**d for d in decades for p in parts]
            inside = [v for v in found if self.low * 0.999 <= v <= self.high * 1.001]
            if len(inside) <= most:
                return inside
        every = math.ceil(len(inside) / most)
        return inside[::every]


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least * 0.999)


def log_scale(values: Sequence[float], start: float, end: float, room: float = 1.15) -> Scale:
    """A logarithmic scale around positive values."""
    low, high = min(values) / room, max(values) * room
    return Scale(low, high, start, end)


def number(value: float) -> str:
    """Three digits, without trailing zeros or an exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    short = f"{value:,.{digits}f}"
    return short.rstrip("0").rstrip(".") if "." in short else short


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, in the same order, at least `gap` apart if there is room."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [wanted[i] for i in order]
    for k in range(1, len(placed)):
        placed[k] = max(placed[k], placed[k - 1] + gap)
    if placed and placed[-1] > high:
        placed[-1] = high
        for k in range(len(placed) - 2, -1, -1):
            placed[k] = min(placed[k], placed[k + 1] - gap)
    found = [0.0] * len(wanted)
    for k, i in enumerate(order):
        found[i] = max(placed[k], low)
    return found
