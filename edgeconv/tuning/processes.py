"""Child processes that may crash or hang without taking the tuner with them."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection
from typing import IO, Any

from edgeconv.errors import EdgeconvError

_LENGTH = struct.Struct("<Q")
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from edgeconv.tuning.processes import serve; serve()"
)


class ProcessFailed(EdgeconvError):
    """A call in a child process did not return.

    Attributes:
        note: what the call said last; None if nothing.
    """

    def __init__(self, message: str, note: Any = None) -> None:
        super().__init__(message)
        self.note = note


class Crashed(ProcessFailed):
    """The process died."""


class Hung(ProcessFailed):
    """It gave no sign of life in time, and was killed."""


class Raised(ProcessFailed):
    """The call raised an exception; the message is its last line."""


class Process:
    """A process that calls functions of importable modules, one at a time.

    Args:
        cores: the CPUs it may use; None: those this process may use.
        setup: called in every new process, before all else, with its arguments.
    """

    def __init__(
        self, cores: Collection[int] | None = None, setup: tuple[Any, ...] | None = None
    ) -> None:
        self._cores, self._setup = cores, setup
        self._child: subprocess.Popen[bytes] | None = None
        self._words: IO[bytes] | None = None
        self._failure: ProcessFailed | None = None  # to start

    def call(self, timeout: float, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns there; `timeout` seconds may pass between two signs of life.

        A function that takes a keyword `note` can send such signs.

        Raises:
            ProcessFailed: it crashed, hung, or raised an exception. The next call gets a new one.
        """
        self.send(function, *arguments)
        return self.receive(timeout)

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Begin a call; `receive` ends it."""
        self._failure = None
        try:
            if self._child is None:
                self._start()
            self._write((function, arguments))
        except ProcessFailed as error:
            self._failure = error

    def receive(self, timeout: float) -> Any:
        """The result of the call that was begun; see `call`."""
        if self._failure is not None:
            raise self._failure
        note = None
        while True:
            try:
                kind, value = self._read(time.monotonic() + timeout)
            except TimeoutError:
                self.close()
                raise Hung(f"no answer within {timeout:.0f} s", note) from None
            except (EOFError, OSError):
                raise Crashed(self._last_words(), note) from None
            if kind == "note":
                note = value
            elif kind == "raised":
                self.close()
                raise Raised(value, note)
            else:
                return value

    def close(self) -> None:
        """End the process, whatever it is doing."""
        child, self._child = self._child, None
        if child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            for stream in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    if stream is not None:
                        stream.close()
        if self._words is not None:
            self._words.close()
            self._words = None

    def _start(self) -> None:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes it)
        self._child = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            start_new_session=True,  # Ctrl-C is the tuner's business
        )
        self._write((os.getpid(), None if self._cores is None else sorted(self._cores)))
        if self._setup is not None:
            self._write((self._setup[0], self._setup[1:]))
            self.receive(120)

    def _write(self, message: object) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        data = pickle.dumps(message)
        try:
            self._child.stdin.write(_LENGTH.pack(len(data)) + data)
            self._child.stdin.flush()
        except OSError:
            pass  # it is dead, which `receive` finds out

    def _read(self, deadline: float) -> Any:
        (length,) = _LENGTH.unpack(self._bytes(_LENGTH.size, deadline))
        return pickle.loads(self._bytes(length, deadline))

    def _bytes(self, count: int, deadline: float) -> bytes:
        assert self._child is not None
        assert self._child.stdout is not None
        stream, parts = self._child.stdout.fileno(), []
        while count:
            ready, _, _ = select.select([stream], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            part = os.read(stream, min(count, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _last_words(self) -> str:
        """How the process died, and the last line it printed."""
        assert self._child is not None
        try:
            status = self._child.wait(5)
        except subprocess.TimeoutExpired:
            status = 0
        line = b""
        if self._words is not None:
            self._words.seek(0)
            line = (self._words.read().strip().splitlines() or [b""])[-1]
        self.close()
        how = f"exit status {status}"
        if status < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-status).name
        text = line.decode(errors="replace")[:200]
        return f"the process died ({how})" + (f": {text}" if text else "")


def serve() -> None:
    """What runs in the child: calls until the parent goes away."""
    stream_in = os.fdopen(os.dup(0), "rb")
    stream_out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what native code prints must not end up among the answers

    def read() -> Any:
        head = stream_in.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            os._exit(0)
        return pickle.loads(stream_in.read(_LENGTH.unpack(head)[0]))

    def write(kind: str, value: object) -> None:
        data = pickle.dumps((kind, value))
        stream_out.write(_LENGTH.pack(len(data)) + data)
        stream_out.flush()

    parent, cores = read()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    if cores is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    while True:
        function, arguments = read()
        takes_note = "note" in function.__code__.co_varnames[: function.__code__.co_argcount]
        more = {"note": lambda value: write("note", value)} if takes_note else {}
        try:
            result = function(*arguments, **more)
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines()
            write("raised", f"{type(error).__name__}: {lines[-1] if lines else 'no message'}")
        else:
            write("done", result)
