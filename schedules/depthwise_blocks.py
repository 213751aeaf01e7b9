"""Depthwise convolution, a channel in every lane; row-major neighbours are transposed on the way.

    parallel (n, part of the rows, vector of channels)
      strip of output rows
        pixels = the strip's input rows, transposed, zero around the map      scratch, if NCHW
        row tile → column tile
          acc[rows, columns, lanes] = bias                                    registers
          input row → input column: one vector, multiplied into every output pixel it reaches
          out = activation(acc + residual)
        out planes = the strip's output, transposed                           if NCHW

Loops run over *input* pixels: each is loaded once for all taps and output rows that need it. Large
filters keep the horizontal tap as a loop.

Layouts: data and out are NCHW{L}c, or NCHW without halo. Either way channels come in vectors of L;
lanes behind the last channel hold a copy of it. A row-major map is transposed in squares of
`lanes` channels × `lanes` pixels, in the cache, which saves a pass over memory for each side.
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

from edgeconv.operators.convolution import apply_activation
from edgeconv.schedules import emit
from edgeconv.schedules.common import (
    Mismatch,
    ceil_div,
    is_even,
    is_partial,
    lacks_halo,
    parts_of,
    run_parallel,
    starts,
    tile_start,
)
from edgeconv.schedules.depthwise_costs import Pixels, strip_cycles
from edgeconv.schedules.depthwise_tiles import DepthwiseTiles, register_tiles, zeros
from edgeconv.schedules.prefetching import LINE
from edgeconv.schedules.relayout import transpose
from edgeconv.schedules.traffic import MOST_WEIGHTS, leaves_l3, moved_bytes
from edgeconv.targets import Device
from edgeconv.workload import ConvTask

SCRATCH_BYTES = 1 << 17  # transposed input rows of a strip: a part of the second-level cache
RESULT_BYTES = 1 << 14  # output rows of a strip that are still to be transposed
# Zen 4, prefetching against none, by MB of data and output: 7x7 and 5x5 of 0.8 to 2.7 0.90 to 1.02
# times as fast, of 3 to 7 1.00 to 1.04; 3x3 of 3 to 11 0.77 to 1.00, of 12 to 23 1.10 to 1.66
MANY_TAPS = 20
L2_TIMES = 3
AHEAD = 2  # row tiles; 1 is 1.00 to 0.93 times as fast
STATIC_SQUARES = 16  # up to here the transposes of a map are unrolled, with constant addresses


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors: channels of a block.
        rows, columns: output pixels of a register tile.
        unroll_kw: whether the horizontal taps are unrolled into the body.
        parts: parts of the output's rows, all channels of one computed before the next; the last
            overlaps its neighbour.
        ahead: row tiles from one to that whose pixels and results it prefetches; 0: none.
    """

    lanes: int
    rows: int
    columns: int
    unroll_kw: bool
    parts: int = 1
    ahead: int = 0


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """One channel a group in and out, in blocks that are vectors or in whole row-major maps."""
    conv = task.conv
    if not conv.is_depthwise or conv.out_channels != conv.in_channels:
        return Mismatch("a group has more than one channel")
    if conv.input_shuffle > 1:
        return Mismatch("shuffled input channels")
    if (partial := is_partial(task)) is not None:
        return partial
    lanes = lanes_for(task, device)
    if {task.data.block, task.out.block} - {1, lanes}:
        return Mismatch(f"blocks are not vectors of {lanes}")
    return misplaced(task, lanes)


def misplaced(task: ConvTask, lanes: int) -> Mismatch | None:
    """None if rims, and row-major maps, are such that the kernel can read and write them."""
    conv = task.conv
    if task.residual is not None and task.residual.block != task.out.block:
        return Mismatch("the residual lies in other blocks than the output")
    if task.data.block == 1:
        if any(task.data.halo) or conv.height * conv.width < lanes:
            return Mismatch("a row-major input with a halo, or smaller than a vector")
    elif (lack := lacks_halo(task)) is not None:
        return lack
    if task.out.block == 1 and (
        any(task.out.halo)
        or conv.out_height * conv.out_width < lanes
        or (task.residual is not None and any(task.residual.halo))
    ):
        return Mismatch("a row-major output with a halo, or smaller than a vector")
    return None


def lanes_for(task: ConvTask, device: Device) -> int:
    """Vector width: that of the blocks, else the device's, less for fewer channels."""
    lanes, block = device.lanes, max(task.data.block, task.out.block)
    if block > 1:
        return block if block < lanes and block & (block - 1) == 0 else lanes
    while lanes > 2 and lanes // 2 >= task.conv.out_channels:
        lanes //= 2
    return lanes


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    conv, lanes = task.conv, lanes_for(task, device)
    ahead = AHEAD if _fetches(task, device) else 0
    for tile in register_tiles(conv, device):
        yield Knobs(lanes, *tile, parts=_parts(task, tile[0], device), ahead=ahead)


def _fetches(task: ConvTask, device: Device) -> bool:
    """Whether tiles prefetch: maps of blocks behind the second-level cache where products take much
    longer than asking, else only behind the third-level cache.
    """
    conv = task.conv
    if min(task.data.block, task.out.block) == 1 or conv.out_height == 1:
        return False
    many = math.prod(conv.kernel_size) >= MANY_TAPS
    return leaves_l3(conv, device) or (many and moved_bytes(conv) > device.l2_kib * 1024 * L2_TIMES)


def _parts(task: ConvTask, rows: int, device: Device) -> int:
    """Parts of the map: one for each core, if the layers around share it, which mostly are
    pointwise (see `shares_map`).
    """
    conv, cores, height = task.conv, device.cores, task.conv.out_height
    if is_even(conv.batch, cores) or min(task.data.block, task.out.block) == 1:
        return 1
    tall = height >= rows * cores and is_even(height, cores) and parts_of(height, cores) == cores
    return cores if tall and conv.out_channels <= MOST_WEIGHTS * height * conv.out_width else 1


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core."""
    conv, space = task.conv, Space(task, knobs)
    pitch = space.pitch
    if not space.from_planes:
        pitch = conv.width + task.data.halo[1] + task.data.halo[3]
    pixels = Pixels(knobs.lanes * 4, pitch, bool(knobs.ahead))
    tiles = space.strips * strip_cycles(space.tiles, pixels, device)
    vector = 1.25 * (knobs.lanes.bit_length() - 1)  # cycles of a vector of a transposed square
    moved = 0.0
    if space.from_planes:
        moved += space.filled * vector
    if space.to_planes:
        moved += space.strips * space.out_squares * knobs.lanes * vector
    return conv.batch * space.runs * (tiles + moved)


class Space:
    """How maps fall into strips and tiles."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        conv = task.conv
        self.task, self.knobs, self.conv = task, knobs, conv
        self.from_planes, self.to_planes = task.data.block == 1, task.out.block == 1
        (self.sy, self.sx), (self.dy, self.dx) = conv.stride, conv.dilation
        self.taps = conv.kernel_size
        self.runs = ceil_div(conv.in_channels, knobs.lanes)
        lanes = knobs.lanes
        reach = (conv.out_width - 1) * self.sx + (self.taps[1] - 1) * self.dx + 1
        self.pitch = max(reach, conv.padding[1] + conv.width)
        by_rows = ceil_div(conv.width, lanes) * lanes
        row = self.pitch * lanes * 4
        whole = self._rows_of(conv.out_height) * row <= SCRATCH_BYTES or conv.width < lanes
        # rows are cut into vectors each for itself unless that wastes much of them
        wasteful = conv.width < lanes or by_rows > 1.2 * conv.width
        self.flat = self.from_planes and whole and wasteful
        self.strip = self._strip(whole)
        self.strips = ceil_div(conv.out_height, self.strip)
        self.strip_rows = self._rows_of(self.strip)
        tile = (knobs.rows, knobs.columns, knobs.unroll_kw)
        self.tiles = DepthwiseTiles(conv, self.strip, *tile)
        self.out_squares = ceil_div(self.strip * conv.out_width, lanes)
        squares = ceil_div(conv.height * conv.width, lanes)
        self.filled = squares * lanes if self.flat else self.strips * self.strip_rows * by_rows

    def _rows_of(self, strip: int) -> int:
        """Input rows that a strip of output rows reads."""
        return (strip - 1) * self.sy + (self.taps[0] - 1) * self.dy + 1

    def _strip(self, whole: bool) -> int:
        """Output rows of a strip: as many as scratch memory may hold."""
        conv, lanes, rows = self.conv, self.knobs.lanes, self.knobs.rows
        strip = conv.out_height
        if whole if self.from_planes else not self.to_planes:
            return ceil_div(strip, self.knobs.parts)
        if self.from_planes:
            row = self.pitch * lanes * 4
            spare = max(SCRATCH_BYTES - self._rows_of(1) * row, 0)
            strip = spare // (row * self.sy)
        elif self.to_planes:
            strip = RESULT_BYTES // (conv.out_width * lanes * 4)
        strip = max(strip // rows, 1) * rows
        even = ceil_div(conv.out_height, ceil_div(conv.out_height, strip))
        strip = min(strip, ceil_div(even, rows) * rows)  # the last overlaps its neighbour less
        while strip * conv.out_width < lanes:  # a strip is at least one square
            strip += rows
        return min(strip, conv.out_height)


def in_lanes(values: np.ndarray, lanes: int) -> np.ndarray:
    """[K, …] as [vector, …, lane], the last channel repeated."""
    k = values.shape[0]
    index = np.minimum(np.arange(ceil_div(k, lanes) * lanes), k - 1).reshape(-1, lanes)
    return np.ascontiguousarray(np.moveaxis(values[index], 1, -1))


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """OIHW [K, 1, R, S] to [vector, S, R, lane]."""
    return in_lanes(weight[:, 0].transpose(0, 2, 1), knobs.lanes)


def pack_bias(task: ConvTask, knobs: Knobs, bias: np.ndarray) -> np.ndarray:
    """[K] to [vector, lane]."""
    return in_lanes(bias, knobs.lanes)


class Kernel:
    """Emits the kernel's statements."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        self.task, self.knobs, self.conv = task, knobs, task.conv
        self.space = Space(task, knobs)
        self.lanes, self.every = knobs.lanes, Ramp(0, 1, knobs.lanes)

    def emit(self) -> None:
        """Parameters, and the loops over channels and strips."""
        conv, space, task, lanes = self.conv, self.space, self.task, self.lanes
        in_shape = (conv.batch, conv.in_channels, conv.height, conv.width)
        shape = conv.output_shape
        if space.from_planes:
            self.data = emit.planes("data", in_shape)
        else:
            self.data = emit.whole("data", in_shape, task.data)
        self.weight = emit.buffer("weight", self.weight_shape())
        self.bias = emit.buffer("bias", self.bias_shape()) if task.bias else None
        self.residual = None
        if space.to_planes:
            if task.residual is not None:
                self.residual = emit.planes("residual", shape)
            self.out = emit.planes("out", shape)
        else:
            if task.residual is not None:
                self.residual = emit.interior("residual", shape, task.residual)
            self.out = emit.interior("out", shape, task.out)
        grid = dict(n=conv.batch, part=self.knobs.parts, v=space.runs)
        with emit.loops(**grid) as axes, emit.block("tile"):
            n, part, v = emit.all_spatial(grid, axes)
            self.acc = emit.local("acc", (self.knobs.rows, self.knobs.columns, lanes))
            self.allocate()
            if space.from_planes:
                self.pixels = emit.scratch("pixels", (space.strip_rows, space.pitch, lanes))
                self._zero_rim()
            if space.to_planes:
                self.result = emit.scratch("result", self.result_shape())
            if self.knobs.parts > 1:  # maps in blocks, which need no strips
                self.tiles(n, v, tile_start(part, space.strip, conv.out_height))
                return
            with T.serial(0, space.strips) as strip:
                first = tile_start(strip, space.strip, conv.out_height)
                if space.from_planes:
                    self._fill(n, v, first)
                self.tiles(n, v, first)
                if space.to_planes:
                    self.flush(n, v, first)

    def weight_shape(self) -> tuple[int, ...]:
        """See `pack_weights`."""
        return (self.space.runs, self.space.taps[1], self.space.taps[0], self.lanes)

    def bias_shape(self) -> tuple[int, ...]:
        """See `pack_bias`."""
        return (self.space.runs, self.lanes)

    def result_shape(self) -> tuple[int, ...]:
        """Scratch for the output of a strip that is still to be transposed."""
        return (self.space.strip * self.conv.out_width, self.lanes)

    def allocate(self) -> None:
        """More scratch memory, if a kernel needs it."""

    def first_channel(self, v: Any) -> Any:
        """The channel of the input in the first lane of vector v."""
        return v * self.lanes

    def channel(self, v: Any, lane: int) -> Any:
        """The channel of the input in a lane of vector v; behind the last, the last once more."""
        channel = self.first_channel(v) + lane
        if self.conv.in_channels % self.lanes:
            channel = tirx.min(channel, self.conv.in_channels - 1)
        return channel

    def at_input(self, n: Any, v: Any, y: Any, x: Any) -> tuple[Any, ...]:
        """Index of a vector of channels of a pixel in blocks."""
        return (n, v, y, x, self.every)

    def _zero(self, row: Any, column: Any) -> None:
        emit.store(self.pixels, zeros(self.lanes), [row, column, self.every])

    def _zero_rim(self) -> None:
        """Zero what no input pixel is copied to."""
        conv, space = self.conv, self.space
        left, right = conv.padding[1], conv.padding[1] + conv.width
        with T.serial(0, space.strip_rows) as r:
            for column in (*range(left), *range(right, space.pitch)):
                self._zero(r, column)
        if space.strips > 1:
            return  # rows are zeroed as they come
        top = conv.padding[0]
        for start, stop in ((0, top), (top + conv.height, space.strip_rows)):
            if stop > start:
                with T.grid(stop - start, space.pitch) as (r, column):
                    self._zero(start + r, column)

    def _planes(self, n: Any, v: Any, first: Any) -> list[Any]:
        """`lanes` pixels from number `first` on of each channel of a vector, transposed."""
        pixels = Ramp(first, 1, self.lanes)
        vectors = [self.data[n, self.channel(v, k), pixels] for k in range(self.lanes)]
        return transpose(vectors, self.lanes)

    def _fill(self, n: Any, v: Any, first: Any) -> None:
        """Transpose the input rows of a strip into scratch."""
        conv, space, lanes = self.conv, self.space, self.lanes
        top, left = conv.padding[:2]
        if space.flat:
            count = min(conv.height, space.strip_rows - top) * conv.width  # of the rows it reads
            static = ceil_div(count, lanes) <= STATIC_SQUARES
            count = max(count, lanes)  # a map has at least as many

            def square(start: Any) -> None:
                for k, pixel in enumerate(self._planes(n, v, start)):
                    row, column = (start + k) // conv.width, (start + k) % conv.width
                    if not static or row + top < space.strip_rows:
                        emit.store(self.pixels, pixel, [row + top, column + left, self.every])

            if static:
                for i in range(ceil_div(count, lanes)):
                    square(tile_start(i, lanes, count))
            else:
                with T.serial(0, ceil_div(count, lanes)) as i:
                    square(tile_start(i, lanes, count))
            return
        with T.serial(0, space.strip_rows) as r:
            y = first * space.sy + r - top

            def copy() -> None:
                for x in starts(conv.width, lanes):
                    for k, pixel in enumerate(self._planes(n, v, y * conv.width + x)):
                        emit.store(self.pixels, pixel, [r, x + left + k, self.every])

            with T.If(tirx.all(y >= 0, y < conv.height)):
                with T.Then():
                    copy()
                with T.Else(), T.serial(0, space.pitch) as column:
                    self._zero(r, column)

    def tiles(self, n: Any, v: Any, first: Any) -> None:
        """All register tiles of a strip."""
        conv, every = self.conv, self.every

        def finish(value: Any, row: Any, column: Any) -> None:
            if self.space.to_planes:
                at = row * conv.out_width + column
                emit.store(self.result, value, [at, every])
            else:
                self.finish(value, (n, v, first + row, column, every))

        def fetch(at: tuple[Any, Any], part: Any, parts: int) -> None:
            row = first + at[0] + self.knobs.ahead * self.knobs.rows
            if self.knobs.parts > 1:  # other rows are another core's
                row = tirx.min(row, first + (self.space.strip - self.knobs.rows))
            with emit.only_prefetching():
                self._fetch((n, v, row, at[1]), (part, parts))

        self.space.tiles.emit(
            first,
            lambda i, j: (self.acc, [i, j, every]),
            lambda: zeros(self.lanes) if self.bias is None else self.bias[v, every],
            lambda kw, kh: self.weight[v, kw, kh, every],
            lambda y, x: self.pixel(n, v, first, y, x),
            finish,
            fetch if self.knobs.ahead else None,
        )

    def pixel(self, n: Any, v: Any, first: Any, y: Any, x: Any) -> Any:
        """Input pixel (y, x), counted with the padding, of the strip that starts at `first`."""
        if self.space.from_planes:
            return self.pixels[y, x, self.every]
        return self.data[self.at_input(n, v, *self._in_data(first, y, x))]

    def _in_data(self, first: Any, y: Any, x: Any) -> tuple[Any, Any]:
        """Where such a pixel lies in the data, in blocks."""
        halo, padding = self.task.data.halo, self.conv.padding
        y = y + first * self.space.sy + (halo[0] - padding[0])
        return y, x + (halo[1] - padding[1])

    def _fetch(self, corner: tuple[Any, Any, Any, Any], part: tuple[Any, int]) -> None:
        """Ask for a part of the pixels that the tile at a row and column reads and none above does,
        and of its results. Behind the last row of the map lie those of the next vector of channels.
        """
        (n, v, row, column), space, (number, parts) = corner, self.space, part
        tiles, above = space.tiles, (space.taps[0] - 1) * space.dy
        in_line = max(1, LINE // self.lanes)  # pixels

        def ask(array: Any, y: Any, x: Any, rows: int, columns: int) -> None:
            lines = ceil_div(columns, in_line)  # of a row
            each = ceil_div(rows * lines, parts)
            with emit.unrolled(i=each) as i:
                line = number * each + i
                at = self.at_input(n, v, y + line // lines, x + line % lines * in_line)
                emit.prefetch(array[(*at[:-1], 0)], 0)

        right = (space.taps[1] - 1) * space.dx  # the columns left of it came with another tile
        size = (tiles.rows * space.sy, tiles.columns * space.sx)
        ask(self.data, *self._in_data(row, above, column * space.sx + right), *size)
        for array in (self.out, self.residual):
            if array is not None:
                ask(array, row, column, tiles.rows, tiles.columns)

    def flush(self, n: Any, v: Any, first: Any, branch: int = 0) -> None:
        """Transpose the output rows of a strip into the planes; those of a concatenated branch."""
        conv, lanes = self.conv, self.lanes
        count = self.space.strip * conv.out_width
        with T.serial(0, ceil_div(count, lanes)) as i:
            start = T.Bind(tile_start(i, lanes, count))
            row = branch * count + start
            vectors = [self.result[row + k, self.every] for k in range(lanes)]
            for k, plane in enumerate(transpose(vectors, lanes)):
                channel = self.first_channel(v) + k
                plane_of = channel + branch * conv.in_channels
                at = (n, plane_of, Ramp(first * conv.out_width + start, 1, lanes))
                if conv.in_channels % lanes == 0:
                    self.finish(plane, at)
                    continue
                with T.If(channel < conv.in_channels), T.Then():
                    self.finish(plane, at)

    def finish(self, value: Any, at: tuple[Any, ...]) -> None:
        """Store activation(value + residual)."""
        if self.residual is not None:
            value = value + self.residual[at]
        emit.store(self.out, apply_activation(value, self.task.activation), list(at))


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`, one block a part of a vector's map."""
    return emit.prim_func("depthwise_blocks", Kernel(task, knobs).emit)


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over parts and vectors of channels; the body is written as it is to run."""
    run_parallel(sch, sch.get_loops(sch.get_sblock("tile")), task.conv.macs, device)
    return sch
