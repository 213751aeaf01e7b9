"""The sums of a register tile of Grouped Spatial Pack, as statements (see grouped_conv2d)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx import Ramp
from tvm.tirx.script import builder as T

from edgeconv.borders import Columns
from edgeconv.schedules import emit
from edgeconv.schedules.common import CACHE_LINE, minimum
from edgeconv.schedules.padding import (
    by_kind,
    column_inside,
    columns_inside,
    row_inside,
)
from edgeconv.schedules.prefetching import next_weights

if TYPE_CHECKING:
    from edgeconv.schedules.grouped_space import Space


def add_all(
    operands: emit.ConvOperands,
    space: Space,
    acc: Any,
    tile: tuple[Any, Any, Any, Any],
    first: tuple[Any, Any],
) -> None:
    """Add all taps of all channels; peeled, in code of its own for tiles at each border."""
    conv, columns = space.conv, space.knobs.columns

    def add(read: Columns) -> None:
        with emit.loops(cc=space.chunks, kh=conv.tap_rows) as (cc, kh):
            _row(operands, space, acc, tile, first, (cc, kh), read)

    if space.peeled:
        by_kind(conv, columns, tile[3], add)
    else:
        add(tuple(columns_inside(conv, columns, kw) for kw in range(conv.kernel_size[1])))


def _row(
    operands: emit.ConvOperands,
    space: Space,
    acc: Any,
    tile: tuple[Any, Any, Any, Any],
    first: tuple[Any, Any],
    at: tuple[Any, Any],
    read: Columns,
) -> None:
    """Add one row of the kernel for a chunk of channels, unless it lies in the padding."""
    knobs, (cc, kh) = space.knobs, at
    n, oc, oh, ow = tile
    channels = space.chunk // knobs.quad

    def steps(multiply: bool) -> None:
        with emit.loops(ci=channels) as ci:
            prefetch_weights(operands, space, (oc, space.number_in_band(oh, ow)), (cc, kh, ci))
            if knobs.ahead and space.conv.groups == 1:
                prefetch_pixels(operands, space, (n, oc), first, (cc, ci))
            if multiply:
                _multiply(operands, space, acc, tile, first, (cc, kh, ci), read)

    inside = row_inside(space.conv, knobs.rows, first[0], kh, exactly=space.inside)
    if inside is None:
        steps(True)
        return
    with T.If(inside):
        with T.Then():
            steps(True)
        with T.Else():
            steps(False)


def _multiply(
    operands: emit.ConvOperands,
    space: Space,
    acc: Any,
    tile: tuple[Any, Any, Any, Any],
    first: tuple[Any, Any],
    at: tuple[Any, Any, Any],
    read: Columns,
) -> None:
    """Add the taps of one row of the kernel, for one channel or one quad of channels."""
    conv, knobs, (cc, kh, ci), (n, oc, _, _) = space.conv, space.knobs, at, tile
    every, image = emit.run(0, knobs.lanes), operands.image(n, kh)
    chunk, slot = space.data_channel(oc, cc, ci * knobs.quad)

    def add(kw: Any, k: Any, i: Any, j: Any, m: Any) -> None:
        y, x = operands.pixel(first[0] + i, first[1] + j, kh, kw)
        if knobs.quad == 1:
            value = emit.spread(operands.data[image, chunk, y, x, slot], knobs.lanes)
        else:
            quad = operands.data[image, chunk, y, x, Ramp(slot, 1, knobs.quad)]
            value = tirx.Shuffle([quad], [k] * knobs.lanes)
        product = value * operands.weight[oc, cc, kh, ci, kw, k, m, every]
        emit.store(acc, acc[i, j, m, every] + product, [i, j, m, every])

    def column(kw: Any, columns: Sequence[int]) -> None:
        inside = None if space.peeled else column_inside(conv, knobs.columns, first[1], kw)
        with emit.when(inside):
            with emit.unrolled(k=knobs.quad, i=knobs.rows) as (k, i):
                for j in columns:
                    with emit.unrolled(m=knobs.vectors) as m:
                        add(kw, k, i, j, m)

    if knobs.unroll_kw or space.peeled:
        for kw in range(conv.kernel_size[1]):
            column(kw, read[kw])
    else:
        with emit.loops(kw=conv.kernel_size[1]) as kw:
            column(kw, range(knobs.columns))


def prefetch_pixels(
    operands: emit.ConvOperands,
    space: Space,
    at: tuple[Any, Any],
    first: tuple[Any, Any],
    channel: tuple[Any, Any],
) -> None:
    """While a tile of a pointwise convolution is computed, fetch the pixels of one some tiles on:
    with each channel its share of the block's.
    """
    knobs, (n, oc), (cc, ci) = space.knobs, at, channel
    chunk, slot = space.data_channel(oc, cc, ci * knobs.quad)
    y, x = operands.pixel(first[0], first[1] + knobs.ahead * knobs.columns, 0, 0)
    share = knobs.columns * space.conv.stride[1] * 4  # bytes
    run = share * knobs.quad
    planes = space.task.data.block == 1
    for line in range(0, run, CACHE_LINE):
        # of a row of a plane the last element: what it starts with may have come with another tile
        byte = min(line + CACHE_LINE, run) - 4 if planes else line
        emit.prefetch(operands.data[n, chunk, y, x, 0], slot * share + byte, level=1)


def prefetch_weights(
    operands: emit.ConvOperands, space: Space, tile: tuple[Any, Any], step: Sequence[Any]
) -> None:
    """While a channel tile is computed, fetch the weights of the next, evenly spread."""
    channel_tile, pixel_tile = tile
    _, chunks, kernel_height, chunk, *inner = space.weight_shape()
    if space.channel_tiles < 2:
        return
    following = minimum(channel_tile + 1, space.channel_tiles - 1)
    count, steps = math.prod(space.band_tiles().values()), chunks * kernel_height * chunk
    fetch = next_weights(operands.weight, following, pixel_tile, count, steps, math.prod(inner))
    if fetch is not None:
        cc, kh, ci = step
        fetch((cc * kernel_height + kh) * chunk + ci)
