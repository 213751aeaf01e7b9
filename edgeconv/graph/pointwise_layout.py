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
FEWEST_LANES = 8  # narrower machines multiply by a lane of a vector of channels


def _is_ordinary(conv: Conv2d) -> bool:
    """Pointwise, pixel by pixel and channel by channel in order."""
    dense = conv.is_pointwise and conv.stride == (1, 1) and not any(conv.padding)
    return dense and conv.input_shuffle == 1


def accepts(conv: Conv2d, lanes: int) -> bool:
    """Whether the kernel on row-major maps takes the convolution."""
    return _is_ordinary(conv) and conv.height * conv.width >= lanes


def reads_planes(conv: Conv2d, lanes: int) -> bool:
    """Whether it reads a row-major map as fast as channel blocks, whatever it writes."""
    return _is_ordinary(conv) and conv.groups == 1 and lanes >= FEWEST_LANES


def prefers_rows(conv: Conv2d, lanes: int) -> bool:
    """Whether a matrix product is the fastest way from a row-major input to a row-major output."""
    if not accepts(conv, lanes):
        return False
    inputs, outputs = conv.in_channels_per_group, conv.out_channels_per_group
    saved, lost = TRANSPOSE / inputs, SLOWER
    if reads_planes(conv, lanes):
        lost *= 2  # the other way loses nothing before its output
    else:
        saved += TRANSPOSE / outputs
    return saved + _waste(outputs, lanes) > lost + _waste(conv.height * conv.width, lanes)


def _waste(extent: int, lanes: int) -> float:
    """Lanes that do nothing, for each that does something."""
    return math.ceil(extent / lanes) * lanes / extent - 1
