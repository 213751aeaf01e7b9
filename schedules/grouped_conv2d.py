"""Grouped Spatial Pack convolution (GSPC): any groups from 1 up, any kernel, stride and dilation.

Source: Gibson et al., "Optimizing Grouped Convolutions on Edge Devices", ASAP 2020. The output is
cut into tiles of rows × columns pixels × `vectors` channel vectors, one tile is held in registers
while the reduction runs over it, and weights are packed at compile time in the order they are read.

    parallel (n, band of rows, output-channel tile, row tile)
      column tile
        acc[rows, columns, vectors, lanes] = bias                     registers
        channel chunk → kh → channel in chunk → kw (unrolled) → channel in quad (unrolled)
          prefetch a share of the next output-channel tile's weights
          rows, columns, vectors (unrolled): acc += broadcast(data) · weight vector
        out = activation(acc + residual)

There is one band of rows, unless every channel tile reads all of a map that leaves the cache: then
the bands are as many as make their part of it stay, and weights are read again for each.

Taps that read only padding are skipped (see padding). Where the data has no halo, a tile is one
row, and tiles at the ends of a row have code of their own; with a halo, those that are `peeled`.

A tile reads the window of input channels its groups own. Vectors are cut from the whole range of
output channels, so a tile may span several groups; then its window does too, and the weights hold
zeros for foreign channels. In NHWC they can be cut from each group apart (`per_group`): the last
vector of a group overlaps its neighbour, or, in a group narrower than the vector, is stored in
part; so nothing is multiplied by zero. Several groups in a vector: see lane_groups.

Layouts: data [N, C/b, H, W, b] with a halo that stands for the padding; weights see `pack_weights`;
out [N, K/b', OH, OW, b'], where b' may be K (NHWC) or 1 (NCHW). The last tile of a row, a column or
an NHWC channel run overlaps its neighbour, so there are no tail loops.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule

from edgeconv.borders import column_kinds
from edgeconv.schedules import emit
from edgeconv.schedules.common import (
    FMA_LATENCY,
    L2_BYTES_PER_CYCLE,
    MAX_UNROLLED_FMAS,
    Mismatch,
    ceil_div,
    held_pixels,
    lacks_halo,
    run_parallel,
    tile_start,
)
from edgeconv.schedules.grouped_kernel import add_all
from edgeconv.schedules.grouped_space import Knobs, Space
from edgeconv.schedules.padding import PEELED, columns_met, peelings, rows_met
from edgeconv.schedules.prefetching import fetch_below, fetches_below
from edgeconv.schedules.traffic import (
    BAND_SHARE,
    PAGE,
    bands_of_rows,
    by_pixels,
    leaves_l2,
    map_bytes,
    scattered_cycles,
    shares_map,
    streaming_cycles,
)
from edgeconv.targets import Device
from edgeconv.workload import Conv2d, ConvTask

EXPOSED_READS = 0.5  # of the cycles of reading a map again; the others are hidden
MOST_UNSPILT = 20  # accumulators; LLVM also keeps pixels and weights that several taps share
SPILLS = 0.05  # of a tile's time, for every accumulator beyond
WAYS = 8  # of an L1 cache; more planes a multiple of a page apart don't stay there
ALIASED = 1.2
FETCH_CYCLES = 600  # from memory, at most
FARTHEST = 3  # tiles ahead; shorter tiles have no time for it
EXPOSED = 0.4  # of the ends of a tile, if the next one has registers to start beside it; measured
NARROWED = 1.25  # half as long vectors on a core that runs whole ones in halves (Zen 4): 1.0 to 1.8
LONE_STORE, SOME_LONE_STORE = 2.0, 0.7  # cycles; those of few lanes overlap with the next tile
FEW_LANES = 8
MOST_KINDS = 3  # of tiles in a row that have code of their own


def flat(task: ConvTask) -> ConvTask:
    """A pointwise convolution of maps whose rows follow each other, as one of a single row: so
    tiles fit, whatever the width of the map.
    """
    conv = task.conv
    layouts = [task.data, task.out, *([] if task.residual is None else [task.residual])]
    whole = conv.stride == (1, 1) and not any(conv.padding) and conv.slices is None
    rimless = task.place is None and not any(any(layout.halo) for layout in layouts)
    if not (conv.is_pointwise and whole and rimless) or conv.height == 1:
        return task
    row = dataclasses.replace(conv, height=1, width=conv.height * conv.width)
    return dataclasses.replace(task, conv=row)


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """None: every 2-D float32 convolution is supported."""
    if min(task.data.block, task.out.block) < 1:
        return Mismatch("data and output need a channel layout")
    lack = lacks_halo(task)
    if lack is not None and next(candidates(task, device), None) is not None:
        return None
    return lack


def lanes_for(task: ConvTask, device: Device) -> int:
    """Vector width: the device's, narrowed until it fits the output channels and their blocks."""
    lanes = device.lanes
    blocked = task.out.block not in (1, task.conv.out_channels)
    while lanes > 1 and (
        (blocked and task.out.block % lanes) or (not blocked and lanes > task.conv.out_channels)
    ):
        lanes //= 2
    return lanes


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    task = flat(task)
    conv, widest = task.conv, lanes_for(task, device)
    kpg, registers = conv.out_channels_per_group, device.vector_registers
    direct = lacks_halo(task) is not None
    if direct:
        registers -= registers // 6  # several loops share the accumulators
    splits = [(widest, False)]
    if conv.groups > 1 and task.out.block in (1, conv.out_channels):
        # half vectors may fill a group better than whole ones
        splits += [(w, True) for w in (widest, widest // 2, widest // 4) if 4 <= w < 2 * kpg]
    for lanes, per_group in splits:
        total = ceil_div(kpg if per_group else conv.out_channels, lanes)
        for vectors in range(1, min(8, total) + 1):
            quad = _quad(task, device, lanes, vectors, per_group)
            for rows in range(1, min(6, conv.out_height) + 1):
                for columns in range(1, min(registers, conv.out_width) + 1):
                    tile = rows * columns * vectors
                    unroll = quad == 1 and tile * conv.kernel_size[1] <= MAX_UNROLLED_FMAS
                    knobs = Knobs(lanes, rows, columns, vectors, per_group, unroll, quad)
                    if tile + operand_registers(conv, device, knobs) > registers:
                        break
                    if direct and not _stays_inside(conv, knobs):
                        continue
                    borders = (False,) if direct else _peelings(conv, knobs, device)
                    for bands, peeled in itertools.product(_bands(task, knobs, device), borders):
                        ahead = _ahead(task, knobs, bands, device)
                        yield dataclasses.replace(knobs, bands=bands, ahead=ahead, peeled=peeled)


def _bands(task: ConvTask, knobs: Knobs, device: Device) -> Iterator[int]:
    """Parts of the map, all channels of one computed before the next: one, or as many as keep it
    in the cache. Groups in channel blocks lie apart, and have no use for it.
    """
    conv = task.conv
    yield 1
    channel_tiles = ceil_div(conv.out_channels, knobs.vectors * knobs.lanes)
    if channel_tiles == 1 or (conv.groups > 1 and not by_pixels(task.data, device)):
        return
    row = ceil_div(conv.out_width, knobs.columns)
    tiles = row if conv.out_height == 1 else ceil_div(conv.out_height, knobs.rows)
    if (bands := bands_of_rows(conv, tiles, device)) > 1:
        yield bands


def _ahead(task: ConvTask, knobs: Knobs, bands: int, device: Device) -> int:
    """Tiles from one to that whose pixels it prefetches, where they come from behind L2: they are
    many short streams, and hardware prefetchers stop at the end of each page. In groups, bands.
    """
    conv = task.conv
    if conv.groups > 1:
        return int(conv.input_shuffle == 1 and fetches_below(task, bands, device))
    dense = conv.is_pointwise and conv.input_shuffle == 1
    if not dense or not leaves_l2(conv, device):
        return 0
    fmas = conv.in_channels * knobs.rows * knobs.columns * knobs.vectors
    ahead = ceil_div(FETCH_CYCLES, max(1, fmas // device.fma_ports))
    return ahead if ahead <= FARTHEST else 0


def _peelings(conv: Conv2d, knobs: Knobs, device: Device) -> tuple[bool, ...]:
    """Whether tiles are peeled: never, or either way, if the accumulators stay in registers."""
    registers = device.vector_registers
    tile = knobs.rows * knobs.columns * knobs.vectors + operand_registers(conv, device, knobs)
    if not knobs.unroll_kw or tile > registers - registers // 6:
        return (False,)
    few = len(column_kinds(conv, knobs.columns)) <= MOST_KINDS
    return peelings(conv, knobs.columns, device) if few else (False,)


def _stays_inside(conv: Conv2d, knobs: Knobs) -> bool:
    """Whether a tile can leave out every tap outside of an image without a halo."""
    whole = min(conv.padding) >= 0 and conv.slices is None
    kinds = len(column_kinds(conv, knobs.columns)) if whole and knobs.rows == 1 else MOST_KINDS + 1
    return kinds <= MOST_KINDS and knobs.unroll_kw


def _quad(task: ConvTask, device: Device, lanes: int, vectors: int, per_group: bool) -> int:
    """Channels loaded together: a multiply-add can broadcast a lane of a register (AArch64's FMLA
    by element) where it can't broadcast from memory.
    """
    if device.memory_operands or lanes == 1:
        return 1
    space = Space(task, Knobs(lanes, 1, 1, vectors, per_group, False, device.lanes))
    return device.lanes if space.adjacent else 1


def operand_registers(conv: Conv2d, device: Device, knobs: Knobs) -> int:
    """Registers a tile needs beside its accumulators."""
    taps, vectors = conv.kernel_size[1], knobs.vectors
    if knobs.quad > 1:
        return vectors + knobs.rows * knobs.columns + 2
    if not device.memory_operands:
        # LLVM goes from tap to tap, and pixels wait for the taps that read them again
        if taps > 1 and knobs.unroll_kw:
            return vectors + knobs.rows * held_pixels(conv, knobs.columns) + 3
        return vectors + 4  # pixels loaded ahead
    # LLVM goes from pixel to pixel, and keeps the weights of several taps if it can
    registers = device.vector_registers
    weights = vectors * min(taps, 3 if registers > 16 else 1) + 2
    if vectors == 1 and taps > 1:
        return max(weights, registers // 2)  # broadcast pixels that several taps share
    return weights


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core: per tile the longest of FMAs, loads, latency and weight traffic."""
    task = flat(task)
    tiles = Space(task, knobs).tiles
    read = _read_again(task, knobs, device) + scattered_cycles(task, knobs.bands, device)
    return tiles * tile_cycles(task, knobs, device) + read


def tile_cycles(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one register tile."""
    conv, space = task.conv, Space(task, knobs)
    in_halves, device = device.in_halves, device.with_vectors_of(knobs.lanes)
    pixels = knobs.rows * knobs.columns
    steps = space.window * conv.tap_rows * conv.kernel_size[1] * rows_met(conv, knobs.rows)
    share = columns_met(conv, knobs.columns, knobs.unroll_kw, peeled=knobs.peeled)
    loads = device.load_cycles(knobs.vectors, pixels * share / knobs.quad)
    weights = steps * knobs.vectors * knobs.lanes * 4
    fmas = pixels * share * knobs.vectors
    step = max(fmas / device.fma_ports, loads, FMA_LATENCY)
    cycles = steps * step * (NARROWED if in_halves and not device.in_halves else 1)
    cycles *= PEELED if knobs.peeled else 1
    if weights > device.l1d_kib * 1024 // 2:
        cycles = max(cycles, weights / L2_BYTES_PER_CYCLE)
    if device.memory_operands and knobs.unroll_kw and conv.kernel_size[1] > 1:
        cycles *= 1 + SPILLS * max(0, pixels * knobs.vectors - MOST_UNSPILT)
    if task.data.block == 1 and space.window > WAYS and conv.height * conv.width * 4 % PAGE == 0:
        cycles *= ALIASED
    overhead: float = 12 + 2 * pixels * knobs.vectors
    if knobs.vectors > 1 and 2 * pixels * knobs.vectors <= device.vector_registers:
        overhead *= EXPOSED
    overhead += 0 if knobs.unroll_kw or knobs.quad > 1 else steps / 2
    if task.out.block == 1:
        lone = LONE_STORE if space.stored > FEW_LANES else SOME_LONE_STORE
        overhead += lone * pixels * knobs.vectors * space.stored  # each lane is stored on its own
    return cycles + overhead


def _read_again(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles that it takes to read a map again for every channel tile, if it leaves the cache."""
    conv = task.conv
    in_bands = knobs.bands * device.l2_kib * 1024 * BAND_SHARE >= map_bytes(conv)
    if conv.groups > 1 or in_bands or not leaves_l2(conv, device):
        return 0.0
    times = ceil_div(conv.out_channels, knobs.vectors * knobs.lanes) - 1
    return EXPOSED_READS * conv.batch * times * streaming_cycles(map_bytes(conv), device)


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """OIHW [K, CPG, R, S] to [tile, chunk, R, quad, S, channel, vector, lane], the order the
    kernel reads.

    Zero for channels of other groups and for padding lanes.
    """
    space = Space(task, knobs)
    outs = space.channel_table()
    k, cpg, r, s = weight.shape
    filled = np.concatenate([weight, np.zeros((1, cpg, r, s), weight.dtype)])
    rows = np.minimum(outs, k)  # padding lanes read the zero filter
    packed = np.empty(space.weight_shape(), weight.dtype)
    for tile in range(space.channel_tiles):
        channels = space.first_group(tile) * cpg + np.arange(space.window)
        values = filled[rows[tile][:, :, None], channels % cpg]  # [vector, lane, channel, R, S]
        owned = (outs[tile] // space.kpg)[:, :, None] == channels // cpg
        values = np.where(owned[..., None, None], values, 0)
        channels_of = (space.chunks, space.chunk // knobs.quad, knobs.quad)
        split = values.reshape(knobs.vectors, knobs.lanes, *channels_of, r, s)
        packed[tile] = split.transpose(2, 5, 3, 6, 4, 0, 1)
    return packed


def pack_bias(task: ConvTask, knobs: Knobs, bias: np.ndarray) -> np.ndarray:
    """[K] to [tile, vector, lane], zero in padding lanes."""
    outs = Space(task, knobs).channel_table()
    return np.concatenate([bias, np.zeros(1, bias.dtype)])[np.minimum(outs, bias.shape[0])]


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`, one block a register tile."""
    task = flat(task)
    conv, space = task.conv, Space(task, knobs)
    rows, columns, vectors, lanes = knobs.rows, knobs.columns, knobs.vectors, knobs.lanes
    every = emit.run(0, lanes)

    def body() -> None:
        operands = emit.conv_operands(
            task, space.weight_shape(), (space.channel_tiles, vectors, lanes)
        )
        grid = dict(n=conv.batch, band=space.bands, oc=space.channel_tiles, **space.band_tiles())
        with emit.loops(**grid) as axes, emit.block("tile"):
            _, outer, _, *inner = axes
            space.leave_out_tiles_behind_the_end(outer, *inner)
            n, band, oc, oh, ow = emit.all_spatial(grid, axes)
            oh, ow = space.in_map(band, oh, ow)
            acc = emit.local("acc", (rows, columns, vectors, lanes))
            first = (
                tile_start(oh, rows, conv.out_height),
                tile_start(ow, columns, conv.out_width),
            )
            tile = dict(i=rows, j=columns, m=vectors)
            with emit.unrolled(**tile) as (i, j, m):
                bias = operands.start(oc, m, every)
                start = bias if task.bias else emit.spread(bias, lanes)
                emit.store(acc, start, [i, j, m, every])
            add_all(operands, space, acc, (n, oc, oh, ow), first)
            if knobs.ahead and conv.groups > 1:
                between = space.band if knobs.bands > 1 else None
                channels = ((space.in_channel(oc), space.window), space.out_run(oc))
                fetch_below(operands, (n, *first), dict(i=rows, j=columns), between, channels)
            stored = {**tile, "lane": space.stored}
            with emit.loops(**stored) as axes, emit.block("store"):
                i, j, m, lane = emit.all_spatial(stored, axes)
                chunk, slot = space.out_channel(oc, m, lane)
                at = [n, chunk, first[0] + i, first[1] + j, slot]
                operands.finish(acc[i, j, m, lane], at)

    return emit.prim_func("grouped_conv2d", body)


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over tiles of rows, the tile unrolled into registers, lanes vectorised."""
    tile, write = (sch.get_sblock(name) for name in ("tile", "store"))
    *outer, ow = sch.get_loops(tile)
    share = knobs.bands == 1 and shares_map(task.conv)
    along = (outer[-1], ow)
    run_parallel(sch, outer, task.conv.macs, device, along=along, share_map=share)
    *_, i, j, m, lane = sch.get_loops(write)
    for loop in (i, j, m):
        sch.unroll(loop)
    sch.vectorize(lane)
    return sch
