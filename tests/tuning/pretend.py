"""A runner that measures nothing: made-up times, and faults on demand."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeconv.artifact import read
from edgeconv.targets import Device
from edgeconv.tuning.bench import Outcome, Plan
from edgeconv.tuning.candidates import Candidate
from edgeconv.tuning.network import Comparison
from edgeconv.tuning.runner import DeviceLost
from edgeconv.workload import ConvTask


class Killed(BaseException):
    """Stands for a `kill -9` where a test can't have one."""


@dataclass
class Pretend:
    """See the module.

    Attributes:
        fault: why a candidate fails; empty if it doesn't.
        kill_at: number of the call that ends the process instead.
        lose_at: number of the call that finds no device.
        factor: what a candidate's made-up time is multiplied by.
        measured: how often each candidate of each task was measured in a search.
        calls: of `run`.
    """

    fault: Callable[[Candidate], str] = lambda candidate: ""
    kill_at: int | None = None
    lose_at: int | None = None
    factor: Callable[[Candidate], float] = lambda candidate: 1.0
    measured: Counter[tuple[ConvTask, Candidate]] = field(default_factory=Counter)
    calls: int = 0
    finals: int = 0
    repeated: int = 0

    def run(
        self, task: ConvTask, device: Device, candidates: Sequence[Candidate], plan: Plan
    ) -> list[Outcome]:
        """As `Runner.run`."""
        self.calls += 1
        if self.calls == self.kill_at:
            raise Killed
        if self.calls == self.lose_at:
            raise DeviceLost("the board is gone")
        if plan.drop:
            self.measured.update((task, c) for c in candidates[1:])
        else:
            self.finals += 1
        times = [self.factor(c) * microseconds(task, c) for c in candidates]
        own = times[0]
        if self.fault(candidates[0]):
            missing = Outcome("not measured: the default failed")
            return [Outcome(self.fault(candidates[0])), *([missing] * (len(candidates) - 1))]
        return [
            Outcome(self.fault(c))
            if self.fault(c)
            else Outcome("", (time,) * plan.rounds, (own,) * plan.rounds)
            for c, time in zip(candidates, times, strict=True)
        ]

    def compare(self, before: Path, after: Path) -> Comparison:
        """As `Runner.compare`: twice as fast."""
        slow, fast = (
            (us,) * len(read(p).manifest.layers) for us, p in ((2.0, before), (1.0, after))
        )
        return Comparison(0.0, (2.0,) * 9, (1.0,) * 9, slow, fast)

    def close(self) -> None:
        """Nothing to end."""


def microseconds(task: ConvTask, candidate: Candidate) -> float:
    """Always the same for the same candidate, from 5 to 15."""
    digest = hashlib.sha256(f"{task} {candidate}".encode()).digest()
    return 5 + 10 * float(np.frombuffer(digest[:4], np.uint32)[0]) / 2**32


def best_of(task: ConvTask, candidates: Sequence[Candidate]) -> float:
    """Time of the fastest."""
    return min(microseconds(task, c) for c in candidates)
