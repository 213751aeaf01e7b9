"""Servers and trackers on this machine, and libraries that crash or never return."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import edgeconv
from edgeconv import targets
from edgeconv.artifact import Artifact
from edgeconv.device.trial import small_convolution
from edgeconv.linking import find_linker

ROOT = Path(__file__).resolve().parents[2]
START = 60.0  # seconds a server may take to listen; emulated ones need some ten

# What a compiled network is to the runtime: `main`, called with packed arguments.
_LIBRARY = """
#include <unistd.h>
int __tvm_ffi_main(void *self, const void *arguments, int count, void *result) {{
  {body}
  return 0;
}}
int __tvm_ffi_fine(void *self, const void *arguments, int count, void *result) {{ return 0; }}
"""
BODIES = {"spin": "for (;;) usleep(1000);", "crash": "*(volatile int *)0 = 1;"}


class Process:
    """A server or tracker; the context ends it, and everything it started."""

    def __init__(
        self,
        *arguments: str,
        program: Sequence[str] = (sys.executable, "-m", "edgeconv.device"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = [*program, *arguments]
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        self.port = 0

    def __enter__(self) -> Process:
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            self.command,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=ROOT,
            env=self.environment,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START)
        line = self.process.stdout.readline() if ready else ""
        if not line.startswith("listening at "):
            self.end(signal.SIGKILL)
            raise AssertionError(f"no server: {line}{self.said()}")
        self.port = int(line.rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGTERM)
        self.log.close()

    def end(self, number: int) -> None:
        """Send a signal, wait, close; what does not go in 10 s is killed, and a failure."""
        assert self.process.stdout is not None
        self.process.send_signal(number)
        try:
            self.process.wait(10)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process.stdout.close()

    def said(self) -> str:
        """What it wrote to stderr."""
        self.log.seek(0)
        return self.log.read()


@contextlib.contextmanager
def server(*arguments: str, **options: object) -> Iterator[Process]:
    """A server at a free port."""
    with Process("--port", "0", *arguments, **options) as process:  # type: ignore[arg-type]
        yield process


@contextlib.contextmanager
def tracker(*arguments: str) -> Iterator[Process]:
    """A tracker at a free port."""
    program = (sys.executable, "-m", "edgeconv", "device", "tracker", "--port", "0")
    with Process(*arguments, program=program) as process:
        yield process


def registered(port: int, key: str, free: int = 1) -> None:
    """Wait until the tracker has so many free boards of the key."""
    from edgeconv.device.address import Address
    from edgeconv.device.lending import groups

    def there() -> bool:
        found = {g.key: g.free for g in groups(Address("rpc", "127.0.0.1", port), 5)}
        return found.get(key, 0) >= free

    until(there)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition; fail when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def processes(text: str) -> set[int]:
    """Processes whose command line has this text."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text.encode() in path.read_bytes():
                found.add(int(path.parent.name))
    return found


def children(process: int) -> set[int]:
    """Processes that this one started and that still are."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == process and state != "Z":
                found.add(int(path.parent.name))
    return found


@functools.cache
def network() -> Artifact:
    """One small convolution, for this machine."""
    artifact = edgeconv.compile_artifact(small_convolution().model, threads=1)
    return replace(artifact, module=None, shared_library=artifact.linked())


@functools.cache
def broken(kind: str) -> Artifact:
    """The same network whose code never returns ("spin") or crashes ("crash")."""
    linker = find_linker(targets.host())
    assert linker is not None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "net.c"), Path(folder, "net.so")
        source.write_text(_LIBRARY.format(body=BODIES[kind]), encoding="utf-8")
        command = [*linker, "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        return replace(network(), shared_library=library.read_bytes())
