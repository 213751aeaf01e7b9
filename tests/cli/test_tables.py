"""Tables at every width, and where output goes."""

from __future__ import annotations

import io
import re
import sys

import pytest

from edgeconv.cli import output as out
from edgeconv.cli.tables import Column, layout

COLUMNS = [
    Column("#", number=True),
    Column("Layer"),
    Column("ms", number=True),
    Column("Knobs", drop=2),
    Column("Schedule", drop=1),
]
ROWS = [
    (1, "features/first/block/conv", "1.5000", "lanes=16 rows=2 columns=12", "grouped"),
    (2, "last", "123.2500", "", "expression"),
]
TOTAL = ("", "total", "124.7500", "", "")


def lines(width: int | None, columns=COLUMNS, rows=ROWS, total=TOTAL) -> list[str]:
    return [text.plain for text in layout(columns, rows, total, width)]


def test_without_a_width_everything_is_there() -> None:
    assert lines(None) == [
        "#  Layer                            ms  Knobs                       Schedule",
        "1  features/first/block/conv    1.5000  lanes=16 rows=2 columns=12  grouped",
        "2  last                       123.2500                              expression",
        "   total                      124.7500",
    ]


def test_columns_give_way_in_their_order() -> None:
    assert "Schedule" in lines(60)[0]
    assert "Knobs" not in lines(60)[0]
    assert lines(60)[-1] == "(too narrow for: Knobs; a pipe gets all columns)"
    assert lines(30)[1] == "1  features…ock/conv    1.5000"


@pytest.mark.parametrize("width", range(24, 100, 4))
def test_numbers_stay_whole(width: int) -> None:
    shown = lines(width)
    assert max(map(len, shown)) <= width
    assert "123.2500" in "\n".join(shown)
    assert "124.7500" in "\n".join(shown)


def test_columns_below_the_row() -> None:
    columns = [Column("Layer"), Column("Why", below=True)]
    rows = [("conv", "because it is by far the fastest of them"), ("pool", "")]
    assert lines(None, columns, rows, None)[1] == f"conv   {rows[0][1]}"
    assert lines(30, columns, rows, None) == [
        "Layer",
        "conv",
        "    Why  because it is by far",
        "         the fastest of them",
        "pool",
    ]


def test_the_last_column_wraps() -> None:
    columns = [Column("Check"), Column("Found", wrap=True)]
    rows = [("cores", "two of them, with a name-longer-than-twenty-columns")]
    assert lines(27, columns, rows, None) == [
        "Check  Found",
        "cores  two of them, with a",
        "       name-longer-than-twe",
        "       nty-columns",
    ]


def test_wide_characters_are_aligned() -> None:
    shown = lines(None, [Column("名"), Column("n", number=True)], [("層", 1), ("ab", 22)], None)
    assert shown == ["名   n", "層   1", "ab  22"]


def test_an_empty_table_has_its_header() -> None:
    assert lines(None, rows=[], total=None) == ["#  Layer  ms  Knobs  Schedule"]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_what_fits(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", _Terminal())
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("TERM", "xterm")
    out.table(COLUMNS, ROWS, TOTAL)
    text = re.sub(r"\x1b\[[0-9;]*m", "", sys.stdout.getvalue())  # type: ignore[attr-defined]
    assert "too narrow for: Knobs" in text
    assert max(map(len, text.splitlines())) <= 50


def test_a_pipe_gets_everything_on_one_line_each(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    out.table(COLUMNS, ROWS, TOTAL)
    assert capsys.readouterr().out.splitlines() == lines(None)
    out.line("words " * 50)
    assert capsys.readouterr().out.count("\n") == 1


def test_progress_is_silent_where_nobody_watches(capsys) -> None:
    with out.progress("working") as report:
        report("still working")
    assert capsys.readouterr() == ("", "")


def test_progress_goes_to_stderr(capsys, monkeypatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with out.progress("working"):
        pass
    assert "working" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_messages_are_not_markup(capsys) -> None:
    out.message("error", "shape [1, 2] of [bold]x[/bold]\n\x1b[31m")
    assert capsys.readouterr().err == "error: shape [1, 2] of [bold]x[/bold]\n\\x1b[31m\n"
