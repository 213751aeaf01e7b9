"""Which convolutions read row-major maps as they lie, without a halo.

Grouped Spatial Pack reads its data one number at a time, so channels may lie in planes; then tiles
at the borders leave out the taps beyond them. That spares a network's input the copy into blocks,
which is worth most where little is computed for each number: strides, few filters.
"""

from __future__ import annotations

from edgeconv.borders import column_kinds
from edgeconv.workload import Conv2d

WIDEST_KERNEL = 7  # columns; beyond it a tile's code would be too long on some device
COLUMNS = range(4, 9)  # of a tile that fits the registers of any device
NARROWEST = 7  # map: tiles are single rows
KINDS = 3  # of tiles in a row, at most
FEW_CHANNELS = {  # for which Winograd's transforms don't pay, by kernel and stride
    (2, (1, 1)): 12,
    (3, (1, 1)): 4,
    (4, (1, 1)): 4,
    (5, (1, 1)): 4,
    (7, (1, 1)): 4,
    (5, (2, 2)): 4,
    (7, (2, 2)): 4,
}


def reads_planes(conv: Conv2d, lanes: int) -> bool:
    """Whether a k×k convolution should read a row-major map where it lies."""
    if conv.is_pointwise or conv.is_depthwise or conv.input_shuffle > 1 or conv.clusters:
        return False
    if conv.groups > 1 and conv.out_channels_per_group * 2 <= lanes:
        return False  # several groups share a vector: see lane_groups
    rows, columns = conv.kernel_size
    few = FEW_CHANNELS.get((rows, conv.stride))
    if rows == columns and few is not None and conv.in_channels_per_group > few:
        return False  # Winograd wants blocks
    if conv.kernel_size[1] > WIDEST_KERNEL or conv.out_width < NARROWEST:
        return False
    fitting = [width for width in COLUMNS if width <= conv.out_width]
    return any(len(column_kinds(conv, width)) <= KINDS for width in fitting)
