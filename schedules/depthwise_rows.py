"""Depthwise convolution of row-major maps: vectors along the width, each input vector read once.

Every channel is a plane of its own and small, so NCHW needs no channel blocks: a vector holds
`lanes` neighbouring output columns, and a filter tap is one number in all lanes.

    parallel (n, run of channels)
      channel → strip of output rows
        planes = the strip's input rows, zero around the map           scratch, if need be
        row tile → column tile
          acc[rows, columns, lanes] = bias                             registers
          kw
            input row → column: one vector, multiplied into every output row that it reaches
          out = activation(acc + residual)

The loops run over *input* rows: with R output rows a tile reads R + kh − 1 rows for R·kh products.

The scratch planes stand in for a halo where the input has none (a network's input), and hold even
and odd columns apart where the stride is 2, so that vectors are contiguous again. They are as
small as the first-level cache wants.

Layouts: data and out are [N, C, H, W] with or without a halo. Maps narrower than a vector are read
past their rows' ends, from a scratch plane or from a buffer with slack, and stored in part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import Ramp
from tvm.tirx.script import builder as T

from edgeconv.layout import Layout
from edgeconv.operators.convolution import apply_activation
from edgeconv.schedules import emit
from edgeconv.schedules.common import (
    FMA_LATENCY,
    MAX_UNROLLED_FMAS,
    Mismatch,
    ceil_div,
    is_partial,
    narrowed,
    run_parallel,
    starts,
    tap_uses,
    tile_start,
)
from edgeconv.schedules.depthwise_direct import Direct
from edgeconv.schedules.padding import input_row_inside, input_rows_met
from edgeconv.schedules.traffic import map_bytes
from edgeconv.targets import Device
from edgeconv.workload import Conv2d, ConvTask

SCRATCH_BYTES = 24 << 10  # scratch planes of a strip: they stay in the first-level cache
MOST_DIRECT_TAPS = 25  # beyond it every column of the filter in the code would be too much of it
CROSSING = 1.6  # loads that one vector across two cache lines counts as, on average
COPY_CYCLES = 4.0  # for each vector that goes through a scratch plane
FAR_MAPS = 2  # second-level caches, from where tiles fetch ahead
MOST_CHANNELS = 16  # channels that share one scratch, whose rim is zeroed once


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors.
        rows: output rows of a register tile.
        columns: vectors of output columns of a register tile.
        unroll_kw: whether the horizontal taps are unrolled into the body.
        scratch: whether input rows are first copied, with zeros around them; else each vector is
            loaded where it lies, and shuffled where it crosses the border.
        ahead: whether a tile prefetches what that below it reads and writes; not from scratch.
    """

    lanes: int
    rows: int
    columns: int
    unroll_kw: bool
    scratch: bool
    ahead: bool = False


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """One input channel a group, rows of pixels in memory, and a horizontal stride of 1 or 2."""
    conv = task.conv
    if not conv.is_depthwise:
        return Mismatch("a group has more than one channel")
    if task.data.block != 1 or task.out.block != 1:
        return Mismatch("channels lie in blocks")
    if task.residual is not None and task.residual.block != 1:
        return Mismatch("the residual lies in blocks")
    if conv.stride[1] > 2:
        return Mismatch(f"a horizontal stride of {conv.stride[1]}")
    if conv.input_shuffle > 1:
        return Mismatch("shuffled input channels")
    if (partial := is_partial(task)) is not None:
        return partial
    return None


def lanes_for(task: ConvTask, device: Device) -> int:
    """Vector width: the device's, narrowed to the output's width."""
    lanes = device.lanes
    while lanes > 2 and lanes // 2 >= task.conv.out_width:
        lanes //= 2
    return lanes


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    conv, lanes = task.conv, lanes_for(task, device)
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    halo = task.data.halo
    fetching = _most_fetching(conv, ceil_div(conv.out_width, lanes), device)
    direct = taps <= MOST_DIRECT_TAPS and halo[1] + conv.width + halo[3] > 1  # a row is a vector
    for rows in range(1, min(8, conv.out_height) + 1):
        for columns in range(1, ceil_div(conv.out_width, lanes) + 1):
            tile = rows * columns
            if tile > device.vector_registers // 2:
                break
            if direct and tile * taps <= 2 * MAX_UNROLLED_FMAS:
                yield Knobs(lanes, rows, columns, True, False, columns <= fetching)
            if tile * taps <= MAX_UNROLLED_FMAS:
                yield Knobs(lanes, rows, columns, True, True)
            yield Knobs(lanes, rows, columns, False, True)


def _most_fetching(conv: Conv2d, vectors: int, device: Device) -> int:
    """Vectors that tiles have at most which fetch ahead, of rows of so many vectors: of less than
    half a row, of the largest maps of less than a row. Zen 4, dilated 3x3: 1.1 to 1.6 times as
    fast; 0.9 where hardware follows the rows.
    """
    caches = map_bytes(conv) / (device.l2_kib * 1024)
    if caches <= FAR_MAPS:
        return 0
    return (vectors - 1) // 2 if caches <= 2 * FAR_MAPS else vectors - 1


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core: per tile multiply-adds and shuffles, or loads, most of which cross two
    cache lines; for scratch planes also the copy.
    """
    conv, space = task.conv, Space(task, knobs)
    r, s = conv.kernel_size
    met = input_rows_met(conv, whole=space.one_row) if knobs.scratch else 1.0
    fmas = knobs.rows * knobs.columns * r * s * met
    operands = space.input_rows * knobs.columns * s * met
    latency, loads = FMA_LATENCY * r * s, operands * CROSSING / device.load_ports
    shuffled = 0.0
    if not knobs.scratch:
        crosses = space.sx > 1 or space.vectors == 1
        shuffled = operands if crosses else operands / space.vectors / 2
        loads = loads * 4 / 3 if space.sx > 1 else loads
    held = r * s if knobs.unroll_kw else r  # weights that wait in registers
    spare = 6 if space.sx == 1 else 12  # loads, and the indices of shuffles
    if knobs.rows * knobs.columns + held + spare > device.vector_registers:
        # they are loaded for each product instead, and where rows are shuffled LLVM spills
        loads += (1 if space.sx == 1 or knobs.scratch else 2) * fmas / device.load_ports
    busy = max((fmas + shuffled) / device.fma_ports, loads, latency)
    tiles = space.strips * space.row_tiles * space.column_tiles
    overhead = 8 + 2 * knobs.rows * knobs.columns + (0 if knobs.unroll_kw else 2 * s)
    if knobs.columns < space.vectors:
        overhead += 2 * space.input_rows  # whole rows arrive in one stream
    cycles = space.out_planes * tiles * (busy + overhead)
    if space.copied:
        vectors = space.strip_rows * space.sx * ceil_div(conv.width, knobs.lanes * space.sx)
        cycles += conv.batch * conv.in_channels * space.strips * vectors * COPY_CYCLES
    return cycles


class Space:
    """How a plane falls into strips, tiles and vectors."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        conv = task.conv
        self.task, self.knobs, self.conv = task, knobs, conv
        (self.sy, self.sx), (self.dy, self.dx) = conv.stride, conv.dilation
        self.taps = conv.kernel_size
        self.multiplier = conv.out_channels_per_group
        lanes, left = knobs.lanes, conv.padding[1]
        halo = task.data.halo
        rim = all(h >= p for h, p in zip(halo, conv.padding, strict=True))
        narrow = conv.out_width < lanes and not any(halo)
        self.copied = knobs.scratch and (self.sx > 1 or not rim or narrow)
        self.row_reach = (self.taps[0] - 1) * self.dy  # input rows below an output row's first
        self.vectors = ceil_div(conv.out_width, lanes)
        self.column_tiles = ceil_div(self.vectors, knobs.columns)
        self.input_rows = len(self.uses())
        # scratch planes: [phase][row][pitch], column 0 of the map at `origin`
        self.origin = ceil_div(left, lanes * self.sx) * lanes
        shift = (self.taps[1] - 1) * self.dx // self.sx
        self.pitch = ceil_div(self.origin + max(self.vectors, 1) * lanes + shift + 1, lanes) * lanes
        self.pitch = max(
            self.pitch, ceil_div(self.origin + ceil_div(conv.width, self.sx) + 1, lanes) * lanes
        )
        self.strip = self._strip()
        self.strips = ceil_div(conv.out_height, self.strip)
        self.row_tiles = ceil_div(self.strip, knobs.rows)
        self.strip_rows = (self.strip - 1) * self.sy + self.row_reach + 1
        self.out_planes = conv.batch * conv.out_channels
        self.run = self._run()

    def _strip(self) -> int:
        """Output rows of a strip: all, or as many as scratch planes may hold."""
        if not self.copied:
            return self.conv.out_height
        row, rows = self.pitch * self.sx * 4, self.knobs.rows
        strip = max(SCRATCH_BYTES // row - self.row_reach, 0) // self.sy
        return min(max(strip // rows, 1) * rows, self.conv.out_height)

    def _run(self) -> int:
        """Channels that share scratch planes: a divisor of all."""
        groups = self.conv.groups
        return max(d for d in range(1, MOST_CHANNELS + 1) if groups % d == 0)

    @property
    def one_row(self) -> bool:
        """Whether a row of tiles is the whole map."""
        return self.strips * self.row_tiles == 1

    def uses(self) -> dict[int, list[tuple[int, int]]]:
        """For every input row of a tile that is read: the (output row, kh) that read it."""
        return tap_uses(self.knobs.rows, self.taps[0], self.sy, self.dy)

    def column(self, vector: Any) -> Any:
        """First output column of a vector; the last overlaps its neighbour."""
        if self.vectors == 1:
            return 0
        return tile_start(vector, self.knobs.lanes, self.conv.out_width)


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """OIHW [K, 1, R, S] to [K, S, R]."""
    return np.ascontiguousarray(weight[:, 0].transpose(0, 2, 1))


def pack_bias(task: ConvTask, knobs: Knobs, bias: np.ndarray) -> np.ndarray:
    """[K], unchanged."""
    return np.ascontiguousarray(bias)


def planes(name: str, shape: tuple[int, ...], layout: Layout, *, halo: bool) -> Any:
    """A parameter: row-major maps [N, C, H, W], with the halo or stepping over it."""
    _, _, h, w = shape
    top, left, bottom, right = layout.halo
    whole = (shape[0], shape[1], top + h + bottom, left + w + right)
    if halo or not any(layout.halo):
        return T.arg(name, tirx.decl_buffer(whole, "float32", name=name, data_alignment=4))
    strides = [whole[1] * whole[2] * whole[3], whole[2] * whole[3], whole[3], 1]
    offset = top * whole[3] + left
    inner = tirx.decl_buffer(
        shape, "float32", name=name, strides=strides, elem_offset=offset, data_alignment=4
    )
    return T.arg(name, inner)


class Kernel:
    """Emits the kernel's statements."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        self.task, self.knobs, self.conv = task, knobs, task.conv
        self.space = Space(task, knobs)
        self.lanes, self.every = knobs.lanes, Ramp(0, 1, knobs.lanes)

    def emit(self) -> None:
        """Parameters and the loop over runs of channels."""
        conv, space, task, knobs = self.conv, self.space, self.task, self.knobs
        in_shape = (conv.batch, conv.in_channels, conv.height, conv.width)
        self.data = planes("data", in_shape, task.data, halo=True)
        self.weight = emit.buffer("weight", (conv.out_channels, space.taps[1], space.taps[0]))
        self.bias = emit.buffer("bias", (conv.out_channels,)) if task.bias else None
        self.residual = (
            None
            if task.residual is None
            else planes("residual", conv.output_shape, task.residual, halo=False)
        )
        self.out = planes("out", conv.output_shape, task.out, halo=False)
        grid = dict(n=conv.batch, run=conv.groups // space.run)
        with emit.loops(**grid) as axes, emit.block("tile"):
            n, run = emit.all_spatial(grid, axes)
            self.acc = emit.local("acc", (self.knobs.rows, self.knobs.columns, self.lanes))
            if space.copied:
                self.scratch = emit.scratch("planes", (space.sx * space.strip_rows * space.pitch,))
                with T.serial(0, space.sx * space.strip_rows * space.pitch // self.lanes) as z:
                    emit.store(self.scratch, self._zero(), [self.ramp(z * self.lanes)])
            if not knobs.scratch:
                with T.serial(0, space.run * space.multiplier) as c:
                    channel = run * (space.run * space.multiplier) + c
                    Direct(self, n, channel).emit()
                return
            with T.serial(0, space.run) as c, T.serial(0, space.strips) as strip:
                group = run * space.run + c
                first = tile_start(strip, space.strip, conv.out_height)
                if space.copied:
                    self._fill(n, group, first)
                with T.serial(0, space.multiplier) as m:
                    self._strip(n, group, group * space.multiplier + m, first)

    def _zero(self) -> Any:
        return tirx.Broadcast(tirx.const(0.0, "float32"), self.lanes)

    def _fill(self, n: Any, group: Any, first: Any) -> None:
        """Copy the input rows of a strip into the scratch planes."""
        conv, space = self.conv, self.space
        halo = self.task.data.halo
        with T.serial(0, space.strip_rows) as r:
            y = first * space.sy + r - conv.padding[0]
            inside = tirx.all(y >= 0, y < conv.height)
            row = [n, group, y + halo[0]]
            with T.If(inside):
                with T.Then():
                    self._copy_row(row, halo[1], r)
                with T.Else():
                    with T.serial(0, space.sx * space.pitch // self.lanes) as z:
                        base = r * space.sx * space.pitch
                        emit.store(self.scratch, self._zero(), [self.ramp(base + z * self.lanes)])

    def _copy_row(self, row: list[Any], offset: int, r: Any) -> None:
        conv, space = self.conv, self.space
        base = r * space.sx * space.pitch
        lanes = self.lanes
        while lanes * space.sx > conv.width and lanes > 1:
            lanes //= 2
        if space.sx == 1:
            for x in starts(conv.width, lanes):
                value = self.data[(*row, self.ramp(offset + x, lanes))]
                emit.store(self.scratch, value, [self.ramp(base + space.origin + x, lanes)])
            return
        if conv.width == 1:
            self._put(base, 0, self.data[(*row, offset)], 1)
            return
        for x in starts(conv.width, 2 * lanes):
            low = T.Bind(self.data[(*row, self.ramp(offset + x, lanes))])
            high = T.Bind(self.data[(*row, self.ramp(offset + x + lanes, lanes))])
            for odd in (0, 1):
                picked = list(range(odd, 2 * lanes, 2))
                self._put(base, x + odd, tirx.Shuffle([low, high], picked), lanes)

    def ramp(self, start: Any, lanes: int | None = None) -> Any:
        lanes = self.lanes if lanes is None else lanes
        return Ramp(start, 1, lanes) if lanes > 1 else start

    def _put(self, base: Any, x: int, value: Any, lanes: int) -> None:
        """Store every second column from x on into its phase."""
        space = self.space
        padded = x + self.conv.padding[1]
        phase, index = padded % 2, padded // 2 - self._left()
        at = base + phase * space.pitch + space.origin + index
        emit.store(self.scratch, value, [self.ramp(at, lanes)])

    def _left(self) -> int:
        """Scratch columns of a phase before `origin` that stand for padding."""
        return self.conv.padding[1] // self.space.sx

    def _pixels(self, n: Any, group: Any, first: Any, row: Any, column: Any, kw: Any) -> Any:
        """The vector that tap kw reads for output columns from `column` on."""
        conv, space = self.conv, self.space
        shift = kw * space.dx
        if not space.copied:
            halo = self.task.data.halo
            y = first * space.sy + row + (halo[0] - conv.padding[0])
            x = column + shift + (halo[1] - conv.padding[1])
            return self.data[n, group, y, self.ramp(x)]
        phase, index = shift % space.sx, shift // space.sx
        at = (row * space.sx + phase) * space.pitch + space.origin - self._left() + index
        return self.scratch[self.ramp(at + column)]

    def _strip(self, n: Any, group: Any, channel: Any, first: Any) -> None:
        """All register tiles of a strip."""
        space, knobs = self.space, self.knobs
        start = tirx.const(0.0, "float32") if self.bias is None else self.bias[channel]
        start = T.Bind(tirx.Broadcast(start, self.lanes))
        weights = {}
        if knobs.unroll_kw:
            weights = {kw: self.weights(channel, kw) for kw in range(space.taps[1])}
        with T.serial(0, space.row_tiles) as t, T.serial(0, space.column_tiles) as q:
            top = tile_start(t, knobs.rows, space.strip)
            vector = tile_start(q, knobs.columns, space.vectors)
            columns = [space.column(vector + j) for j in range(knobs.columns)]
            acc = self.acc
            for i in range(knobs.rows):
                for j in range(knobs.columns):
                    emit.store(acc, start, [i, j, self.every])

            def taps(kw: Any, weights: list[Any]) -> None:
                for r, uses in self._rows_inside(first + top):
                    for j, column in enumerate(columns):
                        args = (first, top * space.sy + r, column, kw)
                        x = T.Bind(self._pixels(n, group, *args))
                        for i, kh in uses:
                            value = acc[i, j, self.every] + x * weights[kh]
                            emit.store(acc, value, [i, j, self.every])

            if knobs.unroll_kw:
                for kw in range(space.taps[1]):
                    taps(kw, weights[kw])
            else:
                with T.serial(0, space.taps[1]) as kw:
                    taps(kw, self.weights(channel, kw))
            for i in range(knobs.rows):
                for j, column in enumerate(columns):
                    value = acc[i, j, self.every]
                    self.finish(value, n, channel, first + top + i, column)

    def _rows_inside(self, row: Any) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """The input rows of the tile at an output row that exist with their uses; what follows runs
        for those only.
        """
        space = self.space
        for r, uses in space.uses().items():
            y = (0 if space.one_row else row * space.sy) + r - self.conv.padding[0]
            inside = input_row_inside(self.conv, y, whole=space.one_row)
            if inside is not False:
                with emit.when(inside):
                    yield r, uses

    def weights(self, channel: Any, kw: Any) -> list[Any]:
        """The vectors of one column of the filter."""
        return [
            T.Bind(tirx.Broadcast(self.weight[channel, kw, kh], self.lanes))
            for kh in range(self.space.taps[0])
        ]

    def finish(self, value: Any, n: Any, channel: Any, row: Any, column: Any) -> None:
        """Store activation(value + residual); where a row is narrower than a vector, in parts."""
        width = self.conv.out_width
        if width >= self.lanes:
            self._store(value, n, channel, row, self.ramp(column))
            return
        lanes = narrowed(self.lanes, width)
        for x in starts(width, lanes):
            if lanes == 1:
                self._store(tirx.Shuffle([value], [x]), n, channel, row, x)
            else:
                part = tirx.Shuffle([value], list(range(x, x + lanes)))
                self._store(part, n, channel, row, self.ramp(x, lanes))

    def _store(self, value: Any, n: Any, channel: Any, row: Any, column: Any) -> None:
        if self.residual is not None:
            value = value + self.residual[n, channel, row, column]
        value = apply_activation(value, self.task.activation)
        emit.store(self.out, value, [n, channel, row, column])


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`, one block a run of channels."""
    kernel = Kernel(task, knobs)
    return emit.prim_func("depthwise_rows", kernel.emit)


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over runs of channels; the body is written as it is to run."""
    run_parallel(sch, sch.get_loops(sch.get_sblock("tile")), task.conv.macs, device)
    return sch
