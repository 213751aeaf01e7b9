"""Hyperbolic and inverse functions of float32 as arithmetic, so that they vectorise.

Coefficients of asin and atan: Cephes mathematical library (S. Moshier), single precision.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tvm import tirx

from edgeconv.operators.vector_math import (
    absolute,
    bind,
    const,
    exp,
    expm1,
    horner,
    in_float32,
    is_float32,
    library,
    log,
    log1p,
    shared,
)

_ASIN = (4.2163199048e-2, 2.4181311049e-2, 4.5470025998e-2, 7.4953002686e-2, 1.6666752422e-1)
_ATAN = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)
_PI = 3.14159265358979324


def _odd(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """An odd function from what it is of |x|."""

    @functools.wraps(fn)
    @shared
    def wrapped(x: Any) -> Any:
        y = bind(absolute(x), fn)
        return bind(y, lambda y: tirx.Select(x < const(0, x), const(0, x) - y, y))

    return wrapped


@_odd
def sinh(x: Any) -> Any:
    """Hyperbolic sine."""
    u = expm1(tirx.min(x, const(10, x)))
    near = bind(u, lambda u: (u + u / (u + const(1, x))) * const(0.5, x))
    half = exp(x * const(0.5, x))  # e^x alone overflows before its half does
    far = bind(half, lambda h: h * (h * const(0.5, x)))
    return tirx.Select(x < const(10, x), near, far)


@shared
def cosh(x: Any) -> Any:
    """Hyperbolic cosine."""
    half = exp(absolute(x) * const(0.5, x))
    return bind(half, lambda h: h * (h * const(0.5, x)) + const(0.5, x) / h / h)


@_odd
def asinh(x: Any) -> Any:
    """Inverse hyperbolic sine."""
    one = const(1, x)
    near = log1p(x + x * x / (one + tirx.sqrt(x * x + one)))
    far = log(x) + const(0.69314718055994531, x)
    return tirx.Select(x > const(1e4, x), far, near)


@shared
def acosh(x: Any) -> Any:
    """Inverse hyperbolic cosine; NaN below 1."""
    near = bind(x - const(1, x), lambda t: log1p(t + tirx.sqrt(t * t + t + t)))
    far = log(x) + const(0.69314718055994531, x)
    return tirx.Select(x > const(1e4, x), far, near)


@_odd
def atanh(x: Any) -> Any:
    """Inverse hyperbolic tangent; ±infinity at ±1, NaN outside."""
    one, half = const(1, x), const(0.5, x)
    below_one = const(0.99999994 if is_float32(x) else 1 - 2.0**-53, x)
    y = bind(tirx.min(x, below_one), lambda v: log1p((v + v) / (one - v)) * half)
    y = tirx.Select(x == one, const(float("inf"), x), y)
    return tirx.Select(x > one, const(float("nan"), x), y)


@in_float32
@shared
def asin(x: Any) -> Any:
    """Inverse sine; NaN outside [-1, 1]."""
    return _odd(_asin_of_positive)(x) if is_float32(x) else library("asin", x)


def _asin_of_positive(x: Any) -> Any:
    square = tirx.Select(x > 0.5, (1.0 - x) * 0.5, x * x)

    def from_square(z: Any) -> Any:
        root = tirx.Select(x > 0.5, tirx.sqrt(z), x)
        y = bind(root, lambda r: horner(_ASIN, z) * z * r + r)
        return bind(y, lambda y: tirx.Select(x > 0.5, _PI / 2 - (y + y), y))

    return bind(square, from_square)


@in_float32
@shared
def acos(x: Any) -> Any:
    """Inverse cosine; NaN outside [-1, 1]."""
    if not is_float32(x):
        return library("acos", x)
    half = asin(tirx.sqrt(tirx.max(0.5 - x * 0.5, const(0.0, x))))
    y = tirx.Select(x > 0.5, half * 2.0, _PI / 2 - asin(x))
    return tirx.Select(absolute(x) <= 1.0, y, const(float("nan"), x))


@in_float32
@shared
def atan(x: Any) -> Any:
    """Inverse tangent."""
    return _odd(_atan_of_positive)(x) if is_float32(x) else library("atan", x)


def _atan_of_positive(x: Any) -> Any:
    far, middle = x > 2.414213562373095, x > 0.4142135623730950
    zero = const(0.0, x)
    base = tirx.Select(middle, const(_PI / 4, x), zero)
    base = tirx.Select(far, const(_PI / 2, x), base)
    t = tirx.Select(far, -1.0 / x, tirx.Select(middle, (x - 1.0) / (x + 1.0), x))

    def polynomial(t: Any) -> Any:
        return bind(t * t, lambda tt: base + (horner(_ATAN, tt) * tt * t + t))

    return bind(t, polynomial)
