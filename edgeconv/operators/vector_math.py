"""Transcendental functions of float32 as arithmetic, so that they vectorise.

LLVM turns `exp` of a vector into one library call a lane; these polynomials stay in registers.
Coefficients of exp and log: Cephes mathematical library (S. Moshier), single precision, error ≤ 2
ulp; of tanh and erf: TVM's `topi.fast_tanh` and `topi.fast_erf`, error ≤ 8 ulp.
float16 is computed in float32; other types use the library's functions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tvm import te, tirx
from tvm.tirx.script import builder as T

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


def dtype_of(x: Any) -> str:
    """Element type of an expression."""
    return str(_expression(x).ty.dtype)


def _expression(x: Any) -> Any:
    """The element that a tensor in brackets stands for; other expressions as they are."""
    return x.asobject() if isinstance(x, te.TensorSlice) else x


def is_float32(x: Any) -> bool:
    """True where the polynomials apply, to elements or vectors of them; other types use the library
    function.
    """
    return dtype_of(x).split("x")[0] == "float32"


def _as(dtype: str, x: Any) -> str:
    """`dtype`, with as many lanes as x."""
    _, *lanes = dtype_of(x).split("x")
    return "x".join([dtype, *lanes])


def in_float32(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`fn`, with float16 arguments computed in float32."""

    @functools.wraps(fn)
    def wrapped(x: Any) -> Any:
        if not dtype_of(x).startswith("float16"):
            return fn(x)
        return tirx.Cast(dtype_of(x), fn(tirx.Cast(_as("float32", x), x)))

    return wrapped


def horner(coefficients: tuple[float, ...], x: Any) -> Any:
    """The polynomial with these coefficients, highest power first."""
    total = tirx.const(coefficients[0], dtype_of(x))
    for c in coefficients[1:]:
        total = total * x + tirx.const(c, dtype_of(x))
    return total


def const(value: float, x: Any) -> Any:
    """A constant of the element type of x."""
    return tirx.const(value, dtype_of(x))


def library(name: str, x: Any) -> Any:
    """The C library's function of a float64 (or, with the suffix f, float32)."""
    suffix = "f" if is_float32(x) else ""
    return tirx.call_pure_extern(dtype_of(x), name + suffix, x)


def bind(value: Any, body: Callable[[Any], Any]) -> Any:
    """body(value) with `value` computed once: expressions are trees, and double with each use.

    Several TVM passes still expand what is bound, so formulas have few uses of few bindings. A
    vector belongs to a kernel that is written statement by statement: it becomes a variable there.
    """
    value = _expression(value)
    if isinstance(value, (tirx.Var, tirx.IntImm, tirx.FloatImm)):
        return body(value)
    if "x" in dtype_of(value):
        return body(T.Bind(value))
    name = tirx.Var("t", dtype_of(value))
    return tirx.Let(name, value, body(name))


def shared(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`fn` with its argument bound."""

    @functools.wraps(fn)
    def wrapped(x: Any) -> Any:
        return bind(x, fn)

    return wrapped


@shared
def absolute(x: Any) -> Any:
    """|x|."""
    if dtype_of(x).split("x")[0] in ("float32", "float64"):
        return tirx.abs(x)
    return tirx.Select(x < const(0, x), const(0, x) - x, x)


@in_float32
@shared
def exp(x: Any) -> Any:
    """e^x; 0 below -87.34, infinity above 88.72, NaN for NaN."""
    if not is_float32(x):
        return tirx.exp(x)
    inside = tirx.max(tirx.min(x, _EXP_MAX), _EXP_MIN)

    def scaled(y: Any, n: Any) -> Any:
        # 2^n in two factors, because 2^128 is not a float32
        whole = tirx.Cast(_as("int32", n), n)
        return bind(whole >> 1, lambda h: y * _power_of_two(h) * _power_of_two(whole - h))

    def limited(y: Any) -> Any:
        y = tirx.Select(x > _EXP_MAX, const(float("inf"), x), y)
        y = tirx.Select(x < _EXP_MIN, const(0.0, x), y)
        return tirx.Select(tirx.isnan(x), x, y)

    y = _reduced(inside, lambda n, r: scaled(_expm1_reduced(r) + 1.0, n))
    return bind(y, limited)


def _reduced(x: Any, body: Callable[[Any, Any], Any]) -> Any:
    """body(n, r) for x = n·ln 2 + r with a whole n and |r| ≤ ln 2 / 2."""

    def with_n(x: Any, n: Any) -> Any:
        return bind(x - n * _LN2_HIGH - n * _LN2_LOW, lambda r: body(n, r))

    return bind(x, lambda x: bind(tirx.floor(x * _LOG2E + 0.5), lambda n: with_n(x, n)))


def _expm1_reduced(r: Any) -> Any:
    """e^r - 1 for |r| ≤ ln 2 / 2."""
    return horner(_EXP, r) * r * r + r


def _power_of_two(n: Any) -> Any:
    return tirx.reinterpret(_as("float32", n), (n + 127) << 23)


@in_float32
@shared
def expm1(x: Any) -> Any:
    """e^x - 1 without cancellation near 0; -1 below -87.34, infinity above 88.02."""
    if not is_float32(x):
        return library("expm1", x)
    inside = tirx.max(tirx.min(x, 88.02969), _EXP_MIN)

    def scaled(n: Any, r: Any) -> Any:
        scale = _power_of_two(tirx.Cast(_as("int32", n), n))
        return bind(scale, lambda k: _expm1_reduced(r) * k + (k - 1.0))

    def limited(y: Any) -> Any:
        y = tirx.Select(x > 88.02969, const(float("inf"), x), y)
        return tirx.Select(tirx.isnan(x), x, y)

    return bind(_reduced(inside, scaled), limited)


@in_float32
@shared
def log(x: Any) -> Any:
    """Natural logarithm; -infinity for 0, NaN below."""
    if not is_float32(x):
        return tirx.log(x)
    tiny = x < 1.17549435e-38  # subnormals have no exponent of their own
    zero, one = const(0.0, x), const(1.0, x)

    def parts(bits: Any) -> Any:
        exponent = (bits >> 23) - tirx.Select(tiny, const(149, bits), const(126, bits))
        mantissa = tirx.reinterpret(_as("float32", x), (bits & 0x7FFFFF) | 0x3F000000)
        return bind(mantissa, lambda m: from_parts(tirx.Cast(_as("float32", x), exponent), m))

    def from_parts(exponent: Any, m: Any) -> Any:
        e = exponent - tirx.Select(m < 0.70710678, one, zero)
        z = m + tirx.Select(m < 0.70710678, m, zero) - 1.0
        return bind(e, lambda e: bind(z, lambda z: polynomial(e, z)))

    def polynomial(e: Any, z: Any) -> Any:
        y = horner(_LOG, z) * z * (z * z) + e * _LN2_LOW - z * z * 0.5
        return z + y + e * _LN2_HIGH

    bits = tirx.reinterpret(_as("int32", x), tirx.Select(tiny, x * 8388608.0, x))

    def limited(y: Any) -> Any:
        y = tirx.Select(x > 3.4028234e38, x, y)
        y = tirx.Select(x == 0.0, const(float("-inf"), x), y)
        return tirx.Select(x >= 0.0, y, const(float("nan"), x))

    return bind(bind(bits, parts), limited)


@in_float32
@shared
def log1p(x: Any) -> Any:
    """log(1 + x) without cancellation near 0, for finite x > -1."""
    if not is_float32(x):
        return library("log1p", x)
    return bind(x + 1.0, lambda u: bind(log(u), lambda y: y + (x - (u - 1.0)) / u))


@in_float32
@shared
def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    if not is_float32(x):
        return tirx.tanh(x)
    return _odd_rational(x, _TANH, 7.90531110763549805)


@in_float32
@shared
def erf(x: Any) -> Any:
    """Error function."""
    if not is_float32(x):
        return library("erf", x)
    return _odd_rational(x, _ERF, 4.0)


def _odd_rational(x: Any, ratio: tuple[tuple[float, ...], tuple[float, ...]], bound: float) -> Any:
    inside = tirx.max(tirx.min(x, const(bound, x)), const(-bound, x))

    def quotient(v: Any) -> Any:
        return bind(v * v, lambda vv: v * horner(ratio[0], vv) / horner(ratio[1], vv))

    return bind(bind(inside, quotient), lambda y: tirx.Select(tirx.isnan(x), x, y))


@in_float32
@shared
def softplus(x: Any) -> Any:
    """log(1 + e^x)."""
    e = exp(const(0, x) - absolute(x))
    if not is_float32(x):
        return tirx.max(x, const(0, x)) + log1p(e)

    def sum_of(s: Any) -> Any:
        # log(1 + e) = 2·artanh(s) with s = e/(2 + e) ≤ 1/3: a short series
        odd = bind(s * s, lambda z: horner(tuple(2 / k for k in range(17, 0, -2)), z))
        return tirx.max(x, const(0, x)) + s * odd

    return bind(bind(e, lambda e: e / (e + 2.0)), sum_of)


@in_float32
@shared
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x); 0 below -88.4, where 2^n becomes infinite; NaN for NaN."""
    if not is_float32(x):
        return bind(exp(const(0, x) - x), lambda e: const(1, x) / (e + const(1, x)))
    inside = tirx.max(tirx.min(const(0, x) - x, const(_EXP_MAX, x)), const(_EXP_MIN, x))

    def quotient(n: Any, r: Any) -> Any:
        power = _power_of_two(tirx.Cast(_as("int32", n), n))
        return const(1, x) / ((_expm1_reduced(r) + 1.0) * power + 1.0)

    return bind(_reduced(inside, quotient), lambda y: tirx.Select(tirx.isnan(x), x, y))
