"""Where a pointwise convolution works on row-major maps as they are.

Grouped Spatial Pack broadcasts single input pixels, so it may as well find them in planes, and only
its output is transposed, if a row-major one is wanted. A matrix product along the pixels needs no
transpose at all, but is a little slower.
"""

from __future__ import annotations

import math

from edgeconv.workload import Conv2d

TRANSPOSE = 10  # multiply-adds of vectors in the time of a vector's way through a transpose
SLOWER = 0.05  # share of time that a matrix product loses to panels and to the last pixels
SKIP = 8  # the same for a vector of pixels that a copy of a strided input holds
FEWEST_LANES = 8  # narrower machines multiply by a lane of a vector of channels


def _is_ordinary(conv: Conv2d) -> bool:
    """Pointwise, channel by channel in order."""
    return conv.is_pointwise and not any(conv.padding) and conv.input_shuffle == 1


def accepts(conv: Conv2d, lanes: int) -> bool:
    """Whether the kernel on row-major maps takes the convolution."""
    return _is_ordinary(conv) and conv.stride[1] <= 2 and conv.out_height * conv.out_width >= lanes


def reads_planes(conv: Conv2d, lanes: int) -> bool:
    """Whether it reads a row-major map as fast as channel blocks, whatever it writes."""
    return _is_ordinary(conv) and conv.stride == (1, 1) and _broadcasts(conv, lanes)


def _broadcasts(conv: Conv2d, lanes: int) -> bool:
    """Whether Grouped Spatial Pack multiplies single pixels by vectors of filters."""
    return conv.groups == 1 and lanes >= FEWEST_LANES


def prefers_rows(conv: Conv2d, lanes: int) -> bool:
    """Whether a matrix product is the fastest way from a row-major input to a row-major output."""
    if not accepts(conv, lanes):
        return False
    inputs, outputs = conv.in_channels_per_group, conv.out_channels_per_group
    saved, lost = TRANSPOSE / inputs, SLOWER
    if _broadcasts(conv, lanes):
        lost *= 2  # the other way loses nothing before its output
    else:
        saved += TRANSPOSE / outputs
    if conv.stride != (1, 1):
        saved += SKIP / outputs  # the matrix product's panels hold what is used anyway
    return saved + _waste(outputs, lanes) > lost + _waste(conv.out_height * conv.out_width, lanes)


def _waste(extent: int, lanes: int) -> float:
    """Lanes that do nothing, for each that does something."""
    return math.ceil(extent / lanes) * lanes / extent - 1
