"""What Winograd convolution fetches ahead, beside its products."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx

from edgeconv.schedules import emit
from edgeconv.schedules.common import ceil_div, minimum
from edgeconv.schedules.prefetching import LINE, share
from edgeconv.schedules.winograd_space import Space


def fetch(
    space: Space, operands: emit.ConvOperands, at: tuple[Any, Any, Any, Any], step: tuple[Any, int]
) -> None:
    """With each register tile, some of the pixels that the next block reads and this one writes:
    tiles in blocks of channels are no pattern that hardware finds.

    Of a tile only what lies right of its left and below its upper neighbour.
    """
    n, written, part, first = at
    knobs, (dy, dx) = space.knobs, space.conv.dilation
    window, following = next_block(space, written, part, first)

    def reads(t: Any) -> tuple[Any, Any]:
        fresh = space.side - knobs.tile
        return operands.pixel(*space.corner(following + t), fresh, fresh)

    def writes(t: Any) -> tuple[Any, Any]:
        return space.corner(first + t)

    channel = space.out_channel(written, space.part_start(part))
    run = space.part * space.lanes  # vectors in blocks hold channels of other windows, too
    if not space.padded:
        run = min(run, space.run_out)
    for array, layout, start, channels, corner in (
        (operands.data, space.task.data, space.in_base(window), space.width, reads),
        (operands.out, space.task.out, channel, run, writes),
    ):
        line, blocked = min(LINE, layout.block), layout.block % LINE == 0
        for t, number in share(step, (knobs.tiles, ceil_div(channels, line))):
            c, (y, x) = start + number * line, corner(t)
            if not blocked:  # a run starts anywhere in a line: the last of its part
                c = minimum(c + line, start + channels) - 1
            for i, j in np.ndindex(knobs.tile, knobs.tile):
                pixel = array[n, c // layout.block, y + i * dy, x + j * dx, c % layout.block]
                emit.prefetch(pixel, 0)


def next_block(space: Space, window: Any, part: Any, first: Any) -> tuple[Any, Any]:
    """Window and first tile of the block whose pixels are fetched beside one: the next of the
    window; behind the last, the first for the window's next part, or of the next window; in bands,
    the same in the next band.
    """
    tiles, last = space.knobs.tiles, space.count(space.task, space.knobs.tile) - space.knobs.tiles
    if space.knobs.bands > 1:
        return window, minimum(first + space.band * tiles, last)
    ends = first >= last
    leaves = tirx.all(ends, part == space.knobs.parts - 1)
    following = tirx.min(window + 1, space.windows - 1)
    start = tirx.Select(ends, 0, tirx.min(first + tiles, last))
    return tirx.Select(leaves, following, window), start
