"""Pointwise convolution on row-major maps where output channels read different input channels.

Sliding-channel convolutions (Wang et al., "DSXplore", IPDPS 2021), masked ones and others whose
`Conv2d.clusters` is set. Vectors run along the pixels of a plane, so a channel is no more than an
address: a register tile takes output channels of one cluster from wherever they are, reads the
planes a table names, and stores to planes of their own. Nothing is gathered or permuted.

    parallel (n, pixel tile)
      panel[C, pixels] = data                                          if planes would alias
      channel tile (a cluster's outputs, or a few small clusters')
        acc[channels, vectors, lanes] = bias                           registers
        input channel that the table names
          vectors, channels (unrolled): acc += data vector · broadcast(weight)
        out = activation(acc + residual)

Without the panel, loops over channel tiles are parallel too. The last tile of pixels is a smaller
one; its last vector overlaps its neighbour. A channel tile that is not full computes its last
output channel several times.

Layouts: data and out NCHW without halo; weights see `pack_weights`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import Broadcast, Ramp
from tvm.tirx.script import builder as T

from edgeconv.clusters import Tile
from edgeconv.layout import Layout
from edgeconv.schedules import cluster_tables, emit
from edgeconv.schedules.common import (
    FMA_LATENCY,
    L2_BYTES_PER_CYCLE,
    Mismatch,
    ceil_div,
    is_partial,
    run_parallel,
)
from edgeconv.schedules.traffic import PAGE, planes_collide
from edgeconv.targets import Device
from edgeconv.workload import ConvTask

NCHW = Layout(1)
HEADER = 2  # numbers of a tile before its output channels: where its weights start, their inputs
TILE_CYCLES = 14  # of a register tile, beside its products and stores
STEP_CYCLES = 1.0  # of an input channel, beside its products: the table, the loop


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors.
        vectors: pixel vectors of a register tile.
        channels: output channels of a register tile.
        panel: whether the pixels of a tile are copied side by side first.
    """

    lanes: int
    vectors: int
    channels: int
    panel: bool


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """1×1, stride 1, no padding, with clusters, on NCHW maps of at least one vector of pixels."""
    conv = task.conv
    if conv.clusters is None:
        return Mismatch("every output channel reads every input channel of its group")
    if not conv.is_pointwise or conv.stride != (1, 1) or any(conv.padding):
        return Mismatch("only 1x1 kernels of stride 1 without padding")
    if (partial := is_partial(task)) is not None:
        return partial
    layouts = [task.data, task.out, *([] if task.residual is None else [task.residual])]
    if any(layout != NCHW for layout in layouts):
        return Mismatch("only NCHW without halo")
    if conv.height * conv.width < device.lanes:
        return Mismatch(f"a map has fewer pixels than a vector has lanes ({device.lanes})")
    return None


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    conv, registers = task.conv, device.vector_registers
    pixel_vectors = ceil_div(conv.height * conv.width, device.lanes)
    for vectors in range(1, min(8, pixel_vectors) + 1):
        spare = registers - vectors - (2 if registers <= 16 else 4)
        most = max(1, min(conv.out_channels, spare // vectors))
        for channels in range(max(1, min(4, most)), most + 1):
            for panel in (False, True):
                yield Knobs(device.lanes, vectors, channels, panel)


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core: per tile the longest of FMAs, loads and latency, plus the copies."""
    conv, space = task.conv, Space(task, knobs)
    full = space.full_tiles * _tile_cycles(space, knobs.vectors, device)
    tail = _tile_cycles(space, space.tail_vectors, device) if space.tail_vectors else 0.0
    return conv.batch * (full + tail)


def _tile_cycles(space: Space, vectors: int, device: Device) -> float:
    """Cycles of a pixel tile over all output channels."""
    channels, lanes = space.knobs.channels, space.knobs.lanes
    inputs = sum(len(tile.inputs) for tile in space.tiles)
    step = max(
        vectors * channels / device.fma_ports,
        device.load_cycles(vectors, channels + 1),
        FMA_LATENCY,
    )
    line, planes = vectors * lanes * 4, space.conv.in_channels
    data = planes * line  # of this pixel tile, read once from behind L1
    in_l1 = (PAGE, device.l1d_kib * 1024 // PAGE)
    if not space.knobs.panel and planes_collide(planes, space.pixels * 4, line, in_l1):
        step = max(step, line / L2_BYTES_PER_CYCLE)
    if data > device.l1d_kib * 1024 // 2:
        step = max(step, line / L2_BYTES_PER_CYCLE)
    copies = (3 if space.knobs.panel else 1) * data / L2_BYTES_PER_CYCLE
    tiles = len(space.tiles) * (TILE_CYCLES + 3 * vectors * channels)
    return copies + inputs * (step + STEP_CYCLES) + tiles


class Space:
    """How pixels and channels fall into tiles, and where the tiles' tables lie."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        self.conv, self.knobs = task.conv, knobs
        assert task.conv.clusters is not None
        self.pixels = task.conv.height * task.conv.width
        vectors = ceil_div(self.pixels, knobs.lanes)
        self.full_tiles, self.tail_vectors = divmod(vectors, knobs.vectors)
        if self.full_tiles * knobs.vectors * knobs.lanes > self.pixels:  # the last vector overlaps
            self.full_tiles, self.tail_vectors = self.full_tiles - 1, knobs.vectors
        self.tiles: tuple[Tile, ...] = task.conv.clusters.tiles(knobs.channels)

    @property
    def header(self) -> int:
        """Numbers before the weights."""
        return len(self.tiles) * (HEADER + self.knobs.channels)

    @property
    def step(self) -> int:
        """Floats of an input channel: its number and a weight for each output channel."""
        return 1 + self.knobs.channels

    @property
    def size(self) -> int:
        """Floats of the packed weights."""
        return self.header + self.step * sum(len(tile.inputs) for tile in self.tiles)


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """[K, C, 1, 1] to a header and records, flat.

    The header has for each tile: where its records start, how many, and its output channels. A
    record is an input channel's number and a weight for each output channel.
    """
    space = Space(task, knobs)
    filters = weight.reshape(weight.shape[0], -1)
    header, records = [], []
    at = space.header
    for tile in space.tiles:
        outs = _padded(tile, knobs.channels)
        header += [at, len(tile.inputs), *outs]
        at += space.step * len(tile.inputs)
        if tile.inputs:
            numbers = cluster_tables.as_floats(tile.inputs)
            values = filters[np.ix_(outs, tile.inputs)].T
            records.append(np.column_stack([numbers, values]).reshape(-1))
    return np.concatenate([cluster_tables.as_floats(header), *records])


def _padded(tile: Tile, size: int) -> list[int]:
    """The tile's output channels, the last one again and again up to `size`."""
    return [*tile.outputs, *[tile.outputs[-1]] * (size - len(tile.outputs))]


def pack_bias(task: ConvTask, knobs: Knobs, bias: np.ndarray) -> np.ndarray:
    """[K] as it is."""
    return np.ascontiguousarray(bias)


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`: full pixel tiles, then the rest."""
    conv, space = task.conv, Space(task, knobs)

    def body() -> None:
        shape = (conv.batch, conv.in_channels, conv.height, conv.width)
        operands = emit.ConvOperands(
            task,
            emit.planes("data", shape),
            emit.buffer("weight", (space.size,)),
            emit.buffer("bias", (conv.out_channels,)) if task.bias else None,
            None if task.residual is None else emit.planes("residual", conv.output_shape),
            emit.planes("out", conv.output_shape),
        )
        if space.full_tiles:
            _pixel_tiles(operands, space, "tile", knobs.vectors)
        if space.tail_vectors:
            _pixel_tiles(operands, space, "tail", space.tail_vectors)

    return emit.prim_func("planar_clusters", body)


def _pixel_tiles(operands: emit.ConvOperands, space: Space, name: str, vectors: int) -> None:
    """The block `name` for all full pixel tiles, or for the tail."""
    knobs, tail = space.knobs, name == "tail"
    tiles = len(space.tiles)
    grid = dict(n=space.conv.batch, p=1 if tail else space.full_tiles)
    grid |= {} if knobs.panel else {"t": tiles}
    with emit.loops(**grid) as axes, emit.block(name):
        n, p, *t = emit.all_spatial(grid, axes)
        first = (space.full_tiles if tail else p) * (knobs.vectors * knobs.lanes)
        pixels = [
            Ramp(tirx.min(first + j * knobs.lanes, space.pixels - knobs.lanes), 1, knobs.lanes)
            for j in range(vectors)
        ]
        acc = emit.local("acc", (knobs.channels, vectors, knobs.lanes))
        if not knobs.panel:
            read = functools.partial(_read, operands.data, n, pixels)
            _channel_tile(operands, space, (n, t[0], pixels), acc, read)
            return
        panel = emit.scratch("panel", (space.conv.in_channels, vectors * knobs.lanes))
        ramps = [Ramp(j * knobs.lanes, 1, knobs.lanes) for j in range(vectors)]
        with T.serial(0, space.conv.in_channels) as c:
            for ramp, pixel in zip(ramps, pixels, strict=True):
                emit.store(panel, operands.data[n, c, pixel], [c, ramp])
        with T.serial(0, tiles) as tile:
            read = functools.partial(_read, panel, None, ramps)
            _channel_tile(operands, space, (n, tile, pixels), acc, read)


def _read(source: Any, n: Any, pixels: list[Any], channel: Any) -> list[Any]:
    """The pixel vectors of a channel."""
    at = (channel,) if n is None else (n, channel)
    return [T.Bind(source[(*at, pixel)]) for pixel in pixels]


def _channel_tile(
    operands: emit.ConvOperands, space: Space, at: tuple[Any, Any, list[Any]], acc: Any, read: Any
) -> None:
    """A register tile: all its input channels, then the stores."""
    n, tile, pixels = at
    knobs, weight = space.knobs, operands.weight
    lanes, every = knobs.lanes, Ramp(0, 1, knobs.lanes)
    head = tile * (HEADER + knobs.channels)
    first = T.Bind(cluster_tables.number(weight, head))
    count = T.Bind(cluster_tables.number(weight, head + 1))
    outs = [T.Bind(cluster_tables.number(weight, head + HEADER + i)) for i in range(knobs.channels)]
    for i, out in enumerate(outs):
        start = T.Bind(Broadcast(operands.start(out), lanes))
        for j in range(len(pixels)):
            emit.store(acc, start, [i, j, every])
    with T.serial(0, count) as c:
        record = T.Bind(first + c * space.step)
        vectors = read(cluster_tables.number(weight, record))
        for i in range(knobs.channels):
            value = T.Bind(Broadcast(weight[record + (1 + i)], lanes))
            for j, vector in enumerate(vectors):
                emit.store(acc, acc[i, j, every] + vector * value, [i, j, every])
    for i, out in enumerate(outs):
        for j, pixel in enumerate(pixels):
            operands.finish(acc[i, j, every], [n, out, pixel])


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over pixel tiles; the body is written as it is to run."""
    space = Space(task, knobs)
    for name in ["tile"] * bool(space.full_tiles) + ["tail"] * bool(space.tail_vectors):
        run_parallel(sch, sch.get_loops(sch.get_sblock(name)), task.conv.macs, device)
    return sch
