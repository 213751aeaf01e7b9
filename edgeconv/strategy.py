"""For this convolution on this device: which schedule, with which knobs, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgeconv.errors import BuildError
from edgeconv.schedules import FAMILIES, Family
from edgeconv.schedules.common import Mismatch
from edgeconv.targets import Device
from edgeconv.workload import ConvTask


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
        return " ".join(f"{k}={v}" for k, v in asdict(self.knobs).items())


def choose(task: ConvTask, device: Device, *, exact: bool = False) -> Choice:
    """The supporting family and knobs with the least estimated cycles.

    With `exact`, only families that sum the products of the definition.

    Raises:
        BuildError: no family supports the task (a bug: Grouped Spatial Pack takes all).
    """
    best: tuple[float, Family, Any] | None = None
    refused = []
    for family in FAMILIES:
        mismatch = family.supports(task, device)
        if task.conv.slices is not None and not family.slices:
            mismatch = Mismatch("several slices of a volume are summed")
        if exact and not family.exact:
            mismatch = Mismatch("numerics are to be exact")
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
    cycles, family, knobs = best
    peak = task.conv.macs / (device.lanes * device.fma_ports)
    reason = f"default knobs; estimated {cycles:,.0f} cycles"
    if family.exact:
        reason += f", {peak / cycles:.0%} of the multiply-add peak"
    else:
        reason += f"; the direct sum needs at least {peak:,.0f}"
    return Choice(family, knobs, reason, tuple(refused), cycles)
