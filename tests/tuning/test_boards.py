"""Tuning on boards: servers on this machine, and what happens when they fail meanwhile."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Iterator

import pytest

from edgeconv.layout import Layout
from edgeconv.tuning import runner as runner_module
from edgeconv.tuning.bench import Plan
from edgeconv.tuning.candidates import Candidate, space
from edgeconv.tuning.runner import DeviceLost, ProcessRunner
from edgeconv.workload import Conv2d, ConvTask
from tests.device.boards import Process, registered, server, tracker
from tests.tuning.making import device

HOST = device("host")
TASK = ConvTask(Conv2d(1, 16, 6, 6, 16, (1, 1)), Layout(16), Layout(16))
PLAN = Plan(rounds=2, block_s=1e-4)

pytestmark = pytest.mark.slow


@functools.cache
def candidates() -> list[Candidate]:
    return space(TASK, HOST, exact=False)[:9]


@contextlib.contextmanager
def boards(count: int) -> Iterator[tuple[str, list[Process]]]:
    """A tracker with so many servers of one key: (address, servers)."""
    pytest.importorskip("tornado")
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(tracker())
        place = f"127.0.0.1:{found.port}"
        started = [
            stack.enter_context(server("--tracker", place, "--key", "board")) for _ in range(count)
        ]
        registered(found.port, "board", count)
        yield f"rpc://{place}/board", started


@pytest.fixture(autouse=True)
def _calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "COOL_DOWN_S", ())  # the tests' machine is busy


def measure(runner: ProcessRunner) -> list[bool]:
    """Which candidates got times."""
    outcomes = runner.run(TASK, HOST, candidates(), PLAN)
    assert not [o.fault for o in outcomes if o.fault]
    return [bool(o.samples_us) for o in outcomes]


def test_one_board() -> None:
    with server() as one:
        runner = ProcessRunner(1, [f"rpc://127.0.0.1:{one.port}"])
        assert all(measure(runner))
        runner.close()


def test_four_boards_share_the_work_and_one_stalls() -> None:
    with boards(4) as (address, servers):
        runner = ProcessRunner(1, [address] * 4, timeout_s=5)
        assert all(measure(runner))
        assert [b.failures for b in runner.boards] == [0] * 4
        os.killpg(servers[2].process.pid, signal.SIGSTOP)
        try:
            assert all(measure(runner))
            assert all(measure(runner))
        finally:
            os.killpg(servers[2].process.pid, signal.SIGCONT)
        runner.close()


def test_a_server_that_is_killed_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with server() as one:
        port = one.port
        runner = ProcessRunner(1, [f"rpc://127.0.0.1:{port}"], timeout_s=5)
        assert all(measure(runner))
        os.killpg(one.process.pid, signal.SIGKILL)
    with server("--port", str(port)):
        assert all(measure(runner))
        runner.close()


def test_all_devices_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "PAUSE_S", (0.0, 0.1, 0.1, 0.1))
    with boards(2) as (address, _):
        runner = ProcessRunner(1, [address] * 2, timeout_s=3)
        assert all(measure(runner))
    with pytest.raises(DeviceLost, match=r"no device is left .* the same command goes on"):
        measure(runner)
    runner.close()


def test_a_tracker_that_restarts() -> None:
    """Sessions that are open do not need it; new ones wait until boards have registered again."""
    pytest.importorskip("tornado")
    with tracker() as first:
        port = first.port
        place = f"127.0.0.1:{port}"
        with server("--tracker", place, "--key", "board"):
            registered(port, "board")
            runner = ProcessRunner(1, [f"rpc://{place}/board"], timeout_s=20)
            assert all(measure(runner))
            os.killpg(first.process.pid, signal.SIGKILL)
            first.process.wait()
            assert all(measure(runner))
            runner.boards[0].process.close()
            with _tracker_at(port):
                assert all(measure(runner))
            runner.close()


@contextlib.contextmanager
def _tracker_at(port: int) -> Iterator[Process]:
    import sys

    program = (sys.executable, "-m", "edgeconv", "device", "tracker", "--port", str(port))
    with Process(program=program) as process:
        yield process
