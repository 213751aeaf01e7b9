"""Tables: aligned columns that fit the terminal, or complete ones where nobody counts columns.

On a terminal that is too narrow, a table first puts its `below` columns on lines of their own under
each row, then drops its `drop` columns, then shortens texts in the middle. Into a pipe or a file
goes every cell, whole, each row on one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells
from rich.text import Text

GAP = 2
SHORTEST = 10  # columns; a text cell is not cut below this
_COLOURS = {"ok": "green", "warning": "yellow", "fault": "bold red"}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: header, with the unit.
        number: right-aligned and never shortened.
        below: goes under the row when the terminal is too narrow.
        drop: is left out when the terminal is too narrow, the highest first; 0: never.
        wrap: where it is the last one, continues on the next line instead of being shortened.
    """

    title: str
    number: bool = False
    below: bool = False
    drop: int = 0
    wrap: bool = False


def printable(text: object) -> str:
    """`text` with control characters escaped: names come from files of unknown origin."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def layout(
    columns: Sequence[Column],
    rows: Sequence[Sequence[object]],
    total: Sequence[object] | None = None,
    width: int | None = None,
) -> list[Text]:
    """The lines of a table no wider than `width`, if that can be; `total` is a last, bold row."""
    texts = [[printable(c) for c in row] for row in [*rows, *([total] if total else [])]]
    natural = [
        max([cell_len(column.title), *(cell_len(row[i]) for row in texts)])
        for i, column in enumerate(columns)
    ]
    kept, below, dropped = _choose(columns, natural, width)
    widths = _shrink(columns, kept, natural, width)
    lines = [_line([columns[i].title for i in kept], columns, kept, widths, "bold")]
    for number, row in enumerate(texts):
        style = "bold" if number == len(rows) else ""
        cells = [row[i] for i in kept]
        for part in _wrapped(cells, columns[kept[-1]], widths[-1]):
            lines.append(_line(part, columns, kept, widths, style))
        lines += _below(row, columns, below, width)
    if dropped:
        names = ", ".join(columns[i].title for i in dropped)
        note = f"(too narrow for: {names}; a pipe gets all columns)"
        lines += [Text(part, style="dim") for part in _fold(note, width or len(note))]
    return lines


def _choose(
    columns: Sequence[Column], natural: Sequence[int], width: int | None
) -> tuple[list[int], list[int], list[int]]:
    """Columns to keep, to put below, and to drop."""
    kept, below, dropped = list(range(len(columns))), [], []

    def fits() -> bool:
        if width is None:
            return True
        sizes = [natural[i] for i in kept]
        if columns[kept[-1]].wrap:
            sizes[-1] = min(sizes[-1], _least_wrapped(width))
        return sum(sizes) + GAP * (len(sizes) - 1) <= width

    if any(c.below for c in columns) and not fits():
        below = [i for i in kept if columns[i].below]
        kept = [i for i in kept if not columns[i].below]
    for index in sorted(kept, key=lambda i: -columns[i].drop):
        if columns[index].drop and not fits():
            kept.remove(index)
            dropped.append(index)
    return kept, below, sorted(dropped)


def _shrink(
    columns: Sequence[Column], kept: Sequence[int], natural: Sequence[int], width: int | None
) -> list[int]:
    """Widths of the kept columns: the widest text gives way first."""
    widths = [natural[i] for i in kept]
    if width is None:
        return widths
    excess = sum(widths) + GAP * (len(widths) - 1) - width
    if excess > 0 and columns[kept[-1]].wrap:
        cut = max(0, min(excess, widths[-1] - _least_wrapped(width)))
        widths[-1] -= cut
        excess -= cut
    while excess > 0:
        soft = [k for k, i in enumerate(kept) if not columns[i].number and widths[k] > SHORTEST]
        if not soft:
            break
        widths[max(soft, key=lambda k: widths[k])] -= 1
        excess -= 1
    return widths


def _least_wrapped(width: int) -> int:
    """Columns a wrapped cell gets at least."""
    return max(2 * SHORTEST, width // 3)


def _wrapped(cells: list[str], last: Column, width: int) -> list[list[str]]:
    """The cells of the lines one row takes: more than one where the last cell wraps."""
    if not last.wrap or cell_len(cells[-1]) <= width:
        return [cells]
    parts = _fold(cells[-1], width)
    blank = [""] * (len(cells) - 1)
    return [[*(cells[:-1] if k == 0 else blank), part] for k, part in enumerate(parts)]


def _fold(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width`, broken between words where that's possible."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(joined) <= width:
            lines[-1] = joined
        else:
            pieces = chop_cells(word, width) or [""]
            lines[-1:] = [lines[-1], *pieces] if lines[-1] else pieces
    return lines


def _below(
    row: Sequence[str], columns: Sequence[Column], below: Sequence[int], width: int | None
) -> list[Text]:
    indent = 4
    size = max([0, *(cell_len(columns[i].title) for i in below)])
    lines = []
    for i in below:
        if row[i]:
            for k, part in enumerate(
                _fold(row[i], max(SHORTEST, (width or 80) - indent - size - GAP))
            ):
                title = columns[i].title if k == 0 else ""
                lines.append(
                    Text.assemble(" " * indent, (f"{title:{size}}", "dim"), " " * GAP, part)
                )
    return lines


def _line(
    cells: Sequence[str],
    columns: Sequence[Column],
    kept: Sequence[int],
    widths: Sequence[int],
    style: str,
) -> Text:
    line = Text(style=style)
    for place, (cell, i, width) in enumerate(zip(cells, kept, widths, strict=True)):
        text = _cut(cell, width)
        blanks = " " * (width - cell_len(text))
        if columns[i].number:
            line.append(blanks)
        line.append(text, style=_COLOURS.get(text, ""))
        if not columns[i].number:
            line.append(blanks)
        if place + 1 < len(kept):
            line.append(" " * GAP)
    line.rstrip()
    return line


def _cut(text: str, width: int) -> str:
    """`text` with its middle left out, where it's too long: names differ at either end."""
    if cell_len(text) <= width:
        return text
    tail = (width - 1) // 2
    head = width - 1 - tail
    short = text[:head] + "…" + (text[-tail:] if tail else "")
    return short if cell_len(short) <= width else chop_cells(text, width)[0]
