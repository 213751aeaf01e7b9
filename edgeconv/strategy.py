"""For this convolution on this device: which schedule, with which knobs, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Generic, Protocol, TypeVar

from edgeconv.errors import BuildError
from edgeconv.schedules import FAMILIES, Family
from edgeconv.schedules.common import Mismatch
from edgeconv.schedules.pairs import PairFamily
from edgeconv.targets import Device
from edgeconv.workload import ConvTask, PairTask, PoolTask

FamilyT = TypeVar("FamilyT")


def words(knobs: Any) -> str:
    """Knobs as "name=value" words."""
    return " ".join(f"{k}={v}" for k, v in asdict(knobs).items())


@dataclass(frozen=True)
class Choice:
    """A decision of the strategy.

    Attributes:
        family: the schedule.
        knobs: its settings.
        reason: one sentence for `edgeconv explain`.
        refused: families that cannot take the task, with their reasons.
        cycles: the estimate.
    """

    family: Family
    knobs: Any
    reason: str
    refused: tuple[tuple[str, str], ...] = ()
    cycles: float = 0.0

    @property
    def knobs_text(self) -> str:
        """The knobs as "name=value" words."""
        return words(self.knobs)


@dataclass(frozen=True)
class Tuned(Generic[FamilyT]):
    """What a record says of a task: family, knobs, and a sentence for `edgeconv explain`."""

    family: FamilyT
    knobs: Any
    reason: str


class RecordSource(Protocol):
    """Where tuned knobs come from."""

    def find(self, task: ConvTask, device: Device, exact: bool) -> Tuned[Family] | None:
        """The record that holds for the task on `device.cores` threads; None if there is none."""

    def find_pair(self, task: PairTask, device: Device, exact: bool) -> Tuned[PairFamily] | None:
        """The same for a pair that is fused; None also where two kernels are faster."""

    def find_pool(self, task: PoolTask, device: Device, exact: bool) -> Tuned[Any] | None:
        """The same for a pool."""

    def apart(self, task: PairTask, device: Device, exact: bool) -> str | None:
        """A sentence if two kernels were measured to be faster than one, whatever the layouts of
        the task are; None if not, or if records for several layouts disagree.
        """

    def fused(self, task: PairTask, device: Device, exact: bool) -> float | None:
        """How many times the default's speed one kernel was measured to have, likewise."""


def refusal(
    family: Family, task: ConvTask, device: Device, *, exact: bool = False
) -> Mismatch | None:
    """None if the family may take the task."""
    if exact and not family.exact:
        return Mismatch("numerics are to be exact")
    if task.conv.slices is not None and not family.slices:
        return Mismatch("several slices of a volume are summed")
    if task.conv.branches is not None and not family.branches:
        return Mismatch("several depthwise convolutions in one")
    return family.supports(task, device)


def choose(
    task: ConvTask, device: Device, *, exact: bool = False, records: RecordSource | None = None
) -> Choice:
    """What a record says, else the supporting family and knobs with the least estimated cycles.

    With `exact`, only families that sum the products of the definition.

    Raises:
        BuildError: no family supports the task (a bug: Grouped Spatial Pack takes all).
    """
    best: tuple[float, Family, Any] | None = None
    refused = []
    for family in FAMILIES:
        mismatch = refusal(family, task, device, exact=exact)
        if mismatch is not None:
            refused.append((family.name, mismatch.reason))
            continue
        knobs = family.default_knobs(task, device)
        cycles = family.estimate(task, knobs, device)
        if best is None or cycles < best[0]:
            best = (cycles, family, knobs)
    if best is None:
        reasons = "; ".join(f"{name}: {why}" for name, why in refused)
        raise BuildError(f"no schedule for {task.conv}: {reasons}")
    tuned = None if records is None else records.find(task, device, exact)
    if tuned is not None:
        return Choice(tuned.family, tuned.knobs, tuned.reason, tuple(refused))
    cycles, family, knobs = best
    peak = task.conv.macs / (device.lanes * device.fma_ports)
    reason = f"default knobs; estimated {cycles:,.0f} cycles"
    if family.exact:
        reason += f", {peak / cycles:.0%} of the multiply-add peak"
    else:
        reason += f"; the direct sum needs at least {peak:,.0f}"
    return Choice(family, knobs, reason, tuple(refused), cycles)
