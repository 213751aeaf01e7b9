"""Sampling an image at places that another tensor gives."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from edgeconv.operators.broadcasting import static_shape
from edgeconv.operators.registry import Pattern, operator
from edgeconv.operators.vector_math import bind, dtype_of

_CUBIC = -0.75


def _const(value: float, x: Any) -> Any:
    return tirx.const(value, dtype_of(x))


def _reflected(v: Any, low: float, high: float) -> Any:
    """v mirrored at `low` and `high` until it lies between them."""
    span = high - low
    if span <= 0:
        return _const(low, v)

    def between(v: Any) -> Any:
        below = v < _const(low, v)
        above = v > _const(high, v)
        beyond = tirx.Select(below, _const(low, v) - v, v - _const(high, v))

        def folded(d: Any) -> Any:
            n = tirx.floor(d / _const(span, v))
            rest = d - n * _const(span, v)
            even = n - tirx.floor(n * _const(0.5, v)) * _const(2, v) < _const(0.5, v)
            up, down = _const(low, v) + rest, _const(high, v) - rest
            return tirx.Select(below, tirx.Select(even, up, down), tirx.Select(even, down, up))

        return tirx.Select(tirx.Or(below, above), bind(beyond, folded), v)

    return bind(v, between)


def _clamped(v: Any, low: float, high: float) -> Any:
    return tirx.max(tirx.min(v, _const(high, v)), _const(low, v))


def _cubic_weights(t: Any) -> list[Any]:
    """Keys' kernel at the distances 1 + t, t, 1 - t, 2 - t."""

    def far(d: Any) -> Any:
        a = _const(_CUBIC, t)
        poly = (a * d - a * _const(5, t)) * d + a * _const(8, t)
        return poly * d - a * _const(4, t)

    def near(d: Any) -> Any:
        poly = _const(_CUBIC + 2, t) * d - _const(_CUBIC + 3, t)
        return poly * d * d + _const(1, t)

    one = _const(1, t)
    return [far(t + one), near(t), near(one - t), far(_const(2, t) - t)]


@operator("grid_sample", Pattern.OPAQUE)
def grid_sample(
    x: te.Tensor, grid: te.Tensor, *, mode: str, padding_mode: str, align_corners: bool
) -> te.Tensor:
    """x [N, C, …] at the places grid [N, …, rank], from -1 to 1, last spatial axis first.

    mode: nearest, linear or cubic; padding_mode: zeros, border or reflection.
    """
    shape, out = static_shape(x), static_shape(grid)[1:-1]
    sizes, rank = shape[2:], len(shape) - 2
    edges = [(0.0, d - 1.0) if align_corners else (-0.5, d - 0.5) for d in sizes]

    def place(n: Any, axis: int, at: Sequence[Any]) -> Any:
        g, d = grid(n, *at, rank - 1 - axis), sizes[axis]
        v = (g + _const(1, g)) * _const((d - 1) / 2 if align_corners else d / 2, g)
        v = v if align_corners else v - _const(0.5, g)
        v = tirx.nearbyint(v) if mode == "nearest" else v
        if padding_mode == "border":
            return _clamped(v, 0, d - 1)
        return _reflected(v, *edges[axis]) if padding_mode == "reflection" else v

    def stage(axis: int) -> te.Tensor:
        return te.compute((shape[0], *out), lambda n, *at: place(n, axis, at), name=f"place{axis}")

    places = [stage(axis) for axis in range(rank)]
    start, taps = {"nearest": (0, 1), "linear": (0, 2), "cubic": (-1, 4)}[mode]

    def weights(t: Any) -> list[Any]:
        if mode == "nearest":
            return [_const(1, t)]
        return [_const(1, t) - t, t] if mode == "linear" else _cubic_weights(t)

    def pixel(n: Any, c: Any, whole: Sequence[Any]) -> Any:
        index, inside = [], []
        for a, v in enumerate(whole):
            if padding_mode == "reflection":
                v = _reflected(v, *edges[a])
            inside += [v >= _const(0, v), v <= _const(sizes[a] - 1, v)]
            index.append(tirx.Cast("int32", _clamped(v, 0, sizes[a] - 1)))
        value = x(
            n, c, *(tirx.max(tirx.min(i, d - 1), 0) for i, d in zip(index, sizes, strict=True))
        )
        if padding_mode != "zeros":
            return value
        return tirx.Select(tirx.all(*inside), value, tirx.const(0, str(x.dtype)))

    def element(n: Any, c: Any, *at: Any) -> Any:
        return gathered(n, c, [p(n, *at) for p in places], [])

    def gathered(n: Any, c: Any, rest: list[Any], known: list[tuple[Any, Any]]) -> Any:
        """Bind each axis' whole place and fraction, then sum over the taps."""
        if rest:
            head, tail = rest[0], rest[1:]
            return bind(
                tirx.floor(head),
                lambda w: bind(head - w, lambda t: gathered(n, c, tail, [*known, (w, t)])),
            )
        total: Any = tirx.const(0, str(x.dtype))
        for tap in itertools.product(range(taps), repeat=rank):
            weight: Any = _const(1, known[0][1])
            for i, (_, t) in zip(tap, known, strict=True):
                weight = weight * weights(t)[i]
            whole = [w + _const(start + i, w) for i, (w, _) in zip(tap, known, strict=True)]
            value = pixel(n, c, whole)
            total = total + value * tirx.Cast(str(x.dtype), weight)
        return total

    return te.compute((*shape[:2], *out), element, name="grid_sample")
