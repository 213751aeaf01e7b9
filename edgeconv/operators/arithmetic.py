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
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "logical_and": tirx.And,
    "logical_or": tirx.Or,
    "bitwise_and": lambda a, b: a & b,
    "bitwise_or": lambda a, b: a | b,
    "bitwise_xor": lambda a, b: a ^ b,
}
for _name, _formula in _FORMULAS.items():
    elementwise(_name)(_formula)


@elementwise("equal")
def equal(a: Any, b: Any) -> Any:
    """True where a and b are equal."""
    return tirx.Not(differ(a, b)) if vm.dtype_of(a) == "bool" else a == b


def differ(a: Any, b: Any) -> Any:
    """True where a and b are not equal; LLVM has no comparison of TVM's booleans."""
    if vm.dtype_of(a) != "bool":
        return a != b
    return tirx.Or(tirx.And(a, tirx.Not(b)), tirx.And(tirx.Not(a), b))


elementwise("not_equal")(differ)
elementwise("logical_xor")(differ)


def _in_width(a: Any, b: Any, shifted: Callable[[Any, Any], Any], beyond: Any) -> Any:
    """A shift by b, or `beyond` where b is negative or not below the width of a."""
    width = int(vm.dtype_of(a).lstrip("uint"))
    wide = tirx.Cast("int64", b)  # TVM 0.27 cannot simplify comparisons of unsigned integers
    inside = tirx.And(wide >= 0, wide < width)
    zero = tirx.const(0, vm.dtype_of(b))
    return tirx.Select(inside, shifted(a, tirx.Select(inside, b, zero)), beyond)


@elementwise("shift_left")
def shift_left(a: Any, b: Any) -> Any:
    """a · 2^b; 0 if all bits leave."""
    return _in_width(a, b, lambda x, n: x << n, tirx.const(0, vm.dtype_of(a)))


@elementwise("shift_right")
def shift_right(a: Any, b: Any) -> Any:
    """a / 2^b rounded down; 0, or -1 for a negative a, if all bits leave."""
    zero = tirx.const(0, vm.dtype_of(a))
    if vm.dtype_of(a).startswith("uint"):
        return _in_width(a, b, lambda x, n: x >> n, zero)
    sign = tirx.Select(a < zero, tirx.const(-1, vm.dtype_of(a)), zero)
    return _in_width(a, b, lambda x, n: x >> n, sign)


@elementwise("divide")
def divide(a: Any, b: Any) -> Any:
    """a / b; integers are truncated towards zero."""
    return a / b if _is_float(a) else tirx.truncdiv(a, b)


def _fmod(a: Any, b: Any) -> Any:
    """The C library's remainder of floats."""
    dtype = vm.dtype_of(a)
    if dtype == "float16":
        wide = _fmod(tirx.Cast("float32", a), tirx.Cast("float32", b))
        return tirx.Cast("float16", wide)
    return tirx.call_pure_extern(dtype, "fmodf" if dtype == "float32" else "fmod", a, b)


@elementwise("modulo")
def modulo(a: Any, b: Any) -> Any:
    """The remainder with the sign of b, as in Python."""
    if not _is_float(a):
        return tirx.floormod(a, b)
    zero = tirx.const(0, vm.dtype_of(a))

    def signed(r: Any) -> Any:
        moved = tirx.Select(differ(r < zero, b < zero), r + b, r)
        return tirx.Select(r == zero, b * zero, moved)  # a zero with the sign of b

    return vm.bind(_fmod(a, b), signed)


@elementwise("remainder")
def remainder(a: Any, b: Any) -> Any:
    """The remainder with the sign of a, as C's fmod."""
    return _fmod(a, b) if _is_float(a) else tirx.truncmod(a, b)


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
