"""`fold`: windows of a transposed convolution added up and put in their places.

The filters, rows and columns of a window lie side by side at each pixel of the input (NHWC), those
of different windows that meet in an output at neighbouring pixels. So a vector of them is a sum of
`window` loads, and its runs of neighbouring columns are stored one by one, row-major:

    parallel (n, input row)
      input column
        chunk of lanes
          sum = Σ (rows, columns of the window, unrolled) vector
          run of columns: out = activation(sum + bias)

Runs that cross the border of the map are stored element by element.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import Ramp
from tvm.tirx.script import builder as T

from edgeconv.operators.convolution import apply_activation
from edgeconv.operators.fold import FoldRange
from edgeconv.schedules import emit
from edgeconv.schedules.common import PARALLEL_ELEMENTS, ceil_div, run_parallel, tile_start
from edgeconv.schedules.tensor_expr import TensorTask, parameter
from edgeconv.targets import Device


class Space:
    """How the channels at a pixel fall into vectors, and vectors into runs of columns."""

    def __init__(self, channels: int, attrs: Mapping[str, Any], lanes: int) -> None:
        (rows, columns), (down, across) = attrs["window"], attrs["stride"]
        self.outputs = channels // (rows * columns)  # of one pixel
        self.filters = self.outputs // (down * across)
        self.run = max(d for d in range(1, min(across, lanes) + 1) if across % d == 0)
        self.pieces = across // self.run  # runs of a row of a window
        self.runs = self.outputs // self.run
        self.per_vector = min(lanes // self.run, self.runs)


def supports(task: TensorTask, _: Device) -> bool:
    """Whether x is NHWC and the output row-major."""
    x, out = task.inputs[0], task.outputs[0]
    return task.op == "fold" and x.layout.block == x.shape[1] > 1 and out.layout.is_plain


def build(task: TensorTask, device: Device) -> tirx.PrimFunc:
    """The scheduled kernel `(x, [bias], out)`; the halo of x is at least that of `FoldRange`."""
    (source, *_), attrs = task.inputs, dict(task.attrs)
    n, c, _, _ = source.shape
    halo = source.layout.halo
    space, span = Space(c, attrs, device.lanes), FoldRange(source.shape, attrs)
    (rows, columns), (down, across) = attrs["window"], attrs["stride"]
    lanes, run = device.lanes, space.run
    chunks = ceil_div(space.runs, space.per_vector)
    (height, width), start = attrs["size"], attrs["start"]

    def body() -> None:
        x = emit.whole("x", source.shape, source.layout)
        offsets = emit.buffer("bias", (space.filters,)) if len(task.inputs) > 1 else None
        out = parameter("out", task.outputs[0])
        grid = dict(n=n, y=span.count[0], x=span.count[1], chunk=chunks)
        with emit.loops(**grid) as axes, emit.block("pixel"):
            i, y, z, chunk = emit.all_spatial(grid, axes)
            first = tile_start(chunk, space.per_vector, space.runs)
            row, column = span.first[0] + y, span.first[1] + z
            total: Any = None
            for j, jj in product(range(rows), range(columns)):
                channel = (j * columns + jj) * space.outputs + first * run
                at = (row - j + halo[0], column - jj + halo[1])
                value = x[(i, 0, *at, Ramp(channel, 1, lanes))]
                total = value if total is None else total + value
            acc = emit.local("acc", (lanes,))
            emit.store(acc, total, [Ramp(0, 1, lanes)])

            def store_run(number: int) -> None:
                place = first + number
                k = place // (space.pieces * down)
                top = row * down + place // space.pieces % down - start[0]
                left = column * across + place % space.pieces * run - start[1]

                def store_one(lane: Any) -> None:
                    value = acc[number * run + lane]
                    if offsets is not None:
                        value = value + offsets[k]
                    value = apply_activation(value, attrs.get("activation"))
                    emit.store(out, value, [i, k, top, left + lane])

                with T.If(tirx.all(top >= 0, top < height)), T.Then():
                    with T.If(tirx.all(left >= 0, left + run <= width)):
                        with T.Then(), T.vectorized(0, run) as lane:
                            store_one(lane)
                        with T.Else():
                            for lane in range(run):
                                inside = tirx.all(left + lane >= 0, left + lane < width)
                                with T.If(inside), T.Then():
                                    store_one(lane)

            for number in range(space.per_vector):
                store_run(number)

    sch = Schedule(emit.prim_func("fold", body))
    loops = sch.get_loops(sch.get_sblock("pixel"))[:2]
    sums = n * space.filters * height * width
    run_parallel(sch, loops, sums, device, PARALLEL_ELEMENTS // 2)
    return sch.mod["main"]
