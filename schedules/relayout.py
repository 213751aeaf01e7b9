"""Between row-major maps and channel blocks: the copy where a network meets NCHW.

Read plainly, every vector of the blocked side is a gather of single floats. Here `lanes` channels
of `lanes` neighbouring pixels are loaded as vectors, transposed in registers, and stored as
vectors. The transpose is log2(lanes) rounds of perfect shuffles: vectors i and i + lanes/2 become
the lower and upper interleaving of the two.

Pixels are counted through rows; the last tile of pixels, and in NHWC the last run of channels,
overlaps its neighbour. Padding lanes of the last block repeat its last channel.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import Ramp
from tvm.tirx.script import builder as T

from edgeconv.layout import Layout
from edgeconv.schedules import emit
from edgeconv.schedules.common import PARALLEL_ELEMENTS, ceil_div, run_parallel, tile_start
from edgeconv.targets import Device


def supports(
    shape: tuple[int, ...], dtype: str, source: Layout, target: Layout, device: Device
) -> bool:
    """Whether one side is NCHW, the other has channels side by side, and a tile fits the map."""
    if dtype != "float32" or len(shape) != 4 or shape[2] * shape[3] < device.lanes:
        return False
    planes, channels = sorted((source, target), key=lambda layout: layout.block)
    if planes.block > 1 or channels.block < 2 or any(planes.halo):
        return False
    nhwc = channels.block == shape[1]
    return shape[1] >= device.lanes and (nhwc or channels.block % device.lanes == 0)


def build(
    shape: tuple[int, ...],
    source: Layout,
    target: Layout,
    device: Device,
    *,
    aligned: bool = True,
    depth: int = 1,
) -> tirx.PrimFunc:
    """The scheduled kernel `(source, target)`; `aligned` is False if a caller owns the source.

    With `depth`, images are slices of volumes, whose planes lie as [N/depth, C, depth, H·W].
    """
    n, c, h, w = shape
    lanes, pixels = device.lanes, h * w
    to_blocks = target.block > 1
    blocked = target if to_blocks else source
    nhwc = blocked.block == c
    runs, tiles = ceil_div(c, lanes), ceil_div(pixels, lanes)

    def body() -> None:
        planes, blocks = _parameters(shape, depth, source, target, aligned)
        every = Ramp(0, 1, lanes)

        def plane(i: Any, channel: Any, first: Any) -> tuple[Any, ...]:
            return (i // depth, channel, i % depth, first + every)

        def pixel(i: Any, start: Any, position: Any) -> tuple[Any, ...]:
            at = (start // blocked.block, position // w, position % w)
            return (i, *at, start % blocked.block + every)

        grid = dict(n=n, c=runs, p=tiles)
        with emit.loops(**grid) as axes, emit.block("tile"):
            i, run, tile = emit.all_spatial(grid, axes)
            start = tile_start(run, lanes, c) if nhwc else run * lanes
            first = tile_start(tile, lanes, pixels)
            if to_blocks:
                last = c - 1
                vectors = [
                    planes[plane(i, tirx.min(start + k, last) if c % lanes else start + k, first)]
                    for k in range(lanes)
                ]
                for k, vector in enumerate(transpose(vectors, lanes)):
                    emit.store(blocks, vector, list(pixel(i, start, first + k)))
                return
            vectors = [blocks[pixel(i, start, first + k)] for k in range(lanes)]
            for k, vector in enumerate(transpose(vectors, lanes)):
                if nhwc or c % lanes == 0:
                    emit.store(planes, vector, list(plane(i, start + k, first)))
                    continue
                with T.If(start + k < c), T.Then():  # padding lanes have no plane
                    emit.store(planes, vector, list(plane(i, start + k, first)))

    sch = Schedule(emit.prim_func("relayout", body))
    loops = sch.get_loops(sch.get_sblock("tile"))[:2]
    run_parallel(sch, loops, n * c * pixels, device, PARALLEL_ELEMENTS)
    return sch.mod["main"]


def _parameters(
    shape: tuple[int, ...], depth: int, source: Layout, target: Layout, aligned: bool
) -> tuple[Any, Any]:
    """(planes, blocks), declared in the order source, target."""
    n, c, h, w = shape
    declared: list[Any] = []
    for name, layout in (("source", source), ("target", target)):
        if layout.block > 1:
            declared.append(emit.interior(name, shape, layout))
        else:
            alignment = 64 if aligned or name == "target" else 4
            plain = tirx.decl_buffer(
                (n // depth, c, depth, h * w), "float32", name=name, data_alignment=alignment
            )
            declared.append(T.arg(name, plain))
    return (declared[0], declared[1]) if target.block > 1 else (declared[1], declared[0])


def transpose(vectors: list[Any], lanes: int) -> list[Any]:
    """The transpose of a square of vectors, each round bound to names so that nothing repeats."""
    half = lanes // 2
    low = [x for i in range(half) for x in (i, lanes + i)]
    high = [x for i in range(half, lanes) for x in (i, lanes + i)]
    vectors = [T.Bind(v) for v in vectors]
    rounds = lanes.bit_length() - 1
    for _ in range(rounds):
        shuffled = []
        for i in range(half):
            pair = [vectors[i], vectors[i + half]]
            shuffled += [tirx.Shuffle(pair, low), tirx.Shuffle(pair, high)]
        vectors = [T.Bind(v) for v in shuffled]
    return vectors
