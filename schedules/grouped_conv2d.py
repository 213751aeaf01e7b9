"""Grouped Spatial Pack convolution (GSPC): any groups from 1 up, any kernel, stride and dilation.

Source: Gibson et al., "Optimizing Grouped Convolutions on Edge Devices", ASAP 2020. The output is cut
into tiles of rows × columns pixels × `vectors` channel vectors, one tile is held in registers while
the reduction runs over it, and weights are packed at compile time in the order they are read.

    parallel (n, output-channel tile, row tile)
      column tile
        acc[rows, columns, vectors, lanes] = bias                     registers
        channel chunk → kh → channel in chunk → kw (unrolled)
          rows, columns, vectors (unrolled): acc += broadcast(data) · weight vector
        out = activation(acc + residual)

A tile reads the window of input channels its groups own. Where a tile is wider than a group, the window
spans several groups and the weights hold zeros for foreign channels ("broadcast" mode). Where one vector
holds whole groups (KPG = CPG divides the lanes, depthwise included), input lanes are permuted instead:
lane o multiplies channel (o // KPG)·CPG + k, one permute a pixel and k, and nothing is wasted ("permute").

Layouts: data [N, C/b, H, W, b] with a halo that stands for the padding; weights see `pack_weights`;
out [N, K/b', OH, OW, b'], where b' may be K (NHWC) or 1 (NCHW). The last tile of a row, a column or an
NHWC channel run overlaps its neighbour, so there are no tail loops.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import Ramp

from edgeconv.operators.convolution import apply_activation, shuffled
from edgeconv.schedules import emit
from edgeconv.schedules.common import Mismatch, ceil_div, minimum, tile_start
from edgeconv.targets import Device
from edgeconv.workload import ConvTask

FMA_LATENCY = 4  # cycles; Zen 2–5, Skylake–Golden Cove and Cortex-A72–A78 all take 4
LOADS_PER_CYCLE = 2
L2_BYTES_PER_CYCLE = 32
PARALLEL_MACS = 1 << 17  # below it a parallel region costs more than it saves
MAX_UNROLLED_FMAS = 240  # in the innermost body; beyond it the loop leaves the micro-op cache


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        mode: "broadcast" or "permute" (see the module's text).
        lanes: float32 lanes of the vectors, at most the device's.
        rows, columns: output pixels of a register tile.
        vectors: channel vectors of a register tile (1 in permute mode).
        unroll_kw: whether the horizontal taps are unrolled into the body.
    """

    mode: str
    lanes: int
    rows: int
    columns: int
    vectors: int
    unroll_kw: bool


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """None: every 2-D float32 convolution is supported."""
    if min(task.data.block, task.out.block) < 1:
        return Mismatch("data and output need a channel layout")
    return None


def lanes_for(task: ConvTask, device: Device) -> int:
    """Vector width: the device's, narrowed until it fits the output channels and their blocks."""
    lanes = device.lanes
    blocked = task.out.block not in (1, task.conv.out_channels)
    while lanes > 1 and (
        (blocked and task.out.block % lanes) or (not blocked and lanes > task.conv.out_channels)
    ):
        lanes //= 2
    return lanes


def can_permute(task: ConvTask, lanes: int) -> bool:
    """True where one vector holds whole groups and input lanes match output lanes."""
    conv = task.conv
    width = conv.out_channels_per_group
    return (
        conv.groups > 1
        and conv.input_shuffle == 1
        and width == conv.in_channels_per_group
        and lanes % width == 0
        and task.data.block == task.out.block
        and task.data.block % lanes == 0
    )


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    conv, lanes = task.conv, lanes_for(task, device)
    registers = device.vector_registers
    mode = "permute" if can_permute(task, lanes) else "broadcast"
    total_vectors = -(-conv.out_channels // lanes)
    vector_counts = (1,) if mode == "permute" else tuple(range(1, min(8, total_vectors) + 1))
    for vectors in vector_counts:
        if mode == "permute":
            spare = registers // 2  # the other half holds pixels, their permutes and weights
        else:  # LLVM keeps the weights of several unrolled taps live if there are registers to spare
            taps = min(conv.kernel_size[1], 3 if registers > 16 else 1)
            spare = registers - vectors * taps - 2
        for rows in range(1, min(6, conv.out_height) + 1):
            for columns in range(1, min(registers, conv.out_width) + 1):
                tile = rows * columns * vectors
                if tile > spare:
                    break
                taps = tile * conv.kernel_size[1]
                if mode == "permute":
                    taps *= conv.in_channels_per_group
                yield Knobs(mode, lanes, rows, columns, vectors, taps <= MAX_UNROLLED_FMAS)


def default_knobs(task: ConvTask, device: Device) -> Knobs:
    """The candidate with the least estimated cycles (`estimate`)."""
    return min(candidates(task, device), key=lambda knobs: estimate(task, knobs, device))


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core: per tile the longest of multiply-adds, loads, latency and weight traffic."""
    conv = task.conv
    space = Space(task, knobs)
    pixels = knobs.rows * knobs.columns
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    if knobs.mode == "permute":
        width = conv.in_channels_per_group
        steps, fmas, loads = taps, pixels * width, width + pixels
        weights = taps * width * knobs.lanes * 4
    else:
        steps, fmas = space.window * taps, pixels * knobs.vectors
        loads = pixels + knobs.vectors
        weights = steps * knobs.vectors * knobs.lanes * 4
    step = max(fmas / device.fma_ports, loads / LOADS_PER_CYCLE, FMA_LATENCY)
    cycles = steps * step
    if weights > device.l1d_kib * 1024 // 2:
        cycles = max(cycles, weights / L2_BYTES_PER_CYCLE)
    overhead = 12 + 2 * pixels * knobs.vectors + (0 if knobs.unroll_kw else steps / 2)
    return space.tiles * (cycles + overhead)


class Space:
    """The iteration space of a task under given knobs: how channels fall into vectors, tiles and windows.

    Methods take ints or TIR expressions alike, so packing and code generation share one definition.
    """

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        conv = task.conv
        self.task, self.knobs, self.conv = task, knobs, conv
        self.kpg, self.cpg = conv.out_channels_per_group, conv.in_channels_per_group
        self.row_tiles = ceil_div(conv.out_height, knobs.rows)
        self.column_tiles = ceil_div(conv.out_width, knobs.columns)
        self.total_vectors = ceil_div(conv.out_channels, knobs.lanes)
        self.channel_tiles = ceil_div(self.total_vectors, knobs.vectors)
        self.padded = task.out.block not in (1, conv.out_channels)
        self.groups_per_window = 1
        for tile in range(self.channel_tiles if conv.groups > 1 else 0):
            low, high = self._groups(tile)
            self.groups_per_window = max(self.groups_per_window, high - low)
        self.window = self.groups_per_window * self.cpg  # input channels a tile reads
        block = task.data.block
        aligned = self.window % block == 0 and (conv.groups == 1 or self.cpg % block == 0)
        self.aligned = aligned and conv.input_shuffle == 1
        self.chunks = self.window // block if self.aligned else 1
        self.chunk = block if self.aligned else self.window

    @property
    def tiles(self) -> int:
        """Register tiles in the whole output."""
        return self.conv.batch * self.channel_tiles * self.row_tiles * self.column_tiles

    def first_vector(self, tile: Any) -> Any:
        """First channel vector of an output-channel tile."""
        return tile_start(tile, self.knobs.vectors, self.total_vectors)

    def first_channel(self, vector: Any) -> Any:
        """First output channel of a vector; without padding lanes the last vector overlaps."""
        if self.padded:
            return vector * self.knobs.lanes
        return tile_start(vector, self.knobs.lanes, self.conv.out_channels)

    def _groups(self, tile: int) -> tuple[int, int]:
        """First and one-past-last group whose outputs the tile holds."""
        vector = self.first_vector(tile)
        low = self.first_channel(vector)
        high = self.first_channel(vector + self.knobs.vectors - 1) + self.knobs.lanes
        return low // self.kpg, (min(high, self.conv.out_channels) - 1) // self.kpg + 1

    def first_group(self, tile: Any) -> Any:
        """First group of the tile's input window."""
        if self.groups_per_window == self.conv.groups:
            return 0
        group = self.first_channel(self.first_vector(tile)) // self.kpg
        return minimum(group, self.conv.groups - self.groups_per_window)

    def data_channel(self, tile: Any, cc: Any, ci: Any) -> tuple[Any, Any]:
        """(chunk, lane) in the data layout of channel (cc, ci) of the tile's window."""
        block, group = self.task.data.block, self.first_group(tile)
        if self.aligned:
            return group * (self.cpg // block) + cc, ci
        conv = self.conv
        channel = shuffled(group * self.cpg + ci, conv.in_channels, conv.input_shuffle)
        return channel // block, channel % block

    def out_channel(self, vector: Any, lane: Any) -> tuple[Any, Any]:
        """(chunk, lane) in the output layout of a lane of a vector."""
        block, lanes = self.task.out.block, self.knobs.lanes
        if self.padded:
            per_block = block // lanes
            return vector // per_block, vector % per_block * lanes + lane
        channel = self.first_channel(vector) + lane
        return (channel, 0) if block == 1 else (0, channel)

    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the packed weights."""
        r, s = self.conv.kernel_size
        if self.knobs.mode == "permute":
            return (self.total_vectors, r, s, self.cpg, self.knobs.lanes)
        inner = (self.knobs.vectors, self.knobs.lanes)
        return (self.channel_tiles, self.chunks, r, self.chunk, s, *inner)

    def channel_table(self) -> np.ndarray:
        """Output channel of every [tile, vector, lane]; K and above are padding."""
        starts = [
            [self.first_channel(self.first_vector(t) + m) for m in range(self.knobs.vectors)]
            for t in range(self.channel_tiles)
        ]
        return np.array(starts)[:, :, None] + np.arange(self.knobs.lanes)


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """OIHW [K, CPG, R, S] to the order the kernel reads.

    broadcast: [tile, chunk, R, channel, S, vector, lane], zero for channels of other groups and for
    padding lanes; permute: [vector, R, S, k, lane].
    """
    space = Space(task, knobs)
    outs = space.channel_table()
    k, cpg, r, s = weight.shape
    filled = np.concatenate([weight, np.zeros((1, cpg, r, s), weight.dtype)])
    rows = np.minimum(outs, k)  # padding lanes read the zero filter
    if knobs.mode == "permute":
        packed = filled[rows[:, 0]].transpose(0, 3, 4, 2, 1)
        return np.ascontiguousarray(packed)
    packed = np.empty(space.weight_shape(), weight.dtype)
    for tile in range(space.channel_tiles):
        channels = space.first_group(tile) * cpg + np.arange(space.window)
        values = filled[rows[tile][:, :, None], channels % cpg]  # [vector, lane, channel, R, S]
        owned = (outs[tile] // space.kpg)[:, :, None] == channels // cpg
        values = np.where(owned[..., None, None], values, 0)
        shape = (knobs.vectors, knobs.lanes, space.chunks, space.chunk, r, s)
        packed[tile] = values.reshape(shape).transpose(2, 4, 3, 5, 0, 1)
    return packed


def pack_bias(task: ConvTask, knobs: Knobs, bias: np.ndarray) -> np.ndarray:
    """[K] to [tile, vector, lane], zero in padding lanes."""
    outs = Space(task, knobs).channel_table()
    return np.concatenate([bias, np.zeros(1, bias.dtype)])[np.minimum(outs, bias.shape[0])]


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`, one block a register tile."""
    conv, space = task.conv, Space(task, knobs)
    rows, columns, vectors, lanes = knobs.rows, knobs.columns, knobs.vectors, knobs.lanes
    (r, s), (stride_h, stride_w), (dil_h, dil_w) = conv.kernel_size, conv.stride, conv.dilation
    in_shape = (conv.batch, conv.in_channels, conv.height, conv.width)
    top = task.data.halo[0] - conv.padding[0]
    left = task.data.halo[1] - conv.padding[1]

    def body() -> None:
        data = emit.whole("data", in_shape, task.data)
        weight = emit.buffer("weight", space.weight_shape())
        bias = None
        if task.bias:
            bias = emit.buffer("bias", (space.channel_tiles, vectors, lanes))
        residual = None
        if task.residual is not None:
            residual = emit.interior("residual", conv.output_shape, task.residual)
        out = emit.interior("out", conv.output_shape, task.out)
        grid = dict(n=conv.batch, oc=space.channel_tiles, oh=space.row_tiles, ow=space.column_tiles)
        with emit.loops(**grid) as tile_axes, emit.block("tile"):
            n, oc, oh, ow = (
                emit.spatial(f"v{name}", extent, axis)
                for (name, extent), axis in zip(grid.items(), tile_axes, strict=True)
            )
            acc = emit.local("acc", (rows, columns, vectors, lanes))
            first_row = tile_start(oh, rows, conv.out_height)
            first_column = tile_start(ow, columns, conv.out_width)

            def start(m: Any, lane: Any) -> Any:
                return tirx.const(0.0, "float32") if bias is None else bias[oc, m, lane]

            def pixel(i: Any, j: Any, kh: Any, kw: Any) -> tuple[Any, Any]:
                y = (first_row + i) * stride_h + kh * dil_h + top
                return y, (first_column + j) * stride_w + kw * dil_w + left

            if knobs.mode == "permute":
                _permute_update(space, acc, data, weight, start, pixel, (n, oc))
            else:
                _broadcast_update(space, acc, data, weight, start, pixel, (n, oc))

            tile = dict(i=rows, j=columns, m=vectors, lane=lanes)
            with emit.loops(**tile) as axes, emit.block("store"):
                i, j, m, lane = (
                    emit.spatial(f"v{name}", extent, axis)
                    for (name, extent), axis in zip(tile.items(), axes, strict=True)
                )
                vector = space.first_vector(oc) + m
                chunk, slot = space.out_channel(vector, lane)
                at = [n, chunk, first_row + i, first_column + j, slot]
                value = acc[i, j, m, lane]
                if residual is not None:
                    value = value + residual[tuple(at)]
                emit.store(out, apply_activation(value, task.activation), at)

    return emit.prim_func("conv2d", body)


def _broadcast_update(
    space: Space, acc: Any, data: Any, weight: Any, start: Any, pixel: Any, at: tuple[Any, Any]
) -> None:
    """acc += broadcast(one input channel of a pixel) · weight vector, over the tile's window."""
    knobs, (r, s), (n, oc) = space.knobs, space.conv.kernel_size, at
    outer = dict(cc=space.chunks, kh=r, ci=space.chunk, kw=s)
    inner = dict(i=knobs.rows, j=knobs.columns, m=knobs.vectors, lane=knobs.lanes)
    with emit.loops(**outer, **inner) as axes, emit.block("update"):
        cc, kh, ci, kw = (
            emit.reduce(f"v{name}", extent, axis)
            for (name, extent), axis in zip(outer.items(), axes[:4], strict=True)
        )
        i, j, m, lane = (
            emit.spatial(f"v{name}", extent, axis)
            for (name, extent), axis in zip(inner.items(), axes[4:], strict=True)
        )
        with emit.init():
            emit.store(acc, start(m, lane), [i, j, m, lane])
        chunk, slot = space.data_channel(oc, cc, ci)
        y, x = pixel(i, j, kh, kw)
        product = data[n, chunk, y, x, slot] * weight[oc, cc, kh, ci, kw, m, lane]
        emit.store(acc, acc[i, j, m, lane] + product, [i, j, m, lane])


def _permute_update(
    space: Space, acc: Any, data: Any, weight: Any, start: Any, pixel: Any, at: tuple[Any, Any]
) -> None:
    """acc += permuted input vector · weight vector, for each k of the group."""
    knobs, (r, s), (n, oc), width = space.knobs, space.conv.kernel_size, at, space.cpg
    lanes = knobs.lanes
    outer, inner = dict(kh=r, kw=s), dict(i=knobs.rows, j=knobs.columns)
    with emit.loops(**outer, **inner) as axes, emit.block("update"):
        kh, kw = emit.reduce("vkh", r, axes[0]), emit.reduce("vkw", s, axes[1])
        i = emit.spatial("vi", knobs.rows, axes[2])
        j = emit.spatial("vj", knobs.columns, axes[3])
        every = Ramp(0, 1, lanes)
        with emit.init():
            value = start(0, every)
            value = value if space.task.bias else tirx.Broadcast(value, lanes)
            emit.store(acc, value, [i, j, 0, every])
        y, x = pixel(i, j, kh, kw)
        per_block = space.task.data.block // lanes
        first = oc % per_block * lanes if per_block > 1 else 0
        pixel_vector = data[n, oc // per_block, y, x, Ramp(first, 1, lanes)]
        value = acc[i, j, 0, every]
        for k in range(width):
            source = [lane // width * width + k for lane in range(lanes)]
            operand = pixel_vector if width == 1 else tirx.Shuffle([pixel_vector], source)
            value = value + operand * weight[oc, kh, kw, k, every]
        emit.store(acc, value, [i, j, 0, every])


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over tiles of rows, the tile unrolled into registers, lanes vectorised."""
    tile, update, write = (sch.get_sblock(name) for name in ("tile", "update", "store"))
    n, oc, oh, _ow = sch.get_loops(tile)
    outer = sch.fuse(n, oc, oh)
    if device.cores > 1 and task.conv.macs >= PARALLEL_MACS:
        sch.parallel(outer)
    *_, i, j, m, lane = sch.get_loops(write)
    for loop in (i, j, m):
        sch.unroll(loop)
    sch.vectorize(lane)
    if knobs.mode == "permute":
        *_, kh, kw, i, j = sch.get_loops(update)
        unrolled = [i, j]
        first_reduction = kh
    else:
        *_, cc, _kh, _ci, kw, i, j, m, lane = sch.get_loops(update)
        unrolled = [i, j, m]
        first_reduction = cc
        sch.vectorize(lane)
    for loop in unrolled:
        sch.unroll(loop)
    if knobs.unroll_kw:
        sch.unroll(kw)
    sch.decompose_reduction(update, first_reduction)
    return sch
