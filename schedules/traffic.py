"""Cycles that maps take from a level of the memory to the core, where computing hides none.

Measured on Zen 5 with depthwise 3×3 kernels on maps of 0.1 to 6 MB, which compute little: 18 to 21
bytes a cycle out of the third-level cache, 22 to 25 out of the second, read and written together;
40 where the second-level cache is only read.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from edgeconv.layout import Layout
from edgeconv.schedules.common import CACHE_LINE, ceil_div, parts_of
from edgeconv.targets import Device
from edgeconv.workload import Conv2d, ConvTask

PAGE = 4096  # bytes; what lies a multiple apart shares a set of the L1 cache
L2_RATE = 24.0  # bytes a cycle of one core
READ_RATE = 40.0  # out of the second-level cache, nothing written
L3_RATE = 19.0
STAYS = 0.5  # of the second-level cache; what is larger does not stay there
FILLED = 0.9  # of it, by data and output together: then lines of both come from behind it
L3_SHARE = 0.38  # of the third-level cache, for a map and its output; less where cores share it
MEMORY_RATE = 3.0  # of all cores together
BAND_SHARE = 0.25  # of the second-level cache, for a band
SCATTERED_CYCLES = 0.1  # a byte; 0 to 0.45 measured (Zen 4, groups of 3 to 15)
FAR_CYCLES = 0.3  # where L2 can't hold the map; 0.2 to 1 measured
BAND_CYCLES = 0.15  # in bands of such a map, prefetched unless channels are shuffled
# Zen 4: 256 KB that the other core has read take 35 to 145 µs to write, 10 µs otherwise
SHARED_CYCLES = 1.0  # a byte
COLD_WEIGHTS_RATE = 10  # of one core, partly from L3
FAR_WEIGHTS_RATE = 6  # from memory, of all cores together
MOST_WEIGHTS = 5  # of a layer, in maps; weights that two cores read are seldom written


def map_bytes(conv: Conv2d) -> int:
    """Bytes of the data of one image."""
    return conv.in_channels * conv.height * conv.width * 4


def moved_bytes(conv: Conv2d) -> int:
    """Bytes that one image's data and output take."""
    return map_bytes(conv) + 4 * math.prod(conv.output_shape[1:])


def weight_bytes(conv: Conv2d) -> int:
    """Bytes of the weights that are not zero."""
    taps = conv.tap_rows * conv.kernel_size[1]
    return conv.out_channels * conv.in_channels_per_group * taps * 4


def shares_map(conv: Conv2d, weights: int | None = None) -> bool:
    """Whether cores better share the map than the channels: each then reads all weights (so many
    bytes, if other than the convolution's), but no pixels that another core wrote, nor is asked for
    those it writes.
    """
    weights = weight_bytes(conv) if weights is None else weights
    return weights <= MOST_WEIGHTS * map_bytes(conv)


def shared_cycles(size: int, device: Device) -> float:
    """Cycles, of all cores together, that it costs if one core reads `size` bytes another wrote;
    most of them when the first writes there again.
    """
    return size * SHARED_CYCLES if device.cores > 1 else 0.0


def leaves_l2(conv: Conv2d, device: Device) -> bool:
    """Whether the data is too large to stay in the second-level cache."""
    return map_bytes(conv) > device.l2_kib * 1024 * STAYS


def fills_l2(conv: Conv2d, device: Device) -> bool:
    """Whether the data, or data and output together, are too large to stay there."""
    return leaves_l2(conv, device) or moved_bytes(conv) > device.l2_kib * 1024 * FILLED


def leaves_l3(conv: Conv2d, device: Device) -> bool:
    """Whether data and output are too large to stay in the third-level cache; without one, in the
    second-level cache.
    """
    most = max(device.l3_kib * L3_SHARE, device.l2_kib * FILLED)
    return moved_bytes(conv) > most * 1024


def exceeds_l2(conv: Conv2d, device: Device) -> bool:
    """Whether the second-level cache can't hold the data."""
    return map_bytes(conv) > device.l2_kib * 1024


def bands_of_rows(conv: Conv2d, tiles: int, device: Device) -> int:
    """Bands that `tiles` tiles along the rows of a map (along its only row) are cut into, so that
    what a band reads stays in the second-level cache while all channels of it are computed; as
    many for each core. 1 where the map stays there as a whole, or the weights don't, or in groups
    what a band reads doesn't.
    """
    cache, cores = device.l2_kib * 1024, device.cores
    if not leaves_l2(conv, device) or weight_bytes(conv) > cache * STAYS:
        return 1
    size = max(1, int(tiles * cache * BAND_SHARE / map_bytes(conv)))
    if conv.groups > 1 and conv.out_height > 1:
        reach = (conv.tap_rows - 1) * conv.dilation[0]
        rows = ceil_div(conv.out_height, tiles) * size * conv.stride[0] + reach
        if map_bytes(conv) * rows / conv.height > cache * STAYS:
            return 1
    return parts_of(tiles, min(tiles, ceil_div(ceil_div(tiles, size), cores) * cores))


def by_pixels(layout: Layout, device: Device) -> bool:
    """Whether pixels hold more channels than a vector, those of several vectors side by side."""
    return layout.block > device.lanes


def scattered_cycles(task: ConvTask, bands: int, device: Device) -> float:
    """Cycles of fetching the channels of a group, a part of every pixel, from behind the
    second-level cache: lines that neighbouring groups share are fetched for each of them.
    """
    conv = task.conv
    scattered = conv.groups > 1 and by_pixels(task.data, device)
    far = exceeds_l2(conv, device)
    if not scattered or not (far if bands > 1 else leaves_l2(conv, device)):
        return 0.0
    each = BAND_CYCLES if bands > 1 else FAR_CYCLES if far else SCATTERED_CYCLES
    return each * conv.batch * moved_bytes(conv)


@functools.cache
def planes_collide(planes: int, plane: int, read: int, cache: tuple[int, int]) -> bool:
    """Whether `read` bytes of each of `planes` planes of `plane` bytes overfill a set of a cache
    (see `share_without_room`).
    """
    return share_without_room(tuple(range(0, planes * plane, plane)), read, cache) > 0


@functools.cache
def share_without_room(starts: tuple[int, ...], read: int, cache: tuple[int, int]) -> float:
    """The share of cache lines that find the ways of their set taken, if `read` bytes are read from
    each address on.

    Args:
        cache: its ways, and before them how many bytes apart addresses share a set.
    """
    period, ways = cache
    first = np.array(starts) // CACHE_LINE
    lines = first[:, None] + np.arange(ceil_div(read, CACHE_LINE))
    in_each = np.bincount((lines % (period // CACHE_LINE)).ravel())
    return float(np.maximum(in_each - ways, 0).sum() / lines.size)


def streaming_cycles(size: int, device: Device) -> float:
    """Cycles, of all cores together, that moving `size` bytes through the device's caches takes."""
    if ceil_div(size, device.cores) <= device.l2_kib * 1024 // 2:
        return size / L2_RATE
    if size <= device.l3_kib * 1024 // 2:
        return size / L3_RATE
    return size / MEMORY_RATE * device.cores


def cold_rate(weights: float, device: Device) -> float:
    """Bytes a cycle in which each core reads its share of the weights, so many bytes in all: from
    L3 if all of a network's may be there, else from memory, which the cores share.
    """
    in_l3 = weights_in_l3(weights, device)
    return COLD_WEIGHTS_RATE if in_l3 else FAR_WEIGHTS_RATE / device.cores


def weights_in_l3(weights: float, device: Device) -> bool:
    """Whether all weights of a network may be there, one of whose layers has so many bytes."""
    return weights * 4 <= device.l3_kib * 1024
