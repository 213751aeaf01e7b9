"""Slices of row-major maps that take every second column, and any rows: what a strided pointwise
convolution reads, or one phase of a space-to-depth.

Read plainly, every element is fetched by itself. Here a vector of results comes from two vectors
that overlap by one element, so that nothing behind the last column is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import Ramp
from tvm.tirx.script import builder as T

from edgeconv.schedules import emit
from edgeconv.schedules.common import (
    PARALLEL_ELEMENTS,
    ceil_div,
    narrowed,
    run_parallel,
    tile_start,
)
from edgeconv.schedules.tensor_expr import TensorTask, parameter
from edgeconv.targets import Device

NARROWEST = 4  # lanes


def supports(task: TensorTask, device: Device) -> bool:
    """Whether a slice of row-major maps takes every second column, and enough of them."""
    if task.op != "slice" or not task.is_float32 or not task.is_plain:
        return False
    step, size = (dict(task.attrs)[key] for key in ("step", "size"))
    skips = len(step) == 4 and (*step[:2], step[3]) == (1, 1, 2)
    return skips and narrowed(device.lanes, size[3]) >= NARROWEST


def every_second(x: Any, at: Sequence[Any], column: Any, lanes: int) -> Any:
    """A vector of every second element of `x[*at]` from a column on, reading none behind it."""
    pair = [x[(*at, Ramp(column + i * (lanes - 1), 1, lanes))] for i in (0, 1)]
    order = [2 * k if 2 * k < lanes else 2 * k + 1 for k in range(lanes)]
    return tirx.Shuffle(pair, order)


def build(task: TensorTask, device: Device) -> tirx.PrimFunc:
    """The scheduled kernel `(x, out)` of float32 [N, C, H, W]."""
    begin, size, step = (dict(task.attrs)[key] for key in ("begin", "size", "step"))
    n, c, h, w = size
    lanes = narrowed(device.lanes, w)

    def body() -> None:
        x, out = parameter("x", task.inputs[0]), parameter("out", task.outputs[0])
        grid = dict(n=n, c=c, y=h)
        with emit.loops(**grid) as axes, emit.block("row"):
            image, channel, y = emit.all_spatial(grid, axes)
            at: list[Any] = [image + begin[0], channel + begin[1], y * step[2] + begin[2]]
            with T.serial(0, ceil_div(w, lanes)) as number:
                first = tile_start(number, lanes, w)
                vector = every_second(x, at, first * 2 + begin[3], lanes)
                emit.store(out, vector, [image, channel, y, Ramp(first, 1, lanes)])

    sch = Schedule(emit.prim_func("pixel_skips", body))
    loops = sch.get_loops(sch.get_sblock("row"))
    run_parallel(sch, loops, n * c * h * w, device, PARALLEL_ELEMENTS, along=loops[-1:])
    return sch.mod["main"]
