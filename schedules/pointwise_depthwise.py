"""Pointwise, then depthwise convolution as one kernel: BSConv-U (Haase and Amthor, CVPR 2020), the
tail of BSConv-S, expansion and filter of an inverted residual (MobileNetV2).

    parallel (n, segment of output rows, tile of channel vectors)
      rows[vectors, strip + taps, width + padding, lanes] = 0 around the map      scratch
      strip of output rows
        the last strip's rows that this one reads too move to the top
        new rows: row tile → column tile                                          pointwise
          acc[rows, columns, vectors, lanes] = bias                               registers
          input channel: acc += broadcast(data) · weight vector
          rows = activation(acc)
        vector → row tile → column tile                                           depthwise
          acc[rows, columns, lanes] = bias                                        registers
          out = activation(Σ taps · rows + residual)
        out planes = the strip's output, transposed                               if NCHW

The map between the two is never written whole: a strip of it stays in cache, and with it the
tile's weights. The depthwise pads that map, not what it is made of, so rows and columns around it
are zeros, whatever bias and activation are. Segments are for several cores, each of which then
finds its part of the map in its own cache; what two of them share is computed twice.

Layouts: data [N, C/b, H, W, b] with any b, its halo is passed over; out [N, K/b', OH, OW, b'] in
blocks of whole vectors, or NHWC, where the last vector overlaps its neighbour, or NCHW without
halo.
"""

from __future__ import annotations

import math
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
from edgeconv.schedules import depthwise_costs, emit, grouped_conv2d, product_tile
from edgeconv.schedules.common import (
    Mismatch,
    ceil_div,
    parts_of,
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
from edgeconv.schedules.product_tile import Registers, Tile
from edgeconv.schedules.relayout import transpose
from edgeconv.schedules.traffic import READ_RATE, map_bytes, shared_cycles
from edgeconv.targets import Device
from edgeconv.workload import ConvTask, PairTask

COPY_CYCLES = 2  # a vector of a row that moves to the top of the next strip
TRANSPOSE_CYCLES = 1.25  # a round of a vector of a transposed square


@dataclass(frozen=True)
class Knobs(Tile):
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors.
        rows, columns, vectors: register tile of the pointwise convolution.
        quad: input channels loaded as one vector; 1: each by itself.
        out_rows, out_columns: register tile of the depthwise convolution.
        unroll_kw: whether its horizontal taps are unrolled.
        strip: output rows for which the map between is made at once.
        segments: parts of the output's rows that are made apart.
    """

    out_rows: int
    out_columns: int
    unroll_kw: bool
    strip: int
    segments: int


def supports(task: PairTask, device: Device) -> Mismatch | None:
    """A plain pointwise, then a depthwise convolution of its channels."""
    first, second = task.first, task.second
    if not is_plain_pointwise(first.conv):
        return Mismatch("the first is no pointwise convolution of all channels and pixels")
    if not is_plain_depthwise(second.conv):
        return Mismatch("the second is no depthwise convolution of one filter a channel")
    if (mismatch := fit(task)) is not None:
        return mismatch
    if first.data.block < 1:
        return Mismatch("the input needs a channel layout")
    channels, block = second.conv.out_channels, second.out.block
    if block == 1:
        pixels = second.conv.out_height * second.conv.out_width
        if any(second.out.halo) or second.residual is not None or pixels < device.lanes:
            return Mismatch("a row-major output with a halo or residual, or smaller than a vector")
    elif block < 1 or (block != channels and block % device.lanes and device.lanes % block):
        return Mismatch(f"{channels} channels in {second.out} do not lie side by side")
    lanes = _lanes(task, device)
    if lanes < 2:
        return Mismatch("there are too few channels for a vector")
    return None


def _lanes(task: PairTask, device: Device) -> int:
    return grouped_conv2d.lanes_for(_first(task), device)


def _first(task: PairTask) -> ConvTask:
    """The pointwise convolution with the channels of the output, which follow it."""
    first, out = task.first, task.second.out
    if out.block == 1:  # written in vectors, then transposed: channels fall into vectors as in NHWC
        out = Layout(first.conv.out_channels)
    return ConvTask(first.conv, first.data, out, first.bias)


def tile_pairs(task: PairTask, device: Device) -> tuple[list[Tile], list[tuple[int, int, bool]]]:
    """Register tiles of the pointwise and of the depthwise convolution; any two go together."""
    tiles = list(product_tile.tiles(_first(task), device))
    return tiles, list(register_tiles(task.second.conv, device))


def default_knobs(task: PairTask, device: Device) -> Knobs:
    """The least estimated cycles, tiles chosen before strips."""
    first = _first(task)

    def cycles(knobs: Knobs) -> float:
        return estimate(task, knobs, device)

    best_tiles: dict[int, list[tuple[float, Tile]]] = {}
    for tile in product_tile.tiles(first, device):
        pixels = tile.rows * tile.columns
        cost = product_tile.cycles(first, tile, device) / pixels * _waste(task, tile)
        best_tiles.setdefault(tile.vectors, []).append((cost, tile))
    ranked = [sorted(found, key=lambda pair: pair[0])[:2] for found in best_tiles.values()]
    out_tiles = depthwise_costs.best_tiles(task.second.conv, device)[:4]
    settings = (
        knobs
        for found in ranked
        for _, tile in found
        for out_tile in out_tiles
        for knobs in strips(task, device, tile, out_tile)
    )
    return min(settings, key=cycles)


def _waste(task: PairTask, tile: Tile) -> float:
    """Columns computed for each of the map's."""
    width = task.first.conv.width
    return ceil_div(width, tile.columns) * tile.columns / width


def strips(
    task: PairTask, device: Device, tile: Tile, out_tile: tuple[int, int, bool]
) -> Iterator[Knobs]:
    """Every number of output rows at once, and cut for the cores."""
    conv = task.second.conv
    work = conv.batch * product_tile.space(_first(task), tile).channel_tiles
    cuts = {1, ceil_div(device.cores, work), ceil_div(2 * device.cores, work), device.cores}
    for segments in sorted({parts_of(conv.out_height, cut) for cut in cuts}):
        rows = ceil_div(conv.out_height, segments)
        if rows < out_tile[0]:  # tiles must not leave their strip
            continue
        strips = {min(rows, out_tile[0] * k) for k in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)} | {rows}
        if task.second.out.block == 1:  # a strip is at least one square to transpose
            strips = {s for s in strips if s * conv.out_width >= tile.lanes}
        for strip in sorted(strips):
            knobs = Knobs(*(*astuple(tile), *out_tile, strip, segments))
            space = Space(task, knobs)
            if strip == min(strips) or space.bytes <= L2_SHARE * 1024 * device.l2_kib:
                yield knobs


def estimate(task: PairTask, knobs: Knobs, device: Device) -> float:
    """Cycles of all cores together, idle ones included."""
    conv, cores = task.second.conv, device.cores
    units = conv.batch * knobs.segments * Space(task, knobs).channel_tiles
    busy = ceil_div(units, cores) * cores / units
    cycles = busy * sum(parts(task, knobs, device))
    # cores that share channels read the whole map, and write a part of every row
    if conv.batch * knobs.segments % cores:
        out = math.prod(conv.output_shape) * 4
        cycles += shared_cycles(conv.batch * map_bytes(task.first.conv) + out // 2, device)
    return cycles


def parts(task: PairTask, knobs: Knobs, device: Device) -> tuple[float, float, float]:
    """Cycles of one core: pointwise, depthwise, rows that move or are made zero."""
    space = Space(task, knobs)
    tile_cycles = product_tile.cycles(_first(task), knobs.tile, device)
    units = space.channel_tiles * knobs.segments * task.second.conv.batch
    products = space.pointwise_tiles * tile_cycles
    strip = depthwise_costs.cached_strip_cycles(space.tiles, device)
    if space.bytes > device.l1d_kib * 1024 // 2:  # with a stride the rows may cost more than sums
        strip = max(strip, space.strip_rows * space.pitch * knobs.lanes * 4 / READ_RATE)
    filters = space.strips * knobs.vectors * strip
    kept = (space.strips - 1) * max(0, space.strip_rows - knobs.strip * space.stride)
    moved = float(kept * space.pitch * knobs.vectors)
    from_l2 = 0.0
    if space.bytes > device.l1d_kib * 1024 // 2:
        from_l2 = space.strips * space.strip_rows * space.pitch * knobs.vectors * L2_STALL
    if space.to_planes:
        squares = ceil_div(knobs.strip * task.second.conv.out_width, knobs.lanes)
        vectors = space.strips * knobs.vectors * squares * knobs.lanes
        filters += vectors * TRANSPOSE_CYCLES * (knobs.lanes.bit_length() - 1)
    beside = space.width - task.second.conv.width  # columns of zeros
    setup = SCRATCH_CYCLES + beside * space.buffer_rows * knobs.vectors
    moved = moved * COPY_CYCLES + from_l2 + setup
    return units * products, units * filters, units * moved


class Space:
    """How the output falls into units of work, strips and tiles."""

    def __init__(self, task: PairTask, knobs: Knobs) -> None:
        conv, self.knobs = task.second.conv, knobs
        self.conv, self.lanes = conv, knobs.lanes
        self.to_planes = task.second.out.block == 1
        self.channels = product_tile.space(_first(task), knobs.tile)
        self.channel_tiles = self.channels.channel_tiles
        self.segment = ceil_div(conv.out_height, knobs.segments)
        self.strips = ceil_div(self.segment, knobs.strip)
        (self.stride, sx), (dy, dx) = conv.stride, conv.dilation
        self.reach = (conv.kernel_size[0] - 1) * dy + 1
        self.strip_rows = (knobs.strip - 1) * self.stride + self.reach
        across = (conv.out_width - 1) * sx + (conv.kernel_size[1] - 1) * dx + 1
        self.width = max(across, conv.padding[1] + conv.width)
        self.pitch = pitch(self.width, knobs.lanes)
        # tiles of rows may begin above the strip, and end below it
        self.above = knobs.rows - 1
        self.buffer_rows = self.strip_rows + 2 * self.above
        self.tiles = DepthwiseTiles(
            conv, knobs.strip, knobs.out_rows, knobs.out_columns, knobs.unroll_kw
        )

    @property
    def bytes(self) -> int:
        """Size of the scratch rows."""
        return self.knobs.vectors * self.buffer_rows * self.pitch * self.lanes * 4

    @property
    def pointwise_tiles(self) -> int:
        """Register tiles of the pointwise convolution in a unit of work."""
        top, height, rows = self.conv.padding[0], self.conv.height, self.knobs.rows
        total, done = 0, 0
        for number in range(self.strips):
            first = tile_start(number, self.knobs.strip, self.segment) * self.stride - top
            end = min(height, first + self.strip_rows)
            total += max(0, ceil_div(end - max(done, first, 0), rows))
            done = max(done, end)
        return total * ceil_div(self.conv.width, self.knobs.columns)


def pack(
    task: PairTask,
    knobs: Knobs,
    weights: Sequence[np.ndarray],
    biases: Sequence[np.ndarray | None],
) -> list[np.ndarray]:
    """Weights and bias of the first, then of the second, as the kernel reads them: [channel tile,
    channel, vector, lane] and [channel tile, vector, lane]; [channel tile, vector, S, R, lane].
    """
    first = _first(task)
    packed = [product_tile.pack_weights(first, knobs.tile, weights[0])]
    if biases[0] is not None:
        packed.append(product_tile.pack_bias(first, knobs.tile, biases[0]))
    table = product_tile.space(first, knobs.tile).channel_table()
    table = np.minimum(table, weights[1].shape[0] - 1)  # padding lanes repeat the last filter
    packed.append(np.ascontiguousarray(weights[1][:, 0][table].transpose(0, 1, 4, 3, 2)))
    if biases[1] is not None:
        packed.append(biases[1][table])
    return packed


class _Kernel:
    """Emits the kernel's statements."""

    def __init__(self, task: PairTask, knobs: Knobs) -> None:
        self.task, self.knobs, self.space = task, knobs, Space(task, knobs)
        self.lanes, self.every = knobs.lanes, Ramp(0, 1, knobs.lanes)

    def emit(self) -> None:
        """Parameters, and the loops over channels and strips."""
        task, knobs, space = self.task, self.knobs, self.space
        conv = task.second.conv
        channels, vectors, lanes = space.channel_tiles, knobs.vectors, self.lanes
        taps = (conv.kernel_size[1], conv.kernel_size[0])
        self.operands = declare(
            task,
            ((channels, task.first.conv.in_channels, vectors, lanes), (channels, vectors, lanes)),
            ((channels, vectors, *taps, lanes), (channels, vectors, lanes)),
        )
        grid = dict(n=conv.batch, segment=knobs.segments, oc=channels)
        with emit.loops(**grid) as axes, emit.block("tile"):
            n, segment, oc = emit.all_spatial(grid, axes)
            emit.unknown_regions()
            self.registers = Registers(knobs.tile)
            self.acc = {p: emit.local("sum", (lanes,)) for p in space.tiles.pixels}
            self.rows = Rows("rows", (vectors, space.buffer_rows, space.width), lanes)
            if space.to_planes:
                shape = (1, knobs.strip, conv.out_width)
                self.result = Rows("result", shape, lanes, compact=True)
            self._zero_columns()
            start = tile_start(segment, space.segment, conv.out_height)
            with T.serial(0, space.strips) as strip:
                self._strip(n, oc, start, strip)

    def _strip(self, n: Any, oc: Any, start: Any, strip: Any) -> None:
        """The rows a strip of output rows reads, then those."""
        knobs, space = self.knobs, self.space
        top = self.task.second.conv.padding[0]
        place = tile_start(strip, knobs.strip, space.segment)
        out_row = T.Bind(start + place)
        first = T.Bind(out_row * space.stride - top)  # row of the map that the strip reads first
        have = first
        if space.strips > 1:
            before = tile_start(strip - 1, knobs.strip, space.segment)
            shift = T.Bind((place - before) * space.stride)
            kept = T.Bind(tirx.Select(strip > 0, tirx.max(space.strip_rows - shift, 0), 0))
            self._move(kept, shift)
            have = T.Bind(first + kept)
        self._zero_rows(first, have)
        self._pointwise(n, oc, first, have)
        with T.serial(0, knobs.vectors) as m:
            self._depthwise(n, oc, out_row, m)

    def _zero_columns(self) -> None:
        """Zero what lies beside the map in all rows."""
        conv, space = self.task.second.conv, self.space
        left, right = conv.padding[1], conv.padding[1] + conv.width
        columns = [*range(left), *range(right, space.width)]
        if not columns:
            return
        with T.grid(self.knobs.vectors, space.buffer_rows) as (m, row):
            for column in columns:
                self.rows.store(zeros(self.lanes), m, row, column)

    def _move(self, kept: Any, shift: Any) -> None:
        """The last `kept` rows of the strip before become the first of this one."""
        space = self.space
        with T.serial(0, self.knobs.vectors) as m, T.serial(0, kept) as row:
            with T.serial(0, space.width) as column:
                source = self.rows.load(m, row + shift + space.above, column)
                self.rows.store(source, m, row + space.above, column)

    def _zero_rows(self, first: Any, have: Any) -> None:
        """Zero new rows above and below the map."""
        conv, space = self.task.second.conv, self.space
        end = first + space.strip_rows
        needed = max(conv.padding[0], (conv.out_height - 1) * space.stride + space.reach)
        if not conv.padding[0] and needed <= conv.height:
            return
        for low, high in ((have, tirx.min(end, 0)), (tirx.max(have, conv.height), end)):
            count, place = T.Bind(tirx.max(high - low, 0)), T.Bind(low - first + space.above)
            with T.serial(0, count) as row:
                with T.serial(0, self.knobs.vectors) as m, T.serial(0, space.width) as column:
                    at = place + row
                    self.rows.store(zeros(self.lanes), m, at, column)

    def _pointwise(self, n: Any, oc: Any, first: Any, have: Any) -> None:
        """New rows of the map, a register tile at a time."""
        knobs, space, task = self.knobs, self.space, self.task.first
        conv, halo = task.conv, task.data.halo
        weight, bias, data = (
            self.operands.first_weight,
            self.operands.first_bias,
            self.operands.data,
        )
        begin = T.Bind(tirx.max(have, 0))
        end = T.Bind(tirx.min(first + space.strip_rows, conv.height))
        count = T.Bind(tirx.floordiv(tirx.max(end - begin, 0) + knobs.rows - 1, knobs.rows))
        with T.serial(0, count) as t, T.serial(0, ceil_div(conv.width, knobs.columns)) as q:
            y = T.Bind(tirx.max(tirx.min(begin + t * knobs.rows, end - knobs.rows), 0))
            place = T.Bind(y - first + space.above)
            x = tile_start(q, knobs.columns, conv.width)

            def pixel(p: tuple[int, int], chunk: Any, slot: Any) -> Any:
                return data[n, chunk, y + p[0] + halo[0], x + p[1] + halo[1], slot]

            self.registers.start(
                lambda m: zeros(self.lanes) if bias is None else bias[oc, m, self.every]
            )
            self.registers.multiply(
                conv.in_channels,
                task.data.block,
                pixel,
                lambda c, m: weight[oc, c, m, self.every],
            )
            left = self.task.second.conv.padding[1]
            for m in range(knobs.vectors):
                for i, j in knobs.tile.pixels:
                    value = apply_activation(self.registers.value((i, j), m), task.activation)
                    self.rows.store(value, m, place + i, x + j + left)

    def _depthwise(self, n: Any, oc: Any, out_row: Any, m: Any) -> None:
        """A strip of output rows of a vector of channels."""
        second, space, every = self.operands.second, self.space, self.every

        def finish(value: Any, row: Any, column: Any) -> None:
            if space.to_planes:
                activated = apply_activation(value, second.task.activation)
                self.result.store(activated, 0, row, column)
                return
            chunk, slot = space.channels.out_channel(oc, m, 0)
            at = [n, chunk, out_row + row, column, Ramp(slot, 1, self.lanes)]
            second.finish(value, at)

        space.tiles.emit(
            out_row,
            lambda i, j: (self.acc[i, j], [every]),
            lambda: zeros(self.lanes) if second.bias is None else second.bias[oc, m, every],
            lambda kw, kh: second.weight[oc, m, kw, kh, every],
            lambda y, x: self.rows.load(m, y + space.above, x),
            finish,
        )
        if space.to_planes:
            self._flush(n, space.channels.channel(oc, m), out_row)

    def _flush(self, n: Any, channel: Any, out_row: Any) -> None:
        """Transpose the output rows of a strip into the planes."""
        width, lanes = self.space.conv.out_width, self.lanes
        count = self.knobs.strip * width
        with T.serial(0, ceil_div(count, lanes)) as i:
            start = T.Bind(tile_start(i, lanes, count))
            vectors = [self.result.load(0, 0, start + k) for k in range(lanes)]
            for k, plane in enumerate(transpose(vectors, lanes)):
                at = [n, channel + k, Ramp(out_row * width + start, 1, lanes)]
                emit.store(self.operands.second.out, plane, at)


def compute(task: PairTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], weight, [bias], [residual], out)`."""
    return emit.prim_func("pointwise_depthwise", _Kernel(task, knobs).emit)


def schedule(sch: Schedule, task: PairTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over segments and tiles of channels; the body is written as it is to run."""
    run_parallel(sch, sch.get_loops(sch.get_sblock("tile")), task.macs, device)
    return sch
