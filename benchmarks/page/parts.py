"""HTML of the page's parts: sections, figures in two widths, tables that sort."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edgeconv.benchmarks.page.palette import ENGINES
from edgeconv.benchmarks.page.svg import NARROW, WIDE, element, escape
from edgeconv.benchmarks.peers import PEERS

Cell = str | tuple[str, float | None]
"""What is shown; with a number, what is sorted by and downloaded."""


@dataclass(frozen=True)
class Figure:
    """A chart.

    Attributes:
        name: unique; the SVG file's name.
        caption: a sentence under it.
        draw: the SVG for a width.
        engines: those of its legend; pressing one hides it.
        kinds: other legend entries, by CSS class.
        unnamed: the drawing itself does not say whose a mark is.
    """

    name: str
    caption: str
    draw: Callable[[int], str]
    engines: Sequence[str] = ()
    kinds: Sequence[str] = ()
    unnamed: bool = False

    def html(self) -> str:
        """Both widths, of which style sheets show one, and the legend."""
        drawn = element("div", self.draw(WIDE), class_="wide") + element(
            "div", self.draw(NARROW), class_="narrow"
        )
        legend = "".join(_key(name) for name in self.engines)
        legend += "".join(
            element("span", f'<i class="k-{kind}"></i>{escape(kind)}', class_="key")
            for kind in self.kinds
        )
        if legend:
            drawn += element("div", legend, class_="legend")
        caption = element("figcaption", escape(self.caption))
        return element("figure", drawn + caption, id=self.name)


def _key(engine: str) -> str:
    swatch = f'<i class="e-{engine}"></i>{escape(PEERS[engine].title)}'
    return element(
        "button", swatch, class_="key", data_engine=engine, type="button", aria_pressed="true"
    )


@dataclass(frozen=True)
class Section:
    """A heading, an explanation, and what follows it."""

    name: str
    title: str
    text: str
    body: str
    figures: Sequence[Figure] = ()

    def html(self) -> str:
        """As one <section>."""
        figures = "".join(figure.html() for figure in self.figures)
        heading = element("h2", escape(self.title)) + element("p", escape(self.text))
        return element("section", heading + figures + self.body, id=self.name)


def table(
    name: str, titles: Sequence[str], rows: Iterable[Sequence[Cell]], *, note: str = ""
) -> str:
    """A table with buttons in its head that sort it, and one that downloads it as CSV."""
    head = "".join(
        element("th", element("button", escape(t), type="button"), scope="col") for t in titles
    )
    body = "".join(element("tr", "".join(map(_cell, row))) for row in rows)
    made = element("table", f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>", data_name=name)
    button = element("button", "CSV", class_="csv", type="button", title=f"Download {name}.csv")
    bar = element("div", element("span", escape(note)) + button, class_="bar")
    return element("div", bar + element("div", made, class_="scroll"), class_="data")


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return element("td", escape(cell), class_="n" if _NUMBER.fullmatch(cell) else None)
    shown, value = cell
    return element("td", escape(shown), class_="n", data_v="" if value is None else repr(value))


_NUMBER = re.compile(r"[-–]?[\d.,]*%?( to [\d.]+)?")


def folded(title: str, body: str) -> str:
    """Something that opens when it is pressed."""
    return element("details", element("summary", escape(title)) + body)


def cards(items: Sequence[tuple[str, str]]) -> str:
    """Large numbers with a line of text under each."""
    made = "".join(
        element("div", element("b", escape(value)) + element("span", escape(text)), class_="card")
        for value, text in items
    )
    return element("div", made, class_="cards")


def known(engines: Iterable[str]) -> list[str]:
    """Engines in their fixed order, each once."""
    given = set(engines)
    return [name for name in ENGINES if name in given]
