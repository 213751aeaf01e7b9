"""Arithmetic, comparison, logic and bits of two or three elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from edgeconv.operators import vector_math as vm
from edgeconv.operators.broadcasting import elementwise
from edgeconv.operators.unary_math import is_float


def _is_float(x: Any) -> bool:
    return is_float(vm.dtype_of(x))


_FORMULAS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "maximum": tirx.max,
    "minimum": tirx.min,
    "equal": lambda a, b: a == b,
    "not_equal": lambda a, b: a != b,
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "logical_and": tirx.And,
    "logical_or": tirx.Or,
    "logical_xor": lambda a, b: a != b,
    "bitwise_and": lambda a, b: a & b,
    "bitwise_or": lambda a, b: a | b,
    "bitwise_xor": lambda a, b: a ^ b,
    "shift_left": lambda a, b: a << b,
    "shift_right": lambda a, b: a >> b,
}
for _name, _formula in _FORMULAS.items():
    elementwise(_name)(_formula)


@elementwise("divide")
def divide(a: Any, b: Any) -> Any:
    """a / b; integers are truncated towards zero."""
    return a / b if _is_float(a) else tirx.truncdiv(a, b)


@elementwise("modulo")
def modulo(a: Any, b: Any) -> Any:
    """The remainder with the sign of b, as in Python."""
    return a - tirx.floor(a / b) * b if _is_float(a) else tirx.floormod(a, b)


@elementwise("remainder")
def remainder(a: Any, b: Any) -> Any:
    """The remainder with the sign of a, as C's fmod."""
    if vm.dtype_of(a) == "float16":
        wide = tirx.fmod(tirx.Cast("float32", a), tirx.Cast("float32", b))
        return tirx.Cast("float16", wide)
    return tirx.fmod(a, b) if _is_float(a) else tirx.truncmod(a, b)


@elementwise("power")
def power(a: Any, b: Any) -> Any:
    """a^b in the type of a; integers by way of float64, exact up to 2^53."""
    own, other = vm.dtype_of(a), vm.dtype_of(b)
    if own == other and own in ("float32", "float64"):
        return tirx.power(a, b)
    wide = "float32" if "float64" not in (own, other) and _is_float(a) else "float64"
    return tirx.Cast(own, tirx.power(tirx.Cast(wide, a), tirx.Cast(wide, b)))


@elementwise("where")
def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b."""
    return tirx.Select(condition, a, b)


@elementwise("prelu")
def prelu(x: Any, slope: Any) -> Any:
    """x for x ≥ 0, slope·x below."""
    return tirx.Select(x < tirx.const(0, vm.dtype_of(x)), x * slope, x)
