"""Max and average pooling of maps in channel blocks.

A tile of neighbouring outputs shares columns: each is reduced over the rows of the window once,
then every output over its columns. Tiles at the border, where taps lie in the padding, have code of
their own.

    parallel (n, vector of channels, row)
      tile of columns
        column of the input (unrolled): over the window's rows
        output (unrolled): over the window's columns, scaled
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx.script import builder as T

from edgeconv.operators.pooling import POOLS
from edgeconv.schedules import emit
from edgeconv.schedules.common import PARALLEL_ELEMENTS, ceil_div, run_parallel, tile_start
from edgeconv.schedules.tensor_expr import TensorTask, parameter
from edgeconv.targets import Device

MOST_LOADS = 160  # of a tile; beyond it the code would be too long
MOST_COLUMNS = 8  # outputs of a tile


def supports(task: TensorTask, device: Device) -> bool:
    """Whether a pool runs on vectors of channels, and its window is small."""
    x, out = task.inputs[0], task.outputs[0]
    block = x.layout.block
    if task.op not in POOLS or not task.is_float32 or block < 2 or block != out.layout.block:
        return False
    vectors = block > device.lanes or block & (block - 1) == 0
    return vectors and _Tile(dict(task.attrs), out.shape[3], 1).loads <= MOST_LOADS


def build(task: TensorTask, device: Device) -> tirx.PrimFunc:
    """The scheduled kernel `(x, out)`."""
    x, out, attrs = task.inputs[0], task.outputs[0], dict(task.attrs)
    n, c, h, w = x.shape
    _, _, height, width = out.shape
    block = x.layout.block
    lanes = min(block, device.lanes)
    tile = _best_tile(attrs, width)

    def body() -> None:
        data, target = parameter("x", x), parameter("out", out)
        grid = dict(n=n, chunk=ceil_div(c, block), vector=ceil_div(block, lanes), y=height)
        with emit.loops(**grid) as axes, emit.block("row"):
            image, chunk, vector, y = emit.all_spatial(grid, axes)
            slots = emit.run(tile_start(vector, lanes, block), lanes)
            with T.serial(0, ceil_div(width, tile.columns)) as number:
                first = tile_start(number, tile.columns, width)

                def load(row: Any, column: Any) -> Any:
                    return data[image, chunk, row, column, slots]

                def store(j: int, value: Any) -> None:
                    emit.store(target, value, [image, chunk, y, first + j, slots])

                _Window(task.op, attrs, (h, w), tile, lanes, (y, first)).emit(load, store)

    sch = Schedule(emit.prim_func(task.op, body))
    loops = sch.get_loops(sch.get_sblock("row"))
    run_parallel(sch, loops, n * c * h * w, device, PARALLEL_ELEMENTS)
    return sch.mod["main"]


class _Tile:
    """Neighbouring outputs of a row, and the columns of the input that they read."""

    def __init__(self, attrs: Mapping[str, Any], width: int, columns: int) -> None:
        stride, dilation = attrs["stride"][1], attrs["dilation"][1]
        taps = attrs["kernel"][1]
        self.columns = min(columns, width)
        self.reads = [[j * stride + k * dilation for k in range(taps)] for j in range(self.columns)]
        self.offsets = sorted({offset for read in self.reads for offset in read})
        self.loads = len(self.offsets) * attrs["kernel"][0]


def _best_tile(attrs: Mapping[str, Any], width: int) -> _Tile:
    """The tile with the fewest loads for an output."""
    tiles = [_Tile(attrs, width, columns) for columns in range(1, min(MOST_COLUMNS, width) + 1)]
    fitting = [tile for tile in tiles if tile.loads <= MOST_LOADS]
    return min(fitting, key=lambda t: t.loads * ceil_div(width, t.columns))


class _Window:
    """The windows of a tile of outputs."""

    def __init__(
        self,
        op: str,
        attrs: Mapping[str, Any],
        size: tuple[int, int],
        tile: _Tile,
        lanes: int,
        at: tuple[Any, Any],
    ) -> None:
        self.attrs, self.size, self.tile, self.lanes = attrs, size, tile, lanes
        self.is_max = op == "max_pool2d"
        top, left, _, _ = attrs["padding"]
        row, column = at[0] * attrs["stride"][0] - top, at[1] * attrs["stride"][1] - left
        # of the input: the row of each tap, and the column by offset in the tile
        self.rows = [row + k * attrs["dilation"][0] for k in range(attrs["kernel"][0])]
        self.columns = {offset: column + offset for offset in tile.offsets}

    def emit(self, load: Any, store: Any) -> None:
        """Reduce, in code without tests where no tap lies in the padding."""
        rows, columns = self.rows, list(self.columns.values())
        (top, left, bottom, right), (h, w) = self.attrs["padding"], self.size
        vertical = ((top, rows[0] >= 0), (bottom, rows[-1] < h))
        horizontal = ((left, columns[0] >= 0), (right, columns[-1] < w))
        tests = [inside for padding, inside in (*vertical, *horizontal) if padding]
        if not tests:
            self._reduce(load, store, inner=True)
            return
        with T.If(tirx.all(*tests)):
            with T.Then():
                self._reduce(load, store, inner=True)
            with T.Else():
                self._reduce(load, store, inner=False)

    def _reduce(self, load: Any, store: Any, *, inner: bool) -> None:
        """All outputs of the tile; `inner`: no tap lies in the padding."""
        fill = tirx.const(-math.inf if self.is_max else 0.0, f"float32x{self.lanes}")
        h, w = self.size

        def tap(row: Any, column: Any) -> Any:
            if inner:
                return load(row, column)
            nearest = [tirx.max(tirx.min(p, d - 1), 0) for p, d in ((row, h), (column, w))]
            return tirx.Select(_within(row, h) & _within(column, w), load(*nearest), fill)

        sums = {
            offset: self._join([tap(row, column) for row in self.rows])
            for offset, column in self.columns.items()
        }
        for j, read in enumerate(self.tile.reads):
            total = self._join([sums[offset] for offset in read])
            store(j, total if self.is_max else self._mean(total, read, inner))

    def _join(self, values: list[Any]) -> Any:
        """The largest, or the sum."""

        def both(a: Any, b: Any) -> Any:
            return T.Bind(tirx.max(a, b) if self.is_max else a + b)

        first, *others = values
        return functools.reduce(both, others, T.Bind(first))

    def _mean(self, total: Any, read: list[int], inner: bool) -> Any:
        """A sum, divided by the size of the window or of its part in the image."""
        if inner or self.attrs["divisor"] == "full":
            scale = 1.0 / (len(self.rows) * len(read))
            return total * tirx.const(scale, f"float32x{self.lanes}")
        h, w = self.size
        down = sum(tirx.Cast("int32", _within(row, h)) for row in self.rows)
        across = sum(tirx.Cast("int32", _within(self.columns[o], w)) for o in read)
        return total / tirx.Broadcast(tirx.Cast("float32", down * across), self.lanes)


def _within(position: Any, size: int) -> Any:
    return tirx.all(position >= 0, position < size)
