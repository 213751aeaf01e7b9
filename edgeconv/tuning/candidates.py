"""The space of a task: every family that takes it, every legal setting of each, default first."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from edgeconv import strategy
from edgeconv.schedules import FAMILIES, Family, family
from edgeconv.targets import Device
from edgeconv.workload import ConvTask


@dataclass(frozen=True)
class Candidate:
    """A schedule family, by name, with knobs."""

    family: str
    knobs: Any

    @property
    def of(self) -> Family:
        """The family."""
        return family(self.family)

    @property
    def values(self) -> dict[str, Any]:
        """Knobs by name."""
        return dataclasses.asdict(self.knobs)

    def __str__(self) -> str:
        return " ".join([self.family, *(f"{k}={v}" for k, v in self.values.items())])


def default(task: ConvTask, device: Device, *, exact: bool) -> Candidate:
    """What the strategy takes without a record."""
    choice = strategy.choose(task, device, exact=exact)
    return Candidate(choice.family.name, choice.knobs)


def space(task: ConvTask, device: Device, *, exact: bool) -> list[Candidate]:
    """Every candidate once; the strategy's default is the first."""
    found = [default(task, device, exact=exact)]
    for each in FAMILIES:
        if strategy.refusal(each, task, device, exact=exact) is None:
            found += (Candidate(each.name, k) for k in each.candidates(task, device))
    return list(dict.fromkeys(found))
