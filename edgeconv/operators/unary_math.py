"""Mathematical functions of one element, casts and tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from edgeconv.operators import vector_math as vm
from edgeconv.operators import vector_trigonometry as vt
from edgeconv.operators.registry import unary


def _const(value: float, x: Any) -> Any:
    return tirx.const(value, vm.dtype_of(x))


def is_float(dtype: str) -> bool:
    """True for floating-point element types."""
    return "float" in dtype


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "exp": vm.exp,
    "log": vm.log,
    "erf": vm.erf,
    "sin": tirx.sin,
    "cos": tirx.cos,
    "tan": lambda x: tirx.sin(x) / tirx.cos(x),
    "asin": vt.asin,
    "acos": vt.acos,
    "atan": vt.atan,
    "sinh": vt.sinh,
    "cosh": vt.cosh,
    "asinh": vt.asinh,
    "acosh": vt.acosh,
    "atanh": vt.atanh,
    "sqrt": tirx.sqrt,
    "floor": tirx.floor,
    "ceil": tirx.ceil,
    "round": tirx.nearbyint,  # half to even
    "identity": lambda x: x,
    "reciprocal": lambda x: _const(1, x) / x,
    "negative": lambda x: _const(0, x) - x if not is_float(vm.dtype_of(x)) else x * _const(-1, x),
    "not": lambda x: tirx.Not(x),
    "bitwise_not": lambda x: ~x,
    "is_nan": tirx.isnan,
}
for _name, _function in _FUNCTIONS.items():
    unary(_name)(_function)


@unary("abs")
def absolute(x: Any) -> Any:
    """|x|."""
    if vm.dtype_of(x).startswith("uint"):
        return x
    return vm.absolute(x)


@unary("sign")
def sign(x: Any) -> Any:
    """-1, 0 or 1."""
    zero, one = _const(0, x), _const(1, x)
    positive = tirx.Select(x > zero, one, x if is_float(vm.dtype_of(x)) else zero)
    if vm.dtype_of(x).startswith("uint"):
        return positive
    return tirx.Select(x < zero, _const(-1, x), positive)


@unary("is_inf")
def is_inf(x: Any, *, negative: bool, positive: bool) -> Any:
    """True for the infinities asked for."""
    above = x == _const(float("inf"), x)
    below = x == _const(float("-inf"), x)
    if negative and positive:
        return tirx.Or(above, below)
    return above if positive else below if negative else tirx.And(above, below)


@unary("bit_cast")
def bit_cast(x: Any, *, to: str) -> Any:
    """The bits of x as another element type of the same width."""
    return tirx.reinterpret(to, x)


@unary("cast")
def cast(x: Any, *, to: str) -> Any:
    """x as element type `to`: floats are truncated towards zero, any non-zero is true."""
    source = vm.dtype_of(x)
    if to == source:
        return x
    if to == "bool":
        return x != _const(0, x)
    if source == "float16" and not is_float(to):
        x = tirx.Cast("float32", x)
    return tirx.Cast(to, x)
