"""Operators whose indices are tensors. Indices may be negative: they count from the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import te, tirx, topi

from edgeconv.operators.broadcasting import static_shape
from edgeconv.operators.reduce import product
from edgeconv.operators.registry import Pattern, ShapeError, operator


def _wrapped(index: Any, size: int) -> Any:
    """`index` from the start, kept inside so that no value can reach foreign memory."""
    index = tirx.Cast("int32", index)
    index = tirx.Select(index < 0, index + size, index)
    return tirx.max(tirx.min(index, size - 1), 0)


@operator("gather", Pattern.INJECTIVE)
def gather(x: te.Tensor, indices: te.Tensor, *, axis: int) -> te.Tensor:
    """Slices of x along `axis`: its index is replaced by those of `indices`."""
    shape, rank = static_shape(x), len(static_shape(indices))
    out = (*shape[:axis], *static_shape(indices), *shape[axis + 1 :])

    def element(*at: Any) -> Any:
        index = _wrapped(indices(*at[axis : axis + rank]), shape[axis])
        return x(*at[:axis], index, *at[axis + rank :])

    return te.compute(out, element, name="gather")


@operator("gather_elements", Pattern.INJECTIVE)
def gather_elements(x: te.Tensor, indices: te.Tensor, *, axis: int) -> te.Tensor:
    """out[i] = x[i], but for the index of `axis`, which is indices[i]."""
    size = static_shape(x)[axis]

    def element(*at: Any) -> Any:
        return x(*at[:axis], _wrapped(indices(*at), size), *at[axis + 1 :])

    return te.compute(indices.shape, element, name="gather_elements")


@operator("gather_nd", Pattern.INJECTIVE)
def gather_nd(x: te.Tensor, indices: te.Tensor, *, batch_dims: int) -> te.Tensor:
    """Slices of x at the coordinates in the last axis of `indices`."""
    shape, index_shape = static_shape(x), static_shape(indices)
    depth, outer = index_shape[-1], len(index_shape) - 1
    if batch_dims + depth > len(shape):
        raise ShapeError(f"coordinates of {depth} axes into {list(shape)}")
    out = (*index_shape[:-1], *shape[batch_dims + depth :])

    def element(*at: Any) -> Any:
        coordinates = [
            _wrapped(indices(*at[:outer], d), shape[batch_dims + d]) for d in range(depth)
        ]
        return x(*at[:batch_dims], *coordinates, *at[outer:])

    return te.compute(out, element, name="gather_nd")


@operator("scatter_elements", Pattern.OPAQUE)
def scatter_elements(
    x: te.Tensor, indices: te.Tensor, updates: te.Tensor, *, axis: int, reduction: str
) -> te.Tensor:
    """x with updates[i] put at (or combined with) x[i], index of `axis` from `indices`."""
    size = static_shape(x)[axis]

    def matrix(t: te.Tensor, element: Any) -> te.Tensor:
        """A copy with an axis in front: topi binds buffers of one axis to unknown offsets."""
        return te.compute((1, *static_shape(t)), lambda _, *i: element(*i), name="operand")

    out = topi.scatter_elements(
        matrix(x, x),
        matrix(indices, lambda *i: tirx.Cast("int64", _wrapped(indices(*i), size))),
        matrix(updates, updates),
        axis=axis + 1,
        reduction=reduction,
    )
    # topi's loop nest has no root block of its own, which scheduling needs
    return te.compute(x.shape, lambda *i: out(0, *i), name="scattered")


@operator("scatter_nd", Pattern.OPAQUE)
def scatter_nd(
    x: te.Tensor, indices: te.Tensor, updates: te.Tensor, *, reduction: str
) -> te.Tensor:
    """x with slices put at (or combined with) the coordinates in the last axis of `indices`."""
    shape, index_shape = static_shape(x), static_shape(indices)
    depth = index_shape[-1]
    rows, width = math.prod(index_shape[:-1]), math.prod(shape[depth:])
    strides = [math.prod(shape[d + 1 : depth]) for d in range(depth)]

    def flat(row: Any, column: Any) -> Any:
        at = _unflatten(row, index_shape[:-1])
        place: Any = tirx.const(0, "int32")
        for d in range(depth):
            place = place + _wrapped(indices(*at, d), shape[d]) * strides[d]
        return tirx.Cast("int64", place * width + column)

    where = te.compute((rows * width,), lambda i: flat(i // width, i % width), name="places")
    return topi.reshape(
        topi.scatter_elements(
            topi.reshape(x, (math.prod(shape),)),
            where,
            topi.reshape(updates, (rows * width,)),
            axis=0,
            reduction=reduction,
        ),
        shape,
    )


def _unflatten(place: Any, shape: Sequence[int]) -> list[Any]:
    index: list[Any] = []
    for size in reversed(shape):
        index.insert(0, place % size)
        place = place // size
    return index


def _cumulative(
    x: te.Tensor, axis: int, exclusive: bool, reverse: bool, reduce: Any, neutral: int
) -> te.Tensor:
    inner = te.reduce_axis((0, static_shape(x)[axis]), "r")

    def element(*at: Any) -> Any:
        here = at[axis]
        if reverse:
            taken = inner > here if exclusive else inner >= here
        else:
            taken = inner < here if exclusive else inner <= here
        value = x(*at[:axis], inner, *at[axis + 1 :])
        return reduce([inner], tirx.Select(taken, value, tirx.const(neutral, str(x.dtype))))

    return te.compute(x.shape, element, name="cumulative")


@operator("cumulative_sum", Pattern.OPAQUE)
def cumulative_sum(x: te.Tensor, *, axis: int, exclusive: bool, reverse: bool) -> te.Tensor:
    """Sums of the elements before (in reverse: behind) each along `axis`; quadratic in its size."""
    return _cumulative(x, axis, exclusive, reverse, lambda a, v: te.sum(v, axis=a), 0)


@operator("cumulative_product", Pattern.OPAQUE)
def cumulative_product(x: te.Tensor, *, axis: int, exclusive: bool, reverse: bool) -> te.Tensor:
    """Like `cumulative_sum`, with products."""
    return _cumulative(x, axis, exclusive, reverse, product, 1)


@operator("top_k", Pattern.OPAQUE)
def top_k(x: te.Tensor, *, axis: int, k: int, largest: bool) -> list[te.Tensor]:
    """The k extreme values along `axis` in order, and their int64 indices; quadratic in its size.

    Among equals the lower index comes first.
    """
    shape, dtype = static_shape(x), str(x.dtype)
    size = shape[axis]
    other, place = te.reduce_axis((0, size), "other"), te.reduce_axis((0, size), "place")

    def at(index: Sequence[Any], value: Any) -> Any:
        return x(*index[:axis], value, *index[axis + 1 :])

    def precedes(*index: Any) -> Any:
        mine, its = x(*index), at(index, other)
        better = its > mine if largest else its < mine
        tie = tirx.And(its == mine, other < index[axis])
        first = tirx.Or(better, tie)
        return te.sum(tirx.Cast("int32", first), axis=other)

    rank = te.compute(shape, precedes, name="rank")
    out = (*shape[:axis], k, *shape[axis + 1 :])

    def index_of(*index: Any) -> Any:
        hit = rank(*index[:axis], place, *index[axis + 1 :]) == index[axis]
        zero = tirx.const(0, "int64")
        return te.sum(tirx.Select(hit, tirx.Cast("int64", place), zero), axis=place)

    indices = te.compute(out, index_of, name="indices")
    values = te.compute(out, lambda *i: at(i, _wrapped(indices(*i), size)), name=f"values_{dtype}")
    return [values, indices]
