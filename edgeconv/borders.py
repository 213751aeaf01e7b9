"""Which taps of a convolution's outputs read the image, and which its padding."""

from __future__ import annotations

import functools
from typing import Any

from edgeconv.workload import Conv2d

Columns = tuple[tuple[int, ...], ...]  # for every kw: the columns of a tile that read the image


def meets(conv: Conv2d, axis: int, count: int, first: Any, tap: Any) -> tuple[Any, Any]:
    """Conditions for a row (axis 0) or column (1) of the kernel to meet the image in a tile of
    `count` outputs at `first`.
    """
    size = (conv.height, conv.width)[axis]
    start = first * conv.stride[axis] - conv.padding[axis]
    start = start + tap % conv.kernel_size[axis] * conv.dilation[axis]
    return start + (count - 1) * conv.stride[axis] >= 0, start < size


@functools.cache
def column_kinds(conv: Conv2d, columns: int) -> list[tuple[tuple[int, ...], Columns]]:
    """The kinds of tiles of `columns` columns: (their numbers, what of them reads the image), the
    most frequent kind last.
    """
    kinds: dict[Columns, list[int]] = {}
    tiles, last = -(-conv.out_width // columns), conv.out_width - columns
    firsts = [min(number * columns, last) for number in range(tiles)]
    for number, first in enumerate(firsts):
        taps = range(conv.kernel_size[1])
        found = tuple(
            tuple(j for j in range(columns) if all(meets(conv, 1, 1, first + j, kw))) for kw in taps
        )
        kinds.setdefault(found, []).append(number)
    ordered = sorted(kinds.items(), key=lambda kind: len(kind[1]))
    return [(tuple(numbers), found) for found, numbers in ordered]


@functools.cache
def share_of_kinds(conv: Conv2d, columns: int) -> float:
    """Share of the (column, kw) pairs, over all tiles of `columns` columns, that read the image.
    The last tile overlaps its neighbour; what both compute counts twice.
    """
    kinds = column_kinds(conv, columns)
    read = sum(len(numbers) * sum(map(len, taps)) for numbers, taps in kinds)
    tiles = sum(len(numbers) for numbers, _ in kinds)
    return read / (tiles * columns * conv.kernel_size[1])
