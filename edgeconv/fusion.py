"""Whether two convolutions are better one kernel on this device, and how that kernel is scheduled.

Beside the families' estimates of what is computed stands the way of the map between: written and
read again if the two are apart, through the level of cache that holds it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

from edgeconv import strategy
from edgeconv.errors import BuildError
from edgeconv.graph.ir import Graph, Node
from edgeconv.graph.layout import block_for
from edgeconv.graph.parts import parts
from edgeconv.layout import Layout
from edgeconv.schedules import depthwise_costs
from edgeconv.schedules.pairs import PAIRS, PairFamily
from edgeconv.schedules.traffic import streaming_cycles
from edgeconv.strategy import RecordSource
from edgeconv.targets import Device
from edgeconv.workload import ConvTask, PairTask

LEAST_GAIN = 0.01  # of the time of two kernels; less is noise, and not worth their freedom
CACHED = 4  # maps as large as one between two kernels that must fit in the second-level cache
DEEP = 128  # input channels from which a pointwise convolution hides how its map is moved
STREAMED = 2.5  # second-level caches of map that a pointwise convolution reads at no cost
KERNEL_CYCLES = 50.0  # of a call
FORK_CYCLES = 8000.0  # of a parallel region
COPY_BYTES = 16.0  # a cycle: a pass over a map that row-major neighbours cost


@dataclass(frozen=True)
class PairChoice:
    """A decision about two convolutions.

    Attributes:
        family, knobs: the schedule of the one kernel.
        cycles, apart: estimates of the one kernel, and of two.
        cached: the map between two kernels would stay in a part of the second-level cache, where
            it costs next to nothing (measured: fused, such pairs are 0 to 4 % slower).
        hidden: computing hides how the map between two kernels is moved. The first is a pointwise
            convolution that sums many channels (measured with a third-level cache: fused, such
            pairs are 0 to 2 % slower, and 12 % where the map is large); or the second one reads
            ahead what the third-level cache has of a map of moderate size (38 such pairs: fused,
            0.3 % faster in the mean, 8 % slower at worst).
        refused: families that cannot take the task, with their reasons.
        tuned: what a record says, if that is where family and knobs are from.
    """

    family: PairFamily
    knobs: Any
    cycles: float
    apart: float
    cached: bool
    hidden: bool = False
    refused: tuple[tuple[str, str], ...] = ()
    tuned: str = ""

    @property
    def saved(self) -> float:
        """Cycles saved; 0 where that is too little to fuse."""
        saved = 0.0 if self.cached or self.hidden else self.apart - self.cycles
        return saved if saved > LEAST_GAIN * self.apart else 0.0

    @property
    def knobs_text(self) -> str:
        """The knobs as "name=value" words."""
        return strategy.words(self.knobs)

    @property
    def reason(self) -> str:
        """One sentence for `edgeconv explain`."""
        if self.tuned:
            return self.tuned
        return (
            f"fused: estimated {self.cycles:,.0f} cycles, {self.apart:,.0f} as two kernels with "
            "the map between them in memory"
        )

    @property
    def why_not(self) -> str:
        """One sentence why it is not fused."""
        if self.cached:
            return "fusing with the next layer: the map between them stays in the cache anyway"
        if self.hidden:
            return "fusing with the next layer: computing hides how the map between them is moved"
        return (
            f"fusing with the next layer: estimated {self.cycles:,.0f} cycles, {self.apart:,.0f} "
            "apart"
        )


class Judge:
    """Tells what fusing two nodes of a graph saves, and remembers why it does not pay.

    What was measured goes before the estimate: pairs that records call faster apart stay apart,
    those they call faster in one kernel are fused.
    """

    def __init__(
        self, device: Device, records: RecordSource | None = None, exact: bool = False
    ) -> None:
        self.device, self.records, self.exact = device, records, exact
        self._refused: dict[Node, tuple[str, str]] = {}

    def __call__(self, graph: Graph, first: Node, second: Node) -> float:
        """Cycles saved, 0 where it does not pay."""
        if (found := self._assess(graph, first, second)) is None:
            return 0.0
        task, choice, lost = found
        if self.records is not None and not choice.saved and not lost:
            gain = self.records.fused(task, self.device, self.exact)
            if gain is not None:
                return max(1.0, choice.apart * (1 - 1 / gain))
        measured = self.records and self.records.apart(task, self.device, self.exact)
        if measured or not choice.saved:
            why = f"fusing with the next layer: {measured}" if measured else choice.why_not
            self._refused[first] = (choice.family.name, why)
            return 0.0
        return choice.saved

    def offered(self, graph: Graph, first: Node, second: Node) -> float:
        """Cycles that the estimates of one kernel and of two differ by, 0 if one is not less: what
        is worth measuring where it is not fused by default.
        """
        if (found := self._assess(graph, first, second)) is None:
            return 0.0
        _, choice, lost = found
        return 0.0 if lost or choice.saved else max(0.0, choice.apart - choice.cycles)

    def _assess(
        self, graph: Graph, first: Node, second: Node
    ) -> tuple[PairTask, PairChoice, float] | None:
        """The task, its schedule, and cycles lost at the network's ends, which are added to it."""
        maps = (first.inputs[0], first.output, second.output)
        if any(v.shape[2:] == (1, 1) for v in maps):
            return None
        task = expected_task(first, second, self.device.lanes)
        choice = choose(task, self.device)
        lost = 0.0  # a depthwise convolution alone reads and writes row-major maps itself
        if first.inputs[0] in graph.inputs and choice.family.name == "depthwise_pointwise":
            lost += 4 * first.inputs[0].size / COPY_BYTES
        ends = second.output in graph.outputs
        if ends and second.attrs.get("has_residual"):
            lost += 4 * second.output.size / COPY_BYTES
        return task, dataclasses.replace(choice, cycles=choice.cycles + lost), lost

    def refused(self, node: Node) -> tuple[tuple[str, str], ...]:
        """Why a node is not fused with the next, if it could be."""
        return (self._refused[node],) if node in self._refused else ()


def expected_task(first: Node, second: Node, lanes: int) -> PairTask:
    """The task of two nodes in channel blocks, before layouts are chosen."""
    (one,), (other,) = parts(first), parts(second)
    a, b, anywhere = first.attrs, second.attrs, Layout(1)
    residual = anywhere if b.get("has_residual") else None
    task = PairTask(
        ConvTask(one.conv, anywhere, anywhere, bool(a.get("has_bias")), None, a.get("activation")),
        ConvTask(
            other.conv, anywhere, anywhere, bool(b.get("has_bias")), residual, b.get("activation")
        ),
    )
    return in_blocks(task, lanes)


def in_blocks(task: PairTask, lanes: int) -> PairTask:
    """The task with the layouts that are expected before any are chosen."""
    first, second = task.first, task.second
    data = Layout(block_for(first.conv.in_channels, lanes), first.conv.padding)
    out = Layout(block_for(second.conv.out_channels, lanes))
    residual = None if second.residual is None else out
    return PairTask(
        dataclasses.replace(first, data=data, out=Layout(1)),
        dataclasses.replace(second, data=Layout(1), out=out, residual=residual),
    )


def fuses(task: PairTask, device: Device) -> bool:
    """Whether a pair is one kernel by default, wherever it stands."""
    return choose(in_blocks(task, device.lanes), device).saved > 0


@functools.lru_cache(maxsize=1024)
def choose(task: PairTask, device: Device) -> PairChoice:
    """The supporting family with the least estimated cycles; whether it pays is `saved`.

    Raises:
        BuildError: no family takes the task.
    """
    found: list[tuple[float, PairFamily, Any]] = []
    refused = []
    for family in PAIRS:
        mismatch = family.supports(task, device)
        if mismatch is not None:
            refused.append((family.name, mismatch.reason))
            continue
        knobs = family.default_knobs(task, device)
        found.append((family.estimate(task, knobs, device), family, knobs))
    if not found:
        reasons = "; ".join(f"{name}: {why}" for name, why in refused)
        raise BuildError(f"no schedule for {task.first.conv}, {task.second.conv}: {reasons}")
    cycles, family, knobs = min(found, key=lambda f: f[0])
    l2_bytes, first = device.l2_kib * 1024, task.first.conv
    cached = CACHED * task.intermediate_bytes < l2_bytes
    if first.is_pointwise:
        hidden = first.in_channels >= DEEP
    else:
        hidden = task.intermediate_bytes < STREAMED * l2_bytes
    hidden = hidden and device.l3_kib > 0
    return PairChoice(family, knobs, cycles, apart(task, device), cached, hidden, tuple(refused))


def choose_tuned(
    task: PairTask, device: Device, records: RecordSource | None, exact: bool
) -> PairChoice:
    """What a record says of a pair that is to be fused, else what `choose` does.

    Raises:
        BuildError: no family takes the task.
    """
    choice = choose(task, device)
    tuned = None if records is None else records.find_pair(task, device, exact)
    if tuned is None:
        return choice
    return dataclasses.replace(choice, family=tuned.family, knobs=tuned.knobs, tuned=tuned.reason)


def apart(task: PairTask, device: Device) -> float:
    """Cycles of two kernels."""
    return sum(_alone(half, device) for half in halves(task, device)) + overhead(device.cores)


def halves(task: PairTask, device: Device) -> tuple[ConvTask, ConvTask]:
    """The tasks of two kernels, the map between them in channel blocks with a halo."""
    channels, halo = task.second.conv.in_channels, task.second.conv.padding
    between = Layout(block_for(channels, device.lanes), halo)
    return (
        dataclasses.replace(task.first, out=between),
        dataclasses.replace(task.second, data=between),
    )


@functools.lru_cache(maxsize=256)
def choose_apart(task: PairTask, device: Device) -> tuple[strategy.Choice, strategy.Choice]:
    """The schedules of two kernels.

    Raises:
        BuildError: no family takes one of them.
    """
    first, second = halves(task, device)
    return strategy.choose(first, device), strategy.choose(second, device)


def _alone(task: ConvTask, device: Device) -> float:
    """Cycles of one kernel. A depthwise one computes so little that it may wait for its maps."""
    conv = task.conv
    if conv.is_depthwise:
        out = math.prod(conv.output_shape)
        read = conv.batch * conv.in_channels * conv.height * conv.width
        moved = streaming_cycles(4 * (read + out), device)
        return max(moved, depthwise_costs.cached_cycles(conv, device))
    choice = strategy.choose(task, device)
    return choice.family.estimate(task, choice.knobs, device)


def overhead(cores: int) -> float:
    """Cycles of one more kernel."""
    return KERNEL_CYCLES + (FORK_CYCLES * cores if cores > 1 else 0.0)
