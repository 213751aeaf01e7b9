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
from edgeconv.schedules.common import PARALLEL_ELEMENTS, ceil_div, run_parallel, tile_start
from edgeconv.targets import Device

NARROWEST = 4  # lanes


def lanes_for(
    begin: Sequence[int], size: Sequence[int], step: Sequence[int], device: Device
) -> int:
    """Lanes of the vectors; 0 if it is another kind of slice or a row has too few columns."""
    if len(size) != 4 or step[3] != 2 or tuple(step[:2]) != (1, 1):
        return 0
    lanes = device.lanes
    while lanes > size[3]:
        lanes //= 2
    return lanes if lanes >= NARROWEST else 0


def build(
    shape: Sequence[int],
    begin: Sequence[int],
    size: Sequence[int],
    step: Sequence[int],
    device: Device,
    *,
    aligned: bool = True,
) -> tirx.PrimFunc:
    """The scheduled kernel `(x, out)` of float32 [N, C, H, W]; `aligned` is False if a caller owns
    x.
    """
    n, c, h, w = size
    lanes = lanes_for(begin, size, step, device)
    alignment = 64 if aligned else 4

    def body() -> None:
        source = tirx.decl_buffer(tuple(shape), "float32", name="x", data_alignment=alignment)
        x, out = T.arg("x", source), emit.buffer("out", (n, c, h, w))
        grid = dict(n=n, c=c, y=h)
        with emit.loops(**grid) as axes, emit.block("row"):
            image, channel, y = emit.all_spatial(grid, axes)
            at: list[Any] = [image + begin[0], channel + begin[1], y * step[2] + begin[2]]
            with T.serial(0, ceil_div(w, lanes)) as number:
                first = tile_start(number, lanes, w)
                column = first * 2 + begin[3]
                pair = [x[(*at, Ramp(column + i * (lanes - 1), 1, lanes))] for i in (0, 1)]
                order = [2 * k if 2 * k < lanes else 2 * k + 1 for k in range(lanes)]
                vector = tirx.Shuffle(pair, order)
                emit.store(out, vector, [image, channel, y, Ramp(first, 1, lanes)])

    sch = Schedule(emit.prim_func("pixel_skips", body))
    loops = sch.get_loops(sch.get_sblock("row"))
    run_parallel(sch, loops, n * c * h * w, device, PARALLEL_ELEMENTS)
    return sch.mod["main"]
