"""Operators whose indices are tensors, and tables that are known when shapes are."""

from __future__ import annotations

import numpy as np

from edgeconv.graph.ir import Value
from edgeconv.importer.context import NodeContext, converts
from edgeconv.importer.convert_shape import normalised
from edgeconv.importer.convert_slice import cut
from edgeconv.operators.registry import ShapeError


@converts("Gather")
def gather(node: NodeContext) -> Value:
    """Slices along an axis; evenly spaced constant indices make a slice."""
    x, indices = node.input(0), node.input(1)
    axis = normalised(int(node.attr("axis", 0)), len(x.shape))
    if indices.data is None:
        return node.emit("gather", [x, indices], axis=axis)
    size = x.shape[axis]
    flat = indices.data.astype(np.int64).reshape(-1)
    if flat.size and (flat.min() < -size or flat.max() >= size):
        raise ShapeError(f"indices reach outside of axis {axis} with its {size} elements")
    flat = np.where(flat < 0, flat + size, flat)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    steps = set(np.diff(flat).tolist())
    if flat.size and len(steps) <= 1 and 0 not in steps:
        begin, sizes, step = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
        begin[axis], sizes[axis] = int(flat[0]), len(flat)
        step[axis] = steps.pop() if steps else 1
        return node.reshape(cut(node, x, begin, sizes, step), shape)
    if not flat.size:
        return node.constant(np.zeros(shape, x.dtype))
    places = node.constant(flat.reshape(indices.shape).astype(np.int32))
    return node.emit("gather", [x, places], axis=axis)


@converts("GatherElements")
def gather_elements(node: NodeContext) -> Value:
    """One element for each index."""
    x = node.input(0)
    axis = normalised(int(node.attr("axis", 0)), len(x.shape))
    return node.emit("gather_elements", [x, node.input(1)], axis=axis)


@converts("GatherND")
def gather_nd(node: NodeContext) -> Value:
    """Slices at coordinates."""
    batch = int(node.attr("batch_dims", 0))
    return node.emit("gather_nd", [node.input(0), node.input(1)], batch_dims=batch)


_REDUCTIONS = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}


@converts("Scatter", "ScatterElements")
def scatter_elements(node: NodeContext) -> Value:
    """Elements put at (or combined with those at) indices along an axis."""
    x = node.input(0)
    axis = normalised(int(node.attr("axis", 0)), len(x.shape))
    return node.emit(
        "scatter_elements",
        [x, node.cast(node.input(1), "int64"), node.input(2)],
        axis=axis,
        reduction=_REDUCTIONS[node.attr("reduction", "none")],
    )


@converts("ScatterND")
def scatter_nd(node: NodeContext) -> Value:
    """Slices put at (or combined with those at) coordinates."""
    inputs = [node.input(i) for i in range(3)]
    reduction = _REDUCTIONS[node.attr("reduction", "none")]
    return node.emit("scatter_nd", inputs, reduction=reduction)


@converts("CumSum", "CumProd")
def cumulative(node: NodeContext) -> Value:
    """Running sums or products."""
    x = node.input(0)
    axis = normalised(int(node.array(1, "the axis").reshape(-1)[0]), len(x.shape))
    return node.emit(
        "cumulative_sum" if node.op_type == "CumSum" else "cumulative_product",
        [x],
        axis=axis,
        exclusive=bool(node.attr("exclusive", 0)),
        reverse=bool(node.attr("reverse", 0)),
    )


@converts("TopK")
def top_k(node: NodeContext) -> list[Value]:
    """The largest (or smallest) elements; always in order, as that is allowed without `sorted`."""
    x = node.input(0)
    axis = normalised(int(node.attr("axis", -1)), len(x.shape))
    k = int(node.attr("k")) if node.opset < 10 else int(node.array(1, "k").reshape(-1)[0])
    if not 0 <= k <= x.shape[axis]:
        raise ShapeError(f"k is {k}, the axis has {x.shape[axis]} elements")
    if k == 0:
        shape = (*x.shape[:axis], 0, *x.shape[axis + 1 :])
        return [node.constant(np.zeros(shape, t)) for t in (x.dtype, np.int64)]
    return node.emit_many("top_k", [x], axis=axis, k=k, largest=bool(node.attr("largest", 1)))


@converts("Trilu")
def trilu(node: NodeContext) -> Value:
    """A triangle of each matrix."""
    given = node.optional_array(1, "k")
    k = 0 if given is None else int(given.reshape(-1)[0])
    return node.emit("trilu", [node.input(0)], k=k, upper=bool(node.attr("upper", 1)))


@converts("OneHot")
def one_hot(node: NodeContext) -> Value:
    """Rows of a two-valued identity matrix."""
    indices, values = node.input(0), node.input(2)
    depth = int(node.array(1, "the depth").reshape(-1)[0])
    rank = len(indices.shape) + 1
    axis = normalised(int(node.attr("axis", -1)), rank)
    column = [1] * rank
    column[axis] = depth
    spread = node.reshape(
        node.cast(indices, "int64"), (*indices.shape[:axis], 1, *indices.shape[axis:])
    )
    size = node.constant(np.array(depth, np.int64))
    negative = node.emit("less", [spread, node.constant(np.array(0, np.int64))])
    spread = node.emit("where", [negative, node.emit("add", [spread, size]), spread])
    places = node.constant(np.arange(depth, dtype=np.int64).reshape(column))
    hit = node.emit("equal", [spread, places])
    off, on = (cut(node, values, [i], [1]) for i in range(2))
    return node.emit("where", [hit, node.reshape(on, ()), node.reshape(off, ())])


@converts("ReverseSequence")
def reverse_sequence(node: NodeContext) -> Value:
    """The first lengths[b] steps of each batch entry in reverse order."""
    x = node.input(0)
    lengths = node.array(1, "the sequence lengths").astype(np.int64)
    batch, time = int(node.attr("batch_axis", 1)), int(node.attr("time_axis", 0))
    steps = np.arange(x.shape[time])
    table = np.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    table = table if batch < time else table.T
    index = np.broadcast_to(
        table.reshape([d if a in (batch, time) else 1 for a, d in enumerate(x.shape)]), x.shape
    )
    places = node.constant(index.astype(np.int32))
    return node.emit("gather_elements", [x, places], axis=time)
