"""The space of a task: every family that takes it, every legal setting of each, default first.

Two convolutions in one kernel have too many settings; of theirs it is those worth measuring, and
two kernels, as a schedule like any other.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from edgeconv import fusion, strategy
from edgeconv.schedules import FAMILIES
from edgeconv.schedules.pairs import PAIRS
from edgeconv.targets import Device
from edgeconv.tuning.families import POOLING, SCHEDULES, TWO_KERNELS, NoKnobs, Schedule
from edgeconv.workload import PairTask, PoolTask, Task


@dataclass(frozen=True)
class Candidate:
    """A schedule family, by name, with knobs."""

    family: str
    knobs: Any

    @property
    def of(self) -> Schedule:
        """The family."""
        return SCHEDULES[self.family]

    def estimate(self, task: Task, device: Device) -> float:
        """Estimated cycles."""
        schedule: Any = self.of
        return float(schedule.estimate(task, self.knobs, device))

    @property
    def values(self) -> dict[str, Any]:
        """Knobs by name."""
        return dataclasses.asdict(self.knobs)

    def __str__(self) -> str:
        return " ".join([self.family, *(f"{k}={v}" for k, v in self.values.items())])


def default(task: Task, device: Device, *, exact: bool) -> Candidate:
    """What the strategy takes without a record."""
    if isinstance(task, PairTask):
        if not fusion.fuses(task, device) and TWO_KERNELS.supports(task, device) is None:
            return Candidate(TWO_KERNELS.name, NoKnobs())
        pair = fusion.choose(task, device)
        return Candidate(pair.family.name, pair.knobs)
    if isinstance(task, PoolTask):
        return Candidate(POOLING.name, POOLING.default_knobs(task, device))
    choice = strategy.choose(task, device, exact=exact)
    return Candidate(choice.family.name, choice.knobs)


def space(task: Task, device: Device, *, exact: bool) -> list[Candidate]:
    """Every candidate once; the strategy's default is the first."""
    found = [default(task, device, exact=exact)]
    if isinstance(task, PairTask):
        if TWO_KERNELS.supports(task, device) is None:
            found.append(Candidate(TWO_KERNELS.name, NoKnobs()))
        for pair in PAIRS:
            if pair.supports(task, device) is None:
                settings = [pair.default_knobs(task, device), *pair.promising(task, device)]
                found += (Candidate(pair.name, k) for k in settings)
        return list(dict.fromkeys(found))
    if isinstance(task, PoolTask):
        found += (Candidate(POOLING.name, k) for k in POOLING.candidates(task, device))
        return list(dict.fromkeys(found))
    for each in FAMILIES:
        if strategy.refusal(each, task, device, exact=exact) is None:
            found += (Candidate(each.name, k) for k in each.candidates(task, device))
    return list(dict.fromkeys(found))
