"""Pooling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgeconv.graph.ir import Value
from edgeconv.importer.context import NodeContext, converts, in_float32
from edgeconv.importer.windows import Window, as_1d, as_2d, window


def _pool(node: NodeContext, op: str, x: Value, win: Window, **attrs: Any) -> Value:
    """A pooling operator over one to three axes."""
    rank = len(x.shape) - 2
    if rank not in (1, 2, 3):
        raise node.refuse(f"pooling over {rank} axes")
    if rank == 1:
        x, win = as_2d(node, x), win.with_front_axis()
    name = op if op == "max_pool_indices" else f"{op}{max(rank, 2)}d"
    out = node.emit(
        name,
        [x],
        kernel=win.kernel,
        stride=win.stride,
        dilation=win.dilation,
        padding=win.whole_padding,
        **attrs,
    )
    return as_1d(node, out) if rank == 1 else out


@converts("MaxPool")
def max_pool(node: NodeContext) -> list[Value]:
    """The largest element, and where it was."""
    x = node.input(0)
    win = window(node, x.shape[2:], node.attr("kernel_shape"))
    results = [_pool(node, "max_pool", x, win)]
    if node.wants(1):
        column_major = bool(node.attr("storage_order", 0))
        results.append(_pool(node, "max_pool_indices", x, win, column_major=column_major))
    return results


@converts("AveragePool")
@in_float32
def average_pool(node: NodeContext) -> Value:
    """The mean; padding counts if the model says so, what a ceiling adds never does."""
    x = node.input(0)
    win = window(node, x.shape[2:], node.attr("kernel_shape"))
    return _average(node, x, win, bool(node.attr("count_include_pad", 0)))


def _average(node: NodeContext, x: Value, win: Window, include_padding: bool) -> Value:
    if include_padding and any(win.padding) and any(win.overhang):
        x = _zero_padded(node, x, win)
        win = Window(win.kernel, win.stride, win.dilation, (0,) * len(win.padding), win.overhang)
        include_padding = False
    full = not any(win.whole_padding) or (include_padding and not any(win.overhang))
    return _pool(node, "avg_pool", x, win, divisor="full" if full else "valid")


def _zero_padded(node: NodeContext, x: Value, win: Window) -> Value:
    rank = len(win.kernel)
    return node.emit(
        "pad",
        [x],
        before=(0, 0, *win.padding[:rank]),
        after=(0, 0, *win.padding[rank:]),
        value=0.0,
    )


@converts("LpPool")
@in_float32
def lp_pool(node: NodeContext) -> Value:
    """(Σ |x|^p)^(1/p) over each window."""
    x, p = node.input(0), node.attr("p", 2)
    win = window(node, x.shape[2:], node.attr("kernel_shape"))
    powers = _absolute_power(node, x, p)
    mean = _pool(node, "avg_pool", powers, win, divisor="full")
    total = node.emit("multiply", [mean, node.like(mean, math.prod(win.kernel))])
    return _root(node, total, p)


def _absolute_power(node: NodeContext, x: Value, p: float) -> Value:
    if p == 2:
        return node.emit("multiply", [x, x])
    size = node.emit("abs", [x])
    return size if p == 1 else node.emit("power", [size, node.like(x, p)])


def _root(node: NodeContext, x: Value, p: float) -> Value:
    if p == 1:
        return x
    if p == 2:
        return node.emit("sqrt", [x])
    return node.emit("power", [x, node.like(x, 1 / p)])


def _spatial_axes(x: Value) -> tuple[int, ...]:
    return tuple(range(2, len(x.shape)))


@converts("GlobalAveragePool")
@in_float32
def global_average_pool(node: NodeContext) -> Value:
    """The mean over all spatial axes."""
    x = node.input(0)
    return node.emit("reduce_mean", [x], axes=_spatial_axes(x), keepdims=True)


@converts("GlobalMaxPool")
def global_max_pool(node: NodeContext) -> Value:
    """The largest element over all spatial axes."""
    x = node.input(0)
    return node.emit("reduce_max", [x], axes=_spatial_axes(x), keepdims=True)


@converts("GlobalLpPool")
@in_float32
def global_lp_pool(node: NodeContext) -> Value:
    """(Σ |x|^p)^(1/p) over all spatial axes."""
    x, p = node.input(0), node.attr("p", 2)
    powers = _absolute_power(node, x, p)
    total = node.emit("reduce_sum", [powers], axes=_spatial_axes(x), keepdims=True)
    return _root(node, total, p)


@converts("MaxUnpool")
def max_unpool(node: NodeContext) -> Value:
    """Elements back at the places MaxPool found them, zeros elsewhere."""
    x, indices = node.input(0), node.input(1)
    given = node.optional_array(2, "the output shape")
    win = window(node, x.shape[2:], node.attr("kernel_shape"))
    rank = len(win.kernel)
    spatial = [
        (d - 1) * win.stride[i] + win.kernel[i] - win.padding[i] - win.padding[rank + i]
        for i, d in enumerate(x.shape[2:])
    ]
    shape = tuple(int(d) for d in given) if given is not None else (*x.shape[:2], *spatial)
    # indices count within the shape that the window itself gives
    inner = (*x.shape[:2], *spatial)
    zeros = node.constant(np.zeros(math.prod(inner), x.dtype))
    flat = node.emit(
        "scatter_elements",
        [zeros, node.reshape(indices, (x.size,)), node.reshape(x, (x.size,))],
        axis=0,
        reduction="update",
    )
    out = node.reshape(flat, inner)
    if shape == inner:
        return out
    after = tuple(a - b for a, b in zip(shape, inner, strict=True))
    return node.emit("pad", [out], before=(0,) * len(shape), after=after, value=0.0)
