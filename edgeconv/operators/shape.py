"""Operators that only move elements: each output element reads one input element."""

from __future__ import annotations

import math
from typing import Any

from tvm import te, tirx, topi

from edgeconv.operators.broadcasting import broadcast_shape, read, static_shape
from edgeconv.operators.registry import Pattern, ShapeError, operator


@operator("reshape", Pattern.INJECTIVE)
def reshape(x: te.Tensor, *, shape: tuple[int, ...]) -> te.Tensor:
    """The same elements in row-major order under another shape."""
    own = static_shape(x)
    if math.prod(own) != math.prod(shape):
        raise ShapeError(f"{list(own)} has not as many elements as {list(shape)}")
    return topi.reshape(x, shape)


@operator("transpose", Pattern.INJECTIVE)
def transpose(x: te.Tensor, *, perm: tuple[int, ...]) -> te.Tensor:
    """Axis i of the output is axis perm[i] of x."""
    own = static_shape(x)
    if sorted(perm) != list(range(len(own))):
        raise ShapeError(f"{list(perm)} is not a permutation of {len(own)} axes")

    def element(*index: Any) -> Any:
        source: list[Any] = [0] * len(perm)
        for position, axis in enumerate(perm):
            source[axis] = index[position]
        return x(*source)

    return te.compute([own[a] for a in perm], element, name="transpose")


@operator("slices", Pattern.INJECTIVE)
def slices(x: te.Tensor) -> te.Tensor:
    """The slices of volumes [N, C, D, H, W] as images [N·D, C, H, W]."""
    n, c, depth, h, w = static_shape(x)
    return te.compute(
        (n * depth, c, h, w), lambda i, *at: x(i // depth, at[0], i % depth, *at[1:]), name="slices"
    )


@operator("volumes", Pattern.INJECTIVE)
def volumes(x: te.Tensor, *, depth: int) -> te.Tensor:
    """Images [N·depth, C, H, W] as the slices of volumes [N, C, depth, H, W]."""
    n, c, h, w = static_shape(x)
    if n % depth:
        raise ShapeError(f"{n} images are no volumes of {depth} slices")
    shape = (n // depth, c, depth, h, w)
    return te.compute(shape, lambda n, c, d, y, z: x(n * depth + d, c, y, z), name="volumes")


@operator("concat", Pattern.INJECTIVE)
def concat(*tensors: te.Tensor, axis: int) -> te.Tensor:
    """The tensors one after another along `axis`."""
    shapes = [static_shape(t) for t in tensors]
    first = shapes[0]
    for shape in shapes:
        if len(shape) != len(first) or any(
            a != b for i, (a, b) in enumerate(zip(shape, first, strict=True)) if i != axis
        ):
            shown = ", ".join(str(list(s)) for s in shapes)
            raise ShapeError(f"shapes {shown} do not agree outside of axis {axis}")
    offsets = [sum(s[axis] for s in shapes[:i]) for i in range(len(shapes))]

    def element(*index: Any) -> Any:
        def at(tensor: te.Tensor, offset: int) -> Any:
            return tensor(*index[:axis], index[axis] - offset, *index[axis + 1 :])

        value = at(tensors[-1], offsets[-1])
        for i in range(len(tensors) - 2, -1, -1):
            value = tirx.if_then_else(
                index[axis] < offsets[i + 1], at(tensors[i], offsets[i]), value
            )
        return value

    out = list(first)
    out[axis] = sum(s[axis] for s in shapes)
    return te.compute(out, element, name="concat")


@operator("slice", Pattern.INJECTIVE)
def slice_(
    x: te.Tensor,
    *,
    begin: tuple[int, ...],
    size: tuple[int, ...],
    step: tuple[int, ...],
) -> te.Tensor:
    """size[a] elements of each axis a from begin[a] on, every step[a]-th; steps may be negative."""
    for d, b, s, t in zip(static_shape(x), begin, size, step, strict=True):
        if s < 1 or not (0 <= b < d and 0 <= b + (s - 1) * t < d):
            raise ShapeError(f"{s} elements from {b} on, step {t}, do not lie in an axis of {d}")
    return te.compute(
        size,
        lambda *i: x(*(b + v * t for v, b, t in zip(i, begin, step, strict=True))),
        name="slice",
    )


@operator("pad", Pattern.INJECTIVE)
def pad(
    x: te.Tensor, *, before: tuple[int, ...], after: tuple[int, ...], value: float
) -> te.Tensor:
    """x surrounded by `value`; pads are not negative."""
    own = static_shape(x)
    if min((*before, *after), default=0) < 0:
        raise ShapeError("negative pads")

    def element(*index: Any) -> Any:
        inside = []
        for i, b, a, d in zip(index, before, after, own, strict=True):
            inside += [i >= b] * bool(b) + [i < b + d] * bool(a)
        moved = x(*(i - b for i, b in zip(index, before, strict=True)))
        if not inside:
            return moved
        return tirx.if_then_else(tirx.all(*inside), moved, tirx.const(value, str(x.dtype)))

    shape = [b + d + a for b, d, a in zip(before, own, after, strict=True)]
    return te.compute(shape, element, name="pad")


@operator("expand", Pattern.INJECTIVE)
def expand(x: te.Tensor, *, shape: tuple[int, ...]) -> te.Tensor:
    """x broadcast to `shape`."""
    if broadcast_shape([static_shape(x), shape]) != tuple(shape):
        raise ShapeError(f"{list(static_shape(x))} does not broadcast to {list(shape)}")
    return te.compute(shape, lambda *i: read(x, i, shape), name="expand")


@operator("tile", Pattern.INJECTIVE)
def tile(x: te.Tensor, *, repeats: tuple[int, ...]) -> te.Tensor:
    """x repeated repeats[a] times along each axis a."""
    own = static_shape(x)
    return te.compute(
        [d * r for d, r in zip(own, repeats, strict=True)],
        lambda *i: x(*(v % d if r > 1 else v for v, d, r in zip(i, own, repeats, strict=True))),
        name="tile",
    )


@operator("trilu", Pattern.INJECTIVE)
def trilu(x: te.Tensor, *, k: int, upper: bool) -> te.Tensor:
    """The triangle above (or below) diagonal k of the last two axes, 0 elsewhere."""

    def element(*index: Any) -> Any:
        distance = index[-1] - index[-2]
        kept = distance >= k if upper else distance <= k
        return tirx.Select(kept, x(*index), tirx.const(0, str(x.dtype)))

    return te.compute(x.shape, element, name="trilu")
