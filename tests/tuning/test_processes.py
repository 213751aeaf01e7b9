"""Child processes: what they return, and how they fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeconv.tuning.processes import Crashed, Hung, Process, ProcessFailed, Raised
from tests.tuning import children

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    made = Process()
    yield made
    made.close()


def test_a_result(process: Process) -> None:
    assert process.call(60, children.double, 21) == 42
    assert process.call(60, children.double, b"x" * 3_000_000) == b"x" * 6_000_000


def test_printing_does_no_harm(process: Process) -> None:
    assert process.call(60, children.shout) == "done"


def test_an_exception_and_a_new_process(process: Process) -> None:
    with pytest.raises(Raised, match="ValueError: no good") as caught:
        process.call(60, children.fail_after_note, "here")
    assert caught.value.note == "here"
    assert process.call(60, children.double, 1) == 2


def test_a_crash(process: Process) -> None:
    with pytest.raises(Crashed, match="SIGSEGV") as caught:
        process.call(60, children.crash, "before")
    assert caught.value.note == "before"
    assert process.call(60, children.double, 1) == 2


def test_last_words(process: Process) -> None:
    with pytest.raises(Crashed, match=r"exit status 3.*: something is broken"):
        process.call(60, children.exit_with_words)


def test_a_hang_in_native_code(process: Process) -> None:
    """With the interpreter's lock held, as a kernel may hold it."""
    begin = time.monotonic()
    with pytest.raises(Hung, match="no answer within 1 s"):
        process.call(1, children.hang_in_native_code)
    assert time.monotonic() - begin < 20


def test_signs_of_life_are_enough(process: Process) -> None:
    assert process.call(60, children.double, 1) == 2  # it has started
    assert process.call(0.8, children.slow_with_notes) == "done"


def test_setup_is_called_in_every_new_process() -> None:
    process = Process(setup=(children.remember, "x"))
    assert process.call(60, children.recall) == "x"
    with pytest.raises(ProcessFailed):
        process.call(60, children.crash, "")
    assert process.call(60, children.recall) == "x"
    process.close()


def test_a_setup_that_fails() -> None:
    process = Process(setup=(children.fail_after_note_free,))
    for _ in range(2):
        with pytest.raises(Raised, match="no board") as caught:
            process.call(60, children.recall)
        assert caught.value.note is None
    process.close()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_cores() -> None:
    core = max(os.sched_getaffinity(0))
    process = Process([core])
    assert process.call(60, children.cores) == {core}
    process.close()


def test_children_die_with_their_parent() -> None:
    """Also when that is killed while they are busy."""
    code = (
        "from edgeconv.tuning.processes import Process\n"
        "from tests.tuning import children\n"
        "p = Process(); print(p.call(60, children.pid), flush=True)\n"
        "p.call(60, children.hang_in_native_code)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not _lives(child):
            break
        time.sleep(0.1)
    assert not _lives(child)


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
