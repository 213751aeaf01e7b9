"""The register tiles of depthwise kernels with a channel in every lane.

    row tile → column tile
      acc[rows, columns, lanes] = start                                  registers
      input row → input column: one vector, multiplied into every output pixel it reaches

Each input pixel is loaded once for all taps and output rows that need it. Large filters keep the
horizontal tap as a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from edgeconv.schedules import emit
from edgeconv.schedules.common import MAX_UNROLLED_FMAS, ceil_div, tap_uses, tile_start
from edgeconv.schedules.padding import input_row_inside
from edgeconv.targets import Device
from edgeconv.workload import Conv2d

Pixel = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class DepthwiseTiles:
    """How a strip of output rows is cut into register tiles.

    Attributes:
        conv: the workload.
        strip: output rows of the strip.
        rows, columns: output pixels of a tile.
        unroll_kw: whether the horizontal taps are unrolled into the body.
    """

    conv: Conv2d
    strip: int
    rows: int
    columns: int
    unroll_kw: bool

    @property
    def row_tiles(self) -> int:
        """Tiles along the height of a strip."""
        return ceil_div(self.strip, self.rows)

    @property
    def column_tiles(self) -> int:
        """Tiles along the width."""
        return ceil_div(self.conv.out_width, self.columns)

    @property
    def pixels(self) -> list[tuple[int, int]]:
        """Output pixels of a tile."""
        return [(i, j) for i in range(self.rows) for j in range(self.columns)]

    def row_uses(self) -> dict[int, list[tuple[int, int]]]:
        """For every input row of a tile that is read: the (output row, kh) that read it."""
        conv = self.conv
        return tap_uses(self.rows, conv.kernel_size[0], conv.stride[0], conv.dilation[0])

    def column_uses(self) -> dict[int, list[tuple[int, int]]]:
        """For every input column of a tile that is read: the (output column, kw) that read it."""
        conv = self.conv
        return tap_uses(self.columns, conv.kernel_size[1], conv.stride[1], conv.dilation[1])

    @property
    def whole(self) -> bool:
        """Whether a row of tiles is the whole map."""
        return self.strip == self.conv.out_height and self.row_tiles == 1

    def columns_inside(self) -> dict[int, list[tuple[int, int]]]:
        """As `column_uses`, without columns that lie beside the map in every tile."""
        uses, conv = self.column_uses(), self.conv
        if self.column_tiles > 1:
            return uses
        return {c: pairs for c, pairs in uses.items() if 0 <= c - conv.padding[1] < conv.width}

    def rows_inside(self, row: Any) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """The input rows of the tile at a row of the output that exist, with their uses; what
        follows runs for those only.
        """
        conv = self.conv
        for r, uses in self.row_uses().items():
            y = r if self.whole else row * conv.stride[0] + r
            inside = input_row_inside(conv, y - conv.padding[0], whole=self.whole)
            if inside is not False:
                with emit.when(inside):
                    yield r, uses

    def emit(
        self,
        top: Any,
        accumulator: Callable[[int, int], tuple[Any, list[Any]]],
        start: Callable[[], Any],
        weight: Callable[[Any, int], Any],
        pixel: Pixel,
        finish: Callable[[Any, Any, Any], None],
        fetch: Callable[[tuple[Any, Any], Any, int], None] | None = None,
    ) -> None:
        """All tiles of a strip, as statements.

        Args:
            top: the strip's first row in the output.
            accumulator: (array, index) of the accumulator of a pixel of the tile.
            start: first value of the accumulators, a vector.
            weight: vector of the tap (kw, kh).
            pixel: vector at a row and column of the strip's input, the padding counted.
            finish: takes a result, and its row and column in the strip's output.
            fetch: prefetches a part for the tile below one; takes the row and column of the latter
                in the strip's output, the number of the part and how many there are.
        """
        (sy, sx), (_, dx) = self.conv.stride, self.conv.dilation
        taps = self.conv.kernel_size

        def column_of_weights(kw: Any) -> list[Any]:
            return [T.Bind(weight(kw, kh)) for kh in range(taps[0])]

        def add(x: Any, i: int, j: int, factor: Any) -> None:
            array, at = accumulator(i, j)
            emit.store(array, array[tuple(at)] + x * factor, at)

        weights = {}
        if self.unroll_kw:
            weights = {kw: column_of_weights(kw) for kw in range(taps[1])}
        with T.serial(0, self.row_tiles) as t, T.serial(0, self.column_tiles) as q:
            row = tile_start(t, self.rows, self.strip)
            column = tile_start(q, self.columns, self.conv.out_width)
            first = T.Bind(start())
            for i, j in self.pixels:
                array, at = accumulator(i, j)
                emit.store(array, first, at)

            def load(r: Any, c: Any, row: Any = row, column: Any = column) -> Any:
                return T.Bind(pixel(row * sy + r, column * sx + c))

            if self.unroll_kw:
                inside, all_rows = self.columns_inside(), sorted(self.row_uses())
                middle = all_rows[len(all_rows) // 2]  # the least likely to be padding
                for r, rows in self.rows_inside(top + row):
                    for part, (c, columns) in enumerate(inside.items()):
                        if fetch is not None and r == middle:
                            fetch((row, column), part, len(inside))
                        x = load(r, c)
                        for j, kw in columns:
                            for i, kh in rows:
                                add(x, i, j, weights[kw][kh])
            else:
                with T.serial(0, taps[1]) as kw:
                    if fetch is not None:
                        fetch((row, column), kw, taps[1])
                    vectors = column_of_weights(kw)
                    for r, rows in self.rows_inside(top + row):
                        for j in range(self.columns):
                            x = load(r, j * sx + kw * dx)
                            for i, kh in rows:
                                add(x, i, j, vectors[kh])
            for i, j in self.pixels:
                array, at = accumulator(i, j)
                finish(array[tuple(at)], row + i, column + j)


def zeros(lanes: int) -> Any:
    """A vector of zeros."""
    return tirx.Broadcast(tirx.const(0.0, "float32"), lanes)


def register_tiles(conv: Conv2d, device: Device) -> Iterator[tuple[int, int, bool]]:
    """Rows and columns of every tile that registers hold, and whether taps are unrolled."""
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    for rows in range(1, min(8, conv.out_height) + 1):
        for columns in range(1, conv.out_width + 1):
            tile = rows * columns
            if tile > (device.vector_registers * 2) // 3:
                break
            if tile * taps <= MAX_UNROLLED_FMAS:
                yield rows, columns, True
            yield rows, columns, False
