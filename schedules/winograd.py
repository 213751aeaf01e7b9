"""Winograd convolution F(m×m, r×r) of stride 1 or 2, with any groups and dilation.

The products over channels of an r×r convolution become (m+r−1)² matrix products, m the side of an
output tile: at m = 4 a 3×3 convolution takes a quarter of the multiplications, a 5×5 16 %. The
transforms and their rounding error are in `winograd_transforms`. `numerics="exact"` never uses
this schedule.

    parallel (n, band, window of groups, part of its output channels, block of tiles)
      input:   V[products, tiles, C] = Bᵀ d B
      product: M[e, K, tiles] = U[e, K, C] · V[e, C, tiles], tiles and channel vectors in registers
      output:  activation(Aᵀ M A + bias + residual)

A window is one group or several neighbours. Where vectors hold channels of several groups, narrow
ones or such that straddle blocks, a register tile multiplies the input channels of all its groups,
and the weights hold zeros for foreign ones. Parts repeat the input transform, and each streams its
own weights only. With a dilation of d, each of the d·d phases is a convolution of its own: tiles
take pixels d apart.

A stride of 2 is taken apart as well: rows and columns of even and of odd number are four inputs,
each with every second tap of the filter in both directions, whose sums are added (the polyphase
decomposition of signal processing). They become channels of a convolution of stride 1 with half as
many taps a side: a 5×5 kernel of 25 products an output takes 9 this way.

There is one band, unless groups in NHWC read a map that leaves the cache: then bands make their
part of it stay, and weights are read again for each.

Layouts: data and out in channel blocks or NHWC. The last tile of a row or column, the last window
and, in NHWC, the last vector of a window overlap their neighbours; padding lanes are transformed
but never multiplied. Weights see `pack_weights`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
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
    is_even,
    is_partial,
    parts_of,
    run_parallel,
    tile_start,
)
from edgeconv.schedules.prefetching import LINE, pays
from edgeconv.schedules.traffic import (
    by_pixels,
    cold_rate,
    exceeds_l2,
    map_bytes,
    moved_bytes,
    shares_map,
)
from edgeconv.schedules.winograd_fetch import fetch
from edgeconv.schedules.winograd_space import Knobs, Space, taps
from edgeconv.schedules.winograd_transforms import (
    TILES,
    column_operations,
    transform_input,
    transform_output,
    transform_weights,
)
from edgeconv.targets import Device
from edgeconv.workload import ConvTask

LEAST_LANES = 4
NARROWEST = 4  # groups in a vector
LEAST_STRIDED_TAPS = 3  # of a component: a 3x3 kernel of stride 2 gains nothing
WINDOWS = (1, 2, 3, 4, 6, 8, 12, 16)  # groups of a window, where they straddle blocks
BLOCK_TILES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)
CALIBRATED = 0.9  # what is hidden behind the rest
NARROWED = 1.06  # vectors half as long, on a core that runs whole ones in halves: 0.9 to 1.25
# more accumulators take longer to end; with this the best of 30 settings is missed by 1.02 in the
# mean of 21 layers of 4 to 64 channels a group (Zen 4), by 1.06 without
MANY = 16
MANY_CYCLES = 3.0
PREFETCH = 8192  # bytes ahead; hardware prefetchers stop at pages, and weights are cold
L1_FILL_BYTES_PER_CYCLE, L3_BYTES_PER_CYCLE = 64, 16  # of one core
SCRATCH_BYTES_PER_CYCLE = 6  # that does not stay in L2
MAP_BYTES_PER_CYCLE = 5  # of maps that do not stay in L3, or where there is none
NEAR_MAP_BYTES_PER_CYCLE = 8  # of those that may, and in prefetched bands
RUNS_BYTES_PER_CYCLE = 4  # of maps whose pixels hold all channels, a few read at a time
MOST_OF_A_BAND = 1.5  # of the second-level cache


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """Square kernels of stride 1, or 2 from 5×5 on; groups of at least a quarter of a vector."""
    conv = task.conv
    if conv.kernel_size[0] != conv.kernel_size[1] or taps(conv) not in TILES:
        return Mismatch("only square kernels of 2 to 5 or 7 taps a side")
    if conv.stride != (1, 1):
        if conv.stride != (2, 2) or conv.dilation != (1, 1) or taps(conv) < LEAST_STRIDED_TAPS:
            return Mismatch("only a stride of 1, or 2 from 5x5 on, without dilation")
    if conv.input_shuffle != 1:
        return Mismatch("the input channels are shuffled")
    if (partial := is_partial(task)) is not None:
        return partial
    if conv.groups > 1 and NARROWEST * conv.out_channels_per_group < device.lanes:
        return Mismatch(f"a group has {conv.out_channels_per_group} output channels only")
    least = min(TILES[taps(conv)])
    if _smallest_phase(task) < least:
        return Mismatch(f"the output is smaller than {least}x{least}")
    for channels, layout in ((conv.in_channels, task.data), (conv.out_channels, task.out)):
        if layout.block < 2 or _lanes(channels, layout, device) < LEAST_LANES:
            return Mismatch(f"{channels} channels in {layout} do not lie side by side")
    if task.residual is not None and task.residual.block != task.out.block:
        return Mismatch("the residual lies in other blocks than the output")
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


def _widths(task: ConvTask, device: Device) -> list[int]:
    """Lanes vectors of output channels may have: most that layouts allow; half of them as well
    where groups end within vectors, and two short ones cost no more than a long one.
    """
    conv, lanes = task.conv, _lanes(task.conv.out_channels, task.out, device)
    straddling = conv.groups > 1 and conv.out_channels_per_group % lanes != 0
    halved = straddling and device.in_halves and lanes == device.lanes
    return [lanes, lanes // 2] if halved else [lanes]


def _windows(task: ConvTask, lanes: int) -> list[int]:
    """How many groups a window may have: one, those that fill a vector, more if they straddle."""
    conv, kpg = task.conv, task.conv.out_channels_per_group
    few = {1, max(1, min(lanes // kpg, conv.groups))}
    if task.out.block == conv.out_channels or conv.groups == 1:
        return sorted(few)
    whole = [n for n in few if n * kpg % lanes == 0 and conv.groups % n == 0]
    return whole or sorted({min(n, conv.groups) for n in WINDOWS if n * kpg > lanes // 2})


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    ahead = _fetches_ahead(task, device)
    for tile, lanes in itertools.product(TILES[taps(task.conv)], _widths(task, device)):
        if _smallest_phase(task) < tile:
            continue
        for groups in _windows(task, lanes):
            run = ceil_div(groups * task.conv.out_channels_per_group, lanes)
            for parts in sorted({parts_of(run, p) for p in (1, 2, 4, 8)}):
                part = ceil_div(run, parts)
                for tiles in _tile_counts(task, tile):
                    cuts = _bands(task, tile, tiles, device)
                    for rows, vectors in _register_tiles(tiles, part, device):
                        shape = (lanes, tile, groups, parts, tiles, rows, vectors)
                        for bands in cuts:
                            yield Knobs(*shape, ahead or bands > 1, bands)


def _fetches_ahead(task: ConvTask, device: Device) -> bool:
    """Whether to prefetch. Zen 4, maps of 1.3 to 6 MB in blocks of channels: 1.1 times as fast in
    the mean of 12, up to 1.4; no gain in NHWC or with a stride, a loss where L2 holds the map.
    """
    conv = task.conv
    simple = conv.slices is None and conv.stride == (1, 1)
    return simple and not by_pixels(task.data, device) and exceeds_l2(conv, device)


def _bands(task: ConvTask, tile: int, tiles: int, device: Device) -> list[int]:
    """Parts of a map in NHWC, all groups of one computed before the next: one, or as many as make
    what a part reads and writes about as large as the second-level cache; as many for each core.
    """
    if task.conv.stride != (1, 1):
        return [1]
    blocks, cache = ceil_div(Space.count(task, tile), tiles), device.l2_kib * 1024
    moved = moved_bytes(task.conv)
    wanted = ceil_div(ceil_div(moved, cache), device.cores) * device.cores
    bands = parts_of(blocks, min(blocks, wanted))
    fits = moved <= MOST_OF_A_BAND * bands * cache
    return [1, bands] if fits and pays(task, bands, device) else [1]


def _tile_counts(task: ConvTask, tile: int) -> list[int]:
    """Numbers of tiles of a block, near `BLOCK_TILES`, that cut the map evenly."""
    total = Space.count(task, tile)
    return sorted({parts_of(total, most) for most in BLOCK_TILES})


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
    space, whole = Space(task, knobs), device
    device = whole.with_vectors_of(knobs.lanes)
    narrowed, ports = 1.0 if device is whole else NARROWED, whole.fma_ports
    side, components = space.side, space.components
    vectors = space.products * space.part * knobs.tiles  # of M
    depth = components * space.mean_depth()
    # operations of the transforms on a row or a column, and the loads and stores of V and M
    in_column, out_column = column_operations(knobs.tile, space.taps)
    into = 2 * side * in_column / ports + 1.2 * space.products
    outof = (side + knobs.tile) * out_column / ports + space.products + 3 * knobs.tile**2
    transforms = knobs.tiles * (into * components * space.in_vectors + outof * space.part)
    transforms *= narrowed * ports / device.fma_ports
    fmas = knobs.rows * knobs.vectors
    loads = device.load_cycles(
        knobs.vectors, knobs.rows + ceil_div(knobs.vectors * knobs.lanes, LINE)
    )
    step = max(fmas / device.fma_ports, loads, FMA_LATENCY)
    register_tiles = space.products * space.channel_tiles * ceil_div(knobs.tiles, knobs.rows)
    weights = space.unit_weights * depth / (components * space.depth) * 4  # those that are read
    sums, slice_bytes = depth * step, depth * knobs.vectors * knobs.lanes * 4
    if slice_bytes > device.l1d_kib * 1024 // 2:  # weights of a register tile
        sums = max(sums, slice_bytes / L2_BYTES_PER_CYCLE)
    many = max(0, fmas - MANY) if device.memory_operands else 0
    product = register_tiles * (sums + 5 + 1.5 * fmas + MANY_CYCLES * many) * narrowed
    product += weights / L1_FILL_BYTES_PER_CYCLE
    scratch = 4 * vectors * knobs.lanes
    scratch += 4 * space.products * knobs.tiles * components * space.width
    again = product  # of all blocks but the first, which finds the weights in L2 or behind it
    if weights + scratch > device.l2_kib * 1024:
        again = max(again, weights / L3_BYTES_PER_CYCLE)
    if scratch > device.l2_kib * 1024 // 2:
        transforms += 2 * scratch / SCRATCH_BYTES_PER_CYCLE
    data, out = map_bytes(task.conv), 4 * math.prod(task.conv.output_shape[1:])
    part = space.width / task.conv.in_channels / space.blocks  # of the map
    if knobs.bands > 1:
        rate = NEAR_MAP_BYTES_PER_CYCLE / (1 if task.conv.dilation == (1, 1) else 2)
        transforms += part * (data * (side / knobs.tile) + out) / rate
        weights_again = weights * space.windows * knobs.parts
        if weights_again > device.l2_kib * 1024 // 4:
            again += max(0.0, weights / L3_BYTES_PER_CYCLE - again) / space.band
    elif _scattered(task, device):
        # a line or two of every pixel, those of its neighbours far away
        moved = data * (side / knobs.tile) ** 2 + out
        transforms += part * moved / RUNS_BYTES_PER_CYCLE
    elif data + out > 2 * device.l2_kib * 1024:  # tiles defeat the prefetchers
        near = data + out <= device.l3_kib * 1024 // 4
        rate = NEAR_MAP_BYTES_PER_CYCLE if near else MAP_BYTES_PER_CYCLE
        transforms += part * (data + out) / rate
    streams = task.conv.batch * space.windows * knobs.parts
    busy = ceil_div(streams * space.blocks, device.cores) * device.cores  # idle cores cost as much
    direct = math.prod(task.conv.kernel_size) / (components * space.products)
    extra = max(0.0, weights * (1 - direct))
    rate = cold_rate(weights * space.windows * knobs.parts, device)
    cold = max(0.0, extra / rate - product / 2)  # half overlaps with the first block's products
    if device.cores > 1 and is_even(space.blocks, device.cores) and _shares_map(space):
        cold *= device.cores  # each reads all of the weights
    return (busy * (transforms + again) + streams * cold) * CALIBRATED


def _scattered(task: ConvTask, device: Device) -> bool:
    """Whether windows read a few channels of pixels that lie behind the second-level cache."""
    least = (4 if task.conv.groups == 1 else 2) * device.l2_kib * 1024
    return by_pixels(task.data, device) and moved_bytes(task.conv) > least


def _shares_map(space: Space) -> bool:
    weights = 4 * space.unit_weights * space.windows * space.knobs.parts
    return shares_map(space.conv, weights)


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """OIHW [K, CPG, r, r] to U = G g Gᵀ as [window, part, product, tile, component,
    channel, vector, lane].

    Zero for channels of other groups and for padding lanes.
    """
    space = Space(task, knobs)
    cpg, kpg = weight.shape[1], task.conv.out_channels_per_group
    shape = (space.components, space.products, weight.shape[0] + 1, cpg)
    filled = np.zeros(shape, weight.dtype)  # a last filter of zeros for lanes without one
    for component, (y, x) in enumerate(np.ndindex(task.conv.stride)):
        part_of = weight[:, :, y :: task.conv.stride[0], x :: task.conv.stride[1]]
        missing = [(0, space.taps - extent) for extent in part_of.shape[2:]]
        part_of = np.pad(part_of, [(0, 0), (0, 0), *missing])
        filled[component, :, :-1] = transform_weights(part_of, knobs.tile)
    packed = np.zeros(space.weight_shape(), weight.dtype)
    table = space.channel_table()
    for window, part, channel_tile in np.ndindex(packed.shape[0], knobs.parts, packed.shape[3]):
        vector = space.part_start(part) + space.tile_vector(channel_tile)
        outs = table[window, vector : vector + knobs.vectors]  # [vector, lane]
        first, number = space.tile_channels(window, part, channel_tile)
        channels = first + np.arange(number)
        values = filled[:, :, outs[..., None], channels % cpg]
        values = np.where((outs // kpg)[..., None] == channels // cpg, values, 0)
        values = values.transpose(1, 0, 4, 2, 3)
        packed[window, part, :, channel_tile, :, :number] = values
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
            v = _Scratch("v", space.products, knobs.tiles, space.components * space.width)
            m = _Scratch("m", space.products, space.part, knobs.tiles * space.lanes)
            _input(space, operands, v, (n, window, first))
            _products(space, operands, v, m, (n, window, part, first))
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
    sy, sx = space.conv.stride
    height, width = operands.data.shape[2:4]
    grid = dict(t=space.knobs.tiles, f=space.components, c=space.in_vectors)
    with emit.loops(**grid) as axes, emit.block("input"):
        t, component, c = emit.all_spatial(grid, axes)
        row, column = space.corner(first + t)
        start, block = space.in_vector(c), space.task.data.block
        channel = space.in_base(window) + start

        def load(i: int, j: int) -> Any:
            y, x = operands.pixel(row, column, i * sy + component // sx, j * sx + component % sx)
            if sy > 1 and space.side - 1 in (i, j):  # taps of zeros may lie behind the last pixel
                y, x = tirx.min(y, height - 1), tirx.min(x, width - 1)
            lanes = Ramp(channel % block, 1, space.in_lanes)
            return operands.data[n, channel // block, y, x, lanes]

        for product, value in transform_input(space.side, load):
            place = v.at(product, t, component * space.width + start, space.in_lanes)
            emit.store(v.array, value, place)


def _products(
    space: Space,
    operands: emit.ConvOperands,
    v: _Scratch,
    m: _Scratch,
    at: tuple[Any, Any, Any, Any],
) -> None:
    """M[e] = U[e] · V[e] for each product e, a register tile at a time."""
    knobs, lanes = space.knobs, space.lanes
    _, window, part, _ = at
    every, zeros = Ramp(0, 1, lanes), tirx.Broadcast(tirx.const(0.0, "float32"), lanes)
    tile = [(i, j) for i in range(knobs.rows) for j in range(knobs.vectors)]
    grid = dict(e=space.products, k=space.channel_tiles, r=ceil_div(knobs.tiles, knobs.rows))
    with emit.loops(**grid) as axes, emit.block("product"):
        e, k, r = emit.all_spatial(grid, axes)
        if knobs.ahead:
            number = (e * grid["k"] + k) * grid["r"] + r
            with emit.only_prefetching():
                fetch(space, operands, at, (number, math.prod(grid.values())))
        acc = {at: emit.local("acc", (lanes,)) for at in tile}
        start = tile_start(r, knobs.rows, knobs.tiles)
        for register in acc.values():
            emit.store(register, zeros, [every])
        first, depth = space.tile_channels(window, part, k)
        offset = first - space.in_base(window)
        depth = space.depth if space.uniform else depth
        inner = dict(f=space.components, c=depth)
        with emit.loops(**inner) as axes, emit.block("update"):
            component, c = emit.all_spatial(inner, axes)
            at_c = [window, part, e, k, component, c]
            for j in range(0, knobs.vectors, max(1, LINE // lanes)):
                emit.prefetch(operands.weight[(*at_c, j, 0)], PREFETCH, level=1)
            weights = [T.Bind(operands.weight[(*at_c, j, every)]) for j in range(knobs.vectors)]
            for i, j in tile:
                scalar = v.array[tuple(v.at(e, start + i, component * space.width + offset + c))]
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
    every = Ramp(0, 1, space.lanes)
    grid = dict(t=knobs.tiles, k=space.part)
    with emit.loops(**grid) as axes, emit.block("output"):
        t, k = emit.all_spatial(grid, axes)
        row, column = space.corner(first + t)
        vector, block = space.part_start(part) + k, space.task.out.block
        channel = space.out_channel(window, vector)

        def load(i: int, j: int) -> Any:
            return m.array[tuple(m.at(i * space.side + j, k, t * space.lanes, space.lanes))]

        for i, j, value in transform_output(knobs.tile, space.taps, load):
            if space.task.bias:
                value = value + operands.start(window, vector, every)
            if space.stored < space.lanes:
                value = tirx.Shuffle([value], list(range(space.stored)))
            slot = Ramp(channel % block, 1, space.stored)
            operands.finish(value, [n, channel // block, row + i * dy, column + j * dx, slot])


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over bands, windows, parts and blocks of tiles; everything else is unrolled
    already.
    """
    n, window, part, block = sch.get_loops(sch.get_sblock("tile"))
    loops = [n, window, part, block]
    shared = knobs.bands == 1 and _shares_map(Space(task, knobs))
    if knobs.bands > 1:
        band, block = sch.split(block, [knobs.bands, None])
        sch.reorder(band, window, part, block)
        loops = [n, band, window, part, block]
    run_parallel(sch, loops, task.conv.macs, device, along=[block], share_map=shared)
    return sch
