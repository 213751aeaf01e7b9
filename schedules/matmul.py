"""Products of two computed matrices, as attention has them: a register tile of rows and vectors of
columns, a step for each term of the sums.

    parallel (batch, panel of columns, part of the rows)
      panel[K, columns] = b                              contiguous, if several row tiles read it
      row tile
        acc[rows, vectors, lanes] = 0                    registers
        k: vectors, rows (unrolled): acc += panel vector · broadcast(a)
        out = acc

The tile is that of matrix products in BLAS libraries (Goto and van de Geijn, "Anatomy of
High-Performance Matrix Multiplication", 2008). The last tile of rows, and the last vector of
columns, overlap their neighbours rather than end short. Products with a constant matrix are
convolutions (see graph/dense_to_conv).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx.script import builder as T

from edgeconv.schedules import emit
from edgeconv.schedules.common import FMA_LATENCY, ceil_div, narrowed, run_parallel, tile_start
from edgeconv.schedules.tensor_expr import TensorTask, parameter
from edgeconv.targets import Device

MOST_VECTORS = 4
SPARE_REGISTERS = 4


@dataclass(frozen=True)
class Tile:
    """A register tile: `rows` rows of `vectors` vectors of `lanes` columns."""

    rows: int
    vectors: int
    lanes: int


def supports(task: TensorTask, device: Device) -> bool:
    """Whether the task is a product of float32 matrices, row-major, with terms to sum."""
    if task.op != "matmul" or not task.is_float32 or not task.is_plain:
        return False
    return min(len(t.shape) for t in task.inputs) > 1 and task.inputs[0].shape[-1] > 0


def tile_for(m: int, n: int, device: Device) -> Tile:
    """The tile that takes the fewest cycles for an [m, n] result."""
    lanes = narrowed(device.lanes, n)
    columns = ceil_div(n, lanes)
    tiles = [
        Tile(rows, vectors, lanes)
        for vectors in range(1, min(MOST_VECTORS, columns) + 1)
        for rows in range(1, min(m, device.vector_registers) + 1)
        if rows * vectors + vectors + SPARE_REGISTERS <= device.vector_registers
    ]

    def cycles(tile: Tile) -> float:  # for each term of the sums
        fmas, loads = tile.rows * tile.vectors, device.load_cycles(tile.vectors, tile.rows)
        step = max(fmas / device.fma_ports, loads, FMA_LATENCY)
        return ceil_div(m, tile.rows) * ceil_div(columns, tile.vectors) * step

    return min(tiles, key=cycles)


def build(task: TensorTask, device: Device) -> tirx.PrimFunc:
    """The scheduled kernel `(a, b, out)` of [..., M, K], [..., K, N] and [..., M, N]."""
    a, b = task.inputs
    out = task.outputs[0]
    (m, k), n, batch = a.shape[-2:], b.shape[-1], out.shape[:-2]
    tile = tile_for(m, n, device)
    lanes, row_tiles = tile.lanes, ceil_div(m, tile.rows)
    vectors = ceil_div(n, lanes)
    panels = ceil_div(vectors, tile.vectors)
    several = device.cores if math.prod(batch) * panels % device.cores else 1
    part = ceil_div(row_tiles, several)  # row tiles of a part
    packed = part > 1 and vectors > 1

    def column(panel: Any, j: Any) -> Any:
        return tile_start(tile_start(panel, tile.vectors, vectors) + j, lanes, n)

    def body() -> None:
        matrices = dict(a=a, b=b, out=out)
        left, right, result = (parameter(name, t.joined(2)) for name, t in matrices.items())
        grid = dict(batch=math.prod(batch), panel=panels, part=ceil_div(row_tiles, part))
        with emit.loops(**grid) as axes, emit.block("tile"):
            number, panel, rows = emit.all_spatial(grid, axes)
            at_left, at_right = (_place(t.shape[:-2], batch, number) for t in (a, b))
            columns = [column(panel, j) for j in range(tile.vectors)]
            scratch = emit.scratch("columns", (k, tile.vectors * lanes)) if packed else None

            def read(term: Any, j: int) -> Any:
                if scratch is None:
                    return right[at_right, term, emit.run(columns[j], lanes)]
                return scratch[term, emit.run(j * lanes, lanes)]

            if scratch is not None:
                with T.serial(0, k) as term:
                    for j, start in enumerate(columns):
                        value = right[at_right, term, emit.run(start, lanes)]
                        emit.store(scratch, value, [term, emit.run(j * lanes, lanes)])
            with T.serial(0, part) as t:
                first = tile_start(tile_start(rows, part, row_tiles) + t, tile.rows, m)
                acc = _sums(tile, k, lambda i, term: left[at_left, first + i, term], read)
                every = emit.run(0, lanes)
                for (i, j), register in acc.items():
                    index = [number, first + i, emit.run(columns[j], lanes)]
                    emit.store(result, register[every], index)

    sch = Schedule(emit.prim_func("matmul", body))
    macs = math.prod(out.shape) * k
    run_parallel(sch, sch.get_loops(sch.get_sblock("tile")), macs, device)
    return sch.mod["main"]


def _sums(tile: Tile, terms: int, left: Any, right: Any) -> dict[tuple[int, int], Any]:
    """The registers of a tile, summed: `left(row, term)` numbers by `right(term, vector)`."""
    every = emit.run(0, tile.lanes)
    acc = {
        (i, j): emit.local("acc", (tile.lanes,))
        for i in range(tile.rows)
        for j in range(tile.vectors)
    }
    for register in acc.values():
        emit.store(register, emit.spread(tirx.const(0.0, "float32"), tile.lanes), [every])
    with T.serial(0, terms) as term:
        columns = [T.Bind(right(term, j)) for j in range(tile.vectors)]
        for i in range(tile.rows):
            number = T.Bind(emit.spread(left(i, term), tile.lanes))
            for j in range(tile.vectors):
                emit.store(acc[i, j], acc[i, j][every] + number * columns[j], [every])
    return acc


def _place(own: Sequence[int], batch: Sequence[int], number: Any) -> Any:
    """Which matrix of an operand, with leading axes `own`, belongs to matrix `number` of the
    result.
    """
    place: Any = 0
    stride, below = 1, 1
    for extent, of_result in zip(reversed(own), reversed(batch), strict=False):
        if extent > 1:
            place = place + number // below % of_result * stride
        stride, below = stride * extent, below * of_result
    return place
