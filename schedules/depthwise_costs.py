"""Cycles of the register tiles of depthwise kernels, for pixels in the L1 cache and behind it."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from edgeconv.schedules.common import CACHE_LINE, FMA_LATENCY, ceil_div
from edgeconv.schedules.depthwise_tiles import DepthwiseTiles, register_tiles
from edgeconv.schedules.padding import columns_met, input_rows_met
from edgeconv.schedules.traffic import PAGE, share_without_room
from edgeconv.targets import Device
from edgeconv.workload import Conv2d

LOADED_AHEAD = 10  # registers LLVM fills before they are needed
# Zen 4, 285 layers of random sizes, strides and dilations: the tiles chosen take 1.03 times as long
# as the best of 25
TILE_CYCLES = 16.0
WAITING = 0.5  # of the time that sums of a row wait for each other; others are done meanwhile
BURST = 10  # results stored before the next sums begin; of more, each costs more (x86)
BURST_CYCLES = 3.0
MISSED_CYCLES = 0.75  # a line out of the second-level cache
CROWDED = 0.15  # of a tile's lines without room: then hardly one stays until it is used again


@dataclass(frozen=True)
class Pixels:
    """Where the pixels of a vector of channels lie.

    Attributes:
        size: bytes of one.
        pitch: pixels from a row to the next.
        far: whether they come from so far behind that tiles prefetch them.
    """

    size: int
    pitch: int
    far: bool


def strip_cycles(tiles: DepthwiseTiles, pixels: Pixels, device: Device) -> float:
    """Cycles of the register tiles of a strip and a vector of channels, from and to memory."""
    results = tiles.rows * tiles.columns
    ends = TILE_CYCLES + results
    if device.memory_operands:
        ends += BURST_CYCLES * max(0, results - BURST)
    sums = tile_cycles(tiles, device) + _waiting_cycles(tiles, device)
    missed = _missed_lines(tiles, pixels, device) * MISSED_CYCLES
    return tiles.row_tiles * tiles.column_tiles * (sums + ends + missed)


def _waiting_cycles(tiles: DepthwiseTiles, device: Device) -> float:
    """Cycles that sums wait for themselves: unrolled, all columns of a row of pixels follow each
    other, which are few sums if the tile is narrow.
    """
    if not tiles.unroll_kw:
        return 0.0
    between = [len(uses) * tiles.columns / device.fma_ports for uses in tiles.row_uses().values()]
    waits = sum(max(0.0, FMA_LATENCY - cycles) for cycles in between)
    return WAITING * tiles.conv.kernel_size[1] * waits


def _missed_lines(tiles: DepthwiseTiles, pixels: Pixels, device: Device) -> float:
    """Cache lines of a tile that the L1 cache does not hold and that cost time: of maps that come
    from far, its results and what the tile beside it did not read; where the cache has no room for
    the pixels of a tile, what each column of taps reads.
    """
    conv, rows, cache = tiles.conv, tuple(tiles.row_uses()), device.l1d_kib * 1024
    (_, sx), (_, dx), (_, taps) = conv.stride, conv.dilation, conv.kernel_size
    reach = (tiles.columns - 1) * sx + (taps - 1) * dx + 1
    starts = tuple(row * pixels.pitch * pixels.size for row in rows)
    ways = cache // PAGE - 1  # one for weights and results
    lost = share_without_room(starts, reach * pixels.size, (PAGE, max(1, ways)))
    missed = 0
    if len(rows) * reach * pixels.size > cache or lost > CROWDED:
        missed = len(rows) * tiles.columns * taps
    elif pixels.far:
        missed = len(rows) * tiles.columns * sx
    if pixels.far:
        missed += tiles.rows * tiles.columns
    return missed * pixels.size / CACHE_LINE


@functools.lru_cache(maxsize=4096)
def tile_cycles(tiles: DepthwiseTiles, device: Device) -> float:
    """Cycles of the sums of a register tile, pixels in the L1 cache."""
    (r, s), pixels = tiles.conv.kernel_size, tiles.rows * tiles.columns
    met = input_rows_met(tiles.conv, whole=tiles.whole)
    fmas = pixels * r * s * met
    loads = len(tiles.row_uses()) * met * tiles.columns * s
    if tiles.unroll_kw:
        loads = len(tiles.row_uses()) * met * len(tiles.columns_inside())
        if tiles.column_tiles == 1:
            fmas *= columns_met(tiles.conv, tiles.columns, True)
    return max(fmas / device.fma_ports, (loads + r * s) / device.load_ports, FMA_LATENCY * r * s)


def cached_strip_cycles(tiles: DepthwiseTiles, device: Device) -> float:
    """As `strip_cycles`, but of pixels and results in the L1 cache."""
    count = tiles.row_tiles * tiles.column_tiles
    return count * (tile_cycles(tiles, device) + 14 + 0.25 * tiles.rows * tiles.columns)


@functools.lru_cache(maxsize=4096)
def best_tiles(conv: Conv2d, device: Device) -> list[tuple[int, int, bool]]:
    """Register tiles (see `register_tiles`), those with the least estimated cycles first.

    Where weights can't be read as operands, tiles leave registers for them, and for loads ahead.
    """
    taps, height = math.prod(conv.kernel_size), conv.out_height
    free = device.vector_registers - LOADED_AHEAD
    found = [
        (rows, columns, unroll)
        for rows, columns, unroll in register_tiles(conv, device)
        if device.memory_operands or not unroll or rows * columns + min(taps, free - 4) <= free
    ]
    return sorted(
        found, key=lambda t: cached_strip_cycles(DepthwiseTiles(conv, height, *t), device)
    )


def cached_cycles(conv: Conv2d, device: Device) -> float:
    """Cycles of a whole depthwise convolution whose maps are in the L1 cache."""
    tiles = DepthwiseTiles(conv, conv.out_height, *best_tiles(conv, device)[0])
    vectors = conv.batch * ceil_div(conv.out_channels, device.lanes)
    return vectors * cached_strip_cycles(tiles, device)
