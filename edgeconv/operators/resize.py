"""Interpolation along one axis by a table of neighbours and weights."""

from __future__ import annotations

from typing import Any

from tvm import te

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
