"""Where a convolution whose output channels read different input channels works on row-major maps.

In planes a channel is an address, so its kernel takes input channels and puts output channels where
a table says, and a copy before and behind mostly costs less than products with zeros. Neighbours
that can read and write rows themselves spare the copies.
"""

from __future__ import annotations

from edgeconv.graph import depthwise_layout, pointwise_layout
from edgeconv.graph.pointwise_layout import TRANSPOSE
from edgeconv.workload import Conv2d

BLOCKS = 2  # vectors of channels in a tile of the kernel on channel blocks


def accepts(conv: Conv2d | None, lanes: int) -> bool:
    """Whether the kernel on row-major maps takes the convolution."""
    if conv is None or conv.clusters is None or not conv.is_pointwise:
        return False
    whole = conv.stride == (1, 1) and not any(conv.padding)
    return whole and conv.height * conv.width >= lanes


def prefers_rows(conv: Conv2d, data: int, readers: list[Conv2d | None], lanes: int) -> bool:
    """Whether rows are worth it, given the block of the data, and who reads the result.

    What is not a convolution (None) reads rows as well as blocks.
    """
    assert conv.clusters is not None
    tiles = conv.clusters.runs(BLOCKS * lanes)  # as they would lie in blocks
    products = sum(len(tile.outputs) * len(tile.inputs) for tile in tiles)
    saved = (products - conv.clusters.products) / conv.out_channels  # for each output vector
    before = TRANSPOSE * conv.in_channels / conv.out_channels if data > 1 else 0
    behind = 0 if all(_reads_rows(r, lanes) for r in readers if r is not None) else TRANSPOSE
    return saved >= before + behind


def _reads_rows(conv: Conv2d, lanes: int) -> bool:
    """Whether a convolution reads rows without a copy."""
    rows = depthwise_layout.accepts(conv, 0, 0, lanes) or accepts(conv, lanes)
    return rows or pointwise_layout.reads_planes(conv, lanes)


def feeds(conv: Conv2d | None, data: int, readers: list[Conv2d | None], lanes: int) -> bool:
    """Whether a depthwise convolution of data in these blocks is to write rows for such readers."""
    if conv is None or not readers or not all(accepts(reader, lanes) for reader in readers):
        return False
    return depthwise_layout.accepts(conv, data, 0, lanes)
