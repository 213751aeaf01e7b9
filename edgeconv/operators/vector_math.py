"""Transcendental functions of float32 as arithmetic, so that they vectorise.

LLVM turns `exp` of a vector into one library call a lane; these polynomials stay in vector registers.
Coefficients: Cephes mathematical library (S. Moshier), single-precision `expf`. Error ≤ 2 ulp.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

_LOG2E = 1.44269504088896341
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
_EXP_MIN, _EXP_MAX = -87.33654, 88.72283


def dtype_of(x: Any) -> str:
    """Element type of an expression."""
    return str(x.ty.dtype)


def is_float32(x: Any) -> bool:
    """True where the polynomials apply; other types use the library function."""
    return dtype_of(x) == "float32"


def exp(x: Any) -> Any:
    """e^x; 0 below -87.34, infinity above 88.72, NaN for NaN."""
    if not is_float32(x):
        return tirx.exp(x)
    inside = tirx.max(tirx.min(x, _EXP_MAX), _EXP_MIN)
    n = tirx.floor(inside * _LOG2E + 0.5)
    r = inside - n * _LN2_HIGH - n * _LN2_LOW
    poly = tirx.const(_EXP[0], "float32")
    for c in _EXP[1:]:
        poly = poly * r + c
    y = poly * r * r + r + 1.0
    # 2^n in two factors, because 2^128 is not a float32
    half = tirx.Cast("int32", n * 0.5)
    rest = tirx.Cast("int32", n) - half
    y = y * _power_of_two(half) * _power_of_two(rest)
    y = tirx.Select(x > _EXP_MAX, tirx.const(float("inf"), "float32"), y)
    y = tirx.Select(x < _EXP_MIN, tirx.const(0.0, "float32"), y)
    return tirx.Select(x != x, x, y)


def _power_of_two(n: Any) -> Any:
    return tirx.reinterpret("float32", (n + 127) << 23)


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return 1.0 / (exp(-x) + 1.0)
