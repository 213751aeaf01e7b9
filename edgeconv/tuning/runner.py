"""Builds candidates in processes on all cores, and measures them on one device or on several."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeconv.errors import EdgeconvError
from edgeconv.targets import Device
from edgeconv.targets.host import available_cores
from edgeconv.tuning import bench, kernels, network
from edgeconv.tuning.bench import Outcome, Plan
from edgeconv.tuning.candidates import Candidate
from edgeconv.tuning.network import Comparison
from edgeconv.tuning.processes import Process, ProcessFailed
from edgeconv.workload import Task

BUILD_TIMEOUT_S = 120
HERE_S = 15.0  # a measuring process that says nothing for so long hangs
NOISY = 0.15  # spread of the default's samples over their median
THROTTLED = 1.3  # times the best that the default has done
COOL_DOWN_S = (1.0, 4.0)  # waits before measuring again
TRIES = 4  # to reach a device, when there is no other
PAUSE_S = (0.0, 2.0, 5.0, 10.0)  # before each
LATER_S = 60.0  # until a board that failed is tried again while others work


class DeviceLost(EdgeconvError):
    """No device could be reached any more."""


class Runner(Protocol):
    """Where candidates are measured."""

    def run(
        self, task: Task, device: Device, candidates: Sequence[Candidate], plan: Plan
    ) -> list[Outcome]:
        """The outcome of each candidate, the default in front; a default that fails fails all.

        Raises:
            DeviceLost: there is nothing left to measure on.
        """

    def compare(self, before: Path, after: Path) -> Comparison:
        """Two artifacts of a network, in turns.

        Raises:
            EdgeconvError: it can't be run.
        """

    def close(self) -> None:
        """End all processes."""


@dataclass
class Board:
    """One measuring process and what it is connected with."""

    name: str
    process: Process
    timeout_s: float  # between two signs of life
    strikes: int  # a candidate that fails so often is at fault, not the connection
    failures: int = 0  # in a row, to reach the device
    failed_at: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class _Job:
    """Candidates of a task that were built, and how to measure them."""

    task: Task
    device: Device
    able: dict[Candidate, tuple[bytes, int]]  # library, and number in it
    default: Candidate
    plan: Plan

    def left(self, outcomes: dict[Candidate, Outcome]) -> list[Candidate]:
        """Candidates without an outcome, those of a library side by side; the default, which all
        are measured with, only if there are no others.
        """
        found = [c for c in self.able if c not in outcomes and c != self.default]
        ranks = {id(library): rank for rank, (library, _) in enumerate(self.able.values())}
        found.sort(key=lambda c: ranks[id(self.able[c][0])])
        return found or [c for c in [self.default] if c not in outcomes]

    def share(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The default and some others."""
        return [self.default, *(c for c in candidates if c != self.default)]

    def only(self, candidate: Candidate) -> _Job:
        """The same for one candidate beside the default."""
        able = {c: self.able[c] for c in (self.default, candidate)}
        return _Job(self.task, self.device, able, self.default, self.plan)

    def send(self, board: Board, share: Sequence[Candidate]) -> None:
        """Begin to measure; libraries are sent once as far as their candidates are neighbours."""
        libraries: list[bench.Library] = []
        for candidate in share:
            library, number = self.able[candidate]
            if not libraries or libraries[-1][0] is not library:
                libraries.append((library, []))
            libraries[-1][1].append((candidate, number))
        board.process.send(bench.measure, self.task, self.device, libraries, self.plan)


@dataclass
class ProcessRunner:
    """Runs candidates in child processes: a crash or an endless loop costs that candidate only.

    With several boards the candidates are dealt out; each board times the default too.

    Attributes:
        threads: of the kernels.
        addresses: of boards, see `edgeconv.device`; None: this machine.
        timeout_s: time that a board may take for an answer.
        lock: file that is held locked while measuring.
        repeated: measurements that were taken again because the machine was busy or throttling.
    """

    threads: int
    addresses: Sequence[str | None] = (None,)
    timeout_s: float = 30.0
    lock: Path | None = None
    repeated: int = 0
    _fastest_us: dict[Task, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start the processes.

        Raises:
            EdgeconvError: the lock can't be opened.
        """
        with self._held(wait=False):
            pass
        cores = sorted(available_cores())
        pinned, others = cores[-self.threads :], cores[: -self.threads]
        # with a lock, other programs measure on those cores while this one compiles
        preparing = others if self.lock is not None and others else cores
        self._builders = [Process(preparing) for _ in preparing]
        self.boards = [
            Board(
                address or "this machine",
                Process(
                    pinned if address is None else None,
                    (bench.open_session, address, self.timeout_s),
                ),
                HERE_S if address is None else 2 * self.timeout_s,
                strikes=1 if address is None else 2,
            )
            for address in self.addresses
        ]

    def run(
        self, task: Task, device: Device, candidates: Sequence[Candidate], plan: Plan
    ) -> list[Outcome]:
        """See `Runner`."""
        built = self._build(task, device, list(dict.fromkeys(candidates)))
        outcomes: dict[Candidate, Outcome] = {
            c: Outcome(library) for c, library in built.items() if isinstance(library, str)
        }
        able = {c: library for c, library in built.items() if not isinstance(library, str)}
        if candidates[0] in able:
            outcomes |= self._quiet(_Job(task, device, able, candidates[0], plan))
        missing = Outcome("not measured: the default failed")
        return [outcomes.get(c, missing) for c in candidates]

    def compare(self, before: Path, after: Path) -> Comparison:
        """See `Runner`; on the first board that can be reached."""
        for board in self.boards:
            if board.failures < TRIES:
                try:
                    with self._held():
                        found = board.process.call(
                            10 * board.timeout_s, network.compare, str(before), str(after)
                        )
                except ProcessFailed as error:
                    board.reason = str(error)
                else:
                    assert isinstance(found, Comparison)
                    return found
        names = ", ".join(f"{b.name} ({b.reason})" for b in self.boards)
        raise DeviceLost(f"the network can't be measured: {names}")

    def close(self) -> None:
        """End all processes."""
        for process in [*self._builders, *(b.process for b in self.boards)]:
            process.close()

    # building

    def _build(
        self, task: Task, device: Device, candidates: list[Candidate]
    ) -> dict[Candidate, tuple[bytes, int] | str]:
        """(library, number in it) of each candidate, or why it can't be built."""
        count = len(self._builders)
        shares = [share for i in range(count) if (share := candidates[i::count])]
        for process, share in zip(self._builders, shares, strict=False):
            process.send(kernels.build_each, task, device, share)
        found: dict[Candidate, tuple[bytes, int] | str] = {}
        for process, share in zip(self._builders, shares, strict=False):
            try:
                found |= _by_candidate(process.receive(BUILD_TIMEOUT_S), share)
            except ProcessFailed:
                for candidate in share:
                    found |= self._build_alone(task, device, candidate)
        return found

    def _build_alone(
        self, task: Task, device: Device, candidate: Candidate
    ) -> dict[Candidate, tuple[bytes, int] | str]:
        arguments = (kernels.build_each, task, device, [candidate])
        try:
            return _by_candidate(self._builders[0].call(BUILD_TIMEOUT_S, *arguments), [candidate])
        except ProcessFailed as error:
            return {candidate: f"while compiling: {error}"}

    # measuring

    def _quiet(self, job: _Job) -> dict[Candidate, Outcome]:
        """Measure; again after a pause while the machine is busy or throttling."""
        best: dict[Candidate, Outcome] = {}
        least = float("inf")
        for pause in (0.0, *COOL_DOWN_S):
            time.sleep(pause)
            self.repeated += pause > 0
            found = self._measure(job)
            samples = found[job.default].default_us[1:] if job.default in found else ()
            if not samples:
                return found
            low, middle, high = np.percentile(samples, [25, 50, 75])
            fastest = min(self._fastest_us.get(job.task, float("inf")), float(middle))
            self._fastest_us[job.task] = fastest
            unrest = float((high - low) / middle) / NOISY
            if unrest < least:
                best, least = found, unrest
            if unrest <= 1 and middle <= THROTTLED * fastest:
                break
        return best or found

    def _measure(self, job: _Job) -> dict[Candidate, Outcome]:
        """Deal the candidates out to the boards until each has an outcome."""
        outcomes: dict[Candidate, Outcome] = {}
        strikes: dict[Candidate, int] = {}
        while left := job.left(outcomes):
            boards = self._able_boards()
            parts = min(len(boards), len(left))
            size = -(-len(left) // parts)
            shares = [job.share(left[i * size : (i + 1) * size]) for i in range(parts)]
            with self._held():
                for board, share in zip(boards, shares, strict=False):
                    job.send(board, share)
                for board, share in zip(boards, shares, strict=False):
                    outcomes |= self._receive(board, job, share, strikes)
            if outcomes.get(job.default, Outcome()).fault:
                break
        return outcomes

    def _able_boards(self) -> list[Board]:
        """Boards that work, and those that failed some time ago; if none works, all.

        Raises:
            DeviceLost: all have failed too often.
        """
        now = time.monotonic()
        found = [b for b in self.boards if not b.failures or now - b.failed_at > LATER_S]
        if any(not b.failures for b in found):
            return found
        found = [b for b in self.boards if b.failures < TRIES]
        if not found:
            names = ", ".join(sorted({f"{b.name} ({b.reason})" for b in self.boards}))
            raise DeviceLost(
                f"no device is left to measure on: {names}. What was measured is kept; the same "
                "command goes on"
            )
        time.sleep(PAUSE_S[min(b.failures for b in found)])
        return found

    def _receive(
        self, board: Board, job: _Job, share: list[Candidate], strikes: dict[Candidate, int]
    ) -> dict[Candidate, Outcome]:
        """Outcomes of a board; of none, or only of the one at fault, if its process ended."""
        try:
            outcomes = board.process.receive(board.timeout_s)
        except ProcessFailed as error:
            if error.note in (None, bench.PREPARING):
                board.failures, board.reason = board.failures + 1, str(error)
                board.failed_at = time.monotonic()
                return {}
            board.failures = 0
            if error.note == bench.TIMING and len(share) > 2:
                alone = [self._measure(job.only(c)) for c in share[1:]]
                return {c: o for found in alone for c, o in found.items() if c != job.default}
            culprit = share[error.note]
            strikes[culprit] = strikes.get(culprit, 0) + 1
            if strikes[culprit] < board.strikes:
                return {}
            return {culprit: Outcome(f"while running: {error}")}
        board.failures = 0
        return dict(zip(share, outcomes, strict=True))

    @contextlib.contextmanager
    def _held(self, *, wait: bool = True) -> Iterator[None]:
        """The lock held; with `wait` false only opened, to see whether it can be."""
        if self.lock is None:
            yield
            return
        try:
            file = self.lock.open("a")
        except OSError as error:
            raise EdgeconvError(f"can't lock {self.lock}: {error.strerror or error}") from error
        with file:
            if wait:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _by_candidate(
    results: Sequence[tuple[bytes, list[int]] | str], share: Sequence[Candidate]
) -> dict[Candidate, tuple[bytes, int] | str]:
    """Results of `kernels.build_each` by candidate."""
    found: dict[Candidate, tuple[bytes, int] | str] = {}
    position = 0
    for result in results:
        if isinstance(result, str):
            found[share[position]] = result
            position += 1
        else:
            library, members = result
            for place, number in enumerate(members):
                found[share[number]] = (library, place)
            position += len(members)
    return found
