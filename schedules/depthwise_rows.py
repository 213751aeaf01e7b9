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

from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
    LOADS_PER_CYCLE,
    MAX_UNROLLED_FMAS,
    PARALLEL_MACS,
    Mismatch,
    ceil_div,
    tile_start,
)
from edgeconv.targets import Device
from edgeconv.workload import ConvTask

SCRATCH_SHARE = 2  # scratch planes may fill this part of the first-level cache
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
    """

    lanes: int
    rows: int
    columns: int
    unroll_kw: bool
    scratch: bool


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
    for rows in range(1, min(8, conv.out_height) + 1):
        for columns in range(1, ceil_div(conv.out_width, lanes) + 1):
            tile = rows * columns
            if tile > device.vector_registers // 2:
                break
            if tile * taps <= 2 * MAX_UNROLLED_FMAS:
                yield Knobs(lanes, rows, columns, True, False)
            if tile * taps <= MAX_UNROLLED_FMAS:
                yield Knobs(lanes, rows, columns, True, True)
            yield Knobs(lanes, rows, columns, False, True)


def default_knobs(task: ConvTask, device: Device) -> Knobs:
    """The candidate with the least estimated cycles (`estimate`)."""
    return min(candidates(task, device), key=lambda knobs: estimate(task, knobs, device))


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core."""
    space = Space(task, knobs)
    (r, s) = task.conv.kernel_size
    fmas = knobs.rows * knobs.columns * r * s
    loads = space.input_rows * knobs.columns * s
    busy = max(fmas / device.fma_ports, loads * 2 / LOADS_PER_CYCLE, FMA_LATENCY * r * s)
    tiles = space.out_planes * space.strips * space.row_tiles * space.column_tiles
    return tiles * (busy + 12 + 2 * knobs.rows * knobs.columns)


class Space:
    """How a plane falls into strips, tiles and vectors."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        conv = task.conv
        self.task, self.knobs, self.conv = task, knobs, conv
        (self.sy, self.sx), (self.dy, self.dx) = conv.stride, conv.dilation
        self.taps = conv.kernel_size
        self.multiplier = conv.out_channels_per_group
        lanes, (top, left, bottom, right) = knobs.lanes, conv.padding
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
        row = self.pitch * self.sx * 4
        limit = 24 * 1024  # bytes
        strip = max(limit // row - self.row_reach, 0) // self.sy
        rows = self.knobs.rows
        strip = min(max(strip // rows, 1) * rows, self.conv.out_height)
        return strip

    def _run(self) -> int:
        groups = self.conv.groups
        return max(d for d in range(1, MOST_CHANNELS + 1) if groups % d == 0)

    def uses(self) -> dict[int, list[tuple[int, int]]]:
        """For every input row of a tile that is read: the (output row, kh) that read it."""
        found: dict[int, list[tuple[int, int]]] = {}
        for i in range(self.knobs.rows):
            for kh in range(self.taps[0]):
                found.setdefault(i * self.sy + kh * self.dy, []).append((i, kh))
        return dict(sorted(found.items()))

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
                self.scratch = emit.local(
                    "planes", (space.sx * space.strip_rows * space.pitch,)
                )
                with T.serial(0, space.sx * space.strip_rows * space.pitch // self.lanes) as z:
                    emit.store(self.scratch, self._zero(), [self._ramp(z * self.lanes)])
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
                        emit.store(self.scratch, self._zero(), [self._ramp(base + z * self.lanes)])

    def _copy_row(self, row: list[Any], offset: int, r: Any) -> None:
        conv, space = self.conv, self.space
        base = r * space.sx * space.pitch
        lanes = self.lanes
        while lanes * space.sx > conv.width and lanes > 1:
            lanes //= 2
        if space.sx == 1:
            for x in starts(conv.width, lanes):
                value = self.data[(*row, self._ramp(offset + x, lanes))]
                emit.store(self.scratch, value, [self._ramp(base + space.origin + x, lanes)])
            return
        if conv.width == 1:
            self._put(base, 0, self.data[(*row, offset)], 1)
            return
        for x in starts(conv.width, 2 * lanes):
            low = T.Bind(self.data[(*row, self._ramp(offset + x, lanes))])
            high = T.Bind(self.data[(*row, self._ramp(offset + x + lanes, lanes))])
            for odd in (0, 1):
                picked = list(range(odd, 2 * lanes, 2))
                self._put(base, x + odd, tirx.Shuffle([low, high], picked), lanes)

    def _ramp(self, start: Any, lanes: int | None = None) -> Any:
        lanes = self.lanes if lanes is None else lanes
        return Ramp(start, 1, lanes) if lanes > 1 else start

    def _put(self, base: Any, x: int, value: Any, lanes: int) -> None:
        """Store every second column from x on into its phase."""
        space = self.space
        padded = x + self.conv.padding[1]
        phase, index = padded % 2, padded // 2 - self._left()
        at = base + phase * space.pitch + space.origin + index
        emit.store(self.scratch, value, [self._ramp(at, lanes)])

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
            return self.data[n, group, y, self._ramp(x)]
        phase, index = shift % space.sx, shift // space.sx
        at = (row * space.sx + phase) * space.pitch + space.origin - self._left() + index
        return self.scratch[self._ramp(at + column)]

    def _strip(self, n: Any, group: Any, channel: Any, first: Any) -> None:
        """All register tiles of a strip."""
        conv, space, knobs = self.conv, self.space, self.knobs
        start = tirx.const(0.0, "float32") if self.bias is None else self.bias[channel]
        start = T.Bind(tirx.Broadcast(start, self.lanes))
        weights = {}
        if knobs.unroll_kw:
            weights = {kw: self._weights(channel, kw) for kw in range(space.taps[1])}
        with T.serial(0, space.row_tiles) as t, T.serial(0, space.column_tiles) as q:
            top = tile_start(t, knobs.rows, space.strip)
            vector = tile_start(q, knobs.columns, space.vectors)
            columns = [space.column(vector + j) for j in range(knobs.columns)]
            acc = self.acc
            for i in range(knobs.rows):
                for j in range(knobs.columns):
                    emit.store(acc, start, [i, j, self.every])

            def taps(kw: Any, weights: list[Any]) -> None:
                for r, uses in space.uses().items():
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
                    taps(kw, self._weights(channel, kw))
            for i in range(knobs.rows):
                for j, column in enumerate(columns):
                    self._finish(n, channel, first + top + i, column, (i, j))

    def _weights(self, channel: Any, kw: Any) -> list[Any]:
        """The vectors of one column of the filter."""
        return [
            T.Bind(tirx.Broadcast(self.weight[channel, kw, kh], self.lanes))
            for kh in range(self.space.taps[0])
        ]

    def _finish(self, n: Any, channel: Any, row: Any, column: Any, at: tuple[int, int]) -> None:
        """Store activation(acc + residual); where a row is narrower than a vector, in parts."""
        width = self.conv.out_width
        value = self.acc[(*at, self.every)]
        if width >= self.lanes:
            self._store(value, n, channel, row, self._ramp(column))
            return
        lanes = self.lanes
        while lanes > width:
            lanes //= 2
        for x in starts(width, lanes):
            if lanes == 1:
                self._store(tirx.Shuffle([value], [x]), n, channel, row, x)
            else:
                part = tirx.Shuffle([value], list(range(x, x + lanes)))
                self._store(part, n, channel, row, self._ramp(x, lanes))

    def _store(self, value: Any, n: Any, channel: Any, row: Any, column: Any) -> None:
        if self.residual is not None:
            value = value + self.residual[n, channel, row, column]
        value = apply_activation(value, self.task.activation)
        emit.store(self.out, value, [n, channel, row, column])


@dataclass(frozen=True)
class Run:
    """Tiles that share their code: `count` of them, the first at `start`, each `size` further."""

    start: int
    count: int
    inside: bool


def runs(extent: int, size: int, is_inside: Callable[[int], bool]) -> list[Run]:
    """The tiles over `extent`, those that touch no border gathered into loops."""
    found: list[Run] = []
    for start in starts(extent, size):
        last = found[-1] if found else None
        if is_inside(start) and last and last.inside and start == last.start + last.count * size:
            found[-1] = Run(last.start, last.count + 1, True)
        else:
            found.append(Run(start, 1, is_inside(start)))
    return found


class Direct:
    """One channel without scratch: tiles at the border leave out what lies beyond it."""

    def __init__(self, kernel: Kernel, n: Any, channel: Any) -> None:
        self.kernel, self.n, self.channel = kernel, n, channel
        self.conv, self.space, self.knobs = kernel.conv, kernel.space, kernel.knobs
        conv, halo = kernel.conv, kernel.task.data.halo
        self.halo = halo
        self.first_row, self.end_row = -halo[0], conv.height + halo[2]
        self.first_column, self.end_column = -halo[1], conv.width + halo[3]
        self.lanes = kernel.lanes
        self.load = kernel.lanes  # lanes of a load: no more than a row has
        while self.load > self.end_column - self.first_column:
            self.load //= 2

    def emit(self) -> None:
        """All register tiles."""
        conv, space, knobs, kernel = self.conv, self.space, self.knobs, self.kernel
        start = tirx.const(0.0, "float32") if kernel.bias is None else kernel.bias[self.channel]
        self.start = T.Bind(tirx.Broadcast(start, self.lanes))
        self.weights = [kernel._weights(self.channel, kw) for kw in range(space.taps[1])]
        reach = (knobs.rows - 1) * space.sy + space.row_reach
        rows = runs(
            conv.out_height,
            knobs.rows,
            lambda y: self.first_row <= y * space.sy - conv.padding[0]
            and y * space.sy - conv.padding[0] + reach < self.end_row,
        )
        columns = runs(space.vectors, knobs.columns, self._is_inside)
        for row in rows:
            with ExitStack() as loops:
                y = self._position(loops, row, knobs.rows)
                for column in columns:
                    with ExitStack() as inner:
                        vector = self._position(inner, column, knobs.columns)
                        self._tile(y, row.inside, vector, column.inside)

    @staticmethod
    def _position(loops: ExitStack, run: Run, size: int) -> Any:
        if run.count == 1:
            return run.start
        return run.start + loops.enter_context(T.serial(0, run.count)) * size

    def _is_inside(self, vector: int) -> bool:
        """Whether all that a tile of vectors reads lies in the row, and no vector overlaps."""
        space, lanes = self.space, self.lanes
        first = vector * lanes * space.sx - self.conv.padding[1]
        first -= first % space.sx
        end = (vector + self.knobs.columns) * lanes
        last = end * space.sx - self.conv.padding[1] + (space.taps[1] - 1) * space.dx
        return end <= self.conv.out_width and first >= self.first_column and last <= self.end_column

    def _tile(self, y: Any, rows_inside: bool, vector: Any, columns_inside: bool) -> None:
        space, knobs, kernel, conv = self.space, self.knobs, self.kernel, self.conv
        acc, every = kernel.acc, kernel.every
        if columns_inside:
            columns = [(vector + j) * self.lanes for j in range(knobs.columns)]
        else:
            columns = [space.column(vector + j) for j in range(knobs.columns)]
        for i in range(knobs.rows):
            for j in range(knobs.columns):
                emit.store(acc, self.start, [i, j, every])
        for r, uses in space.uses().items():
            row = y * space.sy + r - conv.padding[0]
            if not rows_inside and not self.first_row <= row < self.end_row:
                continue
            group = self.channel // space.multiplier
            self.row = (self.n, group, row + self.halo[0])
            self.loaded: dict[Any, Any] = {}
            for kw in range(space.taps[1]):
                for j, column in enumerate(columns):
                    x = self._inside(column, kw) if columns_inside else self._clipped(column, kw)
                    if x is None:
                        continue
                    x = T.Bind(x)
                    for i, kh in uses:
                        value = acc[i, j, every] + x * self.weights[kw][kh]
                        emit.store(acc, value, [i, j, every])
        for i in range(knobs.rows):
            for j, column in enumerate(columns):
                kernel._finish(self.n, self.channel, y + i, column, (i, j))

    def _load(self, key: Any, start: Any) -> Any:
        """The vector of a row from a column on; each is loaded once a tile and row."""
        if key not in self.loaded:
            lanes = self.load
            at = self.kernel._ramp(start + self.halo[1], lanes)
            self.loaded[key] = T.Bind(self.kernel.data[(*self.row, at)])
        return self.loaded[key]

    def _inside(self, column: Any, kw: int) -> Any:
        """What tap kw reads for the output columns of a tile inside the row."""
        space, lanes = self.space, self.lanes
        first = kw * space.dx - self.conv.padding[1]
        if space.sx == 1:
            return self._load((column, first), column + first)
        start, odd = first - first % 2, first % 2
        low, high = (
            self._load((column, start + k), column * 2 + start + k) for k in (0, lanes)
        )
        return tirx.Shuffle([low, high], list(range(odd, 2 * lanes, 2)))

    def _clipped(self, column: int, kw: int) -> Any | None:
        """The same where taps may lie beyond the row: they read zero. None if all of them do."""
        space, lanes, load = self.space, self.lanes, self.load
        low, high = self.first_column, self.end_column
        first = column * space.sx + kw * space.dx - self.conv.padding[1]
        used = min(lanes, self.conv.out_width - column)
        wanted = [first + i * space.sx for i in range(used)]
        valid = [c for c in wanted if low <= c < high]
        if not valid:
            return None
        if space.sx == 1 and len(valid) == used and first + lanes <= high and load == lanes:
            return self._load(first, first)
        a = min(max(valid[0] - (valid[0] % space.sx), low), high - load)
        b = min(a + load, high - load)
        single = valid[-1] < a + load
        zero = tirx.Broadcast(tirx.const(0.0, "float32"), load)
        sources = [self._load(a, a), zero if single else self._load(b, b)]
        index, blend = [], []
        for i in range(lanes):
            c = wanted[min(i, used - 1)]
            if not low <= c < high:
                index.append(load if single else 0)
                blend.append(lanes)
            else:
                index.append(c - a if c < a + load else load + c - b)
                blend.append(i)
        shuffled = tirx.Shuffle(sources, index)
        if single or lanes not in blend:
            return shuffled
        zero = tirx.Broadcast(tirx.const(0.0, "float32"), lanes)
        return tirx.Shuffle([T.Bind(shuffled), zero], blend)


def starts(extent: int, size: int) -> list[int]:
    """Where pieces of `size` start that cover `extent`; the last overlaps its neighbour."""
    return [tile_start(i, size, extent) for i in range(ceil_div(extent, size))]


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`, one block a run of channels."""
    kernel = Kernel(task, knobs)
    return emit.prim_func("depthwise_rows", kernel.emit)


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over runs of channels; the body is written as it is to run."""
    outer = sch.fuse(*sch.get_loops(sch.get_sblock("tile")))
    if device.cores > 1 and task.conv.macs >= PARALLEL_MACS:
        sch.parallel(outer)
    return sch
