"""Pointwise convolution on row-major maps by Strassen's product: see `strassen`.

The left factors are the weights, the right ones pixels: halves of the input channels and of the
output channels, and two register tiles of pixels side by side. The sums of pixels are made while a
panel is copied, as in planar_pointwise.

    parallel (n, group, panel)
      panel[tile, 7, CPG/2, pixels/2] = right factors of the products             in L2
      run of channels of each half of the output → pixel tile
        seven products, an input channel after the other
          vectors, channels (unrolled): acc += panel vector · broadcast(weight)
        out = activation(acc + bias + residual), a quarter behind every other product

Of an odd number of channels the halves share one, which has zero weights in one of them, or is
stored twice. A last, smaller tile takes the pixels that fill no whole one, in vectors that may be
half as long; it overlaps its neighbour. `numerics="exact"` never uses this schedule.

Layouts: data and out NCHW without halo; weights see `pack_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import Ramp
from tvm.tirx.script import builder as T

from edgeconv.schedules import emit, planar_pointwise
from edgeconv.schedules.common import (
    Mismatch,
    ceil_div,
    run_parallel,
    tile_start,
)
from edgeconv.schedules.planar_pointwise import MAP_BYTES_PER_CYCLE, Ahead
from edgeconv.schedules.prefetching import LINE
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
from edgeconv.schedules.traffic import leaves_l2
from edgeconv.targets import Device
from edgeconv.workload import ConvTask

L2_SHARE = 0.6  # of the second-level cache, for a panel
SUM_CYCLES = 12.0  # of the seven vectors that are made of four


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors.
        vectors: pixel vectors of a register tile; a pixel tile has twice as many.
        channels: output channels of a register tile.
        tiles: pixel tiles of a panel.
        tail_lanes: lanes of the vectors of the last, smaller pixel tile.
        tail_runs: its register tiles have this many times `channels`.
        ahead: panels from one to that which it prefetches; 0: none.
    """

    lanes: int
    vectors: int
    channels: int
    tiles: int
    tail_lanes: int
    tail_runs: int = 1
    ahead: int = 0


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """What `planar_pointwise` supports, of stride 1 and with some channels."""
    if (mismatch := planar_pointwise.supports(task, device)) is not None:
        return mismatch
    conv = task.conv
    if conv.stride != (1, 1):
        return Mismatch("only a stride of 1")
    if min(conv.in_channels_per_group, conv.out_channels_per_group) < LEAST_CHANNELS:
        return Mismatch(f"groups have fewer than {LEAST_CHANNELS} channels")
    if conv.height * conv.width < 2 * device.lanes:
        return Mismatch(f"a map has fewer pixels than two vectors have lanes ({device.lanes})")
    return None


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    conv, lanes, registers = task.conv, device.lanes, device.vector_registers
    pixels, half = conv.height * conv.width, ceil_div(conv.out_channels_per_group, 2)
    ahead = int(leaves_l2(conv, device))
    for vectors in range(1, min(6, pixels // (2 * lanes)) + 1):
        full = pixels // (2 * vectors * lanes)
        most = planar_pointwise.most_channels(vectors, registers, half)
        panel = PRODUCTS * ceil_div(conv.in_channels_per_group, 2) * vectors * lanes * 4
        counts = panel_sizes(full, panel, L2_SHARE * device.l2_kib * 1024)
        tails = {}  # vectors of the last tile, by their lanes
        for tail_lanes in (lanes, lanes // 2) if device.in_halves else (lanes,):
            tail = Space(task, Knobs(lanes, vectors, 1, 1, tail_lanes)).tail_vectors
            if tail <= vectors:
                tails[tail_lanes] = tail
        for channels in range(max(1, most // 2), most + 1):
            for tail_lanes, tail in tails.items():
                runs = planar_pointwise.most_channels(tail, registers, half) if tail else 0
                for tiles in counts:
                    shape = (lanes, vectors, channels, tiles)
                    yield Knobs(*shape, tail_lanes, max(1, runs // channels), ahead)


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of all cores together, idle ones included: sums, and per tile the longest of FMAs,
    loads and latency; weights that leave the second-level cache; what fetching the map adds.
    """
    conv, space = task.conv, Space(task, knobs)
    images = conv.batch * conv.groups
    weights = PRODUCTS * space.depth * space.half * 4
    again = again_cycles(weights, device)
    tile = _tile_cycles(space, (knobs.lanes, knobs.vectors), 1, device)
    units = images * space.panels
    cycles = ceil_div(units, device.cores) * device.cores * (knobs.tiles * tile + again)
    if space.tail_vectors:
        narrow = (knobs.tail_lanes, space.tail_vectors)
        tail = _tile_cycles(space, narrow, knobs.tail_runs, device) + again
        cycles += ceil_div(images, device.cores) * device.cores * tail
    cold = cold_cycles(weights * conv.groups, conv.groups * tile, device)
    cold *= min(units, device.cores)
    fetched = 0.0
    if leaves_l2(conv, device):
        fetched = images * space.cpg * space.pixels * 4 / MAP_BYTES_PER_CYCLE
    return cycles + cold + fetched


def _tile_cycles(space: Space, shape: tuple[int, int], runs: int, device: Device) -> float:
    """Cycles of a pixel tile in vectors of so many lanes, so many in a register tile."""
    (lanes, vectors), channels = shape, space.knobs.channels * runs
    own = device.with_vectors_of(lanes)
    products = product_cycles(space.depth, lanes, (vectors, channels), own)
    sums = space.depth * vectors * SUM_CYCLES / (1 if own.in_halves else 2)
    return ceil_div(space.runs, runs) * products + sums


class Space:
    """How pixels fall into panels and tiles, and channels into halves and runs."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        conv, self.knobs = task.conv, knobs
        self.pixels = conv.height * conv.width
        self.width = 2 * knobs.vectors * knobs.lanes  # pixels of a tile
        full = self.pixels // self.width
        self.full_tiles, rest = full, self.pixels - full * self.width
        self.panels = ceil_div(full, knobs.tiles)
        self.tail_vectors = ceil_div(rest, 2 * knobs.tail_lanes)
        self.kpg, self.cpg = conv.out_channels_per_group, conv.in_channels_per_group
        self.half, self.depth = ceil_div(self.kpg, 2), ceil_div(self.cpg, 2)
        self.runs = ceil_div(self.half, knobs.channels)

    def channel(self, run: Any) -> Any:
        """First output channel of a run within the first half; the last overlaps its neighbour."""
        return tile_start(run, self.knobs.channels, self.half)

    @property
    def second(self) -> tuple[int, int]:
        """First input and first output channel of the second halves."""
        return self.cpg - self.depth, self.kpg - self.half


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """OIHW [K, CPG, 1, 1] to [group, run of channels, product, CPG/2, channel], the order the
    kernel reads: the left operands of M1, M2, M6, M7, -M4, M5, M3.
    """
    space = Space(task, knobs)
    matrix = weight.reshape(task.conv.groups, space.kpg, space.cpg)
    inputs, outputs = space.second
    a11, a12 = matrix[:, : space.half, : space.depth], matrix[:, : space.half, inputs:].copy()
    a21, a22 = matrix[:, outputs:, : space.depth], matrix[:, outputs:, inputs:].copy()
    shared = 2 * space.depth - space.cpg  # input channels that are in both halves
    a12[:, :, :shared], a22[:, :, :shared] = 0, 0
    products = constant(left(a11, a12, a21, a22))
    starts = np.array([space.channel(run) for run in range(space.runs)])
    channels = starts[:, None] + np.arange(knobs.channels)
    runs = products[:, :, channels]  # [group, 7, run, channel, C]
    return np.ascontiguousarray(runs.transpose(0, 2, 1, 4, 3))


def pack_bias(task: ConvTask, knobs: Knobs, bias: np.ndarray) -> np.ndarray:
    """[K] as it is."""
    return np.ascontiguousarray(bias)


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`: panels of full tiles, then the rest."""
    return emit.prim_func("planar_strassen", _Kernel(task, knobs).emit)


class _Kernel:
    """Emits the kernel's statements."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        self.task, self.knobs, self.conv = task, knobs, task.conv
        self.space = Space(task, knobs)

    def emit(self) -> None:
        """Parameters, and the panels."""
        conv, space, knobs = self.conv, self.space, self.knobs
        shape = (conv.groups, space.runs, PRODUCTS, space.depth, knobs.channels)
        self.operands = planar_pointwise.operands(self.task, shape)
        images = dict(n=conv.batch, g=conv.groups)
        grid = dict(**images, p=space.panels)
        with emit.loops(**grid) as axes, emit.block("panel"):
            emit.unknown_regions()
            n, g, p = emit.all_spatial(grid, axes)
            first = T.Bind(tile_start(p, knobs.tiles, space.full_tiles) * space.width)
            _Panel(self, (n, g, first), (knobs.lanes, knobs.vectors), 1, knobs.tiles).emit()
        if space.tail_vectors:
            with emit.loops(**images) as axes, emit.block("tail"):
                emit.unknown_regions()
                n, g = emit.all_spatial(images, axes)
                first = space.pixels - 2 * space.tail_vectors * knobs.tail_lanes
                size = (knobs.tail_lanes, space.tail_vectors)
                _Panel(self, (n, g, first), size, min(knobs.tail_runs, space.runs), 1).emit()


class _Panel:
    """Some pixel tiles, over all output channels of a group.

    Args:
        at: image, group and first pixel.
        size: lanes and vectors of a register tile.
        runs: of channels in one.
        tiles: how many pixel tiles.
    """

    def __init__(
        self,
        kernel: _Kernel,
        at: tuple[Any, Any, Any],
        size: tuple[int, int],
        runs: int,
        tiles: int,
    ) -> None:
        self.kernel, self.space, self.operands = kernel, kernel.space, kernel.operands
        self.n, self.g, self.first = at
        self.lanes, self.vectors = size
        self.runs, self.tiles, self.width = runs, tiles, self.vectors * self.lanes
        self.every = Ramp(0, 1, self.lanes)
        self.rows = [(r, i) for r in range(runs) for i in range(kernel.knobs.channels)]
        self.acc = {
            (row, j): emit.local("acc", (self.lanes,))
            for row in self.rows
            for j in range(self.vectors)
        }
        size_of = self.space.depth * self.width
        self.panel = emit.scratch("panel", (tiles * PRODUCTS * size_of,))
        self.quarters = Quarters(self.acc, self.lanes)

    def emit(self) -> None:
        """The sums of pixels, then all register tiles."""
        space = self.space
        with T.serial(0, self.tiles) as t, T.serial(0, space.depth) as c:
            for j in range(self.vectors):
                self._sums(t, c, j)
        tiles = ceil_div(space.runs, self.runs)
        with T.serial(0, tiles) as k, T.serial(0, self.tiles) as t:
            run = T.Bind(tile_start(k, self.runs, space.runs))
            self._tile(run, t, (k * self.tiles + t, tiles * self.tiles))

    def _pixel(self, t: Any, half: int, j: int = 0) -> Any:
        """First pixel of vector j of a half of tile t."""
        return self.first + (2 * t + half) * self.width + j * self.lanes

    def _sums(self, t: Any, c: Any, j: int) -> None:
        """The right operands of the products, in the weights' order, for a pair of channels."""
        space, data = self.space, self.operands.data
        channel, second = self.g * space.cpg + c, space.second[0]
        quarters = [
            T.Bind(data[self.n, channel + later, Ramp(self._pixel(t, half, j), 1, self.lanes)])
            for later in (0, second)
            for half in (0, 1)
        ]
        for e, value in enumerate(right(*quarters)):
            emit.store(self.panel, value, [self._place(t, e, c, j)])

    def _place(self, t: Any, e: int, c: Any, j: int) -> Any:
        row = (t * PRODUCTS + e) * self.space.depth + c
        return Ramp(row * self.width + j * self.lanes, 1, self.lanes)

    def _tile(self, run: Any, t: Any, step: tuple[Any, int]) -> None:
        """A register tile in each quarter of the output."""
        ahead = self._ahead() if self.kernel.knobs.ahead else None

        def product(e: int) -> None:
            if ahead is not None and e in FETCHED_BESIDE:
                with emit.only_prefetching():
                    self._fetch_quarter(run, t, FETCHED_BESIDE[e])
            self._product(run, t, e, lambda c: fetch(e, c))

        def fetch(e: int, c: Any) -> None:  # beside the first two, a half of the channels each
            if ahead is not None and e < 2:
                ahead.part(c + e * self.space.second[0], *step)

        self.quarters.emit(product, lambda quarter, value: self._finish(run, t, quarter, value))

    def _channel(self, run: Any, r: int, i: int, half: int) -> Any:
        """Output channel i of run r of a half."""
        base = self.g * self.space.kpg + half * self.space.second[1]
        return base + self.space.channel(run + r) + i

    def _fetch_quarter(self, run: Any, t: Any, quarter: tuple[int, int]) -> None:
        """Ask for the lines that a quarter is written to, and its residual's."""
        for r, i in self.rows:
            at = (self.n, self._channel(run, r, i, quarter[0]), self._pixel(t, quarter[1]))
            for array in (self.operands.out, self.operands.residual):
                if array is not None:
                    for line in range(ceil_div(self.width, LINE)):
                        emit.prefetch_line(array[at], line)

    def _product(self, run: Any, t: Any, e: int, fetch: Callable[[Any], None]) -> None:
        """Add product number e of the weights; `fetch` is told each input channel."""
        weight = self.operands.weight
        with T.serial(0, self.space.depth) as c:
            fetch(c)
            for r in range(self.runs):
                for i in range(0, self.kernel.knobs.channels, LINE):
                    emit.prefetch(weight[self.g, run + r, e, c, i], PREFETCH, level=1)
            pixels = [T.Bind(self.panel[self._place(t, e, c, j)]) for j in range(self.vectors)]
            for r, i in self.rows:
                factor = T.Bind(tirx.Broadcast(weight[self.g, run + r, e, c, i], self.lanes))
                for j, pixel in enumerate(pixels):
                    register = self.acc[(r, i), j]
                    value = register[self.every] + pixel * factor
                    emit.store(register, value, [self.every])

    def _finish(
        self,
        run: Any,
        t: Any,
        quarter: tuple[int, int],
        value: Callable[[Any], Any],
    ) -> None:
        """Store the sums as a quarter of the output: half of the channels, half of the pixels."""
        outputs, pixels = quarter
        for (r, i), j in self.acc:
            channel = self._channel(run, r, i, outputs)
            total = value(((r, i), j))
            if self.kernel.task.bias:
                total = total + tirx.Broadcast(self.operands.start(channel), self.lanes)
            at = [self.n, channel, Ramp(self._pixel(t, pixels, j), 1, self.lanes)]
            self.operands.finish(total, at)

    def _ahead(self) -> Ahead:
        """The lines of each input channel that a later panel holds."""
        pixels = self.tiles * 2 * self.width
        first = self.first + self.kernel.knobs.ahead * pixels

        def fetch(c: Any, line: Any) -> None:
            emit.prefetch_line(self.operands.data[self.n, self.g * self.space.cpg + c, first], line)

        return Ahead(ceil_div(pixels, LINE), fetch)


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over panels; everything else is unrolled already."""
    for name in ["panel"] + ["tail"] * bool(Space(task, knobs).tail_vectors):
        run_parallel(sch, sch.get_loops(sch.get_sblock(name)), task.conv.macs, device)
    return sch
