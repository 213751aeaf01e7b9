"""Depthwise, then pointwise convolution as one kernel: MobileNet's block, a DDC layer's tail.

    parallel (n, strip of output rows)
      vector of input channels                                                    depthwise
        row tile → column tile
          acc[rows, columns, lanes] = bias                                        registers
          rows[vector, strip, width, lanes] = activation(Σ taps · data)           scratch
      tile of output-channel vectors                                              pointwise
        row tile → column tile
          acc[rows, columns, vectors, lanes] = bias                               registers
          input channel: acc += broadcast(rows) · weight vector
          out = activation(acc + residual)

The map between the two never leaves the cache: a strip of all its channels is made, then multiplied
with all weights, which each strip reads again. While a tile of channels is computed, the next one's
weights are fetched.

Layouts: data [N, C/L, H, W, L] with a halo that stands for the padding; out [N, K/b, OH, OW, b],
where b may be K (NHWC).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import Ramp
from tvm.tirx.script import builder as T

from edgeconv.layout import Layout
from edgeconv.operators.convolution import apply_activation
from edgeconv.schedules import depthwise_blocks, depthwise_costs, emit, product_tile
from edgeconv.schedules.common import (
    L2_BYTES_PER_CYCLE,
    Mismatch,
    ceil_div,
    lacks_halo,
    minimum,
    run_parallel,
    tile_start,
)
from edgeconv.schedules.depthwise_tiles import DepthwiseTiles, register_tiles, zeros
from edgeconv.schedules.pair_operands import (
    L2_SHARE,
    L2_STALL,
    SCRATCH_CYCLES,
    Rows,
    declare,
    fit,
    is_plain_depthwise,
    is_plain_pointwise,
    pitch,
)
from edgeconv.schedules.prefetching import next_weights
from edgeconv.schedules.product_tile import Registers, Tile
from edgeconv.schedules.traffic import L2_RATE, streaming_cycles
from edgeconv.targets import Device
from edgeconv.workload import ConvTask, PairTask

SPREAD = 4  # strips a core has at least, where there are several cores


@dataclass(frozen=True)
class Knobs(Tile):
    """Tunable choices.

    Attributes:
        lanes, rows, columns, vectors: register tile of the pointwise convolution.
        quad: its input channels loaded as one vector; 1: each by itself.
        in_rows, in_columns: register tile of the depthwise convolution.
        unroll_kw: whether its horizontal taps are unrolled.
        strip: output rows made at once.
    """

    in_rows: int
    in_columns: int
    unroll_kw: bool
    strip: int


def supports(task: PairTask, device: Device) -> Mismatch | None:
    """A depthwise convolution, then a plain pointwise one."""
    first, second = task.first, task.second
    if not is_plain_depthwise(first.conv):
        return Mismatch("the first is no depthwise convolution of one filter a channel")
    if not is_plain_pointwise(second.conv):
        return Mismatch("the second is no pointwise convolution of all channels and pixels")
    if (mismatch := fit(task)) is not None:
        return mismatch
    block = first.data.block
    if block < 2 or block > device.lanes or block & (block - 1):
        return Mismatch("the input is not in blocks of one vector")
    if (lack := lacks_halo(first)) is not None:
        return lack
    if second.out.block < 2:
        return Mismatch("the output's channels do not lie side by side")
    return None


def _second(task: PairTask) -> ConvTask:
    """The pointwise convolution, reading the scratch rows."""
    return dataclasses.replace(task.second, data=Layout(task.first.data.block))


def tile_pairs(task: PairTask, device: Device) -> tuple[list[Tile], list[tuple[int, int, bool]]]:
    """Register tiles of the pointwise and of the depthwise convolution; any two go together."""
    tiles = list(product_tile.tiles(_second(task), device))
    return tiles, list(register_tiles(task.first.conv, device))


def default_knobs(task: PairTask, device: Device) -> Knobs:
    """The least estimated cycles with one of the best tiles of the pointwise convolution."""
    second = _second(task)

    def cycles(knobs: Knobs) -> float:
        return estimate(task, knobs, device)

    def per_pixel(tile: Tile) -> float:
        cost = product_tile.cycles(second, tile, device) / (tile.rows * tile.columns)
        wide = second.conv.out_width
        return cost / tile.vectors * ceil_div(wide, tile.columns) * tile.columns / wide

    tiles = sorted(product_tile.tiles(second, device), key=per_pixel)[:6]
    in_tiles = depthwise_costs.best_tiles(task.first.conv, device)[:6]
    settings = (k for t in tiles for i in in_tiles for k in strips(task, device, t, i))
    return min(settings, key=cycles)


def strips(
    task: PairTask, device: Device, tile: Tile, in_tile: tuple[int, int, bool]
) -> Iterator[Knobs]:
    """Every number of output rows at once that fits the cache and occupies the cores."""
    conv = task.second.conv
    least = max(tile.rows, in_tile[0])
    if least > conv.out_height:
        return
    sizes = {least * k for k in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)} | {conv.out_height}
    share = L2_SHARE * 1024 * device.l2_kib
    for strip in sorted(s for s in sizes if s <= conv.out_height):
        knobs = Knobs(*(*astuple(tile), *in_tile, strip))
        space = Space(task, knobs)
        idle = device.cores > 1 and space.strips * conv.batch < SPREAD * device.cores
        if strip == least or (space.bytes <= share and not idle):
            yield knobs


def estimate(task: PairTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core: register tiles of both, rows from the second-level cache, weights again
    and again.
    """
    space, conv = Space(task, knobs), task.second.conv
    strip = space.vectors * depthwise_costs.cached_strip_cycles(space.tiles, device)
    filters = max(conv.batch * space.strips * strip, _reading(task, space, device))
    tiles = space.channel_tiles * space.row_tiles * space.column_tiles
    products = tiles * product_tile.cycles(_second(task), knobs.tile, device)
    weights = space.channel_tiles * conv.in_channels * knobs.vectors * knobs.lanes * 4
    again = 0.0
    if weights > device.l1d_kib * 1024 // 2:  # else they stay where they are
        again = max(0.0, weights / L2_BYTES_PER_CYCLE - products / 2)
    from_l2 = 0.0
    if space.bytes > device.l1d_kib * 1024 // 2:
        from_l2 = space.bytes / (4 * space.lanes) * L2_STALL
    strips = conv.batch * space.strips
    return filters + strips * (products + again + from_l2 + SCRATCH_CYCLES)


def _reading(task: PairTask, space: Space, device: Device) -> float:
    """Cycles to read the input; what neighbouring strips share comes from the L2 cache again."""
    conv, strip = task.first.conv, space.knobs.strip
    row = 4 * conv.batch * conv.in_channels * conv.width
    reach = (conv.kernel_size[0] - 1) * conv.dilation[0] + 1
    rows = space.strips * min((strip - 1) * conv.stride[0] + reach, conv.height)
    again = max(0, rows - conv.height) * row / L2_RATE
    return streaming_cycles(conv.height * row, device) + again


class Space:
    """How the output falls into strips and tiles."""

    def __init__(self, task: PairTask, knobs: Knobs) -> None:
        conv, self.knobs = task.second.conv, knobs
        self.channels = product_tile.space(_second(task), knobs.tile)
        self.channel_tiles = self.channels.channel_tiles
        self.lanes = task.first.data.block  # of the depthwise convolution
        self.vectors = ceil_div(conv.in_channels, self.lanes)
        self.strips = ceil_div(conv.out_height, knobs.strip)
        self.row_tiles = ceil_div(knobs.strip, knobs.rows)
        self.column_tiles = ceil_div(conv.out_width, knobs.columns)
        tile = (knobs.in_rows, knobs.in_columns, knobs.unroll_kw)
        self.tiles = DepthwiseTiles(task.first.conv, knobs.strip, *tile)

    @property
    def bytes(self) -> int:
        """Size of the scratch rows."""
        width = pitch(self.channels.conv.out_width, self.lanes)
        return self.vectors * self.knobs.strip * width * self.lanes * 4


def pack(
    task: PairTask,
    knobs: Knobs,
    weights: Sequence[np.ndarray],
    biases: Sequence[np.ndarray | None],
) -> list[np.ndarray]:
    """Weights and bias of the first, then of the second, as the kernel reads them: [vector, S, R,
    lane] and [vector, lane]; [channel tile, channel, vector, lane] and [channel tile, vector,
    lane].
    """
    lanes = task.first.data.block
    packed = [depthwise_blocks.in_lanes(weights[0][:, 0].transpose(0, 2, 1), lanes)]
    if biases[0] is not None:
        packed.append(depthwise_blocks.in_lanes(biases[0], lanes))
    packed.append(product_tile.pack_weights(_second(task), knobs.tile, weights[1]))
    if biases[1] is not None:
        packed.append(product_tile.pack_bias(_second(task), knobs.tile, biases[1]))
    return packed


class _Kernel:
    """Emits the kernel's statements."""

    def __init__(self, task: PairTask, knobs: Knobs) -> None:
        self.task, self.knobs, self.space = task, knobs, Space(task, knobs)

    def emit(self) -> None:
        """Parameters, and the loop over strips."""
        task, knobs, space = self.task, self.knobs, self.space
        conv, taps = task.second.conv, task.first.conv.kernel_size
        inner = (knobs.vectors, knobs.lanes)
        self.operands = declare(
            task,
            ((space.vectors, taps[1], taps[0], space.lanes), (space.vectors, space.lanes)),
            ((space.channel_tiles, conv.in_channels, *inner), (space.channel_tiles, *inner)),
        )
        grid = dict(n=conv.batch, strip=space.strips)
        with emit.loops(**grid) as axes, emit.block("tile"):
            n, strip = emit.all_spatial(grid, axes)
            first = tile_start(strip, knobs.strip, conv.out_height)
            self.registers = Registers(knobs.tile)
            self.sum = {p: emit.local("sum", (space.lanes,)) for p in space.tiles.pixels}
            self.rows = Rows("rows", (space.vectors, knobs.strip, conv.out_width), space.lanes)
            with T.serial(0, space.vectors) as v:
                self._depthwise(n, first, v)
            with T.serial(0, space.channel_tiles) as oc:
                self._pointwise(n, first, oc)

    def _depthwise(self, n: Any, first: Any, v: Any) -> None:
        """A strip of a vector of channels."""
        task, space, operands = self.task.first, self.space, self.operands
        every = Ramp(0, 1, space.lanes)
        weight, bias, data = operands.first_weight, operands.first_bias, operands.data
        (top, left, *_), halo = task.conv.padding, task.data.halo

        def pixel(y: Any, x: Any) -> Any:
            row = y + first * task.conv.stride[0] + (halo[0] - top)
            return data[n, v, row, x + (halo[1] - left), every]

        def finish(value: Any, row: Any, column: Any) -> None:
            self.rows.store(apply_activation(value, task.activation), v, row, column)

        space.tiles.emit(
            first,
            lambda i, j: (self.sum[i, j], [every]),
            lambda: zeros(space.lanes) if bias is None else bias[v, every],
            lambda kw, kh: weight[v, kw, kh, every],
            pixel,
            finish,
        )

    def _pointwise(self, n: Any, first: Any, oc: Any) -> None:
        """A strip of a tile of output channels."""
        knobs, space, second = self.knobs, self.space, self.operands.second
        conv, every = second.task.conv, self.registers.every
        following = minimum(oc + 1, space.channel_tiles - 1)
        count = space.row_tiles * space.column_tiles
        with T.serial(0, space.row_tiles) as t, T.serial(0, space.column_tiles) as q:
            row = tile_start(t, knobs.rows, knobs.strip)
            column = tile_start(q, knobs.columns, conv.out_width)
            self.registers.start(
                lambda m: (
                    emit.spread(second.start(), knobs.lanes)
                    if second.bias is None
                    else second.start(oc, m, every)
                )
            )

            def pixel(p: tuple[int, int], chunk: Any, slot: Any) -> Any:
                at = self.rows.element(chunk, row + p[0], column + p[1])
                if isinstance(slot, Ramp):
                    return self.rows.array[Ramp(at + slot.base, 1, slot.lanes)]
                return self.rows.array[at + slot]

            fetch, quad = None, knobs.tile.quad
            if space.channel_tiles > 1:
                number = t * space.column_tiles + q
                steps, floats = ceil_div(conv.in_channels, quad), quad * knobs.vectors * knobs.lanes
                fetch = next_weights(second.weight, following, number, count, steps, floats)

            def prefetch(c: Any) -> None:
                if fetch is not None:
                    fetch(c // quad)

            self.registers.multiply(
                conv.in_channels,
                space.lanes,
                pixel,
                lambda c, m: second.weight[oc, c, m, every],
                prefetch,
            )
            for m in range(knobs.vectors):
                chunk, slot = space.channels.out_channel(oc, m, 0)
                for i, j in knobs.tile.pixels:
                    at = [n, chunk, first + row + i, column + j, emit.run(slot, knobs.lanes)]
                    second.finish(self.registers.value((i, j), m), at)


def compute(task: PairTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], weight, [bias], [residual], out)`."""
    return emit.prim_func("depthwise_pointwise", _Kernel(task, knobs).emit)


def schedule(sch: Schedule, task: PairTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over strips; the body is written as it is to run."""
    run_parallel(sch, sch.get_loops(sch.get_sblock("tile")), task.macs, device)
    return sch
