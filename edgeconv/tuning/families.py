"""Everything a record may name as its schedule: the families of one convolution, those of two in
one kernel, two kernels one after the other, and the kernel of pools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tvm import tirx

from edgeconv import fusion
from edgeconv.errors import BuildError
from edgeconv.schedules import FAMILIES, Family, pooling
from edgeconv.schedules.common import Mismatch
from edgeconv.schedules.pairs import PAIRS, PairFamily
from edgeconv.targets import Device
from edgeconv.workload import ConvTask, PairTask, PoolTask


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


@dataclass(frozen=True)
class PoolFamily:
    """The kernel of pools; see `Family` for the functions."""

    name: str = "pooling"
    title: str = "Pools in channel blocks, columns shared"
    exact: bool = True
    knobs: type[pooling.Knobs] = pooling.Knobs
    supports: Callable[[PoolTask, Device], Mismatch | None] = pooling.supports
    candidates: Callable[[PoolTask, Device], Iterator[pooling.Knobs]] = pooling.candidates
    default_knobs: Callable[[PoolTask, Device], pooling.Knobs] = pooling.default_knobs
    estimate: Callable[[PoolTask, pooling.Knobs, Device], float] = pooling.estimate

    def build(self, task: PoolTask, knobs: pooling.Knobs, device: Device) -> tirx.PrimFunc:
        """The scheduled kernel `(data, out)`."""
        return pooling.build(task, device, knobs)

    def has(self, task: PoolTask, knobs: pooling.Knobs, device: Device) -> bool:
        """Whether these are among the candidates."""
        return knobs in set(self.candidates(task, device))


Schedule = Family | PairFamily | TwoKernels | PoolFamily
TWO_KERNELS = TwoKernels()
POOLING = PoolFamily()
_ALL: tuple[Schedule, ...] = (*FAMILIES, *PAIRS, TWO_KERNELS, POOLING)
SCHEDULES = {f.name: f for f in _ALL}


def takes(schedule: Schedule) -> type[ConvTask | PairTask | PoolTask]:
    """What its tasks are."""
    if isinstance(schedule, PoolFamily):
        return PoolTask
    return ConvTask if isinstance(schedule, Family) else PairTask
