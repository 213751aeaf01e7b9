"""Between row-major maps and channel blocks: the copy where a network meets NCHW; and transposes
that swap the last axes, which are the same from NCHW to NHWC.

Read plainly, every vector of the blocked side is a gather of single floats. Here `lanes` channels
of `lanes` neighbouring pixels are loaded as vectors, transposed in registers, and stored as
vectors. The transpose is log2(lanes) rounds of perfect shuffles: vectors i and i + lanes/2 become
the lower and upper interleaving of the two.

Pixels are counted through rows; the last tile of pixels, and in NHWC the last run of channels,
overlaps its neighbour. Padding lanes of the last block repeat its last channel.

Planes that lie a multiple of 4 KiB apart (64x64 pixels) share a few ways of the L1 cache, too few
for stores to all of them at once. There a longer run of pixels is transposed into a strip in L1 and
goes to one plane after the other: 1.4 to 2.1 times faster, measured on Zen 5, as long as the last
cache holds the maps; what memory prefetches it disturbs. On Zen 4, which stores such vectors in two
halves, it takes up to twice as long. Reading such planes gains nothing.

From and to maps that the second-level cache can't hold, lines of later tiles are prefetched: 1.1 to
2.3 times faster, measured on Zen 4 with maps of 1.6 to 5 MB.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import Ramp
from tvm.tirx.script import builder as T

from edgeconv.layout import PLAIN, Layout
from edgeconv.schedules import emit
from edgeconv.schedules.common import PARALLEL_ELEMENTS, ceil_div, run_parallel, tile_start
from edgeconv.schedules.tensor_expr import Tensor, TensorTask, parameter
from edgeconv.schedules.traffic import PAGE
from edgeconv.targets import Device

NEARBY = 128  # bytes over which the same pixels of all planes spread, modulo a page
AHEAD = 4  # tiles, fetched where the second-level cache can't hold the map
STRIP = 8  # vectors of pixels that go to one plane after the other
HELD = 1 / 3  # of the last cache; larger maps are at least partly in memory


def supports(task: TensorTask, device: Device) -> bool:
    """Whether one side is NCHW, the other has channels side by side, and a tile fits the map."""
    task = _as_copy(task)
    if task.op not in ("copy", "slices", "volumes") or not task.is_float32:
        return False
    shape = _images(task)
    if len(shape) != 4 or shape[2] * shape[3] < device.lanes:
        return False
    sides = (task.inputs[0].layout, task.outputs[0].layout)
    planes, channels = sorted(sides, key=lambda layout: layout.block)
    if planes.block > 1 or channels.block < 2 or any(planes.halo):
        return False
    nhwc = channels.block == shape[1]
    return shape[1] >= device.lanes and (nhwc or channels.block % device.lanes == 0)


def _as_copy(task: TensorTask) -> TensorTask:
    """A transpose [..., A, B] to [..., B, A] of row-major arrays, A and B one axis or several, as a
    copy of images [N, A, 1, B] to NHWC; any other task as it is.
    """
    if task.op != "transpose":
        return task
    source, target = task.inputs[0], task.outputs[0]
    perm, shape = dict(task.attrs)["perm"], source.shape
    kept = next((i for i, axis in enumerate(perm) if axis != i), len(perm))
    middle = perm[kept] if kept < len(perm) else kept
    swapped = (*range(kept), *range(middle, len(perm)), *range(kept, middle))
    if tuple(perm) != swapped or not source.layout.is_plain or not target.layout.is_plain:
        return task
    parts = (shape[:kept], shape[kept:middle], shape[middle:])
    n, a, b = (math.prod(part) for part in parts)
    images = [
        replace(side, shape=(n, a, 1, b), layout=layout)
        for side, layout in ((source, PLAIN), (target, Layout(a)))
    ]
    return replace(task, op="copy", inputs=(images[0],), outputs=(images[1],))


def _images(task: TensorTask) -> tuple[int, ...]:
    """[N, C, H, W]; those of volumes are slices."""
    return (task.inputs if task.op == "volumes" else task.outputs)[0].shape


def build(task: TensorTask, device: Device) -> tirx.PrimFunc:
    """The scheduled kernel `(source, target)`.

    The planes of `depth` slices of a volume lie as [N/depth, C, depth, H·W].
    """
    task = _as_copy(task)
    source, target = task.inputs[0], task.outputs[0]
    n, c, h, w = _images(task)
    volumes = {"slices": source, "volumes": target}.get(task.op)
    depth = 1 if volumes is None else volumes.shape[2]
    lanes, pixels = device.lanes, h * w
    to_blocks = target.layout.block > 1
    block = (target if to_blocks else source).layout.block
    nhwc = block == c
    runs, run_pixels = ceil_div(c, lanes), lanes
    held = 8 * n * c * pixels <= HELD * 1024 * max(device.l2_kib, device.l3_kib)
    far = 4 * n * c * pixels > device.l2_kib * 1024
    if held and not to_blocks and not device.in_halves and _alias(pixels, lanes):
        run_pixels, far = STRIP * lanes, False

    def declared(name: str, side: Tensor) -> Any:
        if side.layout.block < 2:
            side = replace(side, shape=(n // depth, c, depth, pixels), layout=PLAIN)
        return parameter(name, side)

    def body() -> None:
        sides = [declared("source", source), declared("target", target)]
        planes, blocks = sides if to_blocks else sides[::-1]
        every = Ramp(0, 1, lanes)

        def plane(i: Any, channel: Any, first: Any) -> tuple[Any, ...]:
            return (i // depth, channel, i % depth, first + every)

        def pixel(i: Any, start: Any, position: Any, lane: Any = every) -> tuple[Any, ...]:
            return (i, start // block, position // w, position % w, start % block + lane)

        grid = dict(n=n, c=runs, p=ceil_div(pixels, run_pixels))
        with emit.loops(**grid) as axes, emit.block("tile"):
            i, run, tile = emit.all_spatial(grid, axes)
            start = tile_start(run, lanes, c) if nhwc else run * lanes
            first = tile_start(tile, run_pixels, pixels)
            if far:  # tiles jump from plane to plane, or from pixel to pixel
                later = first + AHEAD * lanes
                with emit.only_prefetching():
                    for k in range(lanes):
                        emit.prefetch(blocks[pixel(i, start, later + k, lanes - 1)], 0)
                        if to_blocks:
                            pixels_of = planes[(i // depth, start + k, i % depth, later)]
                            emit.prefetch_line(pixels_of, 0)
            if to_blocks:
                last = c - 1
                vectors = [
                    planes[plane(i, tirx.min(start + k, last) if c % lanes else start + k, first)]
                    for k in range(lanes)
                ]
                for k, vector in enumerate(transpose(vectors, lanes)):
                    emit.store(blocks, vector, list(pixel(i, start, first + k)))
                return

            def transposed(at: Any) -> list[Any]:
                return transpose([blocks[pixel(i, start, at + k)] for k in range(lanes)], lanes)

            def present(k: Any) -> Any:  # padding lanes have no plane
                return emit.when(None if nhwc or c % lanes == 0 else start + k < c)

            if run_pixels == lanes:
                for k, vector in enumerate(transposed(first)):
                    with present(k):
                        emit.store(planes, vector, list(plane(i, start + k, first)))
                return
            strip = emit.scratch("strip", (lanes * run_pixels,))
            with T.serial(0, STRIP) as v:
                for k, vector in enumerate(transposed(first + v * lanes)):
                    emit.store(strip, vector, [Ramp(k * run_pixels + v * lanes, 1, lanes)])
            with T.serial(0, lanes) as k, present(k), T.serial(0, STRIP) as v:
                vector = strip[Ramp(k * run_pixels + v * lanes, 1, lanes)]
                emit.store(planes, vector, list(plane(i, start + k, first + v * lanes)))

    sch = Schedule(emit.prim_func("relayout", body))
    loops = sch.get_loops(sch.get_sblock("tile"))[:2]
    run_parallel(sch, loops, n * c * pixels, device, PARALLEL_ELEMENTS)
    return sch.mod["main"]


def _alias(pixels: int, lanes: int) -> bool:
    """Whether the same pixels of `lanes` planes compete for a few lines of L1, and fill a strip."""
    offset = pixels * 4 % PAGE
    return min(offset, PAGE - offset) * lanes <= NEARBY and pixels >= STRIP * lanes


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
