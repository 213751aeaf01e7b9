"""Where a depthwise convolution reads or writes row-major maps itself, instead of through a copy.

Its channels never meet, so its kernels take NCHW as it is: either they work along rows, or they
transpose small squares in the cache. At the ends of a network that saves the copies. Between two
such convolutions rows stay rows only where maps fill vectors and filters are small: the copy then
costs more than the products that channel blocks save.
"""

from __future__ import annotations

from edgeconv.workload import Conv2d

MOST_STRIDE = 2  # horizontal, along rows; beyond it vectors would be gathered column by column
SMALL_FILTER = 9  # taps
LARGE_FILTER = 25  # taps; beyond it products outweigh everything else
FILLED = 0.92  # of the vectors of a row, in outputs, for each pixel of a map without halo
FEWEST_FILLED = 0.78  # the same without regard to the halo


def accepts(conv: Conv2d, data: int, out: int, lanes: int) -> bool:
    """Whether a depthwise kernel takes these blocks of data and output (0 is row-major) without a
    halo.
    """
    if not conv.is_depthwise or conv.input_shuffle > 1:
        return False
    pixels = min(conv.height * conv.width, conv.out_height * conv.out_width)
    if conv.branches is not None:
        return pixels >= lanes and {data, out} in ({0}, {0, lanes})
    if data == out == 0:
        return conv.stride[1] <= MOST_STRIDE and pixels > 1
    one_to_one = conv.in_channels == conv.out_channels
    return max(data, out) == lanes and min(data, out) == 0 and one_to_one and pixels >= lanes


def prefers_rows(conv: Conv2d, lanes: int) -> bool:
    """Whether row-major maps on both sides serve a depthwise convolution as well as blocks do."""
    if conv.branches is not None:
        return False
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    if not accepts(conv, 0, 0, lanes) or taps > LARGE_FILTER:
        return False
    if conv.out_channels <= lanes // 2 or conv.stride[0] * conv.stride[1] > 2:
        return True  # half-empty vectors of channels; four transposed pixels for one output
    top, left, bottom, right = conv.padding
    padded = (top + conv.height + bottom) * (left + conv.width + right)
    halo = padded / (conv.height * conv.width)  # what blocks carry along
    filled = conv.out_width / (lanes * -(-conv.out_width // lanes))
    if conv.out_width <= lanes:
        return False
    if taps > SMALL_FILTER:
        return filled >= FILLED and halo > 2
    return filled >= FEWEST_FILLED and filled * halo >= FILLED
