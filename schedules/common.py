"""What kernels share: reasons for refusing a task, integer-or-symbolic arithmetic, and when to run
on several cores.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule

from edgeconv.targets import Device
from edgeconv.workload import Conv2d, ConvTask

FMA_LATENCY = 4  # cycles; Zen 2–5, Skylake–Golden Cove and Cortex-A72–A78 all take 4
L2_BYTES_PER_CYCLE = 20  # sustained beside multiply-adds; 32 B a cycle is the best case
CACHE_LINE = 64  # bytes
PARALLEL_MACS = 1 << 17  # below it a parallel region costs more than it saves
MOST_UNEVEN = 1.08  # parts of a layer for the cores, the largest over the mean
PARALLEL_ELEMENTS = 1 << 15  # the same where there are no multiply-adds
MAX_UNROLLED_FMAS = 240  # in the innermost body; beyond it the loop leaves the micro-op cache


@dataclass(frozen=True)
class Mismatch:
    """Why a family cannot take a task, as a sentence."""

    reason: str

    def __str__(self) -> str:
        return self.reason


def lacks_halo(task: ConvTask) -> Mismatch | None:
    """None if the input has a halo as wide as the padding."""
    if all(h >= p for h, p in zip(task.data.halo, task.conv.padding, strict=True)):
        return None
    return Mismatch("the input has no zeros around it for the padding")


def minimum(a: Any, b: Any) -> Any:
    """min of two ints, or of expressions."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return tirx.min(a, b)


def tile_start(tile: Any, size: int, extent: int) -> Any:
    """Where tile number `tile` of `size` starts; the last overlaps its neighbour rather than end
    short.
    """
    return tile * size if extent % size == 0 else minimum(tile * size, extent - size)


def narrowed(lanes: int, extent: int) -> int:
    """`lanes` halved until a vector is no longer than `extent`."""
    while lanes > extent:
        lanes //= 2
    return lanes


def run_parallel(
    sch: Schedule,
    loops: Sequence[Any],
    work: int,
    device: Device,
    least: int = PARALLEL_MACS,
    *,
    along: Sequence[Any] = (),
    share_map: bool = True,
) -> Any:
    """Fuse the loops, and spread them over the cores if `work` is at least `least`; the fused loop.

    Args:
        along: neighbouring loops that run through the pixels of the map, outer ones first; those
            behind the last of `loops` may be among them.
        share_map: if parts of `along` are even, each core takes one, and all channels of it. The
            next layer then finds in the core's own cache what it reads; a line that two cores have
            read is expensive to write again. Images, the first of the loops, go before.
    """
    if device.cores == 1 or work < least:
        return sch.fuse(*loops)
    images = is_even(extent_of(sch, loops[:1]), device.cores)
    spread = _parts_first(sch, loops, along, device.cores) if share_map and not images else None
    if spread is None:  # more of them if those are few
        even = is_even(extent_of(sch, loops), device.cores)
        spread = [*loops, *([] if even else _without(along, loops))]
    outer = sch.fuse(*spread)
    if extent_of(sch, [outer]) > 1:
        sch.parallel(outer)
    return outer


def _parts_first(
    sch: Schedule, loops: Sequence[Any], along: Sequence[Any], cores: int
) -> list[Any] | None:
    """The loops, that over even parts of the map before the others; None if none are even."""
    for count in range(1, len(along) + 1):
        taken = along[:count]
        pixels = extent_of(sch, taken)
        if is_even(pixels, cores):
            others = _without(loops, along)
            core, _ = sch.split(sch.fuse(*taken), [None, ceil_div(pixels, cores)])
            sch.reorder(core, *others)
            return [core, *others]
    return None


def extent_of(sch: Schedule, loops: Sequence[Any]) -> int:
    """How often what the loops hold runs."""
    return math.prod(int(sch.get(loop).extent) for loop in loops)


def _without(loops: Sequence[Any], taken: Sequence[Any]) -> list[Any]:
    return [loop for loop in loops if not any(loop.same_as(other) for other in taken)]


def parts_of(extent: int, most: int) -> int:
    """Into how many parts of one size, the last perhaps smaller, `extent` falls; at most `most`."""
    return ceil_div(extent, ceil_div(extent, most))


def is_even(units: int, cores: int) -> bool:
    """Whether cores that take equal numbers of units of work are all busy nearly all the time."""
    return ceil_div(units, cores) * cores <= MOST_UNEVEN * units


def is_partial(task: ConvTask) -> Mismatch | None:
    """None if the task reads a whole input and writes a whole output without gaps."""
    if task.place is not None:
        return Mismatch("the output has gaps")
    if min(task.conv.padding) < 0:
        return Mismatch("the input is cut")
    return None


def starts(extent: int, size: int) -> list[int]:
    """Where pieces of `size` start that cover `extent`; the last overlaps its neighbour."""
    return [tile_start(i, size, extent) for i in range(ceil_div(extent, size))]


def tap_uses(
    outputs: int, taps: int, stride: int, dilation: int
) -> dict[int, list[tuple[int, int]]]:
    """For every input position that is read, in order: the (output, tap) pairs that read it."""
    found: dict[int, list[tuple[int, int]]] = {}
    for i in range(outputs):
        for tap in range(taps):
            found.setdefault(i * stride + tap * dilation, []).append((i, tap))
    return dict(sorted(found.items()))


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


@functools.cache
def held_pixels(conv: Conv2d, columns: int) -> int:
    """Most pixels of an input row in registers at once while the horizontal taps, unrolled, go over
    a tile of `columns` outputs: those of the tap at hand, and those a later one reads again.
    """
    taps, stride, dilation = conv.kernel_size[1], conv.stride[1], conv.dilation[1]
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for tap in range(taps):
        for column in range(columns):
            pixel = column * stride + tap * dilation
            first.setdefault(pixel, tap)
            last[pixel] = tap
    return max(sum(first[x] <= tap <= last[x] for x in first) for tap in range(taps))
