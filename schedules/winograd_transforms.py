"""The matrices of Winograd convolution F(m×m, 3×3), and their products with tiles of vectors.

An output tile of m×m pixels is Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A (Lavin and Gray, CVPR 2016), from the
Toom–Cook construction: m + 1 interpolation points and infinity. m = 4 takes 0, ±3/4, ±3/2 rather
than Lavin's 0, ±1, ±2: in float32 they lose less than half a digit to the direct sum (relative to
the largest output, random data: 1.4e-6 at 64 channels where the direct sum has 0.8e-6, 2.9e-6 at
256; Lavin's points have 5.0e-6 and 1.1e-5). m = 2 takes 0, ±1, and rounds like the direct sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

KERNEL = 3
POINTS = {  # zero, then pairs ±p
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
}


@cache
def matrices(tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Aᵀ [m, m+2], G [m+2, 3], Bᵀ [m+2, m+2]) for tiles of m = `tile` pixels a side."""
    points, side = POINTS[tile], tile + KERNEL - 1
    a = np.zeros((tile, side))
    g = np.zeros((side, KERNEL))
    b = np.zeros((side, side))
    for i, point in enumerate(points):
        others = [p for p in points if p is not point]
        scale = float(math.prod(point - p for p in others))
        a[:, i] = [float(point**k) for k in range(tile)]
        g[i] = [float(point**k) / scale for k in range(KERNEL)]
        b[i, : side - 1] = _coefficients(others)
    a[-1, -1] = g[-1, -1] = 1
    b[-1] = _coefficients(points)
    return a, g, b


def _coefficients(roots: Sequence[Fraction]) -> list[float]:
    """Coefficients of Π (x − root), lowest power first."""
    poly = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *poly]
        scaled = [root * c for c in poly] + [Fraction(0)]
        poly = [x - y for x, y in zip(shifted, scaled, strict=True)]
    return [float(c) for c in poly]


def transform_weights(weight: np.ndarray, tile: int) -> np.ndarray:
    """OIHW [K, C, 3, 3] to G g Gᵀ [products, K, C], rounded once."""
    _, g, _ = matrices(tile)
    transformed = np.einsum("ia,kcab,jb->ijkc", g, weight.astype(np.float64), g, optimize=True)
    return transformed.reshape(-1, *weight.shape[:2]).astype(weight.dtype)


Load = Callable[[int, int], Any]


def transform_input(tile: int, load: Load) -> Iterator[tuple[int, Any]]:
    """(product, vector) of Bᵀ d B for the square d of vectors `load(i, j)`."""
    return _both_sides(_input_column, tile, tile + KERNEL - 1, load)


def transform_output(tile: int, load: Load) -> Iterator[tuple[int, int, Any]]:
    """(row, column, vector) of Aᵀ M A for the square M of vectors `load(i, j)`."""
    for number, value in _both_sides(_output_column, tile, tile + KERNEL - 1, load):
        yield number // tile, number % tile, value


def _both_sides(
    column: Callable[[int, list[Any]], list[Any]], tile: int, side: int, load: Load
) -> Iterator[tuple[int, Any]]:
    """`column` applied to all columns, then to all rows of the result; numbered along rows."""
    columns = [column(tile, [T.Bind(load(i, j)) for i in range(side)]) for j in range(side)]
    for i in range(len(columns[0])):
        row = column(tile, [c[i] for c in columns])
        for j, value in enumerate(row):
            yield i * len(row) + j, value


def _input_column(tile: int, x: list[Any]) -> list[Any]:
    """Bᵀ x. The rows of a pair of points ±p are even ± p·odd, with common even and odd parts."""
    _, _, b = matrices(tile)
    side = len(x)
    result = [_combine(b[0], x)]
    for i in range(1, side - 1, 2):
        point = float(POINTS[tile][i])
        even = T.Bind(_combine(np.where(np.arange(side) % 2 == 0, b[i], 0), x))
        odd = T.Bind(_combine(np.where(np.arange(side) % 2 == 1, b[i] / point, 0), x))
        result += [even + _scaled(point, odd), even - _scaled(point, odd)]
    result.append(_combine(b[-1], x))
    return [T.Bind(r) for r in result]


def _output_column(tile: int, x: list[Any]) -> list[Any]:
    """Aᵀ x. Points ±p enter even rows by their sum, odd rows by their difference."""
    a, _, _ = matrices(tile)
    pairs = range(1, len(x) - 1, 2)
    sums = [T.Bind(x[i] + x[i + 1]) for i in pairs]
    differences = [T.Bind(x[i] - x[i + 1]) for i in pairs]
    result = []
    for k, row in enumerate(a):
        pair = sums if k % 2 == 0 else differences
        terms = [x[0], *pair, x[-1]]
        result.append(T.Bind(_combine([row[0], *row[1:-1:2], row[-1]], terms)))
    return result


def _combine(row: Sequence[float] | np.ndarray, x: list[Any]) -> Any:
    """Σ row[j] · x[j] over the non-zero coefficients, starting from one that is 1 if there is."""
    terms = [(float(c), v) for c, v in zip(row, x, strict=True) if abs(c) > 1e-12]
    terms.sort(key=lambda term: term[0] != 1)
    total = _scaled(*terms[0])
    for factor, value in terms[1:]:
        total = total - value if factor == -1 else total + _scaled(factor, value)
    return total


def _scaled(factor: float, vector: Any) -> Any:
    if factor == 1:
        return vector
    lanes = int(vector.ty.dtype.lanes)
    return vector * tirx.Broadcast(tirx.const(float(factor), "float32"), lanes)
