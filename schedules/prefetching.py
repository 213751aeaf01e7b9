"""Prefetching beside the products of other pixels: weights of the next channels, and maps that lie
behind the second-level cache, in channel blocks behind the third.

Where pixels hold all channels (NHWC), the channels of a group are a short run in each of many
pixels. That is no pattern hardware prefetchers find, so each run is a miss, read or written. A tile
asks for what the tile below it in the next band needs. Zen 4, groups of 7 to 20 channels, maps of 4
to 5 MB: 1.3 to 1.8 times as fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tvm import tirx

from edgeconv.layout import Layout
from edgeconv.schedules import emit
from edgeconv.schedules.common import CACHE_LINE, ceil_div
from edgeconv.schedules.traffic import by_pixels, exceeds_l2, leaves_l3
from edgeconv.targets import Device
from edgeconv.workload import ConvTask

LINE = CACHE_LINE // 4  # float32
FAR_AHEAD = 2  # row tiles from one to that which it prefetches, where there are no bands


def pays(task: ConvTask, bands: int, device: Device) -> bool:
    """Whether tiles in bands prefetch: in groups of NHWC, where the second-level cache can't hold
    the map, and cores have more than one band each.
    """
    conv = task.conv
    grouped = conv.groups > 1 and conv.slices is None and by_pixels(task.data, device)
    return bands > device.cores and grouped and exceeds_l2(conv, device)


def fetches_below(task: ConvTask, bands: int, device: Device) -> bool:
    """Whether tiles of a grouped kernel in so many bands call `fetch_below`."""
    return pays(task, bands, device) or _pays_in_blocks(task, device)


def _pays_in_blocks(task: ConvTask, device: Device) -> bool:
    """Whether tiles of grouped kernels in channel blocks prefetch: where neither data nor output
    stay in the third-level cache, and products take longer than asking. Zen 4, 12 to 25 MB: 1.00 to
    1.19 times as fast; 1x1 kernels of 12 MB 0.89 to 1.0.
    """
    conv = task.conv
    grouped = conv.groups > 1 and conv.slices is None and not conv.is_pointwise
    return grouped and 1 < task.data.block <= device.lanes and leaves_l3(conv, device)


def fetch_below(
    operands: emit.ConvOperands,
    corner: tuple[Any, Any, Any],
    tile: dict[str, int],
    band: int | None,
    channels: tuple[tuple[Any, int], tuple[Any, int]],
) -> None:
    """Ask for what a tile reads for the first time, and for what it writes.

    Args:
        corner: image, output row and column of a tile above it.
        tile: output rows and columns of it.
        band: tiles of a band, as many as lie between the two; None: there are no bands.
        channels: the first and the number of input channels, and of output channels.
    """
    conv = operands.task.conv
    n, row, column = corner
    (sy, sx), (kh, kw) = conv.stride, (conv.tap_rows, conv.kernel_size[1])
    below = FAR_AHEAD if band is None else band
    single = conv.out_height == 1
    down, right = (0, below * tile["j"]) if single else (below * tile["i"], 0)
    with emit.only_prefetching(), emit.unrolled(**tile) as (i, j):
        at = row + down + i, column + right + j
        y, x = operands.pixel(*at, kh - 1, kw // 2)
        for up, across in np.ndindex(min(sy, kh), min(sx, kw)):
            pixel = (n, y - up, x + across)
            _fetch(operands.data, operands.task.data, pixel, *channels[0])
        for array, layout in (
            (operands.out, operands.task.out),
            (operands.residual, operands.task.residual),
        ):
            if layout is not None:
                _fetch(array, layout, (n, *at), *channels[1])


def _fetch(array: Any, layout: Layout, pixel: tuple[Any, Any, Any], first: Any, width: int) -> None:
    """The lines of a run of channels, by the last element that lies in each: a run starts anywhere
    in a line, whose first part came with another. Not of planes, where lines hold other pixels.
    """
    n, y, x = pixel
    step = min(LINE, layout.block)
    if step == 1:
        return
    for start in range(0, width, step):
        last = first + (min(start + step, width) - 1)
        emit.prefetch(array[n, last // layout.block, y, x, last % layout.block], 0)


def next_weights(
    weight: Any, following: Any, number: Any, count: int, steps: int, step_floats: int
) -> Callable[[Any], None] | None:
    """Fetches the weights of channel tile `following` while `count` pixel tiles use another's.

    They are read once a layer, so they come from memory; left to the first pixel tile, which reads
    them again and again after that, they would stall it. Pixel tile number `number` takes its
    share, evenly spread over its steps. None where there is no time to.
    """
    if count < 2:
        return None
    step_bytes = step_floats * 4
    lines = ceil_div(ceil_div(step_bytes, count), CACHE_LINE)  # fetched in each step
    busy = min(count, ceil_div(step_bytes, lines * CACHE_LINE))  # pixel tiles that fetch
    share = steps * lines * CACHE_LINE
    # later pixel tiles ask for one line again and again: cheaper than a branch
    stride = tirx.Select(number < busy, lines * CACHE_LINE, 0)
    done = tirx.min(number, busy - 1) * share
    element = weight[(following, *([0] * (len(weight.shape) - 1)))]

    def fetch(step: Any) -> None:
        for line in range(lines):
            emit.prefetch(element, done + step * stride + line * CACHE_LINE)

    return fetch


def share(step: tuple[Any, int], extents: tuple[int, int]) -> Iterator[tuple[Any, Any]]:
    """The part of two nested loops that falls to a step, its number and that of all given."""
    number, steps = step
    work, inner = math.prod(extents), extents[1]
    each, every = ceil_div(work, steps), max(1, steps // work)
    with emit.loops(u=each) as u:
        at = number // every * each + u
        with emit.when(tirx.all(number % every == 0, at < work)):
            yield at // inner, at % inner


def share_of_run(step: tuple[Any, int], size: int) -> Iterator[Any]:
    """The cache lines of a run of `size` bytes that fall to a step: how far behind its start the
    last element in each lies.
    """
    for line, _ in share(step, (ceil_div(size, CACHE_LINE), 1)):
        yield line * CACHE_LINE + CACHE_LINE - 4
