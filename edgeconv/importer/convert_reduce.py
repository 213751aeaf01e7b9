"""Reductions."""

from __future__ import annotations

import math

import numpy as np

from edgeconv.graph.ir import Value
from edgeconv.importer.context import NodeContext, converts
from edgeconv.importer.convert_shape import axes_of, normalised


def mean(node: NodeContext, x: Value, axes: tuple[int, ...], keepdims: bool = True) -> Value:
    """The mean in the type of x; float16 is summed in float32."""
    if x.dtype == "float16":
        wide = mean(node, node.cast(x, "float32"), axes, keepdims)
        return node.cast(wide, "float16")
    if "float" in x.dtype:
        return node.emit("reduce_mean", [x], axes=axes, keepdims=keepdims)
    total = node.emit("reduce_sum", [x], axes=axes, keepdims=keepdims)
    return node.emit("divide", [total, node.like(total, math.prod(x.shape[a] for a in axes))])


def _sum(node: NodeContext, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    if x.dtype == "float16":
        wide = _sum(node, node.cast(x, "float32"), axes, keepdims)
        return node.cast(wide, "float16")
    return node.emit("reduce_sum", [x], axes=axes, keepdims=keepdims)


def _log_sum_exp(node: NodeContext, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    """max + log Σ e^(x - max): no overflow."""
    peak = node.emit("reduce_max", [x], axes=axes, keepdims=True)
    # an infinite maximum would make infinity - infinity
    limit = float(np.finfo(x.dtype).max)
    peak = node.emit("clip", [peak], low=-limit, high=limit)
    shifted = node.emit("exp", [node.emit("subtract", [x, peak])])
    total = node.emit("log", [_sum(node, shifted, axes, True)])
    out = node.emit("add", [total, peak])
    kept = [d for i, d in enumerate(out.shape) if keepdims or i not in axes]
    return node.reshape(out, kept)


_SIMPLE = {"ReduceMax": "reduce_max", "ReduceMin": "reduce_min", "ReduceProd": "reduce_prod"}
_OTHERS = (
    *("ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
    "ReduceSumSquare",
)
_AXES_INPUT_SINCE = {"ReduceSum": 13}


@converts(*_SIMPLE, *_OTHERS)
def reduce(node: NodeContext) -> Value:
    """Over some axes or all; over none with noop_with_empty_axes; a constant for empty tensors."""
    x = node.input(0)
    rank = len(x.shape)
    axes = axes_of(node, rank, _AXES_INPUT_SINCE.get(node.op_type, 18))
    keepdims = bool(node.attr("keepdims", 1))
    if not axes and node.attr("noop_with_empty_axes", 0):
        return _reduced(node, x, (), True) if node.op_type in _PER_ELEMENT else x
    chosen = tuple(sorted(axes or range(rank)))
    shape = [1 if i in chosen else d for i, d in enumerate(x.shape) if keepdims or i not in chosen]
    if x.size == 0:
        return node.constant(np.full(shape, _of_nothing(node.op_type, x.dtype), x.dtype))
    if x.dtype == "bool" and node.op_type in _SIMPLE:
        bits = _reduced(node, node.cast(x, "uint8"), chosen, keepdims)
        return node.cast(bits, "bool")
    return _reduced(node, x, chosen, keepdims)


_PER_ELEMENT = (*("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),)


def _reduced(node: NodeContext, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    kind = node.op_type

    def total(value: Value) -> Value:
        return _sum(node, value, axes, keepdims) if axes else value

    if kind in _SIMPLE:
        return node.emit(_SIMPLE[kind], [x], axes=axes, keepdims=keepdims) if axes else x
    if kind == "ReduceSum":
        return total(x)
    if kind == "ReduceMean":
        return mean(node, x, axes, keepdims) if axes else x
    if kind == "ReduceL1":
        return total(node.emit("abs", [x]))
    if kind in ("ReduceL2", "ReduceSumSquare"):
        square = total(node.emit("multiply", [x, x]))
        if kind == "ReduceSumSquare":
            return square
        if "float" in x.dtype:
            return node.emit("sqrt", [square])
        return node.cast(node.emit("sqrt", [node.cast(square, "float64")]), x.dtype)
    if kind == "ReduceLogSum":
        return _in_float(node, total(x), lambda v: node.emit("log", [v]))
    if not axes:
        return x
    return _in_float(node, x, lambda v: _log_sum_exp(node, v, axes, keepdims))


def _in_float(node: NodeContext, x: Value, fn):  # type: ignore[no-untyped-def]
    """fn in float64 where x holds integers."""
    if "float" in x.dtype:
        return fn(x)
    return node.cast(fn(node.cast(x, "float64")), x.dtype)


def _of_nothing(kind: str, dtype: str) -> float:
    """What a reduction of an empty set is."""
    info = np.finfo(dtype) if np.dtype(dtype).kind == "f" else None
    if kind == "ReduceProd":
        return 1
    if kind in ("ReduceMax", "ReduceMin"):
        sign = -1 if kind == "ReduceMax" else 1
        if info is not None:
            return sign * math.inf
        if dtype == "bool":
            return 0 if sign < 0 else 1
        limits = np.iinfo(dtype)
        return int(limits.min if sign < 0 else limits.max)
    if kind in ("ReduceLogSum", "ReduceLogSumExp"):
        return -math.inf
    return math.nan if kind == "ReduceMean" else 0


@converts("ArgMax", "ArgMin")
def arg_extreme(node: NodeContext) -> Value:
    """The index of the extreme value: the first, or the last with select_last_index."""
    x = node.input(0)
    return node.emit(
        node.op_type.lower(),
        [x],
        axis=normalised(int(node.attr("axis", 0)), len(x.shape)),
        keepdims=bool(node.attr("keepdims", 1)),
        last=bool(node.attr("select_last_index", 0)),
    )
