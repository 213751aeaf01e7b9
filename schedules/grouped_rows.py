"""Grouped convolution of row-major maps: vectors along the pixels, each weight in all lanes.

Groups of 3, 5, 6, 7, 12 or 20 channels leave vectors of channels half empty. Vectors of pixels
are full whatever the groups are, and NCHW needs no relayout. This is the k×k sibling of
planar_pointwise and depthwise_rows.

    parallel (n, group, strip of output rows)
      planes = the group's input rows, with zeros around the map       scratch, if need be
      output-channel tile → pixel tile
        acc[channels, vectors, lanes] = bias                           registers
        input channel → kh → kw (unrolled)
          acc += pixel vector · broadcast(weight)
        out = activation(acc + residual)

Pixels are tiled in one of two ways. By rows, a tile holds whole vectors of a few rows, and is
stored from registers. Flat, rows are strung together: where input rows lie `pitch` apart, the
output at pitch·y + x reads what lies at a constant distance from pitch·y + x, so vectors may run
from one row into the next. Only the few columns that separate rows are computed in vain, where a
map of 20 columns would leave 12 of 32 lanes empty. The sums then pass through scratch, from which
rows are stored without those columns.

The scratch planes stand in for a halo where the input has none, or where strides part its rows and
columns: rows y·sy + i and columns x·sx + j are planes of their own, contiguous for each tap. The
zeros to the right of a row are those to the left of the next.

Layouts: data and out are [N, C, H, W] with or without a halo; weights see `pack_weights`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule

from edgeconv.schedules import emit
from edgeconv.schedules.common import (
    CACHE_LINE,
    FMA_LATENCY,
    L2_BYTES_PER_CYCLE,
    Mismatch,
    ceil_div,
    is_even,
    is_partial,
    narrowed,
    run_parallel,
    starts,
    tile_start,
)
from edgeconv.schedules.grouped_rows_kernel import Kernel
from edgeconv.schedules.traffic import exceeds_l2, map_bytes, shares_map
from edgeconv.targets import Device
from edgeconv.workload import Conv2d, ConvTask

PLANE_BYTES = 256 << 10  # scratch planes of a strip: they stay in the second-level cache
SUM_BYTES = 16 << 10  # sums of a strip on their way to the output: in the first-level cache
L3_BYTES_PER_CYCLE = 10  # of data read in place
FAR_CYCLES = 0.17  # a byte of maps from memory, prefetched; 0.35 otherwise (Zen 4)
WAY = 4096  # bytes from one line to the next that competes with it for the same cache set
MOST_CHANNELS = 12  # of a register tile
TILE_CYCLES = 12  # loops and addresses of a register tile
ROW_CYCLES = 2  # loops and addresses of a row that is copied
SPLIT_STORE = 2.5  # cycles more that a vector stored across two cache lines takes


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors.
        flat: rows are strung together, not each cut into vectors of its own.
        scratch: input rows are first copied into planes of the kernel's own.
        rows, columns: rows, and pixel vectors of a row, of a register tile; flat: 1 and all.
        channels: output channels of a register tile.
        ahead: strips of a group that a core computes one after the other, if register tiles
            prefetch the input of the next and the output of their own; 0: they don't.
    """

    lanes: int
    flat: bool
    scratch: bool
    rows: int
    columns: int
    channels: int
    ahead: int = 0


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """Row-major maps, a horizontal stride of 1 or 2, and not the work of the special families."""
    conv = task.conv
    if conv.out_channels_per_group == 1 and conv.is_depthwise:
        return Mismatch("one channel a group")
    if conv.is_pointwise:
        return Mismatch("a 1x1 kernel")
    layouts = [task.data, task.out, *([] if task.residual is None else [task.residual])]
    if any(layout.block != 1 for layout in layouts):
        return Mismatch("channels lie in blocks")
    if conv.stride[1] > 2:
        return Mismatch(f"a horizontal stride of {conv.stride[1]}")
    if (partial := is_partial(task)) is not None:
        return partial
    if conv.slices is not None:
        return Mismatch("several slices of a volume are summed")
    return None


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    conv = task.conv
    most = device.vector_registers - (4 if device.vector_registers > 16 else 2)
    for flat, scratch in ((True, True), (True, False), (False, True), (False, False)):
        lanes = _lanes(conv, device.lanes) if flat else device.lanes
        if not _is_legal(task, lanes, flat=flat, scratch=scratch):
            continue
        for rows, columns in _pixel_tiles(conv, lanes, most // 2, flat=flat):
            vectors = rows * columns
            for channels in range(1, min(conv.out_channels_per_group, MOST_CHANNELS) + 1):
                if vectors * channels + 2 * min(vectors, channels) <= most:
                    knobs = Knobs(lanes, flat, scratch, rows, columns, channels)
                    yield replace(knobs, ahead=_ahead(task, knobs, device))


def _ahead(task: ConvTask, knobs: Knobs, device: Device) -> int:
    """Strips of a group that a core computes, of a map that the second-level cache can't hold."""
    if not exceeds_l2(task.conv, device):
        return 0
    strips = Space(task, knobs).strips
    shared = shares_map(task.conv) and is_even(strips, device.cores)
    return ceil_div(strips, device.cores) if shared else strips


def _lanes(conv: Conv2d, lanes: int) -> int:
    """Vector width for the pixels of a whole map: narrower where a map is smaller."""
    while lanes > 4 and lanes // 2 >= conv.out_height * (conv.out_width + 1):
        lanes //= 2
    return lanes


def _is_legal(task: ConvTask, lanes: int, *, flat: bool, scratch: bool) -> bool:
    """Whether pixels can be tiled so, and read from there."""
    conv = task.conv
    if not flat and conv.out_width < lanes:
        return False
    if scratch:
        return True
    rim = all(h >= p for h, p in zip(task.data.halo, conv.padding, strict=True))
    if not rim or conv.stride[1] > 1:
        return False
    if not flat:
        return True
    space = Space(task, Knobs(lanes, True, False, 1, 1, 1))
    return conv.stride[0] == 1 and space.positions(conv.out_height) >= lanes


def _pixel_tiles(conv: Conv2d, lanes: int, most: int, *, flat: bool) -> Iterator[tuple[int, int]]:
    """(rows, columns) of register tiles with up to `most` vectors."""
    if flat:
        vectors = ceil_div(conv.out_height * (conv.out_width + 1), lanes)
        yield from ((1, columns) for columns in range(1, min(most, vectors) + 1))
        return
    whole = ceil_div(conv.out_width, lanes)
    for rows in range(1, min(6, conv.out_height) + 1):
        for columns in range(1, min(most // rows, whole) + 1):
            if columns == whole or columns * lanes <= conv.out_width:
                yield rows, columns


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core: per tile the longest of multiply-adds, loads and latency; copies into
    scratch and out of it.
    """
    conv, space = task.conv, Space(task, knobs)
    lanes, channels = knobs.lanes, knobs.channels
    share = lanes * 4 / CACHE_LINE  # of the vectors, laid anywhere, that lie across two lines
    split = 1 + SPLIT_STORE * share
    aligned = not conv.out_width % lanes and not any(task.out.halo)

    def tile(vectors: int) -> float:
        fmas = vectors * channels / device.fma_ports
        loads = device.load_cycles(vectors * (1 + share), channels)
        store = 1 if knobs.flat or aligned else split
        step = max(fmas, loads, FMA_LATENCY)
        return space.steps * step + TILE_CYCLES + (1 + store) * vectors * channels

    cycles = space.full_tiles * tile(knobs.rows * knobs.columns)
    if space.tail:
        cycles += tile(len(space.tail))
    if knobs.flat:
        cycles += channels * space.strip * _row_cycles(conv.out_width, lanes, 1)
    cycles *= space.channel_tiles
    if knobs.scratch:
        width = ceil_div(conv.width, space.px)
        gap = ceil_div(max(space.pitch - width, 1), lanes) * split
        row = _row_cycles(width, lanes, space.px) + gap
        cycles += space.cpg * space.strip_rows * space.px * row
    cycles *= conv.batch * conv.groups * space.strips
    size = conv.batch * map_bytes(conv)
    if exceeds_l2(conv, device):
        fetched = 4 * math.prod(conv.output_shape) + (size if knobs.scratch else 0)
        cycles += FAR_CYCLES * fetched
    if knobs.scratch:
        return cycles
    # rows of many channels at once are more streams than the hardware prefetches, in L2 as well
    far = 2 * size > device.l2_kib * 1024
    return cycles + size / (L3_BYTES_PER_CYCLE if far else L2_BYTES_PER_CYCLE)


def _row_cycles(width: int, lanes: int, loads: float) -> float:
    """Cycles to copy a row that lies anywhere."""
    lanes = narrowed(lanes, width)
    split = 1 + SPLIT_STORE * lanes * 4 / CACHE_LINE
    return ceil_div(width, lanes) * (loads + split) / 1.5 + ROW_CYCLES


class Space:
    """How channels and pixels fall into tiles, and where the pixels of the input lie."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        conv = task.conv
        self.task, self.knobs, self.conv = task, knobs, conv
        self.cpg, self.kpg = conv.in_channels_per_group, conv.out_channels_per_group
        self.taps, (self.dy, self.dx) = conv.kernel_size, conv.dilation
        self.steps = self.cpg * self.taps[0] * self.taps[1]
        self.channel_tiles = ceil_div(self.kpg, knobs.channels)
        # planes of rows and columns that a stride parts; in place there is one
        self.py, self.px = conv.stride if knobs.scratch else (1, 1)
        self.row_step = 1 if knobs.scratch else conv.stride[0]  # rows of a plane to the next output
        self.row_reach = (self.taps[0] - 1) * self.dy
        # where rows are not strung together, they start at the start of a vector
        self.origin = -(conv.padding[1] // self.px) % knobs.lanes if not knobs.flat else 0
        self.origin = self.origin if knobs.scratch else 0
        self.pitch = self._pitch()
        self.strip = self._strip()
        self.strips = ceil_div(conv.out_height, self.strip)
        self.strip_rows = (self.strip - 1) * conv.stride[0] + self.row_reach + 1
        # behind the last row lie zeros that vectors of the next rows' zeros are written with
        plane = ceil_div(self.strip_rows, self.py) * self.pitch + 2 * knobs.lanes
        plane = ceil_div(plane, knobs.lanes) * knobs.lanes
        self.plane = plane + (knobs.lanes if plane * 4 % (WAY // 4) == 0 else 0)
        self.sums = ceil_div(self.positions(self.strip), knobs.lanes) * knobs.lanes
        self._tile()

    def _pitch(self) -> int:
        """Elements from a row of a plane to the next."""
        conv = self.conv
        if not self.knobs.scratch:
            return self.task.data.halo[1] + conv.width + self.task.data.halo[3]
        need = conv.out_width + (self.taps[1] - 1) * self.dx // self.px + self.origin
        spans = [self.span(phase) for phase in range(self.px)]
        pitch = max(conv.out_width, *(max(high, need - low) for low, high in spans))
        lanes = self.knobs.lanes
        return pitch if self.knobs.flat else ceil_div(pitch, lanes) * lanes

    def span(self, phase: int) -> tuple[int, int]:
        """Where the map's columns of a phase start and end in a row of its plane."""
        left = self.conv.padding[1]
        low = self.origin + ceil_div(max(left - phase, 0), self.px)
        return low, low + self.width(phase)

    def width(self, phase: int) -> int:
        """The map's columns of a phase."""
        left = self.conv.padding[1]
        low = ceil_div(max(left - phase, 0), self.px)
        return ceil_div(left + self.conv.width - phase, self.px) - low

    def _strip(self) -> int:
        """Output rows of a strip: all, or as many as scratch may hold."""
        conv, knobs = self.conv, self.knobs
        strip = conv.out_height
        if knobs.flat:
            strip = min(strip, max(SUM_BYTES // (4 * knobs.channels * self.pitch), 1))
        if knobs.scratch:
            row = self.cpg * self.px * self.pitch * 4
            rows = max(PLANE_BYTES // row - self.row_reach, 1)
            strip = min(strip, max(rows // conv.stride[0], 1))
        strip = ceil_div(conv.out_height, ceil_div(conv.out_height, strip))
        return max(strip, min(knobs.rows, conv.out_height))

    def positions(self, rows: int) -> int:
        """Outputs of a channel, the columns between rows included."""
        return (rows - 1) * self.pitch + self.conv.out_width

    def _tile(self) -> None:
        """Full pixel tiles of a strip, and of flat ones the vectors of the last."""
        knobs, lanes = self.knobs, self.knobs.lanes
        self.tail: list[int] = []  # positions
        if not knobs.flat:
            width = self.conv.out_width
            whole = knobs.columns == ceil_div(width, lanes)
            self.column_tiles = 1 if whole else ceil_div(width, knobs.columns * lanes)
            self.row_tiles = ceil_div(self.strip, knobs.rows)
            self.full_tiles = self.column_tiles * self.row_tiles
            return
        total = self.positions(self.strip)
        self.full_tiles = total // (knobs.columns * lanes)
        done = self.full_tiles * knobs.columns * lanes
        if done < total:
            last = max(total - lanes, 0)
            self.tail = [min(x, last) for x in range(done, total, lanes)]

    def offsets(self) -> list[tuple[int, int]]:
        """(row, column) of each vector of a full tile, from the tile's first."""
        knobs, lanes = self.knobs, self.knobs.lanes
        columns = [j * lanes for j in range(knobs.columns)]
        if not knobs.flat and self.column_tiles == 1:
            columns = starts(self.conv.out_width, lanes)
        return [(i, x) for i in range(knobs.rows) for x in columns]

    def channel(self, tile: Any) -> Any:
        """First output channel of a tile within its group; the last overlaps its neighbour."""
        return tile_start(tile, self.knobs.channels, self.kpg)

    def tap(self, kh: Any, kw: int) -> tuple[Any, Any]:
        """(number of the plane, distance in it) that a tap reads."""
        row, column = kh * self.dy, kw * self.dx
        number = row % self.py * self.px + column % self.px
        return number, row // self.py * self.pitch + column // self.px + self.origin


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """OIHW [K, CPG, R, S] to [group, tile, CPG, R, S, channel], the order the kernel reads."""
    space = Space(task, knobs)
    first = np.array([space.channel(tile) for tile in range(space.channel_tiles)])
    grouped = weight.reshape(task.conv.groups, space.kpg, *weight.shape[1:])
    tiles = grouped[:, first[:, None] + np.arange(knobs.channels)]
    return np.ascontiguousarray(tiles.transpose(0, 1, 3, 4, 5, 2))


def pack_bias(task: ConvTask, knobs: Knobs, bias: np.ndarray) -> np.ndarray:
    """[K], unchanged."""
    return np.ascontiguousarray(bias)


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`, one block a strip of a group."""
    return emit.prim_func("grouped_rows", Kernel(task, knobs, Space(task, knobs)).emit)


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over strips; the body is written as it is to run."""
    loops = sch.get_loops(sch.get_sblock("tile"))
    share = shares_map(task.conv)
    run_parallel(sch, loops, task.conv.macs, device, along=loops[-1:], share_map=share)
    return sch
