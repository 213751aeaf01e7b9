"""Winograd convolution F(4×4, 3×3) and F(2×2, 3×3): a quarter or 4/9 of the multiplications of a
3×3 convolution of stride 1, with any groups and dilation.

The products over channels become (m+2)² matrix products, m the side of an output tile; the
transforms and their rounding error are in `winograd_transforms`. `numerics="exact"` never uses
this schedule.

    parallel (n, window of groups, part of its output channels, block of tiles)
      input:   V[products, tiles, C] = Bᵀ d B
      product: M[e, K, tiles] = U[e, K, C] · V[e, C, tiles], tiles and channel vectors in registers
      output:  activation(Aᵀ M A + bias + residual)

A window is one group, or as many narrow ones as fill a vector; then the weights hold zeros for
foreign channels. Parts repeat the input transform, and each streams its own weights only. With a
dilation of d, each of the d·d phases is a convolution of its own: tiles take pixels d apart.

Layouts: data and out in channel blocks or NHWC. The last tile of a row or column, the last window
and, in NHWC, the last vector of a window overlap their neighbours; padding lanes are transformed
but never multiplied. Weights see `pack_weights`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import Ramp
from tvm.tirx.script import builder as T

from edgeconv.layout import Layout
from edgeconv.schedules import emit
from edgeconv.schedules.common import (
    FMA_LATENCY,
    L2_BYTES_PER_CYCLE,
    Mismatch,
    ceil_div,
    is_partial,
    minimum,
    run_parallel,
    tile_start,
)
from edgeconv.schedules.winograd_transforms import (
    KERNEL,
    transform_input,
    transform_output,
    transform_weights,
)
from edgeconv.targets import Device
from edgeconv.workload import ConvTask

LEAST_LANES = 4
BLOCK_TILES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)
LINE = 16  # float32 of a cache line
PREFETCH = 8192  # bytes ahead; hardware prefetchers stop at pages, and weights are cold
L1_FILL_BYTES_PER_CYCLE, L3_BYTES_PER_CYCLE = 64, 16  # of one core
COLD_BYTES_PER_CYCLE = 10  # of one core, partly from L3
MAP_BYTES_PER_CYCLE = 5  # of maps that do not stay in L3
MEMORY_BYTES_PER_CYCLE = 6  # of all cores together


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors of output channels.
        tile: side of an output tile, 2 or 4.
        groups: groups of a window.
        parts: parts the output channels of a window are cut into.
        tiles: output tiles transformed and multiplied together.
        rows, vectors: tiles and channel vectors of a register tile of the matrix products.
    """

    lanes: int
    tile: int
    groups: int
    parts: int
    tiles: int
    rows: int
    vectors: int


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """3×3 of stride 1, groups that fill at least half a vector, maps of at least 2×2."""
    conv = task.conv
    if conv.kernel_size != (KERNEL, KERNEL) or conv.stride != (1, 1):
        return Mismatch("only 3x3 kernels of stride 1")
    if conv.input_shuffle != 1:
        return Mismatch("the input channels are shuffled")
    if (partial := is_partial(task)) is not None:
        return partial
    if conv.groups > 1 and 2 * conv.out_channels_per_group < device.lanes:
        return Mismatch(f"a group has {conv.out_channels_per_group} output channels only")
    if _smallest_phase(task) < 2:
        return Mismatch("the output is smaller than 2x2")
    for channels, layout in ((conv.in_channels, task.data), (conv.out_channels, task.out)):
        if layout.block < 2 or _lanes(channels, layout, device) < LEAST_LANES:
            return Mismatch(f"{channels} channels in {layout} do not lie side by side")
    if task.residual is not None and task.residual.block != task.out.block:
        return Mismatch("the residual lies in other blocks than the output")
    if not list(_windows(task, device)):
        return Mismatch(f"groups straddle blocks of {task.out.block} channels")
    return None


def _smallest_phase(task: ConvTask) -> int:
    """Pixels along the shorter side of the output that one phase of the dilation has at least."""
    conv = task.conv
    return min(conv.out_height // conv.dilation[0], conv.out_width // conv.dilation[1])


def _lanes(channels: int, layout: Layout, device: Device) -> int:
    """Widest vector of channels that lie side by side."""
    lanes = device.lanes
    nhwc = layout.block == channels
    while lanes > channels if nhwc else layout.block % lanes:
        lanes //= 2
    return lanes


def _windows(task: ConvTask, device: Device) -> Iterator[int]:
    """How many groups a window may have: one, or those that fill a vector."""
    conv = task.conv
    lanes, kpg = _lanes(conv.out_channels, task.out, device), conv.out_channels_per_group
    for groups in sorted({1, max(1, min(lanes // kpg, conv.groups))}):
        whole = groups * kpg % lanes == 0 and conv.groups % groups == 0
        if whole or groups == conv.groups or task.out.block == conv.out_channels:
            yield groups


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    lanes = _lanes(task.conv.out_channels, task.out, device)
    for tile in (2, 4):
        if _smallest_phase(task) < tile:
            continue
        for groups in _windows(task, device):
            run = ceil_div(groups * task.conv.out_channels_per_group, lanes)
            for parts in sorted({ceil_div(run, ceil_div(run, p)) for p in (1, 2, 4, 8)}):
                part = ceil_div(run, parts)
                for tiles in _tile_counts(task, tile):
                    for rows, vectors in _register_tiles(tiles, part, device):
                        yield Knobs(lanes, tile, groups, parts, tiles, rows, vectors)


def _tile_counts(task: ConvTask, tile: int) -> list[int]:
    """Numbers of tiles of a block, near `BLOCK_TILES`, that cut the map evenly."""
    total = Space.count(task, tile)
    return sorted({ceil_div(total, ceil_div(total, most)) for most in BLOCK_TILES})


def _register_tiles(tiles: int, part: int, device: Device) -> Iterator[tuple[int, int]]:
    """(rows, vectors) that fit the registers and cut `tiles` evenly."""
    registers = device.vector_registers
    for vectors in range(1, min(4, part) + 1):
        most = min(tiles, (registers - 2 - vectors) // vectors, registers * 13 // 16 // vectors)
        for rows in sorted({ceil_div(tiles, n) for n in range(1, tiles + 1)}):
            if rows <= most:
                yield rows, vectors


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core: transforms by their operations, products by FMAs, loads and traffic.

    The weights are taken to be cold: in a network, other layers ran since. Those that the direct
    sum reads as well are not counted, nor do the other families count them.
    """
    space, ports = Space(task, knobs), device.fma_ports
    vectors = space.products * space.part * knobs.tiles  # of M
    # operations of the transforms on a row or a column, and the loads and stores of V and M
    column, side = (14, 6) if knobs.tile == 4 else (4, 4)
    into = 2 * side * column / ports + 1.2 * space.products
    outof = (side + knobs.tile) * column / ports + space.products + 3 * knobs.tile**2
    transforms = knobs.tiles * (into * space.in_vectors + outof * space.part)
    fmas = knobs.rows * knobs.vectors
    loads = knobs.rows + knobs.vectors + ceil_div(knobs.vectors * knobs.lanes, LINE)
    step = max(fmas / ports, loads / device.load_ports, FMA_LATENCY)
    register_tiles = space.products * space.channel_tiles * ceil_div(knobs.tiles, knobs.rows)
    weights = space.unit_weights * 4
    sums, slice_bytes = space.run_in * step, space.run_in * knobs.vectors * knobs.lanes * 4
    if slice_bytes > device.l1d_kib * 1024 // 2:  # weights of a register tile
        sums = max(sums, slice_bytes / L2_BYTES_PER_CYCLE)
    product = register_tiles * (sums + 10 + 2 * fmas) + weights / L1_FILL_BYTES_PER_CYCLE
    scratch = (space.products * knobs.tiles * space.width + vectors * knobs.lanes) * 4
    again = product  # of all blocks but the first, which finds the weights in L2 or behind it
    if weights + scratch > device.l2_kib * 1024:
        again = max(again, weights / L3_BYTES_PER_CYCLE)
    if scratch > device.l2_kib * 1024 // 2:
        transforms += 2 * scratch / L3_BYTES_PER_CYCLE
    maps = _map_bytes(task)
    if device.l3_kib and maps > device.l3_kib * 1024 // 4:  # tiles defeat the prefetchers
        transforms += (
            space.width / task.conv.in_channels * maps / space.blocks / MAP_BYTES_PER_CYCLE
        )
    streams = task.conv.batch * space.windows * knobs.parts
    busy = ceil_div(streams * space.blocks, device.cores) * device.cores  # idle cores cost as much
    extra = weights * (1 - KERNEL**2 / space.products)
    rate = COLD_BYTES_PER_CYCLE if device.l3_kib else MEMORY_BYTES_PER_CYCLE / device.cores
    cold = max(0.0, extra / rate - product / 2)  # half overlaps with the first block's products
    return (busy * (transforms + again) + streams * cold) * 0.9


def _map_bytes(task: ConvTask) -> int:
    """Bytes of one image's input and output."""
    conv = task.conv
    shapes = (conv.in_channels * conv.height * conv.width, math.prod(conv.output_shape[1:]))
    return 4 * sum(shapes)


class Space:
    """How output tiles fall into blocks, and channels into windows, parts and register tiles.

    Methods take ints or TIR expressions alike, so packing and code generation share one definition.
    """

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        conv, lanes = task.conv, knobs.lanes
        self.task, self.conv, self.knobs, self.lanes = task, conv, knobs, lanes
        self.products = (knobs.tile + KERNEL - 1) ** 2
        self.blocks = ceil_div(self.count(task, knobs.tile), knobs.tiles)
        self.windows = ceil_div(conv.groups, knobs.groups)
        self.run_in = knobs.groups * conv.in_channels_per_group
        self.run_out = knobs.groups * conv.out_channels_per_group
        # output channels: vectors of the window, of a part, register tiles of a part
        self.padded = task.out.block != conv.out_channels
        self.stored = lanes if self.padded else min(lanes, self.run_out)  # lanes of a vector
        self.out_vectors = ceil_div(self.run_out, lanes)
        self.part = ceil_div(self.out_vectors, knobs.parts)
        self.channel_tiles = ceil_div(self.part, knobs.vectors)
        # input channels: vectors that cover the window wherever it starts
        self.nhwc = task.data.block == conv.in_channels
        self.in_lanes = lanes
        while self.in_lanes > conv.in_channels if self.nhwc else task.data.block % self.in_lanes:
            self.in_lanes //= 2
        self.in_vectors = ceil_div(self.run_in, self.in_lanes)
        if not self.nhwc:
            starts = [self.in_start(w) for w in range(self.windows)]
            ends = [ceil_div(s + self.run_in, self.in_lanes) for s in starts]
            spans = [e - s // self.in_lanes for s, e in zip(starts, ends, strict=True)]
            self.in_vectors = max(spans)
        self.width = self.in_vectors * self.in_lanes
        if self.nhwc:
            self.width = max(self.run_in, self.in_lanes)

    @staticmethod
    def count(task: ConvTask, tile: int) -> int:
        """Tiles of one map, all phases of the dilation."""
        rows, columns = Space.phase_tiles(task, tile)
        return rows * columns * task.conv.dilation[0] * task.conv.dilation[1]

    @staticmethod
    def phase_tiles(task: ConvTask, tile: int) -> tuple[int, int]:
        """Rows and columns of tiles of the largest phase."""
        conv = task.conv
        rows = ceil_div(ceil_div(conv.out_height, conv.dilation[0]), tile)
        return rows, ceil_div(ceil_div(conv.out_width, conv.dilation[1]), tile)

    def corner(self, number: Any) -> tuple[Any, Any]:
        """First output row and column of a tile; tiles are counted through rows of all phases."""
        conv, columns = self.conv, self.phase_tiles(self.task, self.knobs.tile)[1]
        across = columns * conv.dilation[1]
        row = self._start(number // across, conv.out_height, conv.dilation[0])
        return row, self._start(number % across, conv.out_width, conv.dilation[1])

    def _start(self, index: Any, extent: int, dilation: int) -> Any:
        """Output row (or column) where tile row `index` starts; the last of a phase overlaps."""
        size = self.knobs.tile
        if dilation == 1:
            return tile_start(index, size, extent)
        phase, number = index % dilation, index // dilation
        pixels = (extent - 1 - phase) // dilation + 1
        return phase + dilation * minimum(number * size, pixels - size)

    def first_group(self, window: Any) -> Any:
        """First group of a window; the last overlaps its neighbour."""
        return tile_start(window, self.knobs.groups, self.conv.groups)

    def in_start(self, window: Any) -> Any:
        """First input channel a window multiplies."""
        return self.first_group(window) * self.conv.in_channels_per_group

    def in_base(self, window: Any) -> Any:
        """First input channel a window transforms: at most `in_start`, so that vectors fit."""
        start = self.in_start(window)
        if self.windows == 1:
            return 0
        if self.nhwc:
            return minimum(start, self.conv.in_channels - self.width)
        vectors = ceil_div(self.conv.in_channels, self.in_lanes)
        return minimum(start // self.in_lanes, vectors - self.in_vectors) * self.in_lanes

    def in_vector(self, number: Any) -> Any:
        """Where an input vector starts, counted from `in_base`; in NHWC the last overlaps."""
        return tile_start(number, self.in_lanes, self.width)

    def out_channel(self, window: Any, vector: Any) -> Any:
        """First output channel of a vector of a window."""
        start = self.first_group(window) * self.conv.out_channels_per_group
        if self.padded or self.run_out < self.lanes:
            return start + vector * self.lanes
        return start + tile_start(vector, self.lanes, self.run_out)

    def part_start(self, part: Any) -> Any:
        """First vector of a part; the last overlaps its neighbour."""
        return tile_start(part, self.part, self.out_vectors)

    def tile_vector(self, channel_tile: Any) -> Any:
        """First vector of a register tile, counted from its part's; the last overlaps."""
        return tile_start(channel_tile, self.knobs.vectors, self.part)

    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the packed weights: [window, part, product, tile, channel, vector, lane]."""
        inner = (self.run_in, self.knobs.vectors, self.lanes)
        return (self.windows, self.knobs.parts, self.products, self.channel_tiles, *inner)

    @property
    def unit_weights(self) -> int:
        """Packed weights that one part of a window reads."""
        return self.products * self.channel_tiles * self.knobs.vectors * self.run_in * self.lanes

    def channel_table(self) -> np.ndarray:
        """Output channel of every [window, vector, lane]; K stands for a lane without one."""
        k = self.conv.out_channels
        starts = [
            [self.out_channel(w, v) for v in range(self.out_vectors)] for w in range(self.windows)
        ]
        table = np.array(starts)[:, :, None] + np.arange(self.lanes)
        table[:, :, self.stored :] = k
        return np.minimum(table, k)


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """OIHW [K, CPG, 3, 3] to U = G g Gᵀ as [window, part, product, tile, channel, vector, lane].

    Zero for channels of other groups and for padding lanes.
    """
    space = Space(task, knobs)
    transformed = transform_weights(weight, knobs.tile)
    cpg, kpg = weight.shape[1], task.conv.out_channels_per_group
    filled = np.concatenate([transformed, np.zeros((space.products, 1, cpg), weight.dtype)], 1)
    vectors = [
        [
            [space.part_start(p) + space.tile_vector(t) + j for j in range(knobs.vectors)]
            for t in range(space.channel_tiles)
        ]
        for p in range(knobs.parts)
    ]
    packed = np.empty(space.weight_shape(), weight.dtype)
    for window, table in enumerate(space.channel_table()):
        channels = space.in_start(window) + np.arange(space.run_in)
        for part in range(knobs.parts):
            outs = table[np.array(vectors[part])]  # [tile, vector, lane]
            values = filled[:, outs[..., None], channels % cpg]
            owned = (outs // kpg)[..., None] == channels // cpg
            values = np.where(owned, values, 0)
            packed[window, part] = values.transpose(0, 1, 4, 2, 3)
    return packed


def pack_bias(task: ConvTask, knobs: Knobs, bias: np.ndarray) -> np.ndarray:
    """[K] to [window, vector, lane], zero in lanes without a channel."""
    table = Space(task, knobs).channel_table()
    return np.concatenate([bias, np.zeros(1, bias.dtype)])[table]


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`, one block a group of tiles."""
    conv, space = task.conv, Space(task, knobs)

    def body() -> None:
        bias_shape = (space.windows, space.out_vectors, space.lanes)
        operands = emit.conv_operands(task, space.weight_shape(), bias_shape)
        grid = dict(n=conv.batch, w=space.windows, p=knobs.parts, b=space.blocks)
        with emit.loops(**grid) as axes, emit.block("tile"):
            n, window, part, b = emit.all_spatial(grid, axes)
            first = tile_start(b, knobs.tiles, space.count(task, knobs.tile))
            v = _Scratch("v", space.products, knobs.tiles, space.width)
            m = _Scratch("m", space.products, space.part, knobs.tiles * space.lanes)
            _input(space, operands, v, (n, window, first))
            _products(space, operands, v, m, (window, part))
            _output(space, operands, m, (n, window, part, first))

    return emit.prim_func("winograd", body)


class _Scratch:
    """An array [product, row, column] in memory, its products an odd number of cache lines apart:
    those of one pixel then fall into different sets of the cache (up to twice as fast).

    It has one axis, for TVM cuts unused ends off the others.
    """

    def __init__(self, name: str, products: int, rows: int, columns: int) -> None:
        lines = ceil_div(rows * columns, LINE)
        self.columns, self.product = columns, (lines + 1 - lines % 2) * LINE
        self.array = emit.scratch(name, (products * self.product,))

    def at(self, product: Any, row: Any, column: Any, lanes: int = 1) -> list[Any]:
        """The index of an element, or of the vector that starts there."""
        first = product * self.product + row * self.columns + column
        return [first if lanes == 1 else Ramp(first, 1, lanes)]


def _input(
    space: Space, operands: emit.ConvOperands, v: _Scratch, at: tuple[Any, Any, Any]
) -> None:
    """V = Bᵀ d B, a tile and a vector of input channels at a time."""
    n, window, first = at
    grid = dict(t=space.knobs.tiles, c=space.in_vectors)
    with emit.loops(**grid) as axes, emit.block("input"):
        t, c = emit.all_spatial(grid, axes)
        row, column = space.corner(first + t)
        start, block = space.in_vector(c), space.task.data.block
        channel = space.in_base(window) + start

        def load(i: int, j: int) -> Any:
            y, x = operands.pixel(row, column, i, j)
            lanes = Ramp(channel % block, 1, space.in_lanes)
            return operands.data[n, channel // block, y, x, lanes]

        for product, value in transform_input(space.knobs.tile, load):
            emit.store(v.array, value, v.at(product, t, start, space.in_lanes))


def _products(
    space: Space, operands: emit.ConvOperands, v: _Scratch, m: _Scratch, at: tuple[Any, Any]
) -> None:
    """M[e] = U[e] · V[e] for each product e, a register tile at a time."""
    knobs, lanes = space.knobs, space.lanes
    window, part = at
    offset = space.in_start(window) - space.in_base(window)
    every, zeros = Ramp(0, 1, lanes), tirx.Broadcast(tirx.const(0.0, "float32"), lanes)
    tile = [(i, j) for i in range(knobs.rows) for j in range(knobs.vectors)]
    grid = dict(e=space.products, k=space.channel_tiles, r=ceil_div(knobs.tiles, knobs.rows))
    with emit.loops(**grid) as axes, emit.block("product"):
        e, k, r = emit.all_spatial(grid, axes)
        acc = {at: emit.local("acc", (lanes,)) for at in tile}
        start = tile_start(r, knobs.rows, knobs.tiles)
        for register in acc.values():
            emit.store(register, zeros, [every])
        with emit.loops(c=space.run_in) as axis, emit.block("update"):
            c = emit.spatial("vc", space.run_in, axis)
            at_c = [window, part, e, k, c]
            for j in range(0, knobs.vectors, max(1, LINE // lanes)):
                emit.prefetch(operands.weight[(*at_c, j, 0)], PREFETCH, level=1)
            weights = [T.Bind(operands.weight[(*at_c, j, every)]) for j in range(knobs.vectors)]
            for i, j in tile:
                scalar = v.array[tuple(v.at(e, start + i, offset + c))]
                product = tirx.Broadcast(scalar, lanes) * weights[j]
                emit.store(acc[i, j], acc[i, j][every] + product, [every])
        for i, j in tile:
            at_m = m.at(e, space.tile_vector(k) + j, (start + i) * lanes, lanes)
            emit.store(m.array, acc[i, j][every], at_m)


def _output(
    space: Space, operands: emit.ConvOperands, m: _Scratch, at: tuple[Any, Any, Any, Any]
) -> None:
    """out = activation(Aᵀ M A + bias + residual), a tile and a vector of channels at a time."""
    n, window, part, first = at
    knobs, (dy, dx) = space.knobs, space.conv.dilation
    every, side = Ramp(0, 1, space.lanes), knobs.tile + KERNEL - 1
    grid = dict(t=knobs.tiles, k=space.part)
    with emit.loops(**grid) as axes, emit.block("output"):
        t, k = emit.all_spatial(grid, axes)
        row, column = space.corner(first + t)
        vector, block = space.part_start(part) + k, space.task.out.block
        channel = space.out_channel(window, vector)

        def load(i: int, j: int) -> Any:
            return m.array[tuple(m.at(i * side + j, k, t * space.lanes, space.lanes))]

        for i, j, value in transform_output(knobs.tile, load):
            if space.task.bias:
                value = value + operands.start(window, vector, every)
            if space.stored < space.lanes:
                value = tirx.Shuffle([value], list(range(space.stored)))
            slot = Ramp(channel % block, 1, space.stored)
            operands.finish(value, [n, channel // block, row + i * dy, column + j * dx, slot])


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over windows, parts and blocks of tiles; everything else is unrolled already."""
    run_parallel(sch, sch.get_loops(sch.get_sblock("tile")), task.conv.macs, device)
    return sch
