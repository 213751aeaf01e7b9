"""Charts as SVG files for READMEs: a panel of their own, so that they can be read on any page."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeconv.benchmarks.page import palette, style, svg
from edgeconv.benchmarks.page.parts import Figure, Section
from edgeconv.benchmarks.page.svg import WIDE, element
from edgeconv.benchmarks.peers import PEERS

_EDGE = 16  # around the drawing
_ROW = 20  # height of a row of the legend
_LETTER = 6.6  # mean width at the legend's size


@dataclass(frozen=True)
class Chart:
    """An SVG file.

    Attributes:
        file: its name.
        caption: a sentence or two.
        drawing: the content.
        section: name of the page's section that it belongs to.
        title: of that section.
    """

    file: str
    caption: str
    drawing: str
    section: str
    title: str


def charts(sections: Sequence[Section]) -> list[Chart]:
    """All figures of a page in order."""
    return [
        Chart(f"{figure.name}.svg", figure.caption, standalone(figure), section.name, section.title)
        for section in sections
        for figure in section.figures
    ]


def standalone(figure: Figure) -> str:
    """The drawing on a panel, with colours for light and dark, and a legend where marks have no
    names.
    """
    drawn = _DRAWING.fullmatch(figure.draw(WIDE))
    assert drawn is not None
    width, height = WIDE + 2 * _EDGE, float(drawn["height"]) + 2 * _EDGE
    legend = ""
    if figure.unnamed:
        legend, rows = _legend(figure, height)
        height += rows * _ROW + _EDGE / 2
    rules = f"{style.of_charts()}svg.chart{{width:{width}px;height:{height:g}px}}"
    panel = element("rect", width=width, height=height, rx=12, class_="panel")
    moved = element("g", drawn["content"], transform=f"translate({_EDGE} {_EDGE})")
    content = element("style", rules) + panel + moved + legend
    return svg.picture(content, width, height, html.unescape(drawn["label"]), sized=True) + "\n"


_DRAWING = re.compile(
    r'<svg viewBox="0 0 \S+ (?P<height>\S+)" role="img" aria-label="(?P<label>[^"]*)"[^>]*>'
    r"(?P<content>.*)</svg>",
    re.DOTALL,
)


def _legend(figure: Figure, top: float) -> tuple[str, int]:
    """(marks and their names below `top`, rows)."""
    entries: list[tuple[dict[str, Any], str, str]] = [
        ({"class_": f"e-{name}"}, palette.shape(name), PEERS[name].title) for name in figure.engines
    ]
    entries += [({"class_": f"k-{kind}"}, "square", kind) for kind in figure.kinds]
    x, row, parts = float(_EDGE), 0, []
    for attributes, shape, title in entries:
        wide = 26 + _LETTER * len(title)
        if x + wide > WIDE + _EDGE and x > _EDGE:
            x, row = float(_EDGE), row + 1
        y = top + row * _ROW
        mark = svg.marker(shape, x + 6, y, "mark", title)
        parts.append(element("g", mark + svg.text(x + 16, y + 4, title, "tick"), **attributes))
        x += wide
    return "".join(parts), row + 1
