"""Max and average pooling of maps in channel blocks.

A tile of neighbouring outputs shares columns: each is reduced over the rows of the window once,
then every output over its columns. Tiles at the border, where taps lie in the padding, have code of
their own. How many columns a tile has is the only knob.

    parallel (n, vector of channels, row)
      tile of columns
        column of the input (unrolled): over the window's rows
        output (unrolled): over the window's columns, scaled
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx.script import builder as T

from edgeconv.operators.pooling import POOLS
from edgeconv.schedules import emit
from edgeconv.schedules.common import (
    PARALLEL_ELEMENTS,
    Mismatch,
    ceil_div,
    run_parallel,
    tile_start,
)
from edgeconv.schedules.tensor_expr import Tensor, TensorTask, parameter
from edgeconv.targets import Device
from edgeconv.workload import Conv2d, PoolTask

MOST_LOADS = 160  # of a tile; beyond it the code would be too long
MOST_COLUMNS = 8  # outputs of a tile


@dataclass(frozen=True)
class Knobs:
    """Settings of the kernel.

    Attributes:
        columns: neighbouring outputs of a row that share what they load, at most a row's.
    """

    columns: int


def pool_of(task: TensorTask) -> PoolTask | None:
    """The pool that an operator is; None if it is none, or not of float32."""
    if task.op not in POOLS or not task.is_float32:
        return None
    x, out, attrs = task.inputs[0], task.outputs[0], dict(task.attrs)
    n, c, h, w = x.shape
    stride, padding, dilation = (tuple(attrs[k]) for k in ("stride", "padding", "dilation"))
    window = Conv2d(n, c, h, w, c, tuple(attrs["kernel"]), stride, padding, dilation, c)
    divisor = attrs.get("divisor", "full")
    return PoolTask(task.op, window, x.layout, out.layout, divisor, x.aligned)


def supports(task: PoolTask, device: Device) -> Mismatch | None:
    """A pool runs on vectors of channels, and its window is small."""
    block = task.data.block
    if task.op not in POOLS:
        return Mismatch("not a pool")
    if block < 2 or block != task.out.block:
        return Mismatch("only maps in channel blocks, the output in the input's")
    if block <= device.lanes and block & (block - 1):
        return Mismatch("the channels of a block are no vectors")
    if _Tile(task.window, 1).loads > MOST_LOADS:
        return Mismatch(f"more than {MOST_LOADS} loads for an output")
    return None


def candidates(task: PoolTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting."""
    for columns in range(1, min(MOST_COLUMNS, task.window.out_width) + 1):
        if _Tile(task.window, columns).loads <= MOST_LOADS:
            yield Knobs(columns)


def default_knobs(task: PoolTask, device: Device) -> Knobs:
    """The fewest loads for an output."""
    return min(candidates(task, device), key=lambda knobs: estimate(task, knobs, device))


def estimate(task: PoolTask, knobs: Knobs, device: Device) -> float:
    """Cycles of all loads, from the first-level cache."""
    tile, lanes = _Tile(task.window, knobs.columns), _lanes(task, device)
    rows = task.window.batch * task.window.out_height
    vectors = ceil_div(task.window.in_channels, task.data.block) * ceil_div(task.data.block, lanes)
    loads = tile.loads * ceil_div(task.window.out_width, tile.columns)
    return rows * vectors * loads / device.load_ports


def _lanes(task: PoolTask, device: Device) -> int:
    return min(task.data.block, device.lanes)


def build(task: PoolTask, device: Device, knobs: Knobs | None = None) -> tirx.PrimFunc:
    """The scheduled kernel `(x, out)`."""
    window = task.window
    n, c, h, w = window.batch, window.in_channels, window.height, window.width
    height, width = window.out_height, window.out_width
    block, lanes = task.data.block, _lanes(task, device)
    tile = _Tile(window, (knobs or default_knobs(task, device)).columns)
    x = Tensor((n, c, h, w), "float32", task.data, task.aligned)
    out = Tensor(window.output_shape, "float32", task.out)

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

                _Window(task, tile, lanes, (y, first)).emit(load, store)

    sch = Schedule(emit.prim_func(task.op, body))
    loops = sch.get_loops(sch.get_sblock("row"))
    run_parallel(sch, loops, n * c * h * w, device, PARALLEL_ELEMENTS, along=loops[-1:])
    return sch.mod["main"]


class _Tile:
    """Neighbouring outputs of a row, and the columns of the input that they read."""

    def __init__(self, window: Conv2d, columns: int) -> None:
        stride, dilation = window.stride[1], window.dilation[1]
        rows, taps = window.kernel_size
        self.columns = min(columns, window.out_width)
        self.reads = [[j * stride + k * dilation for k in range(taps)] for j in range(self.columns)]
        self.offsets = sorted({offset for read in self.reads for offset in read})
        self.loads = len(self.offsets) * rows


class _Window:
    """The windows of a tile of outputs."""

    def __init__(self, task: PoolTask, tile: _Tile, lanes: int, at: tuple[Any, Any]) -> None:
        window = task.window
        self.padding, self.size = window.padding, (window.height, window.width)
        self.tile, self.lanes = tile, lanes
        self.is_max, self.is_full = task.op == "max_pool2d", task.divisor == "full"
        top, left, _, _ = window.padding
        row, column = at[0] * window.stride[0] - top, at[1] * window.stride[1] - left
        # of the input: the row of each tap, and the column by offset in the tile
        self.rows = [row + k * window.dilation[0] for k in range(window.kernel_size[0])]
        self.columns = {offset: column + offset for offset in tile.offsets}

    def emit(self, load: Any, store: Any) -> None:
        """Reduce, in code without tests where no tap lies in the padding."""
        rows, columns = self.rows, list(self.columns.values())
        (top, left, bottom, right), (h, w) = self.padding, self.size
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
        if inner or self.is_full:
            scale = 1.0 / (len(self.rows) * len(read))
            return total * tirx.const(scale, f"float32x{self.lanes}")
        h, w = self.size
        down = sum(tirx.Cast("int32", _within(row, h)) for row in self.rows)
        across = sum(tirx.Cast("int32", _within(self.columns[o], w)) for o in read)
        return total / tirx.Broadcast(tirx.Cast("float32", down * across), self.lanes)


def _within(position: Any, size: int) -> Any:
    return tirx.all(position >= 0, position < size)
