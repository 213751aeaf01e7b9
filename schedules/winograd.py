"""Winograd convolution F(4×4, 3×3): a quarter of the multiplications, for dense 3×3 of stride 1.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016. An output
tile of 4×4 pixels is Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A; the products over channels become 36 matrix
products. Interpolation points are 0, ±3/4, ±3/2 and infinity rather than Lavin's 0, ±1, ±2: in
float32 they lose less than half a digit to the direct sum (relative to the largest output, random
data: 1.4e-6 at 64 channels where the direct sum has 0.8e-6, 2.9e-6 at 256; Lavin's points have
5.0e-6 and 1.1e-5). `numerics="exact"` never uses this schedule.

    parallel (n, block of tiles)
      input:  V[36, C, tiles] = Bᵀ d B                                    fits L2
      gemm:   36 × (M[K, tiles] = U[K, C] · V[C, tiles]), tiles and channel vectors in registers
      output: activation(Aᵀ M A + bias + residual)

Layouts: data and out in channel blocks of whole vectors, [N, C/b, H, W, b], without padding lanes.
The last tile of a row or column overlaps its neighbour. Weights see `pack_weights`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import Ramp
from tvm.tirx.script import builder as T

from edgeconv.schedules import emit
from edgeconv.schedules.common import (
    FMA_LATENCY,
    Mismatch,
    ceil_div,
    tile_start,
)
from edgeconv.targets import Device
from edgeconv.workload import ConvTask

TILE, KERNEL = 4, 3
SIDE = TILE + KERNEL - 1  # pixels of an input tile along each axis
PRODUCTS = SIDE * SIDE
_NEAR, _FAR = Fraction(3, 4), Fraction(3, 2)
POINTS = (Fraction(0), _NEAR, -_NEAR, _FAR, -_FAR)
L3_BYTES_PER_CYCLE = 8  # sustained beside multiply-adds


@dataclass(frozen=True)
class Knobs:
    """Tunable choices.

    Attributes:
        lanes: float32 lanes of the vectors.
        tiles: output tiles transformed and multiplied together.
        rows, vectors: tiles and channel vectors of a register tile of the matrix products.
    """

    lanes: int
    tiles: int
    rows: int
    vectors: int


def supports(task: ConvTask, device: Device) -> Mismatch | None:
    """Dense 3×3 of stride 1 on maps of at least 4×4, channels in whole vectors."""
    conv, lanes = task.conv, device.lanes
    if conv.kernel_size != (3, 3) or conv.stride != (1, 1) or conv.dilation != (1, 1):
        return Mismatch("only 3x3 kernels of stride and dilation 1")
    if conv.groups != 1 or conv.input_shuffle != 1:
        return Mismatch("only one group")
    if min(conv.out_height, conv.out_width) < TILE:
        return Mismatch(f"the output is smaller than {TILE}x{TILE}")
    for channels, layout in (
        (conv.in_channels, task.data),
        (conv.out_channels, task.out),
    ):
        if channels % lanes or layout.block % lanes or layout.is_plain:
            return Mismatch(f"{channels} channels in {layout} are no whole vectors of {lanes}")
    if task.residual is not None and task.residual.block % lanes:
        return Mismatch("the residual is not in whole vectors")
    return None


def candidates(task: ConvTask, device: Device) -> Iterator[Knobs]:
    """Every legal setting: the space both the default and the tuner choose from."""
    conv = task.conv
    total = ceil_div(conv.out_height, TILE) * ceil_div(conv.out_width, TILE)
    registers = device.vector_registers
    for tiles in sorted({min(t, total) for t in (4, 6, 8, 12, 14, 16, 21, 24, 28, 32, 42, 56)}):
        for vectors in range(1, min(4, conv.out_channels // device.lanes) + 1):
            for rows in range(1, min(tiles, registers) + 1):
                if rows * vectors + vectors + 2 <= registers:
                    yield Knobs(device.lanes, tiles, rows, vectors)


def default_knobs(task: ConvTask, device: Device) -> Knobs:
    """The candidate with the least estimated cycles (`estimate`)."""
    return min(candidates(task, device), key=lambda knobs: estimate(task, knobs, device))


def estimate(task: ConvTask, knobs: Knobs, device: Device) -> float:
    """Cycles of one core: transforms by their operations, products by FMAs, loads and traffic."""
    conv, space = task.conv, Space(task, knobs)
    c = conv.in_channels
    blocks = conv.batch * space.blocks
    # about 8 operations a vector in each direction of the input transform, 6 of the output's
    operations = 2 * 8 * PRODUCTS * space.in_vectors + 2 * 6 * PRODUCTS * space.out_vectors
    transforms = knobs.tiles * operations / device.fma_ports
    loads = knobs.rows + knobs.vectors
    step = max(
        knobs.rows * knobs.vectors / device.fma_ports, loads / device.load_ports, FMA_LATENCY
    )
    gemm_tiles = PRODUCTS * space.channel_tiles * ceil_div(knobs.tiles, knobs.rows)
    products = gemm_tiles * (c * step + 12 + 2 * knobs.rows * knobs.vectors)
    weights = PRODUCTS * c * conv.out_channels * 4
    scratch = PRODUCTS * knobs.tiles * (c + conv.out_channels) * 4
    if weights + scratch > device.l2_kib * 1024:  # weights come from memory for each block
        products = max(products, weights / L3_BYTES_PER_CYCLE)
    if scratch > device.l2_kib * 1024 // 2:
        transforms += scratch * 2 / L3_BYTES_PER_CYCLE
    rounds = ceil_div(blocks, device.cores) * device.cores  # idle cores cost as much as busy ones
    return rounds * (transforms + products) * 1.1


class Space:
    """How output tiles fall into blocks and channels into register tiles."""

    def __init__(self, task: ConvTask, knobs: Knobs) -> None:
        conv, lanes = task.conv, knobs.lanes
        self.tile_rows = ceil_div(conv.out_height, TILE)
        self.tile_columns = ceil_div(conv.out_width, TILE)
        self.total = self.tile_rows * self.tile_columns
        self.blocks = ceil_div(self.total, knobs.tiles)
        self.in_vectors, self.out_vectors = conv.in_channels // lanes, conv.out_channels // lanes
        self.channel_tiles = ceil_div(self.out_vectors, knobs.vectors)
        self.knobs, self.lanes = knobs, lanes

    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the packed weights: [product, channel tile, chunk, channel, vector, lane]."""
        inner = (self.in_vectors, self.lanes, self.knobs.vectors, self.lanes)
        return (PRODUCTS, self.channel_tiles, *inner)

    def first_vector(self, channel_tile: Any) -> Any:
        """First channel vector of a register tile; the last overlaps its neighbour."""
        return tile_start(channel_tile, self.knobs.vectors, self.out_vectors)


def matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Aᵀ [4, 6], G [6, 3], Bᵀ [6, 6]) of the Toom–Cook construction at `POINTS` and infinity."""
    count = len(POINTS)
    a = np.zeros((TILE, SIDE))
    g = np.zeros((SIDE, KERNEL))
    b = np.zeros((SIDE, SIDE))
    for i, point in enumerate(POINTS):
        others = [p for p in POINTS if p is not point]
        scale = float(math.prod(point - p for p in others))
        a[:, i] = [float(point**k) for k in range(TILE)]
        g[i] = [float(point**k) / scale for k in range(KERNEL)]
        b[i, :count] = _coefficients(others)
    a[TILE - 1, count] = g[count, KERNEL - 1] = 1
    b[count] = _coefficients(POINTS)
    return a, g, b


def _coefficients(roots: Sequence[Fraction]) -> list[float]:
    """Coefficients of Π (x − root), lowest power first."""
    poly = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *poly]
        scaled = [root * c for c in poly] + [Fraction(0)]
        poly = [x - y for x, y in zip(shifted, scaled, strict=True)]
    return [float(c) for c in poly]


def pack_weights(task: ConvTask, knobs: Knobs, weight: np.ndarray) -> np.ndarray:
    """OIHW [K, C, 3, 3] to U = G g Gᵀ as [product, channel tile, chunk, channel, vector, lane]."""
    space, lanes = Space(task, knobs), knobs.lanes
    _, g, _ = matrices()
    transformed = np.einsum("ia,kcab,jb->ijkc", g, weight.astype(np.float64), g)
    k, c = weight.shape[:2]
    by_vector = transformed.reshape(PRODUCTS, k // lanes, lanes, c)
    starts = [space.first_vector(t) for t in range(space.channel_tiles)]
    index = np.array(starts)[:, None] + np.arange(knobs.vectors)
    tiles = by_vector[:, index]  # [product, channel tile, vector, lane, c]
    packed = tiles.transpose(0, 1, 4, 2, 3).reshape(space.weight_shape())
    return np.ascontiguousarray(packed, dtype=weight.dtype)


def pack_bias(task: ConvTask, knobs: Knobs, bias: np.ndarray) -> np.ndarray:
    """[K] to [vector, lane]."""
    return np.ascontiguousarray(bias.reshape(-1, knobs.lanes))


def compute(task: ConvTask, knobs: Knobs) -> tirx.PrimFunc:
    """The kernel `(data, weight, [bias], [residual], out)`, one block a group of tiles."""
    conv, space, lanes = task.conv, Space(task, knobs), knobs.lanes
    every = Ramp(0, 1, lanes)
    out_transform, _, in_transform = matrices()

    def corner(tile: Any) -> tuple[Any, Any]:
        """First output row and column of a tile, counted through rows."""
        row = tile_start(tile // space.tile_columns, TILE, conv.out_height)
        return row, tile_start(tile % space.tile_columns, TILE, conv.out_width)

    def body() -> None:
        operands = emit.conv_operands(task, space.weight_shape(), (space.out_vectors, lanes))
        grid = dict(n=conv.batch, b=space.blocks)
        with emit.loops(**grid) as axes, emit.block("tile"):
            n, b = emit.all_spatial(grid, axes)
            first = tile_start(b, knobs.tiles, space.total)
            v = emit.scratch("v", (PRODUCTS, space.in_vectors, knobs.tiles, lanes))
            m = emit.scratch("m", (PRODUCTS, space.out_vectors, knobs.tiles, lanes))

            into = dict(cv=space.in_vectors, t=knobs.tiles)
            with emit.loops(**into) as axes, emit.block("input"):
                cv, t = emit.all_spatial(into, axes)
                row, column = corner(first + t)
                block = task.data.block
                at = Ramp(cv * lanes % block, 1, lanes)

                def load(i: int, j: int) -> Any:
                    y, x = operands.pixel(row + i, column + j, 0, 0)
                    return operands.data[n, cv * lanes // block, y, x, at]

                for (i, j), value in _apply(in_transform, load):
                    emit.store(v, value, [i * SIDE + j, cv, t, every])

            _products(space, operands, v, m)

            outof = dict(kv=space.out_vectors, t=knobs.tiles)
            with emit.loops(**outof) as axes, emit.block("output"):
                kv, t = emit.all_spatial(outof, axes)
                row, column = corner(first + t)
                block = task.out.block
                for (i, j), value in _apply(
                    out_transform, lambda i, j: m[i * SIDE + j, kv, t, every]
                ):
                    if task.bias:
                        value = value + operands.start(kv, every)
                    at = (n, kv * lanes // block, row + i, column + j)
                    slot = Ramp(kv * lanes % block, 1, lanes)
                    operands.finish(value, [*at, slot])

    return emit.prim_func("winograd", body)


def _products(space: Space, operands: emit.ConvOperands, v: Any, m: Any) -> None:
    """M[e] = U[e] · V[e] for each of the 36 products, a register tile at a time."""
    knobs, lanes = space.knobs, space.lanes
    row_tiles = ceil_div(knobs.tiles, knobs.rows)
    grid = dict(e=PRODUCTS, k=space.channel_tiles, r=row_tiles)
    with emit.loops(**grid) as axes, emit.block("product"):
        e, k, r = emit.all_spatial(grid, axes)
        acc = emit.local("acc", (knobs.rows, knobs.vectors, lanes))
        start = tile_start(r, knobs.rows, knobs.tiles)
        outer = dict(cv=space.in_vectors, ci=lanes)
        inner = dict(i=knobs.rows, j=knobs.vectors, lane=lanes)
        with emit.loops(**outer, **inner) as axes, emit.block("update"):
            cv, ci = emit.all_reduce(outer, axes[:2])
            i, j, lane = emit.all_spatial(inner, axes[2:])
            with emit.init():
                emit.store(acc, tirx.const(0.0, "float32"), [i, j, lane])
            product = v[e, cv, start + i, ci] * operands.weight[e, k, cv, ci, j, lane]
            emit.store(acc, acc[i, j, lane] + product, [i, j, lane])
        with emit.loops(**inner) as axes, emit.block("store"):
            i, j, lane = emit.all_spatial(inner, axes)
            at = [e, space.first_vector(k) + j, start + i, lane]
            emit.store(m, acc[i, j, lane], at)


def _apply(
    matrix: np.ndarray, load: Callable[[int, int], Any]
) -> list[tuple[tuple[int, int], Any]]:
    """matrix · X · matrixᵀ for the 6×6 square X of vectors `load(i, j)`, as named values."""
    columns = [_times(matrix, [T.Bind(load(i, j)) for i in range(SIDE)]) for j in range(SIDE)]
    results = []
    for i in range(matrix.shape[0]):
        row = _times(matrix, [columns[j][i] for j in range(SIDE)])
        results += [((i, j), value) for j, value in enumerate(row)]
    return results


def _times(matrix: np.ndarray, x: list[Any]) -> list[Any]:
    """matrix · x; both rows (or columns) of a pair of points ±p share their parts."""
    if matrix.shape[0] == SIDE:  # Bᵀ: rows of ±p differ in the sign of their odd coefficients
        result = [_combine(matrix[0], x, range(SIDE))]
        for first in (1, 3):
            even = T.Bind(_combine(matrix[first], x, range(0, SIDE, 2)))
            odd = T.Bind(_combine(matrix[first], x, range(1, SIDE, 2)))
            result += [even + odd, even - odd if _mirrors(matrix, first) else odd - even]
        result.append(_combine(matrix[SIDE - 1], x, range(SIDE)))
        return [T.Bind(r) for r in result]
    sums = [T.Bind(x[i] + x[i + 1]) for i in (1, 3)]
    differences = [T.Bind(x[i] - x[i + 1]) for i in (1, 3)]
    result = []
    for k, row in enumerate(matrix):
        pair = sums if k % 2 == 0 else differences
        value = _scaled(row[1], pair[0]) + _scaled(row[3], pair[1])
        if row[0]:
            value = value + _scaled(row[0], x[0])
        if row[SIDE - 1]:
            value = value + _scaled(row[SIDE - 1], x[SIDE - 1])
        result.append(T.Bind(value))
    return result


def _mirrors(matrix: np.ndarray, first: int) -> bool:
    """Whether the even coefficients of two rows agree (else the odd ones do)."""
    return bool(np.allclose(matrix[first, ::2], matrix[first + 1, ::2]))


def _combine(row: np.ndarray, x: list[Any], positions: range) -> Any:
    """Σ row[j] · x[j] over the positions with a coefficient."""
    terms = [_scaled(row[j], x[j]) for j in positions if abs(row[j]) > 1e-12]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _scaled(factor: float, vector: Any) -> Any:
    if factor == 1:
        return vector
    lanes = int(vector.ty.dtype.lanes)
    return vector * tirx.Broadcast(tirx.const(float(factor), "float32"), lanes)


def schedule(sch: Schedule, task: ConvTask, knobs: Knobs, device: Device) -> Schedule:
    """Parallel over blocks of tiles; the matrix products as in Grouped Spatial Pack."""
    outer = sch.fuse(*sch.get_loops(sch.get_sblock("tile")))
    if device.cores > 1:
        sch.parallel(outer)
    update, write = sch.get_sblock("update"), sch.get_sblock("store")
    *_, cv, _ci, i, j, lane = sch.get_loops(update)
    sch.unroll(i)
    sch.unroll(j)
    sch.vectorize(lane)
    sch.decompose_reduction(update, cv)
    *_, i, j, lane = sch.get_loops(write)
    sch.unroll(i)
    sch.unroll(j)
    sch.vectorize(lane)
    return sch
