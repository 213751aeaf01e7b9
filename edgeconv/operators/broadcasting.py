"""Elementwise operators of several tensors, with numpy's broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te

from edgeconv.operators.registry import Pattern, ShapeError, operator

Formula = Callable[..., Any]


def broadcast_shape(shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The shape `shapes` broadcast to; ShapeError if they don't."""
    rank = max((len(s) for s in shapes), default=0)
    out = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, start=rank - len(shape)):
            if size != 1 and out[axis] not in (1, size):
                shown = " and ".join(str(list(s)) for s in shapes)
                raise ShapeError(f"shapes {shown} do not broadcast")
            out[axis] = size if size != 1 else out[axis]
    return tuple(out)


def static_shape(tensor: te.Tensor) -> tuple[int, ...]:
    """The shape as Python integers."""
    return tuple(int(d) for d in tensor.shape)


def read(tensor: te.Tensor, index: Sequence[Any], shape: Sequence[int]) -> Any:
    """The element of `tensor` that takes part in element `index` of a result of shape `shape`."""
    own = static_shape(tensor)
    skip = len(shape) - len(own)
    return tensor(*(0 if d == 1 != shape[skip + a] else index[skip + a] for a, d in enumerate(own)))


def elementwise(name: str) -> Callable[[Formula], Formula]:
    """Register an element's formula `f(a, b, …, **attrs)` as a broadcasting operator."""

    def register(fn: Formula) -> Formula:
        def compute(*tensors: te.Tensor, **attrs: Any) -> te.Tensor:
            shape = broadcast_shape([static_shape(t) for t in tensors])
            return te.compute(
                shape, lambda *i: fn(*(read(t, i, shape) for t in tensors), **attrs), name=name
            )

        operator(name, Pattern.ELEMENTWISE)(compute)
        return fn

    return register
