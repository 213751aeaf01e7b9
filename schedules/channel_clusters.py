"""Convolution in channel blocks where output channels read different input channels.

For what planar_clusters does not take: any kernel, stride, dilation and padding, data in blocks
with a halo. Output channels fall into tiles (see Clusters); a tile's table names the
input channels that any of its outputs reads, and the kernel broadcasts those from where they lie.
Self-grouping networks (Guo et al.) become one such convolution: no gathering, no products with the
zeros between clusters.

    parallel (n, channel tile, row tile)
      column tile
        acc[rows, columns, vectors, lanes] = bias                      registers
        input channel that the table names → kh
          kw, rows, columns, vectors (unrolled): acc += broadcast(data) · weight vector
        out = activation(acc + residual)

A tile's output channels either follow each other, and are stored as vectors, or are those of one
cluster and go to their places one by one (`scatter`), which pays where there are many products.

Layouts: data [N, C/b, H, W, b] with a halo that stands for the padding; weights see `pack_weights`;
out [N, K/b', OH, OW, b']. The last tile of rows or columns overlaps its neighbour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx.script import builder as T

from edgeconv.clusters import Clusters, Tile
from edgeconv.operators.convolution import apply_activation
from edgeconv.schedules import cluster_tables, emit, grouped_conv2d
from edgeconv.schedules.common import (
    FMA_LATENCY,
    L2_BYTES_PER_CYCLE,
    MAX_UNROLLED_FMAS,
    Mismatch,
    ceil_div,
    lacks_halo,
    run_parallel,
    tile_start,
)
from edgeconv.schedules.traffic import shares_map
from edgeconv.targets import Device
from edgeconv.workload import ConvTask

HEADER = 3  # numbers of a tile: where its channels start, its weights, and how many channels
CHANNEL = 2  # numbers of an input channel: its block, its lane in the block
ALIGNED = 16  # floats


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors.
        rows, columns: output pixels of a register tile.
        vectors: channel vectors of a register tile.
        scatter: output channels of a tile are stored one by one, to wherever they belong.
        unroll_kw: whether the horizontal taps are unrolled into the body.
    """

    lanes: int
    rows: int
    columns: int
    vectors: int
    scatter: bool
    unroll_kw: bool


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """Convolutions with clusters, on data in blocks or NCHW."""
    if task.conv.clusters is None:
        return Mismatch("every output channel reads every input channel of its group")
    if min(task.data.block, task.out.block) < 1:
        return Mismatch("data and output need a channel layout")
    return lacks_halo(task)


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    conv, registers = task.conv, device.vector_registers
    widest = grouped_conv2d.lanes_for(task, device)
    blocked = task.out.block not in (1, conv.out_channels)
    for lanes in (widest, widest // 2) if widest >= 8 else (widest,):
        for vectors in range(1, min(4, ceil_div(conv.out_channels, lanes)) + 1):
            for rows in range(1, min(6, conv.out_height) + 1):
                for columns in range(1, min(registers, conv.out_width) + 1):
                    tile = rows * columns * vectors
                    unroll = tile * conv.kernel_size[1] <= MAX_UNROLLED_FMAS
                    like = grouped_conv2d.Knobs(lanes, rows, columns, vectors, False, unroll)
                    if tile + grouped_conv2d.operand_registers(conv, device, like) > registers:
                        break
                    for scatter in (False, True) if blocked else (True,):
                        yield Knobs(lanes, rows, columns, vectors, scatter, unroll)


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core: per tile the longest of FMAs, loads, latency and weight traffic."""
    conv, space = task.conv, Space(task, knobs)
    pixels, taps = knobs.rows * knobs.columns, conv.tap_rows * conv.kernel_size[1]
    accumulators = pixels * knobs.vectors
    loads = device.load_cycles(knobs.vectors, pixels)
    step = max(accumulators / device.fma_ports, loads, FMA_LATENCY)
    overhead = 12 + 2 * accumulators
    if knobs.scatter:
        overhead += 2 * accumulators * knobs.lanes
    total = 0.0
    for tile in space.tiles:
        steps = len(tile.inputs) * taps
        cycles = steps * step
        weights = steps * knobs.vectors * knobs.lanes * 4
        if weights > device.l1d_kib * 1024 // 2:
            cycles = max(cycles, weights / L2_BYTES_PER_CYCLE)
        rounds = len(tile.inputs) * conv.tap_rows * (1 if knobs.unroll_kw else conv.kernel_size[1])
        total += cycles + rounds * 0.5 + overhead
    return total * conv.batch * space.row_tiles * space.column_tiles


class Space:
    """How channels and pixels fall into tiles, and where a tile's tables and weights lie."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        conv = self.conv = task.conv
        assert conv.clusters is not None
        self.task, self.knobs = task, knobs
        self.channels = knobs.vectors * knobs.lanes
        self.row_tiles = ceil_div(conv.out_height, knobs.rows)
        self.column_tiles = ceil_div(conv.out_width, knobs.columns)
        block = task.out.block
        self.stored = conv.out_channels  # channels that are stored: all lanes of the last block
        if block not in (1, conv.out_channels):
            self.stored = ceil_div(conv.out_channels, block) * block
        self.tiles: tuple[Tile, ...] = self._tiles(conv.clusters)

    def _tiles(self, clusters: Clusters) -> tuple[Tile, ...]:
        """Tiles of all channels that are stored; padding lanes read nothing."""
        if not self.knobs.scatter:
            tiles = clusters.runs(self.channels)
            missing = ceil_div(self.stored, self.channels) - len(tiles)
            return (*tiles, *[Tile((), ())] * missing)
        padding = range(self.conv.out_channels, self.stored)
        more = (padding[i : i + self.channels] for i in range(0, len(padding), self.channels))
        return (*clusters.tiles(self.channels), *(Tile(tuple(run), ()) for run in more))

    @property
    def header(self) -> int:
        """Numbers of a tile; with `scatter`, its output channels are among them."""
        return HEADER + (self.channels if self.knobs.scatter else 0)

    @property
    def step(self) -> int:
        """Floats of all weights of an input channel."""
        return self.conv.tap_rows * self.conv.kernel_size[1] * self.channels

    @property
    def inputs(self) -> int:
        """Input channels of all tiles."""
        return sum(len(tile.inputs) for tile in self.tiles)

    @property
    def weights(self) -> int:
        """Where weights start, behind the tables."""
        return ceil_div(len(self.tiles) * self.header + self.inputs * CHANNEL, ALIGNED) * ALIGNED

    def outputs(self, number: int) -> list[int]:
        """The output channels of a tile; where it has fewer, the last again, or K if not stored.

        Padding lanes are channels from K on.
        """
        outs = list(self.tiles[number].outputs)
        filler = outs[-1] if self.knobs.scatter else self.conv.out_channels
        return outs + [filler] * (self.channels - len(outs))


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """[K, C, R, S] to tables and weights, flat.

    Tables: for each tile its header, then block and lane of every input channel. Weights: for each
    tile and input channel [R, S, vector, lane]; zero in padding lanes.
    """
    space, block = Space(task, knobs), task.data.block
    filled = np.concatenate([weight, np.zeros((1, *weight.shape[1:]), weight.dtype)])
    heads: list[int] = []
    channels: list[int] = []
    packed = []
    first, start = len(space.tiles) * space.header, space.weights
    for number, tile in enumerate(space.tiles):
        outs = space.outputs(number)
        heads += [first + len(channels), start, len(tile.inputs)]
        heads += outs if knobs.scatter else []
        channels += [part for c in tile.inputs for part in divmod(c, block)]
        rows = np.minimum(outs, weight.shape[0])
        values = filled[rows[:, None], np.array(tile.inputs, np.int64)].transpose(
            1, 2, 3, 0
        )  # [input, R, S, output]
        packed.append(values.reshape(-1))
        start += values.size
    tables = cluster_tables.as_floats([*heads, *channels])
    return np.concatenate([tables, np.zeros(space.weights - tables.size, np.float32), *packed])


def pack_bias(task: ConvTask, knobs: Knobs, bias: np.ndarray) -> np.ndarray:
    """[K] to [tile, vector · lane], zero in padding lanes."""
    space = Space(task, knobs)
    outs = np.array([space.outputs(number) for number in range(len(space.tiles))])
    return np.concatenate([bias, np.zeros(1, bias.dtype)])[np.minimum(outs, bias.shape[0])]


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`, one block a register tile."""
    conv, space = task.conv, Space(task, knobs)

    def body() -> None:
        size = space.weights + space.inputs * space.step
        operands = emit.conv_operands(task, (size,), (len(space.tiles), space.channels))
        grid = dict(n=conv.batch, oc=len(space.tiles), oh=space.row_tiles, ow=space.column_tiles)
        with emit.loops(**grid) as axes, emit.block("tile"):
            n, oc, oh, ow = emit.all_spatial(grid, axes)
            row = tile_start(oh, knobs.rows, conv.out_height)
            column = tile_start(ow, knobs.columns, conv.out_width)
            _Kernel(operands, space, (n, oc, row, column)).emit()

    return emit.prim_func("channel_clusters", body)


class _Kernel:
    """One register tile."""

    def __init__(
        self, operands: emit.ConvOperands, space: Space, at: tuple[Any, Any, Any, Any]
    ) -> None:
        self.operands, self.space, self.knobs, self.conv = operands, space, space.knobs, space.conv
        self.n, self.tile, self.row, self.column = at
        knobs = self.knobs
        shape = (knobs.rows, knobs.columns, knobs.vectors, knobs.lanes)
        self.acc = emit.local("acc", shape)
        self.every = emit.run(0, knobs.lanes)
        self.head = self.tile * space.header

    def number(self, index: Any) -> Any:
        """An entry of the tables."""
        return T.Bind(cluster_tables.number(self.operands.weight, index))

    def each(self) -> Iterator[tuple[int, int, int]]:
        """All accumulators: row, column, vector."""
        knobs = self.knobs
        for i in range(knobs.rows):
            for j in range(knobs.columns):
                for m in range(knobs.vectors):
                    yield i, j, m

    def emit(self) -> None:
        """Start, sum, finish."""
        knobs, conv, lanes = self.knobs, self.conv, self.knobs.lanes
        biased = self.operands.bias is not None
        starts = []
        for m in range(knobs.vectors):
            value = self.operands.start(self.tile, emit.run(m * lanes, lanes))
            starts.append(T.Bind(value if biased else emit.spread(value, lanes)))
        for i, j, m in self.each():
            emit.store(self.acc, starts[m], [i, j, m, self.every])
        first, weights = self.number(self.head), self.number(self.head + 1)
        count, taps = self.number(self.head + 2), conv.kernel_size[1]
        with T.serial(0, count) as c, T.serial(0, conv.tap_rows) as kh:
            chunk = self.number(first + c * CHANNEL)
            slot = self.number(first + c * CHANNEL + 1)
            row = weights + c * self.space.step + kh * (taps * self.space.channels)
            if knobs.unroll_kw:
                for kw in range(taps):
                    self.tap((chunk, slot), kh, kw, row)
            else:
                with T.serial(0, taps) as kw:
                    self.tap((chunk, slot), kh, kw, row)
        self.finish()

    def tap(self, channel: tuple[Any, Any], kh: Any, kw: Any, weights: Any) -> None:
        """All multiply-adds of one weight of a channel."""
        knobs, lanes = self.knobs, self.knobs.lanes
        chunk, slot = channel
        at = weights + kw * self.space.channels
        vectors = [
            T.Bind(self.operands.weight[emit.run(at + m * lanes, lanes)])
            for m in range(knobs.vectors)
        ]
        image = self.operands.image(self.n, kh)
        for i in range(knobs.rows):
            for j in range(knobs.columns):
                y, x = self.operands.pixel(self.row + i, self.column + j, kh, kw)
                pixel = emit.spread(self.operands.data[image, chunk, y, x, slot], lanes)
                pixel = T.Bind(pixel)
                for m, vector in enumerate(vectors):
                    value = self.acc[i, j, m, self.every] + pixel * vector
                    emit.store(self.acc, value, [i, j, m, self.every])

    def finish(self) -> None:
        """Store activation(acc + residual)."""
        if self.knobs.scatter:
            self.scatter()
            return
        lanes, block = self.knobs.lanes, self.space.task.out.block
        for i, j, m in self.each():
            channel = self.tile * self.space.channels + m * lanes
            slots = emit.run(channel % block, lanes)
            at = [self.n, channel // block, self.row + i, self.column + j, slots]
            value = self.acc[i, j, m, self.every]
            if self.space.stored % self.space.channels == 0:
                self.operands.finish(value, at)
                continue
            with T.If(channel < self.space.stored), T.Then():  # the last tile may have fewer
                self.operands.finish(value, at)

    def scatter(self) -> None:
        """Store channel after channel, by way of an array in the cache."""
        knobs, task = self.knobs, self.space.task
        alone = self.operands.residual is None
        shape = (knobs.rows, knobs.columns, self.space.channels)
        result = emit.scratch("result", shape)
        for i, j, m in self.each():
            value = self.acc[i, j, m, self.every]
            value = apply_activation(value, task.activation) if alone else value
            emit.store(result, value, [i, j, emit.run(m * knobs.lanes, knobs.lanes)])
        with T.serial(0, self.space.channels) as k:
            channel = self.number(self.head + HEADER + k)
            chunk = T.Bind(tirx.truncdiv(channel, task.out.block))
            slot = T.Bind(tirx.truncmod(channel, task.out.block))
            for i in range(knobs.rows):
                for j in range(knobs.columns):
                    at = [self.n, chunk, self.row + i, self.column + j, slot]
                    if alone:
                        emit.store(self.operands.out, result[i, j, k], at)
                    else:
                        self.operands.finish(result[i, j, k], at)


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over tiles of rows; the body is written as it is to run."""
    n, oc, oh, ow = sch.get_loops(sch.get_sblock("tile"))
    run_parallel(
        sch, (n, oc, oh), task.conv.macs, device, along=(oh, ow), share_map=shares_map(task.conv)
    )
    return sch
