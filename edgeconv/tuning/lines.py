"""Files of lines that several processes append to, and that survive a process killed in between."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LONGEST = 1 << 20  # bytes of a line
LARGEST = 1 << 30  # bytes of a file


def read_lines(path: Path, *, held: bool = False) -> tuple[list[bytes], str | None]:
    """The lines of a file, a last one without its end included; or why it can't be read. `held`:
    the caller holds its lock.
    """
    try:
        if not path.is_file():
            return [], "not a regular file"
        if path.stat().st_size > LARGEST:
            return [], f"larger than {LARGEST >> 20} MiB"
        with path.open("rb") as file:
            if not held:  # a line that is being appended is not seen in part
                fcntl.flock(file, fcntl.LOCK_SH)
            data = file.read()
    except OSError as error:
        return [], f"can't be read: {error.strerror or error}"
    return data.removesuffix(b"\n").split(b"\n") if data else [], None


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file open for appending, and nobody else writing to it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                current = os.stat(path)
            except FileNotFoundError:
                continue
            own = os.fstat(file)
            if (own.st_ino, own.st_dev) == (current.st_ino, current.st_dev):
                yield file
                return
        finally:  # `rewrite` has put another file here meanwhile: open that one
            os.close(file)


def append_line(path: Path, line: str) -> None:
    """Append a line in one write, and have it on the disk; a torn line before it stays alone.

    Raises:
        OSError: it can't be written; the file is then as before.
    """
    if "\n" in line:
        raise ValueError("a line within a line")
    with _locked(path) as file:
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        data = ("\n" * torn + line + "\n").encode()
        try:
            written = os.write(file, data)
            if written != len(data):
                raise OSError(28, "no space left on the device")
        except OSError:
            os.ftruncate(file, size)
            raise
        os.fsync(file)


def rewrite(path: Path, keep: Sequence[bytes], known: Sequence[bytes]) -> None:
    """Replace the lines of a file, which were `known` when they were read.

    Lines appended since are kept. Readers see the old file or the new one; a file without a line
    left is removed.

    Raises:
        OSError: it can't be written; the file is then as before.
    """
    with _locked(path):
        now, problem = read_lines(path, held=True)
        if problem is not None:
            raise OSError(problem)
        if now[: len(known)] != list(known):
            raise OSError("another program has changed it meanwhile")
        lines = [*keep, *now[len(known) :]]
        if not lines:
            os.unlink(path)
            return
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}-", delete=False
        ) as new:
            try:
                new.write(b"".join(line + b"\n" for line in lines))
                new.flush()
                os.fsync(new.fileno())
                os.chmod(new.name, 0o644)
                os.replace(new.name, path)
            except BaseException:
                os.unlink(new.name)
                raise
