"""Several depthwise filters on one row-major input: lists of taps, vectors along the width.

    parallel (n, run of channels)
      channel → branch
        row tile → column tile
          acc[rows, columns, lanes] = bias of the branch                      registers
          input row → column of taps: one vector, for every output row and tap that reads it
          parts[branch] = activation(acc)                                     the caches
          out = activation(acc's activation + parts + residual)               with the last branch

A channel is a plane of its own and small: its first branch brings it into the cache, the others
find it there, and so does the last one the results of the others, which it adds up. Concatenated
branches store their planes at once. Borders, strides and narrow maps are as in depthwise_direct.

Layouts: data and out are [N, C, H, W] with or without a halo.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx.script import builder as T

from edgeconv.operators.convolution import apply_activation
from edgeconv.schedules import depthwise_rows, emit
from edgeconv.schedules.common import (
    FMA_LATENCY,
    MAX_UNROLLED_FMAS,
    Mismatch,
    ceil_div,
    is_partial,
    run_parallel,
)
from edgeconv.schedules.depthwise_branches import branches_of, loaded
from edgeconv.schedules.depthwise_direct import Direct
from edgeconv.schedules.depthwise_rows import CROSSING, MOST_DIRECT_TAPS
from edgeconv.targets import Device
from edgeconv.workload import Branch, ConvTask

OVERLAPPING = 3  # tiles in flight at once: they do not wait for each other
PARTS_BYTES = 1 << 17  # results of a channel that wait for the last branch: second-level cache


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors.
        rows: output rows of a register tile.
        columns: vectors of output columns of a register tile.
    """

    lanes: int
    rows: int
    columns: int


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """Branches of few taps on rows of pixels in memory, at a horizontal stride of 1 or 2."""
    conv, halo = task.conv, task.data.halo
    if conv.branches is None:
        return Mismatch("a single filter")
    if task.data.block != 1 or task.out.block != 1:
        return Mismatch("channels lie in blocks")
    if task.residual is not None and task.residual.block != 1:
        return Mismatch("the residual lies in blocks")
    if conv.stride[1] > 2:
        return Mismatch(f"a horizontal stride of {conv.stride[1]}")
    if (partial := is_partial(task)) is not None:
        return partial
    taps = max(len(branch.taps) for branch in conv.branches.members)
    if taps > MOST_DIRECT_TAPS:
        return Mismatch(f"a branch of {taps} taps: too much code")
    if halo[1] + conv.width + halo[3] < 2:
        return Mismatch("a map of one column")
    if _parts(task) * (conv.out_width + device.lanes) * conv.out_height * 4 > PARTS_BYTES:
        return Mismatch("the sums of a map do not fit the cache")
    return None


def _parts(task: ConvTask) -> int:
    """Branches whose results wait for the last."""
    branches = branches_of(task)
    return 0 if branches.concat else len(branches.members) - 1


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    conv, lanes = task.conv, depthwise_rows.lanes_for(task, device)
    taps = max(len(branch.taps) for branch in branches_of(task).members)
    for rows in range(1, min(8, conv.out_height) + 1):
        for columns in range(1, ceil_div(conv.out_width, lanes) + 1):
            tile = rows * columns
            if tile > device.vector_registers // 2:
                break
            if tile == 1 or tile * taps <= 2 * MAX_UNROLLED_FMAS:
                yield Knobs(lanes, rows, columns)


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core: multiply-adds and shuffles, or loads, most of which cross cache lines."""
    space = Space(task, knobs)
    tile, cycles = knobs.rows * knobs.columns, 0.0
    for branch in branches_of(task).members:
        taps, fmas = len(branch.taps), tile * len(branch.taps)
        operands = knobs.columns * sum(len(uses) for uses in space.tap_uses(branch).values())
        loads = operands * CROSSING / device.load_ports
        crosses = space.sx > 1 or space.vectors == 1
        shuffled = operands if crosses else operands / space.vectors
        if space.sx > 1:
            loads = loads * 4 / 3
        spare = 6 if space.sx == 1 else 10  # loads, and the indices of shuffles
        waiting = device.vector_registers - tile - spare  # weights in registers
        loads += tile * loaded(taps, waiting) / device.load_ports
        latency = FMA_LATENCY * taps / OVERLAPPING
        busy = max((fmas + shuffled) / device.fma_ports, loads, latency)
        if loaded(taps, waiting):
            busy *= 1.15  # LLVM spills some of them
        cycles += busy + 4 + tile / 2
    tiles = space.row_tiles * space.column_tiles
    return task.conv.batch * task.conv.groups * tiles * cycles


class Space(depthwise_rows.Space):
    """How a plane falls into tiles and vectors."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        rows = depthwise_rows.Knobs(knobs.lanes, knobs.rows, knobs.columns, True, False)
        super().__init__(task, rows)
        self.multiplier = 1  # concatenated branches are no neighbouring channels

    def tap_uses(self, branch: Branch) -> dict[int, dict[int, list[tuple[int, int]]]]:
        """For every input row of a tile, and column of taps: (output row, number of the tap)."""
        found: dict[int, dict[int, list[tuple[int, int]]]] = {}
        for number, (row, column) in enumerate(branch.taps):
            for i in range(self.knobs.rows):
                columns = found.setdefault(i * self.sy + row, {})
                columns.setdefault(column, []).append((i, number))
        return {r: dict(sorted(found[r].items())) for r in sorted(found)}


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """[C, taps], unchanged."""
    return np.ascontiguousarray(weight)


def pack_bias(task: ConvTask, knobs: Knobs, bias: np.ndarray) -> np.ndarray:
    """[branches · C], unchanged."""
    return np.ascontiguousarray(bias)


class _OneBranch(Direct):
    """One branch of one channel."""

    kernel: Kernel

    def __init__(self, kernel: Kernel, n: Any, channel: Any, number: int) -> None:
        super().__init__(kernel, n, channel)
        members = kernel.members
        self.number, self.branch = number, members[number]
        self.first = sum(len(branch.taps) for branch in members[:number])
        self.tap_uses = kernel.space.tap_uses(self.branch)
        self.is_last = number == len(members) - 1

    def prepare(self) -> None:
        kernel, start = self.kernel, tirx.const(0.0, "float32")
        if kernel.bias is not None:
            start = kernel.bias[self.number * self.conv.in_channels + self.channel]
        self.start = T.Bind(tirx.Broadcast(start, self.lanes))
        self.taps = [
            T.Bind(tirx.Broadcast(kernel.weight[self.channel, self.first + i], self.lanes))
            for i in range(len(self.branch.taps))
        ]

    def uses(self) -> dict[int, dict[int, list[tuple[int, Any]]]]:
        return {
            r: {kw: [(i, self.taps[number]) for i, number in uses] for kw, uses in columns.items()}
            for r, columns in self.tap_uses.items()
        }

    def finish(self, row: Any, column: Any, vector: Any, at: tuple[int, int]) -> None:
        kernel, every = self.kernel, self.kernel.every
        value = apply_activation(kernel.acc[(*at, every)], self.branch.activation)
        channel = self.channel
        if kernel.concat:
            channel = channel + self.number * self.conv.in_channels
        elif not self.is_last:
            emit.store(kernel.parts, value, [self.number, row, vector, every])
            return
        else:
            for other in range(self.number):
                value = value + kernel.parts[other, row, vector, every]
        kernel.finish(value, self.n, channel, row, column)


class Kernel(depthwise_rows.Kernel):
    """Emits the kernel's statements."""

    space: Space

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        rows = depthwise_rows.Knobs(knobs.lanes, knobs.rows, knobs.columns, True, False)
        super().__init__(task, rows)
        self.space = Space(task, knobs)
        branches = branches_of(task)
        self.members, self.concat = branches.members, branches.concat

    def emit(self) -> None:
        """Parameters and the loop over runs of channels."""
        conv, space, task = self.conv, self.space, self.task
        in_shape = (conv.batch, conv.in_channels, conv.height, conv.width)
        self.data = depthwise_rows.planes("data", in_shape, task.data, halo=True)
        taps, count = branches_of(task).taps, len(self.members)
        self.weight = emit.buffer("weight", (conv.in_channels, taps))
        self.bias = emit.buffer("bias", (conv.in_channels * count,)) if task.bias else None
        self.residual = (
            None
            if task.residual is None
            else depthwise_rows.planes("residual", conv.output_shape, task.residual, halo=False)
        )
        self.out = depthwise_rows.planes("out", conv.output_shape, task.out, halo=False)
        grid = dict(n=conv.batch, run=conv.groups // space.run)
        with emit.loops(**grid) as axes, emit.block("tile"):
            n, run = emit.all_spatial(grid, axes)
            self.acc = emit.local("acc", (self.knobs.rows, self.knobs.columns, self.lanes))
            if parts := _parts(task):
                shape = (parts, conv.out_height, space.vectors, self.lanes)
                self.parts = emit.scratch("parts", shape)
            with T.serial(0, space.run) as c:
                for number in range(count):
                    _OneBranch(self, n, run * space.run + c, number).emit()


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`, one block a run of channels."""
    return emit.prim_func("depthwise_branch_rows", Kernel(task, knobs).emit)


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over runs of channels; the body is written as it is to run."""
    run_parallel(sch, sch.get_loops(sch.get_sblock("tile")), task.conv.macs, device)
    return sch
