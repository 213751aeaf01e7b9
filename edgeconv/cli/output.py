"""Tables, messages, progress and files: everything commands print or write.

Results go to stdout, all else to stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.text import Text

from edgeconv.cli.logs import is_verbose, logger
from edgeconv.cli.tables import Column, layout, printable
from edgeconv.errors import EdgeconvError

__all__ = [
    "Column",
    "Report",
    "check_output",
    "fields",
    "line",
    "message",
    "plural",
    "printable",
    "progress",
    "replacing",
    "size",
    "table",
    "text",
    "write_json",
]

Report = Callable[[str], None]
"""Says what is being done now."""

_COLOURS = {"note": "cyan", "warning": "yellow", "error": "red"}


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[object]],
    total: Sequence[object] | None = None,
) -> None:
    """Print a table as wide as the terminal allows; see `tables`."""
    console = _stdout()
    width = console.width if sys.stdout.isatty() else None
    for text in layout(columns, rows, total, width):
        console.print(text, soft_wrap=True)


def fields(rows: Sequence[tuple[str, object]]) -> None:
    """Print "name  value" lines, the values aligned."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        line(f"{name:{width}}  {printable(value)}")


def line(text: str = "", *, style: str = "") -> None:
    """Print one line, never broken."""
    _stdout().print(Text(text, style=style), soft_wrap=True)


def _stdout() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


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
    if path.exists() and not path.is_file():
        raise EdgeconvError(f"can't write {path}: it is not a regular file")
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
    path = path.resolve()  # a link stays a link, to a new file
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


def text(content: str) -> None:
    """Print a text as it is."""
    sys.stdout.write(content)


def plural(count: int, word: str) -> str:
    """ "1 layer", "2 layers"."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
