"""Transcendental functions of float32 as arithmetic, so that they vectorise.

LLVM turns `exp` of a vector into one library call a lane; these polynomials stay in vector registers.
Coefficients of exp, log, asin and atan: Cephes mathematical library (S. Moshier), single precision,
error ≤ 2 ulp; of tanh and erf: TVM's `topi.fast_tanh` and `topi.fast_erf`, error ≤ 8 ulp.
float16 is computed in float32; other types use the library's functions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tvm import tirx

_LOG2E = 1.44269504088896341
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
_EXP_MIN, _EXP_MAX = -87.33654, 88.72283
_LOG = (
    *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
    *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)
_TANH = (
    (
        *(-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11),
        *(5.12229709037114e-8, 1.48572235717979e-5, 6.37261928875436e-4, 4.89352455891786e-3),
    ),
    (1.19825839466702e-6, 1.18534705686654e-4, 2.26843463243900e-3, 4.89352518554385e-3),
)
_ERF = (
    (
        *(-2.72614225801306e-10, 2.77068142495902e-8, -2.10102402082508e-6),
        *(-5.69250639462346e-5, -7.34990630326855e-4, -2.95459980854025e-3, -1.60960333262415e-2),
    ),
    (
        *(-1.45660718464996e-5, -2.13374055278905e-4, -1.68282697438203e-3),
        *(-7.37332916720468e-3, -1.42647390514189e-2),
    ),
)
_ASIN = (4.2163199048e-2, 2.4181311049e-2, 4.5470025998e-2, 7.4953002686e-2, 1.6666752422e-1)
_ATAN = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)
_PI = 3.14159265358979324


def dtype_of(x: Any) -> str:
    """Element type of an expression."""
    return str(x.ty.dtype)


def is_float32(x: Any) -> bool:
    """True where the polynomials apply; other types use the library function."""
    return dtype_of(x) == "float32"


def _in_float32(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`fn`, with float16 arguments computed in float32."""

    @functools.wraps(fn)
    def wrapped(x: Any) -> Any:
        if dtype_of(x) != "float16":
            return fn(x)
        return tirx.Cast("float16", fn(tirx.Cast("float32", x)))

    return wrapped


def _horner(coefficients: tuple[float, ...], x: Any) -> Any:
    total = tirx.const(coefficients[0], dtype_of(x))
    for c in coefficients[1:]:
        total = total * x + tirx.const(c, dtype_of(x))
    return total


def _const(value: float, x: Any) -> Any:
    return tirx.const(value, dtype_of(x))


def _library(name: str, x: Any) -> Any:
    """The C library's function of a float64 (or, with the suffix f, float32)."""
    suffix = "f" if is_float32(x) else ""
    return tirx.call_pure_extern(dtype_of(x), name + suffix, x)


def absolute(x: Any) -> Any:
    """|x| of a float."""
    return tirx.Select(x < _const(0, x), _const(0, x) - x, x)


@_in_float32
def exp(x: Any) -> Any:
    """e^x; 0 below -87.34, infinity above 88.72, NaN for NaN."""
    if not is_float32(x):
        return tirx.exp(x)
    inside = tirx.max(tirx.min(x, _EXP_MAX), _EXP_MIN)
    n = tirx.floor(inside * _LOG2E + 0.5)
    r = inside - n * _LN2_HIGH - n * _LN2_LOW
    y = _horner(_EXP, r) * r * r + r + 1.0
    # 2^n in two factors, because 2^128 is not a float32
    half = tirx.Cast("int32", n * 0.5)
    rest = tirx.Cast("int32", n) - half
    y = y * _power_of_two(half) * _power_of_two(rest)
    y = tirx.Select(x > _EXP_MAX, tirx.const(float("inf"), "float32"), y)
    y = tirx.Select(x < _EXP_MIN, tirx.const(0.0, "float32"), y)
    return tirx.Select(x != x, x, y)


def _power_of_two(n: Any) -> Any:
    return tirx.reinterpret("float32", (n + 127) << 23)


@_in_float32
def expm1(x: Any) -> Any:
    """e^x - 1 without cancellation near 0; -1 below -87.34, infinity above 88.02."""
    if not is_float32(x):
        return _library("expm1", x)
    inside = tirx.max(tirx.min(x, 88.02969), _EXP_MIN)
    n = tirx.floor(inside * _LOG2E + 0.5)
    r = inside - n * _LN2_HIGH - n * _LN2_LOW
    scale = _power_of_two(tirx.Cast("int32", n))
    y = (_horner(_EXP, r) * r * r + r) * scale + (scale - 1.0)
    y = tirx.Select(x > 88.02969, tirx.const(float("inf"), "float32"), y)
    return tirx.Select(x != x, x, y)


@_in_float32
def log(x: Any) -> Any:
    """Natural logarithm; -infinity for 0, NaN below."""
    if not is_float32(x):
        return tirx.log(x)
    tiny = x < 1.17549435e-38  # subnormals have no exponent of their own
    bits = tirx.reinterpret("int32", tirx.Select(tiny, x * 8388608.0, x))
    exponent = (bits >> 23) - tirx.Select(tiny, tirx.const(149, "int32"), tirx.const(126, "int32"))
    mantissa = tirx.reinterpret("float32", (bits & 0x7FFFFF) | 0x3F000000)
    small = mantissa < 0.70710678
    e = tirx.Cast("float32", exponent) - tirx.Select(
        small, tirx.const(1.0, "float32"), tirx.const(0.0, "float32")
    )
    z = tirx.Select(small, mantissa + mantissa, mantissa) - 1.0
    zz = z * z
    y = _horner(_LOG, z) * z * zz + e * _LN2_LOW - zz * 0.5
    y = z + y + e * _LN2_HIGH
    y = tirx.Select(x > 3.4028234e38, x, y)
    y = tirx.Select(x == 0.0, tirx.const(float("-inf"), "float32"), y)
    return tirx.Select(x >= 0.0, y, tirx.const(float("nan"), "float32"))


@_in_float32
def log1p(x: Any) -> Any:
    """log(1 + x) without cancellation near 0, for finite x > -1."""
    if not is_float32(x):
        return _library("log1p", x)
    u = x + 1.0
    return log(u) + (x - (u - 1.0)) / u


@_in_float32
def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    if not is_float32(x):
        return tirx.tanh(x)
    return _odd_rational(x, _TANH, 7.90531110763549805)


@_in_float32
def erf(x: Any) -> Any:
    """Error function."""
    if not is_float32(x):
        return _library("erf", x)
    return _odd_rational(x, _ERF, 4.0)


def _odd_rational(x: Any, ratio: tuple[tuple[float, ...], tuple[float, ...]], bound: float) -> Any:
    inside = tirx.max(tirx.min(x, _const(bound, x)), _const(-bound, x))
    square = inside * inside
    y = inside * _horner(ratio[0], square) / _horner(ratio[1], square)
    return tirx.Select(x != x, x, y)


def softplus(x: Any) -> Any:
    """log(1 + e^x)."""
    return tirx.max(x, _const(0, x)) + log1p(exp(_const(0, x) - absolute(x)))


def sinh(x: Any) -> Any:
    """Hyperbolic sine."""
    size = absolute(x)
    u = expm1(tirx.min(size, _const(10, x)))
    near = (u + u / (u + _const(1, x))) * _const(0.5, x)
    half = exp(size * _const(0.5, x))
    y = tirx.Select(size < _const(10, x), near, half * (half * _const(0.5, x)))
    return tirx.Select(x < _const(0, x), _const(0, x) - y, y)


def cosh(x: Any) -> Any:
    """Hyperbolic cosine."""
    half = exp(absolute(x) * _const(0.5, x))  # e^x alone overflows before its half does
    return half * (half * _const(0.5, x)) + _const(0.5, x) / half / half


def asinh(x: Any) -> Any:
    """Inverse hyperbolic sine."""
    size = absolute(x)
    square = size * size
    y = log1p(size + square / (_const(1, x) + tirx.sqrt(square + _const(1, x))))
    y = tirx.Select(size > _const(1e4, x), log(size) + _const(0.69314718055994531, x), y)
    return tirx.Select(x < _const(0, x), _const(0, x) - y, y)


def acosh(x: Any) -> Any:
    """Inverse hyperbolic cosine; NaN below 1."""
    t = x - _const(1, x)
    y = log1p(t + tirx.sqrt(t * t + t + t))
    return tirx.Select(x > _const(1e4, x), log(x) + _const(0.69314718055994531, x), y)


def atanh(x: Any) -> Any:
    """Inverse hyperbolic tangent; ±infinity at ±1."""
    size = absolute(x)
    inside = tirx.min(size, _const(0.99999999 if not is_float32(x) else 0.9999999, x))
    y = log1p((inside + inside) / (_const(1, x) - inside)) * _const(0.5, x)
    y = tirx.Select(size == _const(1, x), _const(float("inf"), x), y)
    y = tirx.Select(size > _const(1, x), _const(float("nan"), x), y)
    return tirx.Select(x < _const(0, x), _const(0, x) - y, y)


@_in_float32
def asin(x: Any) -> Any:
    """Inverse sine; NaN outside [-1, 1]."""
    if not is_float32(x):
        return _library("asin", x)
    size = absolute(x)
    big = size > 0.5
    square = tirx.Select(big, (1.0 - size) * 0.5, size * size)
    root = tirx.Select(big, tirx.sqrt(square), size)
    y = _horner(_ASIN, square) * square * root + root
    y = tirx.Select(big, _PI / 2 - (y + y), y)
    return tirx.Select(x < 0.0, 0.0 - y, y)


@_in_float32
def acos(x: Any) -> Any:
    """Inverse cosine; NaN outside [-1, 1]."""
    if not is_float32(x):
        return _library("acos", x)
    half = asin(tirx.sqrt(tirx.max(0.5 - x * 0.5, tirx.const(0.0, "float32"))))
    y = tirx.Select(x > 0.5, half + half, _PI / 2 - asin(x))
    return tirx.Select(absolute(x) <= 1.0, y, tirx.const(float("nan"), "float32"))


@_in_float32
def atan(x: Any) -> Any:
    """Inverse tangent."""
    if not is_float32(x):
        return _library("atan", x)
    size = absolute(x)
    far, middle = size > 2.414213562373095, size > 0.4142135623730950
    t = tirx.Select(middle, (size - 1.0) / (size + 1.0), size)
    t = tirx.Select(far, -1.0 / size, t)
    zero = tirx.const(0.0, "float32")
    base = tirx.Select(middle, tirx.const(_PI / 4, "float32"), zero)
    base = tirx.Select(far, tirx.const(_PI / 2, "float32"), base)
    square = t * t
    y = base + (_horner(_ATAN, square) * square * t + t)
    return tirx.Select(x < 0.0, 0.0 - y, y)


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    one = _const(1, x)
    return one / (exp(_const(0, x) - x) + one)
