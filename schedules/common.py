"""What every convolution family shares: reasons for refusing a task, and integer-or-symbolic
arithmetic.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from edgeconv.workload import Conv2d

FMA_LATENCY = 4  # cycles; Zen 2–5, Skylake–Golden Cove and Cortex-A72–A78 all take 4
L2_BYTES_PER_CYCLE = 20  # sustained beside multiply-adds; 32 B a cycle is the best case
CACHE_LINE = 64  # bytes
PARALLEL_MACS = 1 << 17  # below it a parallel region costs more than it saves
MAX_UNROLLED_FMAS = 240  # in the innermost body; beyond it the loop leaves the micro-op cache


@dataclass(frozen=True)
class Mismatch:
    """Why a family cannot take a task, as a sentence."""

    reason: str

    def __str__(self) -> str:
        return self.reason


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
