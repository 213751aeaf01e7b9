"""Several depthwise filters on one input, in one pass: lists of taps, a channel in every lane.

    parallel (n, vector of channels)
      strip of output rows
        pixels = the strip's input rows, transposed, zero around the map      scratch, if NCHW
        row tile → run of column tiles, as many as the first-level cache holds
          branch → column tile
            acc[rows, columns, lanes] = bias of the branch                    registers
            the branch's taps, in one of two orders:
              pixels: each input pixel is loaded once, and multiplied by every tap that reads it
              columns: a column of taps in registers → every input row they reach
            sums[tile] += activation(acc)                                     first-level cache
            out = activation(sums + residual)                                 with the last branch
        out planes = the strip's output, transposed                           if NCHW

A filter is the list of its taps, so dilated filters and sums of filters multiply nothing by a
zero. Input rows come from memory once; later branches find them in the cache. One branch needs no
`sums`, nor do concatenated ones, each of which writes a range of channels.

Columns of taps with equal rows and equal distances are a loop: straight code would have LLVM keep
pixels that two columns read, and spill them.

Layouts: data and out are NCHW{L}c, or NHWC, or NCHW without halo, which is transposed (see
depthwise_blocks). In NHWC the last vector of channels overlaps its neighbour: each branch may
have any number of channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx.script import builder as T

from edgeconv.operators.convolution import apply_activation
from edgeconv.schedules import depthwise_blocks, emit
from edgeconv.schedules.common import (
    FMA_LATENCY,
    MAX_UNROLLED_FMAS,
    Mismatch,
    ceil_div,
    is_partial,
    narrowed,
    run_parallel,
    tile_start,
)
from edgeconv.targets import Device
from edgeconv.workload import Branch, Branches, ConvTask

SPARE = 8  # registers that LLVM needs beside accumulators to keep all of them
SUMS_BYTES = 1 << 13  # sums of a run of tiles: they and their input stay in the first-level cache


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors: channels of a block.
        rows, columns: output pixels of a register tile.
        by_column: the order of taps in branches that are not small: column by column, or pixel by
            pixel, as it is in small ones.
    """

    lanes: int
    rows: int
    columns: int
    by_column: bool

    def is_by_column(self, branch: Branch) -> bool:
        """The order of a branch. LLVM would unroll the columns of a small one."""
        return self.by_column and self.rows * self.columns * len(branch.taps) > MAX_UNROLLED_FMAS


@dataclass(frozen=True)
class Run:
    """Columns of taps, `step` apart, that hold the same rows."""

    rows: tuple[int, ...]
    first: int
    step: int
    count: int

    @property
    def taps(self) -> list[tuple[int, int]]:
        """(row, column) of its taps, column by column."""
        columns = range(self.first, self.first + self.count * self.step, self.step)
        return [(row, column) for column in columns for row in self.rows]


@functools.cache
def runs_of(branch: Branch) -> tuple[Run, ...]:
    """The taps of a branch as runs of columns; `pack_weights` keeps this order."""
    rows_of: dict[int, list[int]] = {}
    for row, column in branch.taps:
        rows_of.setdefault(column, []).append(row)
    alike: dict[tuple[int, ...], list[int]] = {}
    for column, rows in sorted(rows_of.items()):
        alike.setdefault(tuple(sorted(rows)), []).append(column)
    found = []
    for kept, columns in alike.items():
        while columns:
            step = columns[1] - columns[0] if len(columns) > 1 else 1
            count = 1 + next(
                (i for i, (a, b) in enumerate(pairwise(columns)) if b - a != step), len(columns) - 1
            )
            found.append(Run(kept, columns[0], step, count))
            columns = columns[count:]
    return tuple(found)


def branches_of(task: ConvTask) -> Branches:
    """The branches of a task that `supports` lets pass."""
    assert task.conv.branches is not None
    return task.conv.branches


def lanes_for(task: ConvTask, device: Device) -> int:
    """Vector width: that of the blocks, else the device's, less for fewer channels."""
    channels, lanes = task.conv.in_channels, device.lanes
    blocks = {task.data.block, task.out.block} - {1}
    if not blocks:
        while lanes > 2 and lanes // 2 >= channels:
            lanes //= 2
        return lanes
    if not in_pixels(task, device):
        return blocks.pop()
    return narrowed(lanes, channels)


def in_pixels(task: ConvTask, device: Device) -> bool:
    """Whether all channels of a pixel lie side by side (NHWC) rather than in blocks of a vector."""
    conv = task.conv
    blocks = {task.data.block, task.out.block} - {1}
    if len(blocks) == 1:
        (block,) = blocks
        fits = not branches_of(task).concat or conv.in_channels % block == 0
        if block <= device.lanes and block & (block - 1) == 0 and fits:
            return False
    return bool(blocks)


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """Branches of one channel a group, in blocks of a vector, NHWC, or row-major without halo."""
    conv = task.conv
    if conv.branches is None:
        return Mismatch("a single filter")
    if (partial := is_partial(task)) is not None:
        return partial
    if in_pixels(task, device):
        if task.data.block not in (1, conv.in_channels):
            return Mismatch("the input is neither NHWC nor in blocks like the output's")
        if task.out.block not in (1, conv.out_channels):
            return Mismatch("the output is neither NHWC nor in blocks like the input's")
    return depthwise_blocks.misplaced(task, lanes_for(task, device))


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    conv, lanes, registers = task.conv, lanes_for(task, device), device.vector_registers
    taps = max(len(branch.taps) for branch in branches_of(task).members)
    for rows in range(1, min(8, conv.out_height) + 1):
        for columns in range(1, conv.out_width + 1):
            tile = rows * columns
            if tile > (registers * 3) // 4:
                break
            if tile * taps <= 2 * MAX_UNROLLED_FMAS:
                yield Knobs(lanes, rows, columns, False)
            if tile * taps > MAX_UNROLLED_FMAS:
                yield Knobs(lanes, rows, columns, True)


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core."""
    conv, space = task.conv, Space(task, knobs)
    pixels, registers = knobs.rows * knobs.columns, device.vector_registers
    spare = SPARE if device.memory_operands else SPARE + 4
    waiting = registers - pixels - spare  # weights in registers
    unlooped = space.segment == 1 and len(space.branches.members) > 1
    cycles = 0.0
    for branch in space.branches.members:
        taps, fmas = len(branch.taps), pixels * len(branch.taps)
        overhead = 6 + 0.5 * pixels
        by_column = knobs.is_by_column(branch)
        if by_column:
            loads = float(taps)
            for run in runs_of(branch):
                loads += len(space.row_uses_of(run.rows)) * knobs.columns * run.count
                loads += pixels * run.count * loaded(len(run.rows), waiting)
                overhead += run.count
            overhead += 20 * (len(runs_of(branch)) - 1)  # they are too short to run on their own
        else:
            loads = len(space.pixel_uses(branch)) + pixels * loaded(taps, waiting)
        busy = max(fmas / device.fma_ports, loads / device.load_ports, FMA_LATENCY * taps)
        if pixels + spare > registers:
            busy *= 2  # LLVM spills accumulators
        elif (not by_column and waiting < taps <= registers - pixels) or unlooped:
            busy *= 1.15  # LLVM spills pixels, which it keeps for other branches, or for weights
        cycles += busy + overhead
    vector = 1.25 * (knobs.lanes.bit_length() - 1)  # cycles of a vector of a transposed square
    moved = 0.0
    if space.from_planes:
        moved += space.filled * vector
    if space.to_planes:
        moved += space.strips * space.out_squares * knobs.lanes * vector * space.outputs
    tiles = space.strips * space.tiles.row_tiles * space.segments * space.segment
    return conv.batch * space.runs * (tiles * cycles + moved)


def loaded(taps: int, registers: int) -> int:
    """Taps that are loaded for each product, when others wait in `registers`."""
    return max(0, taps - max(0, registers))


class Space(depthwise_blocks.Space):
    """How maps fall into strips and tiles."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        super().__init__(task, depthwise_blocks.Knobs(knobs.lanes, knobs.rows, knobs.columns, True))
        self.branches = branches_of(task)
        self.outputs = len(self.branches.members) if self.branches.concat else 1
        several = len(self.branches.members) > 1
        tile = knobs.rows * knobs.columns * knobs.lanes * 4
        most = max(1, SUMS_BYTES // tile) if several else self.tiles.column_tiles
        self.segments = ceil_div(self.tiles.column_tiles, most)
        self.segment = ceil_div(self.tiles.column_tiles, self.segments)  # column tiles of a run

    def row_uses_of(self, rows: tuple[int, ...]) -> dict[int, list[tuple[int, int]]]:
        """For every input row of a tile that some rows of taps read: (output row, its index)."""
        found: dict[int, list[tuple[int, int]]] = {}
        for i in range(self.knobs.rows):
            for index, row in enumerate(rows):
                found.setdefault(i * self.sy + row, []).append((i, index))
        return dict(sorted(found.items()))

    def pixel_uses(self, branch: Branch) -> dict[tuple[int, int], list[tuple[int, int, int]]]:
        """For every input pixel of a tile that is read: (output row, column, number of the tap)."""
        found: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        taps = [tap for run in runs_of(branch) for tap in run.taps]
        for i in range(self.knobs.rows):
            for j in range(self.knobs.columns):
                for number, (row, column) in enumerate(taps):
                    at = (i * self.sy + row, j * self.sx + column)
                    found.setdefault(at, []).append((i, j, number))
        return dict(sorted(found.items()))


def _in_lanes(task: ConvTask, knobs: Knobs, values: np.ndarray) -> np.ndarray:
    """[C, …] as [vector, …, lane]; lanes behind the last channel repeat it."""
    channels, lanes = task.conv.in_channels, knobs.lanes
    starts = np.arange(ceil_div(channels, lanes)) * lanes
    if _overlaps(task):
        starts = np.minimum(starts, channels - lanes)
    index = np.minimum(starts[:, None] + np.arange(lanes), channels - 1)
    return np.ascontiguousarray(np.moveaxis(values[index], 1, -1))


def _overlaps(task: ConvTask) -> bool:
    """Whether the last vector of channels overlaps its neighbour, as NHWC wants it.

    Blocks of a vector cut [C] into whole ones; where NHWC is one block, there is one vector.
    """
    conv = task.conv
    return task.data.block == conv.in_channels or task.out.block == conv.out_channels


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """[C, taps] to [vector, tap, lane], the taps of a branch run by run (see `runs_of`)."""
    order, start = [], 0
    for branch in branches_of(task).members:
        number = {tap: start + i for i, tap in enumerate(branch.taps)}
        order += [number[tap] for run in runs_of(branch) for tap in run.taps]
        start += len(branch.taps)
    return _in_lanes(task, knobs, weight[:, order])


def pack_bias(task: ConvTask, knobs: Knobs, bias: np.ndarray) -> np.ndarray:
    """[branches · C] to [vector, branch, lane]."""
    count = len(branches_of(task).members)
    return _in_lanes(task, knobs, bias.reshape(count, -1).T)


class Kernel(depthwise_blocks.Kernel):
    """Emits the kernel's statements."""

    space: Space

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        plain = depthwise_blocks.Knobs(knobs.lanes, knobs.rows, knobs.columns, True)
        super().__init__(task, plain)
        self.space = Space(task, knobs)
        self.by_column = [knobs.is_by_column(branch) for branch in branches_of(task).members]
        self.members = self.space.branches.members
        self.summed = len(self.members) > 1 and not self.space.branches.concat

    def weight_shape(self) -> tuple[int, ...]:
        return (self.space.runs, self.space.branches.taps, self.lanes)

    def bias_shape(self) -> tuple[int, ...]:
        return (self.space.runs, len(self.members), self.lanes)

    def result_shape(self) -> tuple[int, ...]:
        rows, lanes = super().result_shape()
        return (rows * self.space.outputs, lanes)

    def allocate(self) -> None:
        """Sums of the branches so far, each tile in its own place."""
        if self.summed:
            tile = (self.knobs.rows, self.knobs.columns, self.lanes)
            tiles = self.space.segment
            while tiles * math.prod(tile) * 4 < emit.STACK_BYTES:
                tiles += 1  # what is on the stack would compete for registers
            self.sums = emit.scratch("sums", (tiles, *tile))

    def first_channel(self, v: Any) -> Any:
        if _overlaps(self.task):
            return tile_start(v, self.lanes, self.conv.in_channels)
        return v * self.lanes

    def at_input(self, n: Any, v: Any, y: Any, x: Any) -> tuple[Any, ...]:
        if self.task.data.block == self.conv.in_channels:
            return (n, 0, y, x, emit.run(self.first_channel(v), self.lanes))
        return (n, v, y, x, self.every)

    def _at_output(self, n: Any, v: Any, branch: int, y: Any, x: Any) -> tuple[Any, ...]:
        number, channels = (branch if self.space.outputs > 1 else 0), self.conv.in_channels
        if self.task.out.block == self.conv.out_channels:
            start = self.first_channel(v) + number * channels
            return (n, 0, y, x, emit.run(start, self.lanes))
        return (n, number * (channels // self.lanes) + v, y, x, self.every)

    def flush(self, n: Any, v: Any, first: Any, branch: int = 0) -> None:
        for number in range(self.space.outputs):
            super().flush(n, v, first, number)

    def tiles(self, n: Any, v: Any, first: Any) -> None:
        """All register tiles of a strip."""
        conv, space, knobs = self.conv, self.space, self.knobs
        with T.serial(0, space.tiles.row_tiles) as t, T.serial(0, space.segments) as g:
            row = tile_start(t, knobs.rows, space.strip)
            start = 0
            for number, branch in enumerate(self.members):
                weights = []
                if not self.by_column[number]:
                    weights = self._weights_at(v, start, len(branch.taps))
                with T.serial(0, space.segment) as q:
                    tile = tile_start(g, space.segment, space.tiles.column_tiles) + q
                    column = tile_start(tile, knobs.columns, conv.out_width)
                    self._start(v, number)
                    if self.by_column[number]:
                        self._columns(n, v, first, row, column, branch, start)
                    else:
                        self._pixels_once(n, v, first, row, column, branch, weights)
                    self._combine(n, v, first, row, column, number, q)
                start += len(branch.taps)

    def _weights_at(self, v: Any, start: Any, count: int) -> list[Any]:
        return [T.Bind(self.weight[v, start + i, self.every]) for i in range(count)]

    def _start(self, v: Any, branch: int) -> None:
        start = tirx.Broadcast(tirx.const(0.0, "float32"), self.lanes)
        start = T.Bind(start if self.bias is None else self.bias[v, branch, self.every])
        for i in range(self.knobs.rows):
            for j in range(self.knobs.columns):
                emit.store(self.acc, start, [i, j, self.every])

    def _add(self, x: Any, weight: Any, i: int, j: int) -> None:
        emit.store(self.acc, self.acc[i, j, self.every] + x * weight, [i, j, self.every])

    def _pixels_once(
        self, n: Any, v: Any, first: Any, row: Any, column: Any, branch: Branch, weights: list[Any]
    ) -> None:
        """The taps of a branch in the order of the input pixels."""
        for (r, c), uses in self.space.pixel_uses(branch).items():
            x = T.Bind(self.pixel(n, v, first, row * self.space.sy + r, column * self.space.sx + c))
            for i, j, number in uses:
                self._add(x, weights[number], i, j)

    def _columns(
        self, n: Any, v: Any, first: Any, row: Any, column: Any, branch: Branch, start: int
    ) -> None:
        """The taps of a branch column by column."""

        def add(run: Run, kw: Any, start: Any) -> None:
            weights = self._weights_at(v, start, len(run.rows))
            for r, uses in self.space.row_uses_of(run.rows).items():
                for j in range(self.knobs.columns):
                    at = (row * self.space.sy + r, (column + j) * self.space.sx + kw)
                    x = T.Bind(self.pixel(n, v, first, *at))
                    for i, index in uses:
                        self._add(x, weights[index], i, j)

        for run in runs_of(branch):
            if run.count == 1:
                add(run, run.first, start)
            else:
                with T.serial(0, run.count) as k:
                    add(run, run.first + k * run.step, start + k * len(run.rows))
            start += len(run.taps)

    def _combine(
        self, n: Any, v: Any, first: Any, row: Any, column: Any, number: int, q: Any
    ) -> None:
        """Add a branch's results to the sums, or finish."""
        branch, last = self.members[number], number == len(self.members) - 1
        for i in range(self.knobs.rows):
            for j in range(self.knobs.columns):
                value = apply_activation(self.acc[i, j, self.every], branch.activation)
                if self.summed and number > 0:
                    value = self.sums[q, i, j, self.every] + value
                if self.summed and not last:
                    emit.store(self.sums, value, [q, i, j, self.every])
                elif self.space.to_planes:
                    place = number if self.space.outputs > 1 else 0
                    at = (row + i + place * self.space.strip) * self.conv.out_width + column + j
                    emit.store(self.result, value, [at, self.every])
                else:
                    self.finish(value, self._at_output(n, v, number, first + row + i, column + j))


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`, one block a vector of channels."""
    return emit.prim_func("depthwise_branches", Kernel(task, knobs).emit)


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over vectors of channels; the body is written as it is to run."""
    run_parallel(sch, sch.get_loops(sch.get_sblock("tile")), task.conv.macs, device)
    return sch
