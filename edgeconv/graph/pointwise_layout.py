"""Where a pointwise convolution between row-major maps works on them as they are.

Blocks of channels would be transposed into and out of. That costs as much as `TRANSPOSE` input
channels of every output and output channels of every input, whatever the vector width: wide
machines multiply faster and copy faster. Against it stand the pixels that fill no whole vector.
"""

from __future__ import annotations

import math

from edgeconv.workload import Conv2d

TRANSPOSE = 10  # multiply-adds of vectors that a vector's way through a transpose takes
SLOWER = 0.05  # the kernel's share of time lost to copying panels and to the last pixels' tile


def accepts(conv: Conv2d, lanes: int) -> bool:
    """Whether the kernel on row-major maps takes the convolution."""
    ordinary = conv.is_pointwise and conv.stride == (1, 1) and not any(conv.padding)
    return ordinary and conv.input_shuffle == 1 and conv.height * conv.width >= lanes


def prefers_rows(conv: Conv2d, lanes: int) -> bool:
    """Whether it is also the faster way from a row-major input to a row-major output."""
    if not accepts(conv, lanes):
        return False
    inputs, outputs = conv.in_channels_per_group, conv.out_channels_per_group
    copies = TRANSPOSE * (1 / inputs + 1 / outputs)
    pixels = conv.height * conv.width
    return copies + _waste(outputs, lanes) > SLOWER + _waste(pixels, lanes)


def _waste(extent: int, lanes: int) -> float:
    """Lanes that do nothing, for each that does something."""
    return math.ceil(extent / lanes) * lanes / extent - 1
