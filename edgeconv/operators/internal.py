"""Operators only the compiler inserts: copies, and two names for one buffer."""

from __future__ import annotations

from tvm import te

from edgeconv.operators.registry import Pattern, operator


@operator("copy", Pattern.ELEMENTWISE)
def copy(x: te.Tensor) -> te.Tensor:
    """x in another layout."""
    return te.compute(x.shape, lambda *i: x(*i), name="copy")


@operator("pixels", Pattern.INJECTIVE)
def pixels(x: te.Tensor) -> te.Tensor:
    """[M, K] as [1, K, 1, M]."""
    m, k = x.shape
    return te.compute((1, k, 1, m), lambda n, c, h, w: x[w, c], name="pixels")


@operator("rows", Pattern.INJECTIVE)
def rows(x: te.Tensor) -> te.Tensor:
    """[1, K, 1, M] as [M, K]."""
    _, k, _, m = x.shape
    return te.compute((m, k), lambda i, j: x[0, j, 0, i], name="rows")
