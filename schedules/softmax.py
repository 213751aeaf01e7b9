"""Softmax along rows, in vectors: the largest, the exponentials and their sum, their shares.

    parallel (row)
      largest = max x                           the last vector overlaps its neighbour
      out = e^(x - largest); total = Σ out      what fills no vector goes in ever narrower ones
      out = out / total

The rule for reductions would take a row whose length is no multiple of the vector element by
element.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx.script import builder as T

from edgeconv.operators import vector_math
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

EXPONENTIAL = 8  # elements moved in the time of one


def supports(task: TensorTask, device: Device) -> bool:
    """Whether the task is a softmax of float32 along the last, row-major axis."""
    if task.op != "softmax" or not task.is_float32 or not task.is_plain:
        return False
    shape = task.outputs[0].shape
    return bool(dict(task.attrs)["axis"] == len(shape) - 1)


def build(task: TensorTask, device: Device) -> tirx.PrimFunc:
    """The scheduled kernel `(x, out)` of [..., N]."""
    source, target = (t.joined(1) for t in (task.inputs[0], task.outputs[0]))
    rows, n = target.shape
    lanes = narrowed(device.lanes, n)
    whole = n // lanes
    rest = _narrower(whole * lanes, n, lanes)

    def body() -> None:
        x, out = parameter("x", source), parameter("out", target)
        with emit.loops(row=rows) as axis, emit.block("row"):
            row = emit.spatial("vrow", rows, axis)
            emit.unknown_regions()  # TVM refuses what a block both reads and writes
            every = emit.run(0, lanes)
            largest, total = (emit.local(name, (lanes,)) for name in ("largest", "total"))
            emit.store(largest, x[row, every], [every])
            with T.serial(1, ceil_div(n, lanes)) as v:
                vector = x[row, emit.run(tile_start(v, lanes, n), lanes)]
                emit.store(largest, tirx.max(largest[every], vector), [every])
            top = T.Bind(_across(largest[every], lanes, tirx.max))

            def exponential(start: Any, width: int) -> Any:
                place = emit.run(start, width)
                power = T.Bind(vector_math.exp(x[row, place] - emit.spread(top, width)))
                emit.store(out, power, [row, place])
                return power

            emit.store(total, emit.spread(tirx.const(0.0, "float32"), lanes), [every])
            with T.serial(0, whole) as v:
                emit.store(total, total[every] + exponential(v * lanes, lanes), [every])
            sums = [_across(exponential(*piece), piece[1], operator.add) for piece in rest]
            share = T.Bind(1.0 / sum(sums, _across(total[every], lanes, operator.add)))

            def scale(start: Any, width: int) -> None:
                place = emit.run(start, width)
                emit.store(out, out[row, place] * emit.spread(share, width), [row, place])

            with T.serial(0, whole) as v:
                scale(v * lanes, lanes)
            for piece in rest:
                scale(*piece)

    sch = Schedule(emit.prim_func("softmax", body))
    work = EXPONENTIAL * rows * n
    run_parallel(sch, sch.get_loops(sch.get_sblock("row")), work, device, PARALLEL_ELEMENTS)
    return sch.mod["main"]


def _narrower(start: int, end: int, lanes: int) -> list[tuple[int, int]]:
    """(start, width) of vectors narrower than `lanes` that cover what is left exactly."""
    pieces = []
    while start < end:
        lanes = narrowed(lanes, end - start)
        pieces.append((start, lanes))
        start += lanes
    return pieces


def _across(vector: Any, lanes: int, combine: Callable[[Any, Any], Any]) -> Any:
    """`combine` of all lanes of a vector."""
    while lanes > 1:
        vector, lanes = T.Bind(vector), lanes // 2
        low, high = (
            tirx.Shuffle([vector], list(range(first, first + lanes))) for first in (0, lanes)
        )
        vector = combine(low, high)
    return vector
