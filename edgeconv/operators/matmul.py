"""Matrix products."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from edgeconv.operators.broadcasting import broadcast_shape, read, static_shape
from edgeconv.operators.registry import Pattern, ShapeError, operator


@operator("dense", Pattern.OPAQUE)
def dense(x: te.Tensor, weight: te.Tensor, *bias: te.Tensor, has_bias: bool = False) -> te.Tensor:
    """x [M, K] times weight [N, K] transposed, plus bias [N]."""
    (m, k), (n, wk) = static_shape(x), static_shape(weight)
    if k != wk:
        raise ShapeError(f"{k} columns of x, {wk} of the weight")
    axis = te.reduce_axis((0, k), "k")
    out = te.compute((m, n), lambda i, j: te.sum(x[i, axis] * weight[j, axis], axis), name="dense")
    if not has_bias:
        return out
    return te.compute((m, n), lambda i, j: out[i, j] + bias[0][j], name="bias")


@operator("matmul", Pattern.OPAQUE)
def matmul(a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """a [..., M, K] times b [..., K, N]; the leading axes broadcast."""
    left, right = static_shape(a), static_shape(b)
    if min(len(left), len(right)) < 2 or left[-1] != right[-2]:
        raise ShapeError(f"{list(left)} times {list(right)}")
    batch = broadcast_shape([left[:-2], right[:-2]])
    axis = te.reduce_axis((0, left[-1]), "k")

    def element(*index: Any) -> Any:
        at = (*batch, left[-2], right[-1])
        row = read(a, (*index[:-1], axis), (*at[:-1], left[-1]))
        column = read(b, (*index[:-2], axis, index[-1]), (*at[:-2], left[-1], at[-1]))
        return te.sum(row * column, axis)

    return te.compute((*batch, left[-2], right[-1]), element, name="matmul")


@operator("integer_matmul", Pattern.OPAQUE)
def integer_matmul(a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """`matmul` of 8-bit integers with 32-bit sums."""

    def widened(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *i: tirx.Cast("int32", x(*i)), name="widened")

    return matmul(widened(a), widened(b))
