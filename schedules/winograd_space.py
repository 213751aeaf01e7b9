"""How Winograd convolution cuts its work: tiles of pixels, windows of groups, parts of channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from edgeconv.schedules.common import ceil_div, minimum, tile_start
from edgeconv.workload import Conv2d, ConvTask


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors of output channels.
        tile: side of an output tile.
        groups: groups of a window.
        parts: parts the output channels of a window are cut into.
        tiles: output tiles transformed and multiplied together.
        rows, vectors: tiles and channel vectors of a register tile of the matrix products.
        ahead: whether pixels are prefetched beside the products.
        bands: parts of the map, all windows of one computed before the next.
    """

    lanes: int
    tile: int
    groups: int
    parts: int
    tiles: int
    rows: int
    vectors: int
    ahead: bool = False
    bands: int = 1


def taps(conv: Conv2d) -> int:
    """Taps a side of the convolutions of stride 1 that a square kernel is taken apart into."""
    return ceil_div(conv.kernel_size[0], conv.stride[0])


class Space:
    """How output tiles fall into blocks, and channels into windows, parts and register tiles.

    Methods take ints or TIR expressions alike, so packing and code generation share one definition.
    """

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        conv, lanes = task.conv, knobs.lanes
        self.task, self.conv, self.knobs, self.lanes = task, conv, knobs, lanes
        self.taps, self.components = taps(conv), conv.stride[0] * conv.stride[1]
        self.side = knobs.tile + self.taps - 1  # of an input tile
        self.products = self.side**2
        self.blocks = ceil_div(self.count(task, knobs.tile), knobs.tiles)
        self.band = ceil_div(self.blocks, knobs.bands)  # blocks of one
        # output channels: vectors of the window, of a part, register tiles of a part
        self.padded = task.out.block != conv.out_channels
        self.run_out = knobs.groups * conv.out_channels_per_group
        self.stored = lanes if self.padded else min(lanes, self.run_out)  # lanes of a vector
        self.out_vectors = ceil_div(self.run_out, lanes)
        self.all_vectors = ceil_div(conv.out_channels, lanes)
        groups, self.groups = conv.groups, knobs.groups  # groups a window reads
        self.windows = ceil_div(groups, knobs.groups)
        if self.padded:
            self.out_vectors = min(self.out_vectors, self.all_vectors)
            self.windows = ceil_div(self.all_vectors, self.out_vectors)
            starts = [self.first_vector(w) for w in range(self.windows)]
            self.groups = max(self.group_span(s, self.out_vectors)[1] for s in starts)
        self.run_in = self.groups * conv.in_channels_per_group
        self.part = ceil_div(self.out_vectors, knobs.parts)
        self.channel_tiles = ceil_div(self.part, knobs.vectors)
        # input channels: vectors that cover the window wherever it starts
        self.nhwc = task.data.block == conv.in_channels
        self.in_lanes = lanes
        while self.in_lanes > conv.in_channels if self.nhwc else task.data.block % self.in_lanes:
            self.in_lanes //= 2
        self.in_vectors = ceil_div(self.run_in, self.in_lanes)
        if not self.nhwc:
            starts = [self.in_start(w) for w in range(self.windows)]
            ends = [ceil_div(min(s + self.run_in, conv.in_channels), self.in_lanes) for s in starts]
            spans = [e - s // self.in_lanes for s, e in zip(starts, ends, strict=True)]
            self.in_vectors = max(spans)
        self.width = self.in_vectors * self.in_lanes
        if self.nhwc:
            self.width = max(self.run_in, self.in_lanes)

    @staticmethod
    def count(task: ConvTask, tile: int) -> int:
        """Tiles of one map, all phases of the dilation."""
        rows, columns = Space.phase_tiles(task, tile)
        return rows * columns * task.conv.dilation[0] * task.conv.dilation[1]

    @staticmethod
    def phase_tiles(task: ConvTask, tile: int) -> tuple[int, int]:
        """Rows and columns of tiles of the largest phase."""
        conv = task.conv
        rows = ceil_div(ceil_div(conv.out_height, conv.dilation[0]), tile)
        return rows, ceil_div(ceil_div(conv.out_width, conv.dilation[1]), tile)

    def corner(self, number: Any) -> tuple[Any, Any]:
        """First output row and column of a tile; tiles are counted through rows of all phases."""
        conv, columns = self.conv, self.phase_tiles(self.task, self.knobs.tile)[1]
        across = columns * conv.dilation[1]
        row = self._start(number // across, conv.out_height, conv.dilation[0])
        return row, self._start(number % across, conv.out_width, conv.dilation[1])

    def _start(self, index: Any, extent: int, dilation: int) -> Any:
        """Output row (or column) where tile row `index` starts; the last of a phase overlaps."""
        size = self.knobs.tile
        if dilation == 1:
            return tile_start(index, size, extent)
        phase, number = index % dilation, index // dilation
        pixels = (extent - 1 - phase) // dilation + 1
        return phase + dilation * minimum(number * size, pixels - size)

    def first_vector(self, window: Any) -> Any:
        """First vector of output channels of a window; the last overlaps its neighbour."""
        return tile_start(window, self.out_vectors, self.all_vectors)

    def group_span(self, vector: Any, vectors: int) -> tuple[Any, Any]:
        """(first, number) of the groups with channels in `vectors` vectors from `vector` on."""
        kpg, groups = self.conv.out_channels_per_group, self.conv.groups
        if groups == 1:
            return 0, 1
        first = vector * self.lanes // kpg
        last = minimum(((vector + vectors) * self.lanes - 1) // kpg, groups - 1)
        return first, last - first + 1

    def first_group(self, window: Any) -> Any:
        """First group a window reads."""
        if not self.padded:
            return tile_start(window, self.knobs.groups, self.conv.groups)
        return self.group_span(self.first_vector(window), self.out_vectors)[0]

    def tile_channels(self, window: Any, part: Any, channel_tile: Any) -> tuple[Any, Any]:
        """(first, number) of the input channels a register tile sums."""
        cpg = self.conv.in_channels_per_group
        if not self.padded:
            return self.in_start(window), self.run_in
        vector = self.first_vector(window) + self.part_start(part) + self.tile_vector(channel_tile)
        first, groups = self.group_span(vector, self.knobs.vectors)
        return first * cpg, groups * cpg

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Input channels of every register tile, or of all if they are alike."""
        if not self.padded or self.conv.groups == 1:
            return (self.run_in,)
        # asked for with many other knobs
        return _depths(self.task, replace(self.knobs, tiles=1, rows=1))

    @property
    def depth(self) -> int:
        """The most input channels that a register tile sums."""
        return max(self.depths)

    @property
    def uniform(self) -> bool:
        """Whether all register tiles sum as many."""
        return len(set(self.depths)) == 1

    def mean_depth(self) -> float:
        """Input channels of a register tile, on average."""
        return sum(self.depths) / len(self.depths)

    def tile_depths(self) -> Iterator[int]:
        """Input channels of every register tile."""
        for window in range(self.windows):
            for part in range(self.knobs.parts):
                for channel_tile in range(self.channel_tiles):
                    yield self.tile_channels(window, part, channel_tile)[1]

    def in_start(self, window: Any) -> Any:
        """First input channel a window multiplies."""
        return self.first_group(window) * self.conv.in_channels_per_group

    def in_base(self, window: Any) -> Any:
        """First input channel a window transforms: at most `in_start`, so that vectors fit."""
        start = self.in_start(window)
        if self.windows == 1:
            return 0
        if self.nhwc:
            return minimum(start, self.conv.in_channels - self.width)
        vectors = ceil_div(self.conv.in_channels, self.in_lanes)
        return minimum(start // self.in_lanes, vectors - self.in_vectors) * self.in_lanes

    def in_vector(self, number: Any) -> Any:
        """Where an input vector starts, counted from `in_base`; in NHWC the last overlaps."""
        return tile_start(number, self.in_lanes, self.width)

    def out_channel(self, window: Any, vector: Any) -> Any:
        """First output channel of a vector of a window."""
        if self.padded:
            return (self.first_vector(window) + vector) * self.lanes
        start = self.first_group(window) * self.conv.out_channels_per_group
        if self.run_out < self.lanes:
            return start + vector * self.lanes
        return start + tile_start(vector, self.lanes, self.run_out)

    def part_start(self, part: Any) -> Any:
        """First vector of a part; the last overlaps its neighbour."""
        return tile_start(part, self.part, self.out_vectors)

    def tile_vector(self, channel_tile: Any) -> Any:
        """First vector of a register tile, counted from its part's; the last overlaps."""
        return tile_start(channel_tile, self.knobs.vectors, self.part)

    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the packed weights: [window, part, product, tile, component, channel, vector,
        lane].
        """
        inner = (self.components, self.depth, self.knobs.vectors, self.lanes)
        return (self.windows, self.knobs.parts, self.products, self.channel_tiles, *inner)

    @property
    def unit_weights(self) -> int:
        """Packed weights that one part of a window reads."""
        vectors = self.channel_tiles * self.knobs.vectors
        return self.products * vectors * self.components * self.depth * self.lanes

    def channel_table(self) -> np.ndarray:
        """Output channel of every [window, vector, lane]; K stands for a lane without one."""
        k = self.conv.out_channels
        starts = [
            [self.out_channel(w, v) for v in range(self.out_vectors)] for w in range(self.windows)
        ]
        table = np.array(starts)[:, :, None] + np.arange(self.lanes)
        table[:, :, self.stored :] = k
        return np.minimum(table, k)


@lru_cache(maxsize=256)
def _depths(task: ConvTask, knobs: Knobs) -> tuple[int, ...]:
    return tuple(Space(task, knobs).tile_depths())
