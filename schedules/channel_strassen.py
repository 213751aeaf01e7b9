"""Pointwise convolution in channel blocks or NHWC by Strassen's product: see `strassen`.

The left factors are pixels, the right ones weights: two register tiles of pixels, halves of the
input channels and of the vectors of output channels. Sums of pixels are made for a panel of some
tiles, which stays in the second-level cache.

    parallel (n, panel)
      panel[tile, 7, pixels, C/2] = left factors of the products
      channel tile of each half of the output → pixel tile
        seven products, an input channel after the other
          prefetch a share of the next channel tile's weights, or of this one's, some steps ahead
          pixels, vectors (unrolled): acc += broadcast(panel) · weight vector
        out = activation(acc + bias + residual), a quarter behind every other product

Pixels are numbered through the rows of the output, so tiles need not fit its width, and a stride
costs nothing but the reading. The last tile overlaps its neighbour. Where the number of channels or
of vectors is odd, the halves share one, which has zero weights in one of them, or is stored twice.
`numerics="exact"` never uses this schedule.

Layouts: data and out in channel blocks or NHWC; weights see `pack_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx.script import builder as T

from edgeconv.schedules import emit, grouped_conv2d, product_tile
from edgeconv.schedules.common import (
    Mismatch,
    ceil_div,
    is_partial,
    narrowed,
    run_parallel,
    tile_start,
)
from edgeconv.schedules.pair_operands import pitch
from edgeconv.schedules.prefetching import LINE, next_weights, share
from edgeconv.schedules.product_tile import Pixel, Registers, Tile
from edgeconv.schedules.strassen import (
    FETCHED_BESIDE,
    LEAST_CHANNELS,
    PREFETCH,
    PRODUCTS,
    Quarters,
    again_cycles,
    cold_cycles,
    constant,
    left,
    panel_sizes,
    product_cycles,
    right,
)
from edgeconv.schedules.traffic import leaves_l2, map_bytes
from edgeconv.targets import Device
from edgeconv.workload import ConvTask

L2_SHARE = 0.5  # of the second-level cache, for a panel
SUM_CYCLES = 22.0  # of the seven vectors that are made of four
MAP_BYTES_PER_CYCLE = 12
LEAST_LANES = 4
LOOPLESS = 1.2  # times as long, for spilled accumulators
SPARE = 2  # registers, where quads are loaded: LLVM begins with the next ones


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors.
        pixels: pixels of a register tile; a pixel tile has twice as many.
        vectors: channel vectors of a register tile.
        tiles: pixel tiles of a panel.
        quad: input channels loaded as one vector, from whose lanes they are broadcast; 1: each
            channel is loaded by itself.
        ahead: panels from one to that whose pixels it prefetches; 0: none.
    """

    lanes: int
    pixels: int
    vectors: int
    tiles: int
    quad: int = 1
    ahead: int = 0


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """1×1 of any stride without groups, whose channels lie side by side."""
    task = grouped_conv2d.flat(task)
    conv = task.conv
    if not conv.is_pointwise or conv.groups > 1 or any(conv.padding):
        return Mismatch("only 1x1 kernels without groups and padding")
    if (partial := is_partial(task)) is not None:
        return partial
    if conv.input_shuffle != 1 or conv.slices is not None:
        return Mismatch("the input channels are shuffled, or of several slices")
    if min(conv.in_channels, conv.out_channels) < LEAST_CHANNELS:
        return Mismatch(f"there are fewer than {LEAST_CHANNELS} channels")
    if task.data.block < 2 or task.out.block < 2:
        return Mismatch("only channel blocks and NHWC")
    if conv.in_channels % task.data.block:
        return Mismatch(f"{conv.in_channels} input channels do not fill blocks")
    lanes = grouped_conv2d.lanes_for(task, device)
    if min(lanes, _depth(task, lanes)[1]) < LEAST_LANES or lanes >= conv.out_channels:
        return Mismatch("there are too few channels for vectors")
    if next(candidates(task, device), None) is None:
        return Mismatch("the output has too few pixels for two register tiles")
    if task.residual is not None and task.residual.block != task.out.block:
        return Mismatch("the residual lies in other blocks than the output")
    return None


def _depth(task: ConvTask, lanes: int) -> tuple[int, int]:
    """Channels of a half, and lanes of the vectors they are summed in; vectors lie in one block."""
    channels, block = task.conv.in_channels, task.data.block
    half = ceil_div(channels, 2)
    if block == channels:
        return half, narrowed(lanes, half)
    while lanes > 1 and block % lanes:
        lanes //= 2
    widths = [w for w in (lanes, lanes // 2, lanes // 4) if w]
    width = min(widths, key=lambda w: ceil_div(half, w) * w)
    return ceil_div(half, width) * width, width


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    task = grouped_conv2d.flat(task)
    conv, lanes = task.conv, grouped_conv2d.lanes_for(task, device)
    (depth, _), registers = _depth(task, lanes), device.vector_registers
    count = conv.out_height * conv.out_width
    half = ceil_div(ceil_div(conv.out_channels, lanes), 2)
    quad = 1 if device.memory_operands else device.lanes
    if quad > 1:
        registers -= SPARE
    ahead = int(leaves_l2(conv, device))
    for vectors in range(1, min(6, half) + 1):
        for pixels in range(1, min(registers, count // 2) + 1):
            tile = Tile(lanes, 1, pixels, vectors, quad)
            beside = grouped_conv2d.operand_registers(
                conv, device, product_tile.grouped_knobs(tile)
            )
            if pixels * vectors + beside > registers:
                break
            if 2 * pixels * vectors < registers // 2:
                continue
            panel = PRODUCTS * pixels * _pitch(depth) * 4
            most = L2_SHARE * device.l2_kib * 1024
            for tiles in panel_sizes(ceil_div(count, 2 * pixels), panel, most):
                yield Knobs(lanes, pixels, vectors, tiles, quad, ahead)


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of all cores together, idle ones included: sums, and per register tile the longest of
    FMAs, loads, latency and weights; weights that leave the second-level cache.

    Where no loop stands around the products, as in a panel of one register tile if the panels are
    spread over cores, LLVM leaves some accumulators in memory: 1.1 to 1.4 times as long (Zen 4).
    """
    task = grouped_conv2d.flat(task)
    space = Space(task, knobs)
    own, conv = device.with_vectors_of(knobs.lanes), task.conv
    tile = (knobs.vectors, knobs.pixels)
    products = product_cycles(space.depth, knobs.lanes, tile, own, knobs.quad)
    products *= space.channel_tiles
    per_vector = SUM_CYCLES / (1 if device.in_halves else 2)
    sums = knobs.pixels * ceil_div(space.depth, space.width) * per_vector
    weights = PRODUCTS * space.depth * space.half * knobs.lanes * 4
    again = again_cycles(weights, device)
    units = conv.batch * space.panels
    if knobs.tiles * space.channel_tiles * (units if device.cores == 1 else 1) == 1:
        products *= LOOPLESS
    busy = ceil_div(units, device.cores) * device.cores
    far = map_bytes(conv) / MAP_BYTES_PER_CYCLE if leaves_l2(conv, device) else 0.0
    fetching = (knobs.tiles, space.channel_tiles)
    cold = min(units, device.cores) * cold_cycles(weights, products, device, fetching)
    return busy * (knobs.tiles * (products + sums) + again) + cold + conv.batch * far


def _pitch(depth: int) -> int:
    """Floats from a pixel of a panel to the next: whole lines."""
    return pitch(ceil_div(depth, LINE), LINE) * LINE


class Space:
    """How pixels fall into panels and tiles, and channels into halves, vectors and tiles."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        conv, self.task, self.knobs = task.conv, task, knobs
        self.pixels = conv.out_height * conv.out_width
        self.tiles = ceil_div(self.pixels, 2 * knobs.pixels)
        self.panels = ceil_div(self.tiles, knobs.tiles)
        self.all_vectors = ceil_div(conv.out_channels, knobs.lanes)
        self.half = ceil_div(self.all_vectors, 2)  # vectors
        self.channel_tiles = ceil_div(self.half, knobs.vectors)
        self.depth, self.width = _depth(task, knobs.lanes)
        self.pitch = _pitch(self.depth)

    @property
    def second(self) -> int:
        """First input channel of the second half."""
        return self.task.conv.in_channels - self.depth

    def first_pixel(self, panel: Any, tile: Any, half: int) -> Any:
        """The first pixel of a half of a tile of a panel; the last overlaps its neighbour."""
        number = tile_start(panel, self.knobs.tiles, self.tiles) + tile
        return tile_start(number, 2 * self.knobs.pixels, self.pixels) + half * self.knobs.pixels

    def channel(self, half: int, tile: Any, m: int) -> Any:
        """First output channel of vector m of a tile of a half of them; in NHWC the last vector
        overlaps its neighbour.
        """
        lanes, channels = self.knobs.lanes, self.task.conv.out_channels
        first = tile_start(tile, self.knobs.vectors, self.half)
        vector = half * (self.all_vectors - self.half) + first + m
        if self.task.out.block != channels:
            return vector * lanes
        return tile_start(vector, lanes, channels)

    def channel_table(self) -> np.ndarray:
        """Output channel of every [half, tile, vector, lane]; K and above are padding."""
        starts = [
            [
                [self.channel(half, k, m) for m in range(self.knobs.vectors)]
                for k in range(self.channel_tiles)
            ]
            for half in range(2)
        ]
        return np.array(starts)[..., None] + np.arange(self.knobs.lanes)


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """OIHW [K, C, 1, 1] to the right factors [channel tile, product, C/2, vector, lane], zero in
    padding lanes.
    """
    space = Space(grouped_conv2d.flat(task), knobs)
    filled = np.concatenate([weight[:, :, 0, 0], np.zeros((1, weight.shape[1]), weight.dtype)])
    table = np.minimum(space.channel_table(), weight.shape[0])
    halves = filled[table].transpose(0, 1, 4, 2, 3)  # [half, tile, channel, vector, lane]
    b11, b12 = halves[:, :, : space.depth]
    b21, b22 = halves[:, :, space.second :].copy()
    shared = 2 * space.depth - task.conv.in_channels  # input channels that are in both halves
    b21[:, :shared], b22[:, :shared] = 0, 0
    return np.ascontiguousarray(constant(right(b11, b12, b21, b22)))


def pack_bias(task: ConvTask, knobs: Knobs, bias: np.ndarray) -> np.ndarray:
    """[K] to [half, channel tile, vector, lane], zero in padding lanes."""
    table = Space(grouped_conv2d.flat(task), knobs).channel_table()
    return np.concatenate([bias, np.zeros(1, bias.dtype)])[np.minimum(table, bias.shape[0])]


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`."""
    return emit.prim_func("channel_strassen", _Kernel(grouped_conv2d.flat(task), knobs).emit)


class _Kernel:
    """Emits the kernel's statements."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        self.task, self.knobs, self.space = task, knobs, Space(task, knobs)
        self.lanes, self.every = knobs.lanes, emit.run(0, knobs.lanes)
        self.tile = Tile(knobs.lanes, 1, knobs.pixels, knobs.vectors, knobs.quad)

    def emit(self) -> None:
        """Parameters, and the panels: sums of pixels, then all register tiles."""
        task, space, knobs = self.task, self.space, self.knobs
        channels, inner = space.channel_tiles, (knobs.vectors, self.lanes)
        weights = (channels, PRODUCTS, space.depth, *inner)
        self.operands = emit.conv_operands(task, weights, (2, channels, *inner))
        grid = dict(n=task.conv.batch, panel=space.panels)
        with emit.loops(**grid) as axes, emit.block("panel"):
            emit.unknown_regions()
            n, panel = emit.all_spatial(grid, axes)
            self.registers = Registers(self.tile)
            self.quarters = Quarters(self.registers.arrays, self.lanes)
            size = knobs.tiles * PRODUCTS * knobs.pixels * space.pitch
            self.panel = emit.scratch("panel", (size,))
            with T.serial(0, knobs.tiles) as t, T.serial(0, knobs.pixels) as i:
                self._sums(n, panel, t, i)
            with T.serial(0, channels) as k, T.serial(0, knobs.tiles) as t:
                self._tile(n, k, panel, t)

    def _place(self, t: Any, e: int, i: Any, c: Any) -> Any:
        row = (t * PRODUCTS + e) * self.knobs.pixels + i
        return row * self.space.pitch + c

    def _place_of(self, number: Any) -> tuple[Any, Any]:
        """Row and column in the output of a pixel."""
        width = self.task.conv.out_width
        return (0, number) if self.task.conv.out_height == 1 else (number // width, number % width)

    def _read(self, number: Any) -> tuple[Any, Any]:
        """Row and column in the data of what a pixel of the output reads."""
        return self.operands.pixel(*self._place_of(number), 0, 0)

    def _sums(self, n: Any, panel: Any, t: Any, i: Any) -> None:
        """The left factors, of a pixel in each half."""
        space, data, block = self.space, self.operands.data, self.task.data.block
        numbers = [space.first_pixel(panel, t, half) + i for half in range(2)]
        pixels = [[T.Bind(at) for at in self._read(number)] for number in numbers]
        with T.serial(0, ceil_div(space.depth, space.width)) as v:
            c = T.Bind(tile_start(v, space.width, space.depth))

            def load(half: int, later: int) -> Any:
                channel, (y, x) = c + later, pixels[half]
                lanes = emit.run(channel % block, space.width)
                return T.Bind(data[n, channel // block, y, x, lanes])

            quarters = [load(half, later) for half in range(2) for later in (0, space.second)]
            for e, value in enumerate(left(*quarters)):
                emit.store(self.panel, value, [emit.run(self._place(t, e, i, c), space.width)])

    def _tile(self, n: Any, k: Any, panel: Any, t: Any) -> None:
        """A register tile in each quarter of the output."""
        space, knobs, tile = self.space, self.knobs, (k, t)
        firsts = [T.Bind(space.first_pixel(panel, t, half)) for half in range(2)]
        channels = [
            [T.Bind(space.channel(half, k, m)) for m in range(knobs.vectors)] for half in range(2)
        ]
        number, tiles = (k * knobs.tiles + t) * PRODUCTS, space.channel_tiles * knobs.tiles

        def product(e: int) -> None:
            if knobs.ahead:
                with emit.only_prefetching():
                    self._fetch(n, panel + knobs.ahead, (number + e, tiles * PRODUCTS))
                    if e in FETCHED_BESIDE:
                        pixels, half = FETCHED_BESIDE[e]
                        self._fetch_quarter(n, firsts[pixels], channels[half])
            self._product(tile, e)

        def finish(quarter: tuple[int, int], value: Callable[[Any], Any]) -> None:
            pixels, half = quarter
            for i in range(knobs.pixels):
                for m, channel in enumerate(channels[half]):
                    total = value(((0, i), m))
                    if self.task.bias:
                        total = total + self.operands.start(half, k, m, self.every)
                    *at, slot = self._output(n, firsts[pixels] + i, channel)
                    self.operands.finish(total, [*at, emit.run(slot, self.lanes)])

        self.quarters.emit(product, finish)

    def _product(self, tile: tuple[Any, Any], e: int) -> None:
        """Add product number e of a channel tile and a pixel tile."""
        space, quad, weight, (k, t) = self.space, self.knobs.quad, self.operands.weight, tile
        whole = max(quad, space.depth // quad * quad)

        def data(pixel: Pixel, chunk: Any, slot: Any) -> Any:
            first = slot.base if isinstance(slot, tirx.Ramp) else slot
            place = self._place(t, e, pixel[1], chunk * whole + first)
            return self.panel[emit.run(place, 1 if first is slot else quad)]

        following = tirx.Select(k + 1 == space.channel_tiles, 0, k + 1)
        steps, floats = ceil_div(space.depth, quad), quad * self.knobs.vectors * self.lanes
        fetch = None
        if space.channel_tiles > 1:
            fetch = next_weights(weight, following, t, self.knobs.tiles, PRODUCTS * steps, floats)

        def prefetch(c: Any) -> None:
            if fetch is not None:
                fetch(e * steps + c // quad)
                return
            for m in range(0, self.knobs.vectors, max(1, LINE // self.lanes)):
                emit.prefetch(weight[k, e, c, m, 0], PREFETCH, level=1)

        self.registers.multiply(
            space.depth, whole, data, lambda c, m: weight[k, e, c, m, self.every], prefetch
        )

    def _output(self, n: Any, number: Any, channel: Any) -> list[Any]:
        """The element of the output of a channel of a pixel."""
        (y, x), block = self._place_of(number), self.task.out.block
        return [n, channel // block, y, x, channel % block]

    def _fetch(self, n: Any, panel: Any, step: tuple[Any, int]) -> None:
        """Ask for a step's share of the lines of a panel's pixels, by the last element in each."""
        space, block = self.space, self.task.data.block
        run = min(block, LINE)
        count = 2 * self.knobs.tiles * self.knobs.pixels
        first = tile_start(panel, self.knobs.tiles, space.tiles) * (2 * self.knobs.pixels)
        for pixel, part in share(step, (count, ceil_div(self.task.conv.in_channels, run))):
            y, x = self._read(tirx.min(first + pixel, space.pixels - 1))
            channel = tirx.min(part * run + run, self.task.conv.in_channels) - 1
            emit.prefetch(self.operands.data[n, channel // block, y, x, channel % block], 0)

    def _fetch_quarter(self, n: Any, first: Any, channels: Sequence[Any]) -> None:
        """Ask for the lines that a quarter is written to, and its residual's."""
        arrays = [a for a in (self.operands.out, self.operands.residual) if a is not None]
        with T.serial(0, self.knobs.pixels) as i:
            for channel in channels[:: max(1, LINE // self.lanes)]:
                for array in arrays:
                    at = self._output(n, first + i, channel)
                    emit.prefetch(array[tuple(at)], min(self.lanes, LINE) * 4 - 4)


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over panels; everything else is unrolled already."""
    run_parallel(sch, sch.get_loops(sch.get_sblock("panel")), task.conv.macs, device)
    return sch
