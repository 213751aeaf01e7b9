"""Narrow groups: one vector holds several whole groups, and input lanes are permuted to meet their
filters.

For groups of at most `lanes` channels, depthwise convolution (one channel a group) among them. A
vector holds p = min(lanes // KPG, lanes // CPG) groups; output lane o of it multiplies input
channel (o // KPG)·CPG + k for k = 0 … CPG−1. The inputs of a vector lie side by side, so they are
one load, and each k is one constant permute (`T.Shuffle`), which LLVM reuses for every tap that
reads the pixel.

    parallel (n, band of rows, vector, row tile)
      column tile
        acc[rows, columns, lanes] = bias                              registers
        kh → k (unrolled) → kw (unrolled)
          rows, columns (unrolled): acc += permute_k(data vector) · weight vector
        out = activation(acc + residual)

Taps that read only padding are skipped (see padding); peeled, tiles at the left and right border
have code of their own, which skips those of single pixels, too.

TIR's plain expression of the same would be one scalar load a lane, 10 to 20 times slower.

Layouts: data and out are [N, C/b, H, W, b]. In blocks, a vector must not straddle two of them
(`supports`); in NHWC any number of channels and groups fits, the last vector overlaps its
neighbour, and where p·KPG is less than the lanes the vector is stored in part.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import Ramp

from edgeconv.borders import Columns, column_kinds
from edgeconv.schedules import emit
from edgeconv.schedules.common import (
    FMA_LATENCY,
    MAX_UNROLLED_FMAS,
    Mismatch,
    ceil_div,
    held_pixels,
    lacks_halo,
    run_parallel,
    tile_start,
)
from edgeconv.schedules.padding import (
    PEELED,
    by_kind,
    column_inside,
    columns_inside,
    columns_met,
    peelings,
    row_inside,
    rows_met,
)
from edgeconv.schedules.prefetching import fetch_below, fetches_below
from edgeconv.schedules.traffic import (
    bands_of_rows,
    by_pixels,
    scattered_cycles,
    shares_map,
)
from edgeconv.targets import Device
from edgeconv.workload import Conv2d, ConvTask

# Measured on Zen 5 over 220 shapes: what LLVM spills is what a row's pixels, held for every
# channel of a group, and the accumulators take beyond the registers that nothing else needs.
NOT_HELD = 7  # registers for permutes, weights and indices
MORE_PERMUTES = 7  # of them where permutes cross 128 bits
PERMUTE = 0.6  # of a multiply-add, beside them: another port takes part of the permutes
PIPES = 2 / 3  # Zen 4: multiply-adds take two of three pipes, permutes the third and one of those
EIGHT = 8  # channels of groups that take two permutes, one of which serves two channels
PERMUTES_OF_EIGHT = 1.5
SPILL_IN_HALVES = 1.4  # where vectors are stored and loaded in two halves (Zen 4)
MOST_SKIPPING = 1200  # multiply-adds of a row of taps, where some are left out
MOST_PEELED = 2400  # of all kinds of tiles
SPILL_OF_BROADCASTS = 0.35  # of either, where multiply-adds load what isn't held (Zen 4)
SPILL = 0.45  # cycles of one register, for each channel of the group and row of the kernel


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors.
        rows, columns: output pixels of a register tile.
        unroll_kh, unroll_kw: whether vertical and horizontal taps are unrolled into the body.
        bands: parts of the output's rows, all vectors of one computed before the next.
        ahead: whether a tile prefetches what the one below it in the next band needs, or without
            bands some rows below.
        peeled: whether tiles at the left and right border have code of their own, without the taps
            of single pixels that read only padding.
    """

    lanes: int
    rows: int
    columns: int
    unroll_kh: bool
    unroll_kw: bool
    bands: int = 1
    ahead: bool = False
    peeled: bool = False


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """Groups must fit a vector, and vectors must lie within the blocks of both layouts."""
    conv = task.conv
    if conv.groups == 1:
        return Mismatch("there is only one group")
    width = max(conv.out_channels_per_group, conv.in_channels_per_group)
    if width > device.lanes:
        return Mismatch(f"a group has {width} channels, a vector {device.lanes} lanes")
    if conv.input_shuffle > 1:
        return Mismatch("shuffled input channels do not lie side by side")
    if not list(_widths(task, device)):
        return Mismatch(f"vectors of whole groups straddle blocks of {task.data.block} channels")
    return lacks_halo(task)


def _widths(task: ConvTask, device: Device) -> Iterator[int]:
    """Vector widths under which no vector straddles a block: the device's, then narrower ones."""
    conv, lanes = task.conv, device.lanes
    width = max(conv.out_channels_per_group, conv.in_channels_per_group)
    while lanes >= max(width, 2):
        space = Space(task, Knobs(lanes, 1, 1, False, False))
        if space.fits(task.data.block, conv.in_channels, space.in_channel, lanes) and space.fits(
            task.out.block, conv.out_channels, space.out_channel, space.used
        ):
            yield lanes
        lanes //= 2


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    conv = task.conv
    r, s, registers = conv.tap_rows, conv.kernel_size[1], device.vector_registers
    for lanes in _widths(task, device):
        for rows in range(1, min(6, conv.out_height) + 1):
            cuts = {1}
            if by_pixels(task.data, device):
                cuts.add(bands_of_rows(conv, ceil_div(conv.out_height, rows), device))
            for columns in range(1, conv.out_width + 1):
                tile = rows * columns
                if tile + _operand_registers(conv, device, rows, columns) > registers:
                    break
                fmas = tile * s * conv.in_channels_per_group
                # unrolled, LLVM would load all rows ahead
                whole = fmas * r <= MAX_UNROLLED_FMAS // 2 and device.memory_operands
                short = fmas <= MAX_UNROLLED_FMAS or _skips(conv, device, rows, columns)
                borders = _peelings(conv, device, rows, columns)
                for bands, peeled in itertools.product(sorted(cuts), borders):
                    ahead = fetches_below(task, bands, device)
                    unroll = (whole, short or peeled)
                    yield Knobs(lanes, rows, columns, *unroll, bands, ahead, peeled)


def _skips(conv: Conv2d, device: Device, rows: int, columns: int) -> bool:
    """Whether horizontal taps are unrolled beyond the usual length because that leaves out those of
    single pixels that read only padding. Zen 4, 61 layers of 2 to 8 channels a group, maps of 7 to
    16 columns: 1.06 to 3.8 times as fast.
    """
    looped, unrolled = (columns_met(conv, columns, unroll) for unroll in (False, True))
    fmas = rows * columns * conv.kernel_size[1] * conv.in_channels_per_group * unrolled
    return device.memory_operands and unrolled < looped and fmas <= MOST_SKIPPING


def _peelings(conv: Conv2d, device: Device, rows: int, columns: int) -> tuple[bool, ...]:
    """Whether tiles are peeled: never, or either way, if the code of all kinds is short enough."""
    read = sum(len(c) for _, kind in column_kinds(conv, columns) for c in kind)
    short = rows * conv.in_channels_per_group * read <= MOST_PEELED
    return peelings(conv, columns, device) if short else (False,)


def _operand_registers(conv: Conv2d, device: Device, rows: int, columns: int) -> int:
    """Registers a tile needs beside its accumulators: pixels, their permutes and weights."""
    if device.memory_operands:
        return device.vector_registers // 2
    taps, (_, stride), (_, dilation) = conv.kernel_size[1], conv.stride, conv.dilation
    if rows * columns * taps * conv.in_channels_per_group > MAX_UNROLLED_FMAS:
        return 2  # one tap at a time
    held = held_pixels(conv, columns)
    if conv.in_channels_per_group > 1:  # the pixels before their permutes, for every k
        held += min(columns * taps, (columns - 1) * stride + (taps - 1) * dilation + 1)
    return rows * held + 1


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core: per tile the longest of multiply-adds, loads and latency, plus the
    permutes.
    """
    conv, space = task.conv, Space(task, knobs)
    shared_pipe, device = device.in_halves, device.with_vectors_of(knobs.lanes)
    (_, s), (_, stride), (_, dilation) = conv.kernel_size, conv.stride, conv.dilation
    r = conv.tap_rows
    width, pixels = conv.in_channels_per_group, knobs.rows * knobs.columns
    met = rows_met(conv, knobs.rows)
    unrolled = knobs.unroll_kw or knobs.peeled
    share = columns_met(conv, knobs.columns, unrolled, peeled=knobs.peeled)
    fmas = pixels * r * s * width * met * share
    # distinct pixels of a row: the taps share them, and where they aren't unrolled LLVM does it
    span = (knobs.columns - 1) * stride + (s - 1) * dilation + 1
    row = min(knobs.columns * s, span)
    loads = knobs.rows * r * row * met
    permutes = loads * width if width > 1 else 0
    broadcast = space.groups == 1 and width > 1 and device.memory_operands
    if broadcast:  # of a vector's only group, LLVM loads every channel as a vector
        loads, permutes = permutes, 0
    latency = r * s * width * met * FMA_LATENCY
    busy = max(fmas / device.fma_ports, (loads + r * s * width) / device.load_ports, latency)
    # permutes take the multiplier's ports on most cores
    work = fmas + (PERMUTE if device.memory_operands else 1.0) * permutes
    if shared_pipe:
        work = PIPES * (fmas + permutes * (PERMUTES_OF_EIGHT if width == EIGHT else 1))
    spill = SPILL_IN_HALVES if device.in_halves else SPILL
    spill *= SPILL_OF_BROADCASTS if broadcast and shared_pipe else 1
    cycles = max(busy, work / device.fma_ports)
    if device.memory_operands and width > 1:
        across = width > 4 and not broadcast
        needed = pixels + knobs.rows * row + NOT_HELD + (MORE_PERMUTES if across else 0)
        cycles += spill * max(0, needed - device.vector_registers) * width * r * met
    cycles *= PEELED if knobs.peeled else 1
    overhead = 12 + 3 * pixels + (0 if unrolled else 2 * r * s)
    return space.tiles * (cycles + overhead) + scattered_cycles(task, knobs.bands, device)


class Space:
    """How groups fall into vectors. Methods take ints or TIR expressions alike."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        conv = task.conv
        self.task, self.knobs, self.conv = task, knobs, conv
        self.kpg, self.cpg = conv.out_channels_per_group, conv.in_channels_per_group
        per_vector = min(knobs.lanes // self.kpg, knobs.lanes // self.cpg)
        # full blocks may hold padding lanes behind the last group; else the last vector overlaps
        self.padded = task.out.block not in (1, conv.out_channels)
        self.groups = per_vector if self.padded else min(per_vector, conv.groups)
        self.used = self.groups * self.kpg
        self.vectors = ceil_div(conv.groups, self.groups)
        self.row_tiles = ceil_div(conv.out_height, knobs.rows)
        self.column_tiles = ceil_div(conv.out_width, knobs.columns)

    @property
    def tiles(self) -> int:
        """Register tiles in the whole output."""
        return self.conv.batch * self.vectors * self.row_tiles * self.column_tiles

    def first_group(self, vector: Any) -> Any:
        """First group of a vector."""
        if self.padded:
            return vector * self.groups
        return tile_start(vector, self.groups, self.conv.groups)

    def in_channel(self, vector: Any) -> Any:
        """First input channel of a vector."""
        return self.first_group(vector) * self.cpg

    def out_channel(self, vector: Any) -> Any:
        """First output channel of a vector."""
        return self.first_group(vector) * self.kpg

    def fits(self, block: int, channels: int, start: Any, width: int) -> bool:
        """Whether `width` lanes from each vector's start stay within a block (NHWC: always)."""
        if block == channels and block != width:
            return True  # the next pixel follows; lanes read from it are not used
        if block == 1:
            return False
        return all(start(v) % block + width <= block for v in range(self.vectors))

    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the packed weights: [vector, R, k, S, lane]."""
        r, s = self.conv.tap_rows, self.conv.kernel_size[1]
        return (self.vectors, r, self.cpg, s, self.knobs.lanes)

    def channel_table(self) -> np.ndarray:
        """Output channel of every [vector, lane]; K stands for a lane without one."""
        starts = np.array([self.out_channel(v) for v in range(self.vectors)])
        table = starts[:, None] + np.arange(self.knobs.lanes)
        table[:, self.used :] = self.conv.out_channels
        return np.minimum(table, self.conv.out_channels)

    def permutation(self) -> list[int]:
        """Input lane that each output lane multiplies at step 0; 0 where it does not matter."""
        sources = [lane // self.kpg * self.cpg for lane in range(self.knobs.lanes)]
        return [s if lane < self.used else 0 for lane, s in enumerate(sources)]

    @property
    def is_identity(self) -> bool:
        """Whether every lane multiplies its own input: plain depthwise."""
        return self.cpg == 1 and self.permutation() == list(range(self.knobs.lanes))


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """OIHW [K, CPG, R, S] to [vector, R, k, S, lane], zero in lanes without a channel."""
    filled = np.concatenate([weight, np.zeros((1, *weight.shape[1:]), weight.dtype)])
    return np.ascontiguousarray(filled[Space(task, knobs).channel_table()].transpose(0, 3, 2, 4, 1))


def pack_bias(task: ConvTask, knobs: Knobs, bias: np.ndarray) -> np.ndarray:
    """[K] to [vector, lane], zero in lanes without a channel."""
    table = Space(task, knobs).channel_table()
    return np.concatenate([bias, np.zeros(1, bias.dtype)])[table]


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`, one block a register tile."""
    conv, space, lanes = task.conv, Space(task, knobs), knobs.lanes
    every = Ramp(0, 1, lanes)

    def body() -> None:
        operands = emit.conv_operands(task, space.weight_shape(), (space.vectors, lanes))
        grid = dict(n=conv.batch, v=space.vectors, oh=space.row_tiles, ow=space.column_tiles)
        with emit.loops(**grid) as axes, emit.block("tile"):
            n, v, oh, ow = emit.all_spatial(grid, axes)
            acc = emit.local("acc", (knobs.rows, knobs.columns, lanes))
            first_row = tile_start(oh, knobs.rows, conv.out_height)
            first_column = tile_start(ow, knobs.columns, conv.out_width)
            tile = dict(i=knobs.rows, j=knobs.columns)
            with emit.unrolled(**tile) as (i, j):
                start = operands.start(v, every)
                start = start if task.bias else tirx.Broadcast(start, lanes)
                emit.store(acc, start, [i, j, every])

            def add(columns: Columns | None) -> None:
                nest = emit.unrolled if knobs.unroll_kh else emit.loops
                with nest(kh=conv.tap_rows) as kh:
                    with emit.when(row_inside(conv, knobs.rows, first_row, kh)):
                        _row(operands, space, acc, (n, v, first_row, first_column), kh, columns)

            if knobs.peeled:
                by_kind(conv, knobs.columns, ow, add)
            else:
                add(None)
            if knobs.ahead:
                band = ceil_div(space.row_tiles, knobs.bands) if knobs.bands > 1 else None
                read = (space.in_channel(v), space.groups * space.cpg)
                written = (space.out_channel(v), space.used)
                fetch_below(operands, (n, first_row, first_column), tile, band, (read, written))
            stored = {**tile, "lane": min(lanes, _stored_lanes(space))}
            with emit.loops(**stored) as axes, emit.block("store"):
                i, j, lane = emit.all_spatial(stored, axes)
                channel, block = space.out_channel(v), task.out.block
                row, column = first_row + i, first_column + j
                at = [n, channel // block, row, column, channel % block + lane]
                operands.finish(acc[i, j, lane], at)

    return emit.prim_func("lane_groups", body)


def _row(
    operands: emit.ConvOperands,
    space: Space,
    acc: Any,
    tile: tuple[Any, ...],
    kh: Any,
    read: Columns | None,
) -> None:
    """Add one row of the kernel: all its columns and channels, or of each column those pixels that
    `read` names.
    """
    conv, knobs, (n, v, first_row, first_column) = space.conv, space.knobs, tile
    every, block, channel = Ramp(0, 1, knobs.lanes), space.task.data.block, space.in_channel(v)
    at, image = Ramp(channel % block, 1, knobs.lanes), operands.image(n, kh)

    def add(k: Any, kw: Any, i: Any, j: Any) -> None:
        y, x = operands.pixel(first_row + i, first_column + j, kh, kw)
        pixels = operands.data[image, channel // block, y, x, at]
        source = [s + k for s in space.permutation()]
        operand = pixels if space.is_identity else tirx.Shuffle([pixels], source)
        product = operand * operands.weight[v, kh, k, kw, every]
        emit.store(acc, acc[i, j, every] + product, [i, j, every])

    def column(k: Any, kw: Any, columns: Sequence[int]) -> None:
        inside = column_inside(conv, knobs.columns, first_column, kw) if read is None else None
        with emit.when(inside):
            with emit.unrolled(i=knobs.rows) as i:
                for j in columns:
                    add(k, kw, i, j)

    with emit.unrolled(k=space.cpg) as k:  # a permute's lanes are constants
        if read is not None:
            for kw, columns in enumerate(read):
                column(k, kw, columns)
        elif knobs.unroll_kw:
            for kw in range(conv.kernel_size[1]):
                column(k, kw, columns_inside(conv, knobs.columns, kw))
        else:
            with emit.loops(kw=conv.kernel_size[1]) as kw:
                column(k, kw, range(knobs.columns))


def _stored_lanes(space: Space) -> int:
    """Lanes of a vector that are written: all in full blocks, else those that hold a channel."""
    return space.knobs.lanes if space.padded and space.used == space.knobs.lanes else space.used


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over rows of tiles, the tile and its taps unrolled into registers."""
    tile, write = (sch.get_sblock(name) for name in ("tile", "store"))
    n, v, oh, ow = sch.get_loops(tile)
    outer = [n, v, oh]
    if knobs.bands > 1:
        band, oh = sch.split(oh, [knobs.bands, None])
        sch.reorder(band, v)
        outer = [n, band, v, oh]
    share = knobs.bands == 1 and shares_map(task.conv)
    run_parallel(sch, outer, task.conv.macs, device, along=(oh, ow), share_map=share)
    *_, i, j, lane = sch.get_loops(write)
    sch.unroll(i)
    sch.unroll(j)
    sch.vectorize(lane)
    return sch
