"""Activations: formulas of one element, exact to a few ulp and vectorisable."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from edgeconv.operators import vector_math as vm
from edgeconv.operators.registry import unary


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


@unary("tanh")
def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    return vm.tanh(x)


@unary("elu")
def elu(x: Any, *, alpha: float) -> Any:
    """x above 0, alpha·(e^x - 1) below."""
    return tirx.Select(x > _const(0, x), x, vm.expm1(x) * _const(alpha, x))


@unary("selu")
def selu(x: Any, *, alpha: float, gamma: float) -> Any:
    """gamma · elu(x)."""
    return elu(x, alpha=alpha) * _const(gamma, x)


@unary("celu")
def celu(x: Any, *, alpha: float) -> Any:
    """max(x, 0) + min(alpha·(e^(x/alpha) - 1), 0)."""
    below = vm.expm1(x * _const(1 / alpha, x)) * _const(alpha, x)
    return tirx.Select(x > _const(0, x), x, below)


@unary("gelu")
def gelu(x: Any) -> Any:
    """x/2 · (1 + erf(x/√2))."""
    return x * _const(0.5, x) * (_const(1, x) + vm.erf(x * _const(0.5**0.5, x)))


@unary("gelu_tanh")
def gelu_tanh(x: Any) -> Any:
    """x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))."""
    inner = (x + x * x * x * _const(0.044715, x)) * _const(0.7978845608028654, x)
    return x * _const(0.5, x) * (_const(1, x) + vm.tanh(inner))


@unary("softplus")
def softplus(x: Any) -> Any:
    """log(1 + e^x)."""
    return vm.softplus(x)


@unary("softsign")
def softsign(x: Any) -> Any:
    """x / (1 + |x|)."""
    return x / (_const(1, x) + vm.absolute(x))


@unary("mish")
def mish(x: Any) -> Any:
    """x · tanh(log(1 + e^x)), with one exponential."""
    two = _const(2, x)

    def ratio(e: Any) -> Any:
        return vm.bind(e * (e + two), lambda n: n / (n + two))

    # above 10, tanh(log(1 + e^x)) rounds to one
    return x * vm.bind(vm.exp(tirx.min(x, _const(10, x))), ratio)


@unary("thresholded_relu")
def thresholded_relu(x: Any, *, alpha: float) -> Any:
    """x above alpha, else 0."""
    return tirx.Select(x > _const(alpha, x), x, _const(0, x))


@unary("shrink")
def shrink(x: Any, *, bias: float, threshold: float) -> Any:
    """x + bias below -threshold, x - bias above threshold, else 0."""
    outside = tirx.Select(x > _const(threshold, x), x - _const(bias, x), _const(0, x))
    return tirx.Select(x < _const(-threshold, x), x + _const(bias, x), outside)


@unary("swish")
def swish(x: Any, *, alpha: float) -> Any:
    """x · sigmoid(alpha·x)."""
    return x * vm.sigmoid(x * _const(alpha, x))
