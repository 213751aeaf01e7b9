"""Where a convolution whose output channels read different input channels works on row-major maps.

In planes a channel is an address, so its kernel takes input channels and puts output channels where
a table says, and a copy before and behind costs less than products with zeros. Neighbours that can
read and write rows themselves spare the copies.
"""

from __future__ import annotations

from edgeconv.graph import depthwise_layout
from edgeconv.workload import Conv2d


def accepts(conv: Conv2d | None, lanes: int) -> bool:
    """Whether the kernel on row-major maps takes the convolution."""
    if conv is None or conv.clusters is None or not conv.is_pointwise:
        return False
    whole = conv.stride == (1, 1) and not any(conv.padding)
    return whole and conv.height * conv.width >= lanes


def feeds(conv: Conv2d | None, data: int, readers: list[Conv2d | None], lanes: int) -> bool:
    """Whether a depthwise convolution of data in these blocks is to write rows for such readers."""
    if conv is None or not readers or not all(accepts(reader, lanes) for reader in readers):
        return False
    return depthwise_layout.accepts(conv, data, 0, lanes)
