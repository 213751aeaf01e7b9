"""Tables, messages, progress and files: everything commands print or write.

Results go to stdout, all else to stderr. A terminal gets tables that fit it; a pipe or a file gets
plain text, each row on one line however long.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeconv.cli.logs import is_verbose, logger
from edgeconv.errors import EdgeconvError

Report = Callable[[str], None]
"""Says what is being done now."""

_WIDE = 100_000  # columns where nobody counts them
_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red", "fault": "red"}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: header, with the unit.
        number: right-aligned and never shortened.
        wrap: continues on the next line where the terminal is narrow, instead of being cut.
    """

    title: str
    number: bool = False
    wrap: bool = False


def printable(text: object) -> str:
    """`text` with control characters escaped: names come from files of unknown origin."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[object]],
    total: Sequence[object] | None = None,
) -> None:
    """Print a table; cells that say ok, warning or fault are coloured. `total` is a last row."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    shown = [[printable(c) for c in row] for row in [*rows, *([total] if total else [])]]
    for index, column in enumerate(columns):
        least = max([len(column.title), *(len(row[index]) for row in shown)])
        grid.add_column(
            column.title,
            justify="right" if column.number else "left",
            min_width=least if column.number else None,
            overflow="fold" if column.wrap else "ellipsis",
        )
    for number, row in enumerate(shown):
        cells = [_cell(text, column) for text, column in zip(row, columns, strict=True)]
        grid.add_row(*cells, style="bold" if number == len(rows) else None)
    show(grid)


def _cell(text: str, column: Column) -> Text:
    if column.wrap:
        return Text(text, style=_COLOURS.get(text, ""))
    return Text(text, style=_COLOURS.get(text, ""), no_wrap=True, overflow="ellipsis")


def fields(rows: Sequence[tuple[str, object]]) -> None:
    """Print "name  value" lines, the values aligned."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        line(f"{name:{width}}  {printable(value)}")


def line(text: str = "", *, style: str = "") -> None:
    """Print one line, never broken."""
    _stdout().print(Text(text, style=style), soft_wrap=True)


def show(renderable: object) -> None:
    """Print something of rich's; without trailing blanks where it isn't a terminal."""
    console = _stdout()
    if sys.stdout.isatty():
        console.print(renderable)
        return
    with console.capture() as capture:
        console.print(renderable)
    text = "\n".join(part.rstrip() for part in capture.get().splitlines())
    sys.stdout.write(text + "\n")


def _stdout() -> Console:
    width = None if sys.stdout.isatty() else _WIDE
    return Console(width=width, highlight=False, markup=False, emoji=False)


def write_json(data: object) -> None:
    """Print JSON, and nothing else."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")


def message(kind: str, text: str) -> None:
    """Print "kind: text" on stderr."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    lines = "\n".join(printable(part) for part in text.splitlines())
    console.print(Text.assemble((f"{kind}:", f"bold {_COLOURS[kind]}"), " ", lines), soft_wrap=True)


@contextlib.contextmanager
def progress(text: str) -> Iterator[Report]:
    """A spinner with a text on stderr, where that is a terminal; yields what changes the text."""
    logger.info(text)
    if is_verbose() or not sys.stderr.isatty():
        yield logger.info
        return
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    with console.status(Text(text)) as status:
        yield lambda new: status.update(Text(printable(new)))


def check_output(path: Path, sources: Sequence[Path] = ()) -> None:
    """Refuse early what can't be written, before minutes are spent on it.

    Raises:
        EdgeconvError: a folder, in no folder, not writable, or one of `sources`.
    """
    if path.is_dir():
        raise EdgeconvError(f"can't write {path}: it is a folder; name a file")
    folder = path.parent
    if not folder.is_dir():
        raise EdgeconvError(f"can't write {path}: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise EdgeconvError(f"can't write {path}: the folder {folder} is not writable")
    for source in sources:
        with contextlib.suppress(OSError):
            if path.samefile(source):
                raise EdgeconvError(f"can't write {path}: it is an input; name another output")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when it is complete, and vanishes on an exception.

    Raises:
        EdgeconvError: it can't be written.
    """
    temporary: Path | None = None
    try:
        try:
            with tempfile.NamedTemporaryFile(
                dir=path.parent, prefix=f".{path.name}-", delete=False
            ) as file:
                temporary = Path(file.name)
                yield file
            temporary.chmod(0o644)
            temporary.replace(path)
        except OSError as error:
            raise EdgeconvError(f"can't write {path}: {error.strerror or error}") from error
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise


def size(count: int) -> str:
    """A number of bytes in KiB or MiB."""
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


def plural(count: int, word: str) -> str:
    """ "1 layer", "2 layers"."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
