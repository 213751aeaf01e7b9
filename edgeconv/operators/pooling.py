"""Pooling over windows of the axes behind N and C, for any number of them.

Attributes, in ONNX's order of axes: kernel, stride, dilation (one entry a spatial axis), padding
(all begins, then all ends: top, left, bottom, right in 2-D; a ceiling in the output size has become
padding).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from edgeconv.operators.broadcasting import static_shape
from edgeconv.operators.reduce import arg_reducer, lowest, maximum
from edgeconv.operators.registry import Pattern, ShapeError, operator

Ints = tuple[int, ...]

POOLS = ("max_pool2d", "avg_pool2d")  # of maps, with one output


def window_sizes(
    spatial: Sequence[int], kernel: Ints, stride: Ints, dilation: Ints, padding: Ints
) -> Ints:
    """Output sizes of a sliding window; ShapeError if it does not fit."""
    rank = len(spatial)
    if not len(kernel) == len(stride) == len(dilation) == len(padding) // 2 == rank:
        raise ShapeError(f"kernel {list(kernel)} does not fit {rank} spatial axes")
    out = tuple(
        (d + padding[i] + padding[i + rank] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i, d in enumerate(spatial)
    )
    if min(out) < 1:
        raise ShapeError(f"the kernel {list(kernel)} does not fit the input {list(spatial)}")
    return out


def pad_spatial(x: te.Tensor, padding: Ints, value: Any, name: str = "padded") -> te.Tensor:
    """x with `value` around its spatial axes, or x itself without padding."""
    shape = static_shape(x)
    spatial = shape[2:]
    rank = len(spatial)
    if not any(padding):
        return x
    sizes = [d + padding[i] + padding[i + rank] for i, d in enumerate(spatial)]

    def element(n: Any, c: Any, *at: Any) -> Any:
        inside = []
        for i, (y, d) in enumerate(zip(at, spatial, strict=True)):
            inside += [y >= padding[i]] * bool(padding[i])
            inside += [y < padding[i] + d] * bool(padding[i + rank])
        moved = x(n, c, *(y - padding[i] for i, y in enumerate(at)))
        return tirx.if_then_else(tirx.all(*inside), moved, value)

    return te.compute((*shape[:2], *sizes), element, name=name)


def _window(
    x: te.Tensor, kernel: Ints, stride: Ints, dilation: Ints, padding: Ints, fill: Any
) -> tuple[Ints, list[te.IterVar], Callable[..., Any]]:
    """The output's shape, the window's axes, and the element under the window."""
    shape = static_shape(x)
    sizes = window_sizes(shape[2:], kernel, stride, dilation, padding)
    padded = pad_spatial(x, padding, fill)
    axes = [te.reduce_axis((0, k), f"k{i}") for i, k in enumerate(kernel)]

    def element(n: Any, c: Any, *at: Any) -> Any:
        moved = (y * s + k * d for y, s, k, d in zip(at, stride, axes, dilation, strict=True))
        return padded(n, c, *moved)

    return (*shape[:2], *sizes), axes, element


def _max_pool(
    x: te.Tensor, *, kernel: Ints, stride: Ints, dilation: Ints, padding: Ints
) -> te.Tensor:
    """The largest element of each window."""
    fill = lowest(str(x.dtype))
    shape, axes, element = _window(x, kernel, stride, dilation, padding, fill)
    return te.compute(shape, lambda *i: maximum(axes, element(*i)), name="max_pool")


def _avg_pool(
    x: te.Tensor, *, kernel: Ints, stride: Ints, dilation: Ints, padding: Ints, divisor: str
) -> te.Tensor:
    """The mean of each window; `divisor`: "full" windows, or the "valid" part without padding."""
    dtype = str(x.dtype)
    shape, axes, element = _window(x, kernel, stride, dilation, padding, tirx.const(0, dtype))
    total = te.compute(shape, lambda *i: te.sum(element(*i), axis=axes), name="total")
    if divisor == "full":
        scale = tirx.const(1.0 / math.prod(kernel), dtype)
        return te.compute(shape, lambda *i: total(*i) * scale, name="avg_pool")
    sizes = static_shape(x)[2:]

    def mean(n: Any, c: Any, *at: Any) -> Any:
        count: Any = tirx.const(1, "int32")
        for i, y in enumerate(at):
            start = y * stride[i] - padding[i]
            d = dilation[i]
            first = tirx.max((d - 1 - start) // d, 0)
            last = tirx.min((sizes[i] - 1 - start) // d, kernel[i] - 1)
            count = count * (last - first + 1)
        return total(n, c, *at) / tirx.Cast(dtype, count)

    return te.compute(shape, mean, name="avg_pool")


for _rank in (2, 3):
    operator(f"max_pool{_rank}d", Pattern.OPAQUE)(_max_pool)
    operator(f"avg_pool{_rank}d", Pattern.OPAQUE)(_avg_pool)


@operator("max_pool_indices", Pattern.OPAQUE)
def max_pool_indices(
    x: te.Tensor,
    *,
    kernel: Ints,
    stride: Ints,
    dilation: Ints,
    padding: Ints,
    column_major: bool,
) -> te.Tensor:
    """Where in the whole of x each window's (first) largest element lies, as int64."""
    fill = lowest(str(x.dtype))
    shape, axes, element = _window(x, kernel, stride, dilation, padding, fill)
    sizes = static_shape(x)[2:]
    reducer = arg_reducer(str(x.dtype), largest=True, last=False)

    def pair(*index: Any) -> Any:
        place: Any = tirx.const(0, "int64")
        for i, (y, k) in enumerate(zip(index[2:], axes, strict=True)):
            at = y * stride[i] + k * dilation[i] - padding[i]
            place = place * sizes[i] + tirx.Cast("int64", at)
        return reducer((place, element(*index)), axis=axes)

    best = te.compute(shape, pair, name="max_pool")[0]

    def flat(n: Any, c: Any, *at: Any) -> Any:
        place = best(n, c, *at)
        if column_major:
            place = _transposed(place, sizes)
        return place + tirx.Cast("int64", n * shape[1] + c) * math.prod(sizes)

    return te.compute(shape, flat, name="indices")


def _transposed(place: Any, sizes: Sequence[int]) -> Any:
    """A row-major place within axes of `sizes`, as a column-major one."""
    total: Any = tirx.const(0, "int64")
    weight = math.prod(sizes)
    for size in reversed(sizes):
        weight //= size
        total = total + place % size * weight
        place = place // size
    return total
