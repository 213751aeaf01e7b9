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

The panel is copied because the planes of a map often lie a multiple of 4 KiB apart, where all their
lines compete for the same few ways of the cache. A last, smaller tile takes the pixels that fill no
whole one; its last vector overlaps its neighbour.

Layouts: data and out NCHW without halo; weights see `pack_weights`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import Broadcast, Ramp

from edgeconv.layout import Layout
from edgeconv.schedules import emit
from edgeconv.schedules.common import (
    FMA_LATENCY,
    L2_BYTES_PER_CYCLE,
    Mismatch,
    ceil_div,
    is_partial,
    run_parallel,
    tile_start,
)
from edgeconv.schedules.traffic import leaves_l2
from edgeconv.targets import Device
from edgeconv.workload import ConvTask

NCHW = Layout(1)
L3_BYTES_PER_CYCLE = 60  # of weights that all pixels of a tile share: nearly hidden
PANEL_BYTES_PER_CYCLE = 24  # that are copied
MAP_BYTES_PER_CYCLE = 16  # from behind L2, prefetched
ENDS = 0.6  # cycles an accumulator's start and store cost beside other tiles


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors.
        vectors: pixel vectors of a register tile.
        channels: output channels of a register tile.
        tail_runs: where the last pixels fill fewer vectors, a register tile has this many times
            `channels`.
        ahead: pixel tiles from one to that which it prefetches; 0: none.
    """

    lanes: int
    vectors: int
    channels: int
    tail_runs: int
    ahead: int = 0


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """1×1, stride 1, no padding, on NCHW maps of at least one vector of pixels."""
    conv = task.conv
    if not conv.is_pointwise or conv.stride != (1, 1) or any(conv.padding):
        return Mismatch("only 1x1 kernels of stride 1 without padding")
    if (partial := is_partial(task)) is not None:
        return partial
    if conv.input_shuffle != 1:
        return Mismatch("shuffled input channels do not follow each other")
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
    kpg = conv.out_channels_per_group
    ahead = int(leaves_l2(conv, device))
    for vectors in range(1, min(6, pixel_vectors) + 1):
        most = _most_channels(vectors, registers, kpg)
        tail = Space(task, Knobs(device.lanes, vectors, 1, 1)).tail_vectors
        for channels in range(max(1, most // 2), most + 1):
            runs = _most_channels(tail, registers, kpg) // channels if tail else 1
            yield Knobs(device.lanes, vectors, channels, max(1, runs), ahead)


def _most_channels(vectors: int, registers: int, limit: int) -> int:
    """Channels whose accumulators leave registers for the pixels, one weight and some slack."""
    spare = registers - vectors - (2 if registers <= 16 else 4)
    return max(1, min(limit, spare // vectors))


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core: per tile the longest of FMAs, loads and latency, plus the copies."""
    conv, space = task.conv, Space(task, knobs)
    full = _tile_cycles(task, knobs, knobs.vectors, 1, device)
    tail = 0.0
    if space.tail_vectors:
        tail = _tile_cycles(task, knobs, space.tail_vectors, knobs.tail_runs, device)
    return conv.batch * conv.groups * (space.full_tiles * full + tail)


def _tile_cycles(task: ConvTask, knobs: Knobs, vectors: int, runs: int, device: Device) -> float:
    """Cycles of a pixel tile of one group, over all its output channels."""
    conv, channels = task.conv, knobs.channels * runs
    depth = conv.in_channels_per_group
    tiles = ceil_div(ceil_div(conv.out_channels_per_group, knobs.channels), runs)
    panel = depth * vectors * knobs.lanes * 4
    step = max(
        vectors * channels / device.fma_ports, (vectors + channels) / device.load_ports, FMA_LATENCY
    )
    if panel > device.l1d_kib * 1024 // 2:
        step = max(step, vectors * knobs.lanes * 4 / L2_BYTES_PER_CYCLE)
    copies = panel / PANEL_BYTES_PER_CYCLE
    if leaves_l2(conv, device):
        copies += panel / MAP_BYTES_PER_CYCLE
    weights = depth * conv.out_channels_per_group * 4
    if weights > device.l2_kib * 1024 // 2:  # every pixel tile reads them from behind L2
        copies += weights / L3_BYTES_PER_CYCLE
    return copies + tiles * (depth * step + 12 + ENDS * vectors * channels)


class Space:
    """How pixels fall into tiles and output channels into register tiles."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        conv, lanes = task.conv, knobs.lanes
        self.pixels = conv.height * conv.width
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


def _operands(task: ConvTask, space: Space) -> emit.ConvOperands:
    """Declare the parameters."""
    conv = task.conv
    data = emit.planes("data", (conv.batch, conv.in_channels, conv.height, conv.width))
    weight = emit.buffer("weight", (conv.groups, space.runs, space.cpg, space.channels))
    bias = emit.buffer("bias", (conv.out_channels,)) if task.bias else None
    residual = None if task.residual is None else emit.planes("residual", conv.output_shape)
    out = emit.planes("out", conv.output_shape)
    return emit.ConvOperands(task, data, weight, bias, residual, out)


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`: full pixel tiles, then the rest."""
    conv, space, lanes = task.conv, Space(task, knobs), knobs.lanes

    def body() -> None:
        operands = _operands(task, space)
        if space.full_tiles:
            grid = dict(n=conv.batch, g=conv.groups, p=space.full_tiles)
            with emit.loops(**grid) as axes, emit.block("tile"):
                n, g, p = emit.all_spatial(grid, axes)
                first = p * (knobs.vectors * lanes)
                _tile(operands, space, knobs, (n, g, first), knobs.vectors, 1)
        if space.tail_vectors:
            grid = dict(n=conv.batch, g=conv.groups)
            with emit.loops(**grid) as axes, emit.block("tail"):
                n, g = emit.all_spatial(grid, axes)
                at = (n, g, space.full_tiles * knobs.vectors * lanes)
                _tile(operands, space, knobs, at, space.tail_vectors, knobs.tail_runs)

    return emit.prim_func("planar_pointwise", body)


def _tile(
    operands: emit.ConvOperands,
    space: Space,
    knobs: Knobs,
    at: tuple[Any, Any, Any],
    vectors: int,
    runs: int,
) -> None:
    """One tile of `vectors` pixel vectors from pixel `at[2]` on, over all channels of a group."""
    n, g, first = at
    lanes, every = knobs.lanes, Ramp(0, 1, knobs.lanes)

    def pixel(j: Any) -> Any:
        return Ramp(tirx.min(first + j * lanes, space.pixels - lanes), 1, lanes)

    panel = emit.scratch("panel", (space.cpg, vectors * lanes))
    copy = dict(c=space.cpg, j=vectors)
    with emit.loops(**copy) as axes, emit.block("pack"):
        c, j = emit.all_spatial(copy, axes)
        value = operands.data[n, g * space.cpg + c, pixel(j)]
        emit.store(panel, value, [c, Ramp(j * lanes, 1, lanes)])
        if knobs.ahead:
            element = operands.data[n, g * space.cpg + c, first]
            emit.prefetch(element, (knobs.ahead * vectors + j) * lanes * 4)

    runs = min(runs, space.runs)
    tiles = ceil_div(space.runs, runs)
    with emit.loops(k=tiles) as axis, emit.block("channels"):
        run = tile_start(emit.spatial("vk", tiles, axis), runs, space.runs)
        acc = emit.local("acc", (runs, space.channels, vectors, lanes))
        tile = dict(r=runs, i=space.channels, j=vectors)
        with emit.loops(c=space.cpg, **tile) as axes, emit.block("update"):
            c = emit.reduce("vc", space.cpg, axes[0])
            r, i, j = emit.all_spatial(tile, axes[1:])
            with emit.init():
                start = operands.start(g * space.kpg + space.channel(run + r) + i)
                emit.store(acc, Broadcast(start, lanes), [r, i, j, every])
            weight = Broadcast(operands.weight[g, run + r, c, i], lanes)
            product = panel[c, Ramp(j * lanes, 1, lanes)] * weight
            emit.store(acc, acc[r, i, j, every] + product, [r, i, j, every])
        with emit.loops(**tile) as axes, emit.block("store"):
            r, i, j = emit.all_spatial(tile, axes)
            index = [n, g * space.kpg + space.channel(run + r) + i, pixel(j)]
            operands.finish(acc[r, i, j, every], index)


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over pixel tiles; register tiles unrolled."""
    space = Space(task, knobs)
    tiles = ["tile"] * bool(space.full_tiles) + ["tail"] * bool(space.tail_vectors)
    for name in tiles:
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
        for loop in sch.get_loops(child)[-3:]:
            sch.unroll(loop)
        if sch.get(child).name_hint.startswith("update"):
            sch.decompose_reduction(child, sch.get_loops(child)[0])
