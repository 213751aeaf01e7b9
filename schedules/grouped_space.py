"""How Grouped Spatial Pack cuts its work: pixels into tiles and bands, channels into vectors and
windows of groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from edgeconv.operators.convolution import shuffled
from edgeconv.schedules.common import ceil_div, lacks_halo, minimum, tile_start
from edgeconv.workload import ConvTask


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors, at most the device's.
        rows, columns: output pixels of a register tile.
        vectors: channel vectors of a register tile.
        per_group: vectors are cut from each group apart, not from the whole channel range.
        unroll_kw: whether the horizontal taps are unrolled into the body.
        quad: input channels loaded as one vector, from whose lanes they are broadcast; 1: each
            channel is loaded by itself.
        bands: parts of the output's rows, all channels of one computed before the next.
        ahead: tiles from one to that whose pixels it prefetches, in groups
            bands, or rows of tiles where there are none; 0: none.
        peeled: whether tiles at the left and right border have code of their own, without the taps
            of single pixels that read only padding. Without a halo they always have.
    """

    lanes: int
    rows: int
    columns: int
    vectors: int
    per_group: bool
    unroll_kw: bool
    quad: int = 1
    bands: int = 1
    ahead: int = 0
    peeled: bool = False


class Space:
    """The iteration space of a task under given knobs: how channels fall into vectors, tiles and
    windows.

    Methods take ints or TIR expressions alike, so packing and code generation share one definition.
    """

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        conv = task.conv
        self.task, self.knobs, self.conv = task, knobs, conv
        self.kpg, self.cpg = conv.out_channels_per_group, conv.in_channels_per_group
        self.row_tiles = ceil_div(conv.out_height, knobs.rows)
        self.column_tiles = ceil_div(conv.out_width, knobs.columns)
        self.flat = conv.out_height == 1  # bands are parts of the row
        self.band = ceil_div(self.column_tiles if self.flat else self.row_tiles, knobs.bands)
        run = self.kpg if knobs.per_group else conv.out_channels  # channels vectors are cut from
        self.run_vectors = ceil_div(run, knobs.lanes)
        self.run_tiles = ceil_div(self.run_vectors, knobs.vectors)
        self.inside = lacks_halo(task) is not None  # no tap may read outside of the image
        self.peeled = self.inside or knobs.peeled
        # a vector wider than its group is stored in part
        self.stored = min(knobs.lanes, self.kpg) if knobs.per_group else knobs.lanes
        self.channel_tiles = self.run_tiles * (conv.groups if knobs.per_group else 1)
        self.padded = task.out.block not in (1, conv.out_channels)
        self.groups_per_window = 1
        for tile in range(self.channel_tiles if conv.groups > 1 and not knobs.per_group else 0):
            low, high = self._groups(tile)
            self.groups_per_window = max(self.groups_per_window, high - low)
        self.window = self.groups_per_window * self.cpg  # input channels a tile reads
        block = task.data.block
        aligned = self.window % block == 0 and (conv.groups == 1 or self.cpg % block == 0)
        self.aligned = aligned and conv.input_shuffle == 1
        self.chunks = self.window // block if self.aligned else 1
        self.chunk = block if self.aligned else self.window

    @property
    def bands(self) -> int:
        """Parts of the map, the last perhaps smaller."""
        return ceil_div(self.column_tiles if self.flat else self.row_tiles, self.band)

    def band_tiles(self) -> dict[str, int]:
        """Tiles of a band: rows of them, columns of them."""
        if self.flat:
            return dict(oh=1, ow=self.band)
        return dict(oh=self.band, ow=self.column_tiles)

    def in_map(self, band: Any, oh: Any, ow: Any) -> tuple[Any, Any]:
        """Row and column in the map of a tile of a band."""
        first = band * self.band
        return (oh, first + ow) if self.flat else (first + oh, ow)

    def leave_out_tiles_behind_the_end(self, band: Any, oh: Any, ow: Any) -> None:
        """In the last band, by the loops' variables."""
        extent = self.column_tiles if self.flat else self.row_tiles
        if extent % self.band:
            T.where(self.in_map(band, oh, ow)[1 if self.flat else 0] < extent)

    def number_in_band(self, oh: Any, ow: Any) -> Any:
        """How many tiles of its band come before a tile of the map."""
        return ow % self.band if self.flat else oh % self.band * self.column_tiles + ow

    @property
    def adjacent(self) -> bool:
        """Whether the channels of every quad lie side by side in the data."""
        one_block = self.task.data.block == self.conv.in_channels and self.conv.input_shuffle == 1
        return (self.aligned or one_block) and self.chunk % self.knobs.quad == 0

    @property
    def tiles(self) -> int:
        """Register tiles in the whole output."""
        return self.conv.batch * self.channel_tiles * self.row_tiles * self.column_tiles

    def channel(self, tile: Any, m: Any) -> Any:
        """First output channel of vector `m` of a tile; without padding lanes the last overlaps."""
        knobs = self.knobs
        run_tile = tile % self.run_tiles if knobs.per_group else tile
        vector = tile_start(run_tile, knobs.vectors, self.run_vectors) + m
        if knobs.per_group:
            first = tile // self.run_tiles * self.kpg
            return first + tile_start(vector, self.stored, self.kpg)
        if self.padded:
            return vector * knobs.lanes
        return tile_start(vector, knobs.lanes, self.conv.out_channels)

    def _groups(self, tile: int) -> tuple[int, int]:
        """First and one-past-last group whose outputs the tile holds."""
        high = self.channel(tile, self.knobs.vectors - 1) + self.knobs.lanes
        last = min(high, self.conv.out_channels) - 1
        return self.channel(tile, 0) // self.kpg, last // self.kpg + 1

    def first_group(self, tile: Any) -> Any:
        """First group of the tile's input window."""
        if self.groups_per_window == self.conv.groups:
            return 0
        if self.knobs.per_group:
            return tile // self.run_tiles
        group = self.channel(tile, 0) // self.kpg
        return minimum(group, self.conv.groups - self.groups_per_window)

    def in_channel(self, tile: Any) -> Any:
        """First input channel of the tile's window."""
        return self.first_group(tile) * self.cpg

    def out_run(self, tile: Any) -> tuple[Any, int]:
        """First output channel of the tile, and how many it holds at most."""
        most = (self.knobs.vectors - 1) * self.knobs.lanes + self.stored
        run = self.kpg if self.knobs.per_group else self.conv.out_channels
        return self.channel(tile, 0), min(most, run)

    def data_channel(self, tile: Any, cc: Any, ci: Any) -> tuple[Any, Any]:
        """(chunk, lane) in the data layout of channel (cc, ci) of the tile's window."""
        block, group, conv = self.task.data.block, self.first_group(tile), self.conv
        if self.aligned:
            return group * (self.cpg // block) + cc, ci
        channel = shuffled(group * self.cpg + ci, conv.in_channels, conv.input_shuffle)
        return channel // block, channel % block

    def out_channel(self, tile: Any, m: Any, lane: Any) -> tuple[Any, Any]:
        """(chunk, lane) in the output layout of a lane of a vector."""
        block, lanes, channel = self.task.out.block, self.knobs.lanes, self.channel(tile, m)
        if self.padded:
            vector, per_block = channel // lanes, block // lanes
            return vector // per_block, vector % per_block * lanes + lane
        return (channel + lane, 0) if block == 1 else (0, channel + lane)

    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the packed weights: [tile, chunk, R, quad, S, channel, vector, lane]."""
        r, s, quad = self.conv.tap_rows, self.conv.kernel_size[1], self.knobs.quad
        inner = (quad, self.knobs.vectors, self.knobs.lanes)
        return (self.channel_tiles, self.chunks, r, self.chunk // quad, s, *inner)

    def channel_table(self) -> np.ndarray:
        """Output channel of every [tile, vector, lane]; K and above are padding."""
        starts = [
            [self.channel(t, m) for m in range(self.knobs.vectors)]
            for t in range(self.channel_tiles)
        ]
        return np.array(starts)[:, :, None] + np.arange(self.knobs.lanes)
