"""Pointwise convolution on row-major maps: a matrix product with vectors along the pixels.

Where a 1×1 convolution stands alone between NCHW tensors, channel blocks would cost a transpose
before and one behind. Here the vectors run over the pixels of a plane, rows and columns as one, and
each weight is broadcast to them. This is the register tile of matrix products in row-major BLAS
libraries (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008).

    parallel (n, group, pixel tile)
      panel[CPG, pixels] = data                                        contiguous, in L1 or L2
      output-channel tile
        acc[channels, vectors, lanes] = bias                           registers
        input channel
          vectors, channels (unrolled): acc += panel vector · broadcast(weight)
        out = activation(acc + residual)

The panel is for planes that lie about a multiple of 4 KiB apart, whose lines compete for the same
few ways of the cache; of other maps the vectors are read where they are. A last, smaller tile takes
the pixels that fill no whole one; its last vector overlaps its neighbour.

Of a strided input the panel takes the pixels that are used, whole rows of output pixels at once:

    parallel (n, group, run of output rows)
      panel[CPG, rows·OW] = every second column of every sy-th row
      pixel tile
        output-channel tile … as above

Layouts: data and out NCHW without halo; weights see `pack_weights`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import Broadcast, Ramp
from tvm.tirx.script import builder as T

from edgeconv.layout import Layout
from edgeconv.schedules import emit
from edgeconv.schedules.common import (
    CACHE_LINE,
    FMA_LATENCY,
    L2_BYTES_PER_CYCLE,
    Mismatch,
    ceil_div,
    is_partial,
    minimum,
    narrowed,
    run_parallel,
    tile_start,
)
from edgeconv.schedules.pixel_skips import every_second
from edgeconv.schedules.traffic import PAGE, fills_l2, leaves_l2, planes_collide
from edgeconv.targets import Device
from edgeconv.workload import Conv2d, ConvTask

NCHW = Layout(1)
L3_BYTES_PER_CYCLE = 60  # of weights that all pixels of a tile share: nearly hidden
PANEL_BYTES_PER_CYCLE = 24  # that are copied
PLANES_BYTES_PER_CYCLE = 10  # out of L2, a few from each plane
DIRECT_BYTES_PER_CYCLE = 96  # that the first of the products bring into the L1 cache instead
L2_WAYS = 16
COLLISIONS = 1.05  # times as long where lines that share a set are not found before they are needed
MAP_BYTES_PER_CYCLE = 16  # from behind L2, prefetched
EXPOSED = 0.15  # of that time, where panels are fetched beside the products of others before
SKIP_CYCLES = 4.0  # for a vector of pixels out of two of a strided input
ENDS = 1.0  # cycles an accumulator's start and store cost beside other tiles
SHORT_ENDS = 15  # accumulators; of more, less of the next tile is beside an end
LONG_END = 3.0  # cycles more for each beyond


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors.
        vectors: pixel vectors of a register tile.
        channels: output channels of a register tile.
        tail_runs: where the last pixels fill fewer vectors, a register tile has this many times
            `channels`.
        ahead: panels from one to that which it prefetches, of the output too; 0: none.
        rows: output rows whose pixels share a panel, where the input is strided; else 0.
        copied: whether every pixel tile of an input that is not strided has a panel.
    """

    lanes: int
    vectors: int
    channels: int
    tail_runs: int
    ahead: int = 0
    rows: int = 0
    copied: bool = True


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """1×1, at most every second column, no padding, on NCHW maps of a vector of pixels or more."""
    conv = task.conv
    if not conv.is_pointwise or conv.stride[1] > 2 or any(conv.padding):
        return Mismatch("only 1x1 kernels of a horizontal stride of 1 or 2, without padding")
    if (partial := is_partial(task)) is not None:
        return partial
    if conv.input_shuffle != 1:
        return Mismatch("shuffled input channels do not follow each other")
    layouts = [task.data, task.out, *([] if task.residual is None else [task.residual])]
    if any(layout != NCHW for layout in layouts):
        return Mismatch("only NCHW without halo")
    if conv.out_height * conv.out_width < device.lanes:
        return Mismatch(f"a map has fewer pixels than a vector has lanes ({device.lanes})")
    return None


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    conv, registers = task.conv, device.vector_registers
    kpg = conv.out_channels_per_group
    ahead = int(fills_l2(conv, device))
    for rows in _row_choices(conv, device):
        pixels = rows * conv.out_width if rows else conv.height * conv.width
        for vectors in range(1, min(6, ceil_div(pixels, device.lanes)) + 1):
            most = most_channels(vectors, registers, kpg)
            tail = Space(task, Knobs(device.lanes, vectors, 1, 1, rows=rows)).tail_vectors
            for channels in range(max(1, most // 2), most + 1):
                runs = most_channels(tail, registers, kpg) // channels if tail else 1
                for copied in (True,) if rows else (False, True):
                    yield Knobs(device.lanes, vectors, channels, max(1, runs), ahead, rows, copied)


def _row_choices(conv: Conv2d, device: Device) -> list[int]:
    """Output rows of a panel of strided pixels: as many as a quarter of the second-level cache
    holds, but no fewer than fill a vector; only those that take fewer vectors than any smaller, or
    no more and are twice as many. Of pixels without gaps, 0.
    """
    if conv.stride == (1, 1):
        return [0]
    width, lanes, images = conv.out_width, device.lanes, conv.batch * conv.groups
    fewest = ceil_div(lanes, width)
    most = device.l2_kib * 256 // (conv.in_channels_per_group * width * 4)
    found, least = [0], math.inf
    for rows in range(fewest, min(max(fewest, most), conv.out_height) + 1):
        panels = ceil_div(conv.out_height, rows)
        turns = ceil_div(images * panels, device.cores)  # of the core that has the most
        vectors = turns * ceil_div(rows * width, lanes)
        if vectors < least or (vectors == least and rows >= 2 * found[-1]):
            found.append(rows)
            least = vectors
    return found[1:]


def most_channels(vectors: int, registers: int, limit: int) -> int:
    """Channels whose accumulators leave registers for the pixels, one weight and some slack."""
    spare = registers - vectors - (2 if registers <= 16 else 4)
    return max(1, min(limit, spare // vectors))


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core: per tile the longest of FMAs, loads and latency, plus the copies
    and what fetching the map from behind the second-level cache adds.
    """
    conv, space = task.conv, Space(task, knobs)
    images = conv.batch * conv.groups
    cycles = space.full_tiles * _tile_cycles(task, knobs, knobs.vectors, 1, device)
    if space.tail_vectors:
        cycles += _tile_cycles(task, knobs, space.tail_vectors, knobs.tail_runs, device)
    used, panels = conv.height * conv.width, space.full_tiles
    if knobs.rows:
        vectors = ceil_div(conv.out_width, narrowed(knobs.lanes, conv.out_width))
        cycles += conv.in_channels_per_group * knobs.rows * vectors * SKIP_CYCLES
        used, panels = conv.out_height * conv.width, space.panels
        cycles *= panels
    fetched = 0.0
    if leaves_l2(conv, device):
        fetched = conv.in_channels_per_group * used * 4 / MAP_BYTES_PER_CYCLE
    exposed = EXPOSED if images * panels > 1 else 1.0
    return images * max(cycles + exposed * fetched, fetched)


def _tile_cycles(task: ConvTask, knobs: Knobs, vectors: int, runs: int, device: Device) -> float:
    """Cycles of a pixel tile of one group, over all its output channels."""
    conv, channels = task.conv, knobs.channels * runs
    depth = conv.in_channels_per_group
    tiles = ceil_div(ceil_div(conv.out_channels_per_group, knobs.channels), runs)
    pixels = knobs.rows * conv.out_width if knobs.rows else vectors * knobs.lanes
    panel, l1, l2 = depth * pixels * 4, device.l1d_kib * 1024, device.l2_kib * 1024
    loads = device.load_cycles(vectors, channels)
    step = max(vectors * channels / device.fma_ports, loads, FMA_LATENCY)
    plane = conv.height * conv.width * 4
    crowded = not knobs.copied and planes_collide(depth, plane, pixels * 4, (PAGE, l1 // PAGE))
    if crowded or panel > l1 // 2:
        rate = L2_BYTES_PER_CYCLE if knobs.copied else PLANES_BYTES_PER_CYCLE
        step = max(step, vectors * knobs.lanes * 4 / rate)
    in_l2 = (l2 // L2_WAYS, L2_WAYS)
    if crowded and (not device.memory_operands or planes_collide(depth, plane, pixels * 4, in_l2)):
        step *= COLLISIONS
    copies = 0.0
    if not knobs.rows:
        copies = panel / (PANEL_BYTES_PER_CYCLE if knobs.copied else DIRECT_BYTES_PER_CYCLE)
    weights = depth * conv.out_channels_per_group * 4
    if weights > l2 // 2:  # every pixel tile reads them from behind L2
        copies += weights / L3_BYTES_PER_CYCLE
    accumulators = vectors * channels
    ends = 12 + ENDS * accumulators + LONG_END * max(0, accumulators - SHORT_ENDS)
    return copies + tiles * (depth * step + ends)


class Space:
    """How pixels fall into tiles and output channels into register tiles."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        conv, lanes = task.conv, knobs.lanes
        self.panels, self.pixels = 1, conv.out_height * conv.out_width
        if knobs.rows:  # of a panel
            self.pixels = knobs.rows * conv.out_width
            self.panels = ceil_div(conv.out_height, knobs.rows)
        vectors = ceil_div(self.pixels, lanes)
        self.full_tiles, self.tail_vectors = divmod(vectors, knobs.vectors)
        if self.full_tiles * knobs.vectors * lanes > self.pixels:  # the last vector overlaps
            self.full_tiles, self.tail_vectors = self.full_tiles - 1, knobs.vectors
        self.kpg, self.cpg = conv.out_channels_per_group, conv.in_channels_per_group
        self.channels = knobs.channels
        self.runs = ceil_div(self.kpg, knobs.channels)

    def channel(self, run: Any) -> Any:
        """First output channel of a run within its group; the last overlaps its neighbour."""
        return tile_start(run, self.channels, self.kpg)


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """OIHW [K, CPG, 1, 1] to [group, run of channels, CPG, channel], the order the kernel reads."""
    space = Space(task, knobs)
    starts = np.array([space.channel(run) for run in range(space.runs)])
    grouped = weight.reshape(task.conv.groups, space.kpg, space.cpg)
    runs = grouped[:, starts[:, None] + np.arange(knobs.channels)]  # [group, run, channel, CPG]
    return np.ascontiguousarray(runs.transpose(0, 1, 3, 2))


def pack_bias(task: ConvTask, knobs: Knobs, bias: np.ndarray) -> np.ndarray:
    """[K] as it is."""
    return np.ascontiguousarray(bias)


def operands(task: ConvTask, weight_shape: Sequence[int]) -> emit.ConvOperands:
    """Declare the parameters of a kernel on row-major maps."""
    conv = task.conv
    data = emit.planes("data", (conv.batch, conv.in_channels, conv.height, conv.width))
    weight = emit.buffer("weight", weight_shape)
    bias = emit.buffer("bias", (conv.out_channels,)) if task.bias else None
    residual = None if task.residual is None else emit.planes("residual", conv.output_shape)
    out = emit.planes("out", conv.output_shape)
    return emit.ConvOperands(task, data, weight, bias, residual, out)


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`: full pixel tiles, then the rest."""
    return emit.prim_func("planar_pointwise", _Kernel(task, knobs).emit)


@dataclass(frozen=True)
class Ahead:
    """Cache lines of each input channel that a later panel holds, to be fetched beside products."""

    lines: int
    fetch: Callable[[Any, Any], None]

    def part(self, channel: Any, number: Any, count: int) -> None:
        """Part `number` of `count` of a channel's lines; where there are fewer, the last again."""
        share = ceil_div(self.lines, count)
        for line in range(share):
            at = number * share + line
            self.fetch(channel, at if share * count == self.lines else minimum(at, self.lines - 1))


@dataclass(frozen=True)
class _Panel:
    """Pixels of channel c, tile t, vector j; the first of them in the output; and what is fetched
    for later panels.
    """

    pixels: Callable[[Any, Any, Any], Any]
    place: Callable[[Any, Any], Any]
    ahead: Ahead | None


class _Kernel:
    """Emits the kernel's statements."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        self.task, self.knobs, self.conv = task, knobs, task.conv
        self.space, self.lanes = Space(task, knobs), knobs.lanes
        self.every = Ramp(0, 1, knobs.lanes)

    def emit(self) -> None:
        """Parameters, panels, and the pixel tiles of each."""
        conv, space, knobs = self.conv, self.space, self.knobs
        shape = (conv.groups, space.runs, space.cpg, space.channels)
        self.operands = operands(self.task, shape)
        images = dict(n=conv.batch, g=conv.groups)
        if knobs.rows:
            grid = dict(**images, p=space.panels)
            with emit.loops(**grid) as axes, emit.block("rows"):
                emit.unknown_regions()  # two tiles in it may write one pixel
                self._rows(*emit.all_spatial(grid, axes))
            return
        if space.full_tiles:
            grid = dict(**images, p=space.full_tiles)
            with emit.loops(**grid) as axes, emit.block("tile"):
                n, g, p = emit.all_spatial(grid, axes)
                self._tile(n, g, p * (knobs.vectors * self.lanes), knobs.vectors, 1)
        if space.tail_vectors:
            with emit.loops(**images) as axes, emit.block("tail"):
                n, g = emit.all_spatial(images, axes)
                first = space.full_tiles * knobs.vectors * self.lanes
                self._tile(n, g, first, space.tail_vectors, knobs.tail_runs)

    def _tile(self, n: Any, g: Any, first: Any, vectors: int, runs: int) -> None:
        """One tile of `vectors` pixel vectors, over all channels of a group."""
        space, knobs, lanes, data = self.space, self.knobs, self.lanes, self.operands.data
        if knobs.copied:
            panel = emit.scratch("panel", (space.cpg, vectors * lanes))
            copy = dict(c=space.cpg, j=vectors)
            with emit.loops(**copy) as axes, emit.block("pack"):
                c, j = emit.all_spatial(copy, axes)
                pixel = Ramp(self._pixel(first, j), 1, lanes)
                value = data[n, g * space.cpg + c, pixel]
                emit.store(panel, value, [c, Ramp(j * lanes, 1, lanes)])

        def pixels(c: Any, _: Any, j: Any) -> Any:
            if knobs.copied:
                return panel[c, Ramp(j * lanes, 1, lanes)]
            return data[n, g * space.cpg + c, Ramp(self._pixel(first, j), 1, lanes)]

        def place(_: Any, j: Any) -> Any:
            return self._pixel(first, j)

        def fetch(c: Any, line: Any) -> None:
            self._fetch(data[n, g * space.cpg + c, first], vectors, line)

        lines = ceil_div(vectors * lanes * 4, CACHE_LINE)
        ahead = Ahead(lines, fetch) if knobs.ahead else None
        self._channels((n, g), _Panel(pixels, place, ahead), vectors, runs)

    def _fetch(self, pixel: Any, vectors: int, line: Any) -> None:
        """Ask for a line of a later tile, where one starts at `pixel`."""
        emit.prefetch_line(pixel, line, self.knobs.ahead * vectors * self.lanes * 4)

    def _pixel(self, first: Any, j: Any) -> Any:
        """First pixel of vector j of a tile; the last overlaps its neighbour."""
        return tirx.min(first + j * self.lanes, self.space.pixels - self.lanes)

    def _rows(self, n: Any, g: Any, p: Any) -> None:
        """The pixels that run p of output rows takes from a strided input, and all their tiles."""
        conv, space, knobs, lanes = self.conv, self.space, self.knobs, self.lanes
        row = tile_start(p, knobs.rows, conv.out_height)
        data, (sy, sx), width = self.operands.data, conv.stride, conv.out_width
        panel = emit.scratch("panel", (space.cpg, space.pixels))
        copy, short = dict(c=space.cpg, y=knobs.rows), narrowed(lanes, width)
        with emit.loops(**copy) as axes, emit.block("skip"):
            c, y = emit.all_spatial(copy, axes)
            at, first = (n, g * space.cpg + c), (row + y) * (sy * conv.width)
            with T.serial(0, ceil_div(width, short)) as x:
                column = tile_start(x, short, width)
                start = first + column * sx
                if sx == 1 or short == 1:
                    value = data[(*at, emit.run(start, short))]
                else:
                    value = every_second(data, at, start, short)
                emit.store(panel, value, [c, emit.run(y * width + column, short)])

        def full(t: Any, j: Any) -> Any:
            return (t * knobs.vectors + j) * lanes

        def rest(_: Any, j: Any) -> Any:
            return self._pixel(space.full_tiles * knobs.vectors * lanes, j)

        def of(place: Any, ahead: Any) -> _Panel:
            return _Panel(
                lambda c, t, j: panel[c, Ramp(place(t, j), 1, lanes)],
                lambda t, j: row * width + place(t, j),
                ahead,
            )

        lines = ceil_div(conv.width * 4, CACHE_LINE)  # of a row
        later = minimum(g * space.panels + p + knobs.ahead, conv.groups * space.panels - 1)
        of_group = later // space.panels * space.cpg
        below = tile_start(later % space.panels, knobs.rows, conv.out_height)

        def fetch(c: Any, line: Any) -> None:
            y = (below + line // lines) * sy
            element = data[n, of_group + c, y * conv.width]
            emit.prefetch(element, line % lines * CACHE_LINE)

        ahead = Ahead(knobs.rows * lines, fetch) if knobs.ahead else None
        if space.full_tiles:
            self._channels((n, g), of(full, ahead), knobs.vectors, 1, space.full_tiles)
        if space.tail_vectors:
            panel_of = of(rest, None if space.full_tiles else ahead)
            self._channels((n, g), panel_of, space.tail_vectors, knobs.tail_runs)

    def _channels(
        self, at: tuple[Any, Any], panel: _Panel, vectors: int, runs: int, count: int = 1
    ) -> None:
        """`count` tiles of `vectors` pixel vectors, over all output channels of group `at[1]`."""
        n, g = at
        space, lanes, every, operands = self.space, self.lanes, self.every, self.operands
        runs = min(runs, space.runs)
        tiles = dict(t=count, k=ceil_div(space.runs, runs))
        with emit.loops(**tiles) as axes, emit.block("channels"):
            t, k = emit.all_spatial(tiles, axes)
            run = tile_start(k, runs, space.runs)
            acc = emit.local("acc", (runs, space.channels, vectors, lanes))
            tile = dict(r=runs, i=space.channels, j=vectors)
            with emit.loops(**tile) as axes, emit.block("start"):
                r, i, j = emit.all_spatial(tile, axes)
                start = operands.start(g * space.kpg + space.channel(run + r) + i)
                emit.store(acc, Broadcast(start, lanes), [r, i, j, every])
            if panel.ahead is not None:
                with emit.only_prefetching():
                    lines = ceil_div(vectors * lanes * 4, CACHE_LINE)
                    with emit.unrolled(r=runs, i=space.channels, line=lines) as (r, i, line):
                        channel = g * space.kpg + space.channel(run + r) + i
                        for array in (operands.out, operands.residual):
                            if array is not None:
                                self._fetch(array[n, channel, panel.place(t, 0)], vectors, line)
            with emit.loops(c=space.cpg) as channel:
                if panel.ahead is not None:
                    with emit.block("ahead"):
                        c = emit.spatial("vc", space.cpg, channel)
                        panel.ahead.part(c, t * tiles["k"] + k, count * tiles["k"])
                with emit.loops(**tile) as axes, emit.block("update"):
                    c = emit.reduce("vc", space.cpg, channel)
                    r, i, j = emit.all_spatial(tile, axes)
                    weight = Broadcast(operands.weight[g, run + r, c, i], lanes)
                    product = panel.pixels(c, t, j) * weight
                    emit.store(acc, acc[r, i, j, every] + product, [r, i, j, every])
            with emit.loops(**tile) as axes, emit.block("store"):
                r, i, j = emit.all_spatial(tile, axes)
                pixel = Ramp(panel.place(t, j), 1, lanes)
                index = [n, g * space.kpg + space.channel(run + r) + i, pixel]
                operands.finish(acc[r, i, j, every], index)


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over pixel tiles or panels; register tiles unrolled."""
    space = Space(task, knobs)
    parts = ["tile"] * bool(space.full_tiles) + ["tail"] * bool(space.tail_vectors)
    for name in ["rows"] if knobs.rows else parts:
        block = sch.get_sblock(name)
        run_parallel(sch, sch.get_loops(block), task.conv.macs, device)
        for child in sch.get_child_blocks(block):
            _schedule_tile(sch, child)
    return sch


def _schedule_tile(sch: Schedule, block: Any) -> None:
    if sch.get(block).name_hint.startswith("pack"):
        sch.unroll(sch.get_loops(block)[-1])
        return
    for child in sch.get_child_blocks(block):
        if not sch.get(child).name_hint.startswith("ahead"):
            for loop in sch.get_loops(child)[-3:]:
                sch.unroll(loop)
