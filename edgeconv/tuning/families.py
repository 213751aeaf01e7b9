"""Everything a record may name as its schedule: the families of one convolution, those of two in
one kernel, and two kernels one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgeconv import fusion
from edgeconv.errors import BuildError
from edgeconv.schedules import FAMILIES, Family
from edgeconv.schedules.common import Mismatch
from edgeconv.schedules.pairs import PAIRS, PairFamily
from edgeconv.targets import Device
from edgeconv.workload import PairTask


@dataclass(frozen=True)
class NoKnobs:
    """There is nothing to set: each kernel has its own default knobs."""


@dataclass(frozen=True)
class TwoKernels:
    """A pair that is not fused: two kernels, the map between them in memory."""

    name: str = "two_kernels"
    title: str = "Pointwise and depthwise apart"
    exact: bool = True
    knobs: type[NoKnobs] = NoKnobs

    def supports(self, task: PairTask, device: Device) -> Mismatch | None:
        """Whatever schedules take one by one."""
        try:
            fusion.choose_apart(task, device)
        except BuildError as error:
            return Mismatch(str(error))
        return None

    def candidates(self, task: PairTask, device: Device) -> Iterator[NoKnobs]:
        """One."""
        yield NoKnobs()

    def has(self, task: PairTask, knobs: NoKnobs, device: Device) -> bool:
        """Yes."""
        return True

    def estimate(self, task: PairTask, knobs: NoKnobs, device: Device) -> float:
        """Cycles of both."""
        return fusion.apart(task, device)


Schedule = Family | PairFamily | TwoKernels
TWO_KERNELS = TwoKernels()
_ALL: tuple[Schedule, ...] = (*FAMILIES, *PAIRS, TWO_KERNELS)
SCHEDULES = {f.name: f for f in _ALL}


def takes_pairs(schedule: Schedule) -> bool:
    """Whether its tasks are pairs of convolutions."""
    return not isinstance(schedule, Family)
