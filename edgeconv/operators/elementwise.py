"""Elementwise operators. Formulas of one element, exact to a few ulp and vectorisable."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx, topi

from edgeconv.operators import vector_math as vm
from edgeconv.operators.registry import Pattern, operator, unary


def _const(value: float, x: Any) -> Any:
    return tirx.const(value, vm.dtype_of(x))


@unary("relu")
def relu(x: Any) -> Any:
    """max(x, 0)."""
    return tirx.max(x, _const(0, x))


@unary("clip")
def clip(x: Any, *, low: float | None = None, high: float | None = None) -> Any:
    """min(max(x, low), high); a bound of None is absent."""
    if low is not None:
        x = tirx.max(x, _const(low, x))
    return x if high is None else tirx.min(x, _const(high, x))


@unary("leaky_relu")
def leaky_relu(x: Any, *, alpha: float) -> Any:
    """x for x ≥ 0, alpha·x below."""
    return tirx.Select(x < _const(0, x), x * _const(alpha, x), x)


@unary("sigmoid")
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return vm.sigmoid(x)


@unary("silu")
def silu(x: Any) -> Any:
    """x · sigmoid(x)."""
    return x * vm.sigmoid(x)


@unary("hard_sigmoid")
def hard_sigmoid(x: Any, *, alpha: float, beta: float) -> Any:
    """clip(alpha·x + beta, 0, 1)."""
    return clip(x * _const(alpha, x) + _const(beta, x), low=0, high=1)


@unary("hard_swish")
def hard_swish(x: Any) -> Any:
    """x · clip(x/6 + 1/2, 0, 1)."""
    return x * hard_sigmoid(x, alpha=1 / 6, beta=0.5)


@operator("add", Pattern.ELEMENTWISE)
def add(a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """a + b with numpy broadcasting."""
    return topi.add(a, b)


@operator("multiply", Pattern.ELEMENTWISE)
def multiply(a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """a · b with numpy broadcasting."""
    return topi.multiply(a, b)
