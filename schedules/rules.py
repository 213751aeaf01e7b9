"""The rule that schedules any tensor expression: inline, parallelise, keep sums in registers,
vectorise.

Every stage that survives inlining becomes one parallel loop over its outer axes. A reduction keeps
its accumulators in registers: a lane axis (the innermost of a blocked layout) or a run of the
innermost output axis is vectorised, or, for sums over the contiguous axis of a row-major array, the
reduction itself is cut into vectors (`rfactor`).
"""

from __future__ import annotations

import math
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import Schedule

from edgeconv.schedules.common import extent_of, run_parallel
from edgeconv.targets import Device

NARROWEST = 4  # lanes that a sum is cut into
PARALLEL_WORK = 1 << 14  # elements; below it a parallel region costs more than it saves


def schedule(func: tirx.PrimFunc, device: Device) -> tirx.PrimFunc:
    """The scheduled kernel."""
    sch = Schedule(func)
    _inline(sch)
    for block in _stages(sch):
        _schedule_stage(sch, block, device)
    return sch.mod["main"]


def _stages(sch: Schedule) -> list[Any]:
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def _inline(sch: Schedule) -> None:
    """Inline every stage without a sum into its readers, unless that would repeat costly work."""
    for block in _stages(sch)[:-1]:
        if _is_reduction(sch, block):
            continue
        readers = sch.get_consumers(block)
        if not readers:  # one of several outputs
            continue
        if _is_costly(sch, block) and (len(readers) > 1 or _is_reduction(sch, readers[0])):
            continue
        try:
            sch.compute_inline(block)
        except s_tir.ScheduleError:
            continue  # a stage TVM cannot inline keeps its own loops


def _axes(sch: Schedule, block: Any) -> list[Any]:
    return list(sch.get(block).iter_vars)


def _is_reduction(sch: Schedule, block: Any) -> bool:
    return any(a.iter_type != tirx.IterVar.DataPar for a in _axes(sch, block))


def _is_costly(sch: Schedule, block: Any) -> bool:
    """True for more than a dozen operations an element, as `_operations` counts them."""
    store = sch.get(block).body
    return type(store).__name__ == "BufferStore" and _operations(store.value) > 12


_CHEAP_CALLS = ("tirx.if_then_else", "tirx.likely", "tirx.fabs")
_OPERANDS = ("a", "b", "value", "condition", "true_value", "false_value")


def _operations(expr: Any) -> int:
    """Arithmetic operations in an expression; a division or a call counts as eight."""
    if not isinstance(expr, tvm.ir.Expr) or type(expr).__name__ == "TensorLoad":
        return 0
    if isinstance(expr, tvm.ir.Call):
        own = 1 if getattr(expr.op, "name", "") in _CHEAP_CALLS else 8
        return own + sum(_operations(a) for a in expr.args)
    operands = [getattr(expr, name) for name in _OPERANDS if hasattr(expr, name)]
    own = 8 if type(expr).__name__ == "Div" else int(len(operands) > 1)
    return own + sum(_operations(o) for o in operands)


def _extent(sch: Schedule, loop: Any) -> int:
    return int(sch.get(loop).extent)


def _schedule_stage(sch: Schedule, block: Any, device: Device) -> None:
    axes = _axes(sch, block)
    loops = sch.get_loops(block)
    if len(loops) != len(axes) or not loops:
        return
    kinds = [a.iter_type for a in axes]
    spatial = [x for x, k in zip(loops, kinds, strict=True) if k == tirx.IterVar.DataPar]
    reduce = [x for x, k in zip(loops, kinds, strict=True) if k == tirx.IterVar.CommReduce]
    if len(spatial) + len(reduce) != len(loops):
        return
    if not reduce:
        _schedule_map(sch, spatial, device)
    else:
        _schedule_sum(sch, block, spatial, reduce, device)


def _schedule_map(sch: Schedule, loops: list[Any], device: Device) -> None:
    """Elementwise and gathering stages: outer axes in parallel, the innermost left to the
    vectoriser.
    """
    work = extent_of(sch, loops)
    *outer, inner = loops
    while outer and _extent(sch, inner) == 1:  # the lane axis of NCHW: the vectoriser wants rows
        inner = outer.pop()
    if _extent(sch, inner) == device.lanes and outer:
        sch.vectorize(inner)
    if outer:
        run_parallel(sch, outer, work, device, PARALLEL_WORK, along=outer[2:])
    elif device.cores > 1 and work >= PARALLEL_WORK:
        chunk, _ = sch.split(inner, [None, PARALLEL_WORK // 4])
        sch.parallel(chunk)


def _schedule_sum(
    sch: Schedule, block: Any, spatial: list[Any], reduce: list[Any], device: Device
) -> None:
    """Reductions: a register of partial results runs over the reduction axes."""
    work = extent_of(sch, spatial) * extent_of(sch, reduce)
    lanes = device.lanes
    inner = _extent(sch, spatial[-1]) if spatial else 1
    if inner >= 4:  # partial results of neighbouring outputs fill vectors
        width = max(d for d in range(1, min(inner, 4 * lanes) + 1) if inner % d == 0)
        *outer, last = spatial
        if width < inner:
            rest, last = sch.split(last, [None, width])
            outer.append(rest)
        sch.reorder(*outer, *reduce, last)
        if width > 1:
            sch.vectorize(last)
        if outer:
            run_parallel(sch, outer, work, device, PARALLEL_WORK)
        first = sch.get_loops(block)[1 if outer else 0]
        sch.decompose_reduction(block, first)
        return
    if not spatial:
        sch.decompose_reduction(block, reduce[0])
        return
    sch.reorder(*spatial, *reduce)
    fused = run_parallel(sch, spatial, work, device, PARALLEL_WORK)
    depth = _extent(sch, reduce[-1])
    width = math.gcd(depth, lanes)
    if width >= NARROWEST and depth >= 2 * width:
        _, vector = sch.split(reduce[-1], [None, width])
        partial = sch.rfactor(vector, 0)
        sch.compute_at(partial, fused)
        sch.set_scope(partial, 0, "local")
        loops = sch.get_loops(partial)
        lane = loops[1]
        sch.reorder(*loops[2:], lane)
        sch.vectorize(lane)
        sch.decompose_reduction(partial, sch.get_loops(partial)[1])
        sch.decompose_reduction(block, sch.get_loops(block)[1])
    else:
        sch.decompose_reduction(block, sch.get_loops(block)[1])
