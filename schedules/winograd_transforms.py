"""The matrices of Winograd convolution F(m×m, r×r), and their products with tiles of vectors.

An output tile of m×m pixels is Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A (Lavin and Gray, CVPR 2016), from the
Toom–Cook construction: m + r − 2 interpolation points and infinity, for tiles of m + r − 1 pixels a
side before the convolution. The points are not Lavin's 0, ±1, ±2, …: they were chosen for the least
error in float32. Relative to the largest output (random data, 64 and 256 channels) it is

    F(3, 2), F(2, 3)            as the direct sum of a 3×3 kernel, 0.8e-6 and 1.6e-6
    F(5, 2), F(4, 3), F(3, 4), F(2, 5)
                                1.4e-6 and 2.9e-6 (Lavin's points: 5.0e-6 and 1.1e-5)
    F(4, 5), F(2, 7)            6e-6 and 1.0e-5, twice that of the direct sums
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache, partial
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

PAIRS = {  # p of the points ±p beside zero, by pixels a side
    4: (Fraction(1),),
    6: (Fraction(3, 4), Fraction(3, 2)),
    8: (Fraction(1, 2), Fraction(1), Fraction(7, 4)),
}
TILES = {2: (3, 5), 3: (2, 4), 4: (3,), 5: (2, 4), 7: (2,)}  # m by r
# F(6, 3) gains nothing on F(4, 3), F(5, 4) rounds still more than F(4, 5)


def points(side: int) -> list[Fraction]:
    """The finite interpolation points of tiles of `side` pixels: zero, then pairs ±p."""
    return [Fraction(0), *(signed for p in PAIRS[side] for signed in (p, -p))]


@cache
def matrices(tile: int, kernel: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Aᵀ [m, side], G [side, r], Bᵀ [side, side]) of F(m, r), m = `tile`, r = `kernel`."""
    side = tile + kernel - 1
    finite = points(side)
    a = np.zeros((tile, side))
    g = np.zeros((side, kernel))
    b = np.zeros((side, side))
    for i, point in enumerate(finite):
        others = [p for p in finite if p is not point]
        scale = float(math.prod(point - p for p in others))
        a[:, i] = [float(point**k) for k in range(tile)]
        g[i] = [float(point**k) / scale for k in range(kernel)]
        b[i, : side - 1] = _coefficients(others)
    a[-1, -1] = g[-1, -1] = 1
    b[-1] = _coefficients(finite)
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
    """OIHW [K, C, r, r] to G g Gᵀ [products, K, C], rounded once."""
    _, g, _ = matrices(tile, weight.shape[-1])
    transformed = np.einsum("ia,kcab,jb->ijkc", g, weight.astype(np.float64), g, optimize=True)
    return transformed.reshape(-1, *weight.shape[:2]).astype(weight.dtype)


def column_operations(tile: int, kernel: int) -> tuple[int, int]:
    """Vector operations of Bᵀ on a column of the input, and of Aᵀ on a column of products."""
    pairs = (tile + kernel - 2) // 2
    into = 2 * pairs + pairs * 2 * (pairs - 1) + 2 * pairs
    return into, 2 * pairs + (pairs - 1) * tile + 2


Load = Callable[[int, int], Any]
Column = Callable[[list[Any]], list[Any]]


def transform_input(side: int, load: Load) -> Iterator[tuple[int, Any]]:
    """(product, vector) of Bᵀ d B for the square d of `side`² vectors `load(i, j)`."""
    return _both_sides(_input_column, side, load)


def transform_output(tile: int, kernel: int, load: Load) -> Iterator[tuple[int, int, Any]]:
    """(row, column, vector) of Aᵀ M A for the square M of vectors `load(i, j)`."""
    a, _, _ = matrices(tile, kernel)
    column = partial(_output_column, a)
    for number, value in _both_sides(column, tile + kernel - 1, load):
        yield number // tile, number % tile, value


def _both_sides(column: Column, side: int, load: Load) -> Iterator[tuple[int, Any]]:
    """`column` applied to all columns, then to all rows of the result; numbered along rows."""
    columns = [column([T.Bind(load(i, j)) for i in range(side)]) for j in range(side)]
    for i in range(len(columns[0])):
        row = column([c[i] for c in columns])
        for j, value in enumerate(row):
            yield i * len(row) + j, value


def _input_column(x: list[Any]) -> list[Any]:
    """Bᵀ x. The rows of a pair of points ±p are even ± p·odd, with common even and odd parts."""
    side = len(x)
    _, _, b = matrices(side - 2, 3)  # the same for all kernels
    result = [_combine(b[0], x)]
    for i, pair in zip(range(1, side - 1, 2), PAIRS[side], strict=True):
        point = float(pair)
        even = T.Bind(_combine(np.where(np.arange(side) % 2 == 0, b[i], 0), x))
        odd = T.Bind(_combine(np.where(np.arange(side) % 2 == 1, b[i] / point, 0), x))
        result += [even + _scaled(point, odd), even - _scaled(point, odd)]
    result.append(_combine(b[-1], x))
    return [T.Bind(r) for r in result]


def _output_column(a: np.ndarray, x: list[Any]) -> list[Any]:
    """Aᵀ x. Points ±p enter even rows by their sum, odd rows by their difference."""
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
