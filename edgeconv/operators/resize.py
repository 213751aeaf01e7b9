"""Interpolation along one axis by a table of neighbours and weights, and sampling at free places."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from edgeconv.operators.broadcasting import static_shape
from edgeconv.operators.registry import Pattern, operator


@operator("interpolate", Pattern.REDUCTION)
def interpolate(x: te.Tensor, neighbours: te.Tensor, weights: te.Tensor, *, axis: int) -> te.Tensor:
    """out[…, o, …] = Σ_t weights[o, t] · x[…, neighbours[o, t], …] along `axis`.

    neighbours: int32 [size of the output, taps], inside the axis; weights: the same shape.
    """
    shape = static_shape(x)
    size, taps = static_shape(neighbours)
    tap = te.reduce_axis((0, taps), "tap")

    def element(*at: Any) -> Any:
        o = at[axis]
        value = x(*at[:axis], neighbours[o, tap], *at[axis + 1 :])
        return te.sum(value * weights[o, tap], axis=tap)

    return te.compute((*shape[:axis], size, *shape[axis + 1 :]), element, name="interpolate")


@operator("sample", Pattern.OPAQUE)
def sample(x: te.Tensor, places: te.Tensor, *, padding_mode: str) -> te.Tensor:
    """x [N, C, …] at whole places [N, …, rank] (the first coordinate is the first spatial axis).

    Outside of x: "zeros", or the nearest element inside ("border"). Places are float.
    """
    shape, place_shape = static_shape(x), static_shape(places)
    spatial = shape[2:]

    def element(n: Any, c: Any, *at: Any) -> Any:
        inside, index = [], []
        for i, size in enumerate(spatial):
            place = places(n, *at, i)
            low, high = tirx.const(0, str(places.dtype)), tirx.const(size - 1, str(places.dtype))
            inside.append(tirx.And(place >= low, place <= high))
            index.append(tirx.Cast("int32", tirx.max(tirx.min(place, high), low)))
        value = x(n, c, *index)
        if padding_mode == "border":
            return value
        return tirx.Select(tirx.all(*inside), value, tirx.const(0, str(x.dtype)))

    return te.compute((*shape[:2], *place_shape[1:-1]), element, name="sample")
