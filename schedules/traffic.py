"""Cycles that maps take from a level of the memory to the core, where computing hides none.

Measured on Zen 5 with depthwise 3×3 kernels on maps of 0.1 to 6 MB, which compute little: 18 to 21
bytes a cycle out of the third-level cache, 22 to 25 out of the second, read and written together;
40 where the second-level cache is only read.
"""

from __future__ import annotations

from edgeconv.schedules.common import ceil_div
from edgeconv.targets import Device
from edgeconv.workload import Conv2d

L2_RATE = 24.0  # bytes a cycle of one core
READ_RATE = 40.0  # out of the second-level cache, nothing written
L3_RATE = 19.0
STAYS = 0.5  # of the second-level cache; what is larger does not stay there
MEMORY_RATE = 3.0  # of all cores together
# Zen 4: 256 KB that the other core has read take 35 to 145 µs to write, 10 µs otherwise
SHARED_CYCLES = 1.0  # a byte
MOST_WEIGHTS = 5  # of a layer, in maps; weights that two cores read are seldom written


def map_bytes(conv: Conv2d) -> int:
    """Bytes of the data of one image."""
    return conv.in_channels * conv.height * conv.width * 4


def weight_bytes(conv: Conv2d) -> int:
    """Bytes of the weights that are not zero."""
    taps = conv.tap_rows * conv.kernel_size[1]
    return conv.out_channels * conv.in_channels_per_group * taps * 4


def shares_map(conv: Conv2d) -> bool:
    """Whether cores better share the map than the channels: each then reads all weights, but no
    pixels that another core wrote, nor is asked for those it writes.
    """
    return weight_bytes(conv) <= MOST_WEIGHTS * map_bytes(conv)


def shared_cycles(size: int, device: Device) -> float:
    """Cycles, of all cores together, that it costs if one core reads `size` bytes another wrote;
    most of them when the first writes there again.
    """
    return size * SHARED_CYCLES if device.cores > 1 else 0.0


def leaves_l2(conv: Conv2d, device: Device) -> bool:
    """Whether the data is too large to stay in the second-level cache."""
    return map_bytes(conv) > device.l2_kib * 1024 * STAYS


def streaming_cycles(size: int, device: Device) -> float:
    """Cycles, of all cores together, that moving `size` bytes through the device's caches takes."""
    if ceil_div(size, device.cores) <= device.l2_kib * 1024 // 2:
        return size / L2_RATE
    if size <= device.l3_kib * 1024 // 2:
        return size / L3_RATE
    return size / MEMORY_RATE * device.cores
