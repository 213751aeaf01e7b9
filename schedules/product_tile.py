"""The register tile of a pointwise convolution: pixels × vectors of channels, as statements.

    acc[pixels, vectors, lanes] = start                                  registers
    chunk of input channels → quad → channel (unrolled)
      pixels, vectors (unrolled): acc += broadcast(data) · weight vector

A quad is loaded as one vector and broadcast from its lanes, where multiply-adds can do that but
cannot broadcast from memory (AArch64). Channels behind the last whole chunk have a loop of their
own, so none is multiplied in vain.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx import Ramp
from tvm.tirx.script import builder as T

from edgeconv.schedules import emit, grouped_conv2d
from edgeconv.schedules.common import ceil_div
from edgeconv.targets import Device
from edgeconv.workload import ConvTask

Pixel = tuple[int, int]


@dataclass(frozen=True)
class Tile:
    """Shape of a register tile.

    Attributes:
        lanes: float32 lanes of the vectors.
        rows, columns: pixels.
        vectors: vectors of output channels.
        quad: input channels loaded as one vector; 1: each by itself.
    """

    lanes: int
    rows: int
    columns: int
    vectors: int
    quad: int

    @property
    def tile(self) -> Tile:
        """The register tile alone, where knobs of a schedule add more."""
        return Tile(self.lanes, self.rows, self.columns, self.vectors, self.quad)

    @property
    def pixels(self) -> list[Pixel]:
        """Rows and columns of all pixels."""
        return [(i, j) for i in range(self.rows) for j in range(self.columns)]


def tiles(task: ConvTask, device: Device) -> Iterator[Tile]:
    """Every tile that registers hold, in vectors that fit the output."""
    conv, registers = task.conv, device.vector_registers
    lanes = grouped_conv2d.lanes_for(task, device)
    quad = _quad(task, device, lanes)
    for vectors in range(1, min(8, ceil_div(conv.out_channels, lanes)) + 1):
        for rows in range(1, min(6, conv.out_height) + 1):
            for columns in range(1, min(registers, conv.out_width) + 1):
                tile = Tile(lanes, rows, columns, vectors, quad)
                beside = grouped_conv2d.operand_registers(conv, device, grouped_knobs(tile))
                if rows * columns * vectors + beside > registers:
                    break
                yield tile


def _quad(task: ConvTask, device: Device, lanes: int) -> int:
    block = task.data.block
    wide = not device.memory_operands and lanes > 1 and block % device.lanes == 0
    return device.lanes if wide else 1


def grouped_knobs(tile: Tile) -> grouped_conv2d.Knobs:
    """The same tile in Grouped Spatial Pack."""
    shape = (tile.lanes, tile.rows, tile.columns, tile.vectors)
    return grouped_conv2d.Knobs(*shape, False, tile.quad == 1, tile.quad)


@functools.lru_cache(maxsize=4096)
def space(task: ConvTask, tile: Tile) -> grouped_conv2d.Space:
    """How output channels fall into vectors and tiles of vectors."""
    return grouped_conv2d.Space(task, grouped_knobs(tile))


def pack_weights(task: ConvTask, tile: Tile, weight: np.ndarray) -> np.ndarray:
    """OIHW [K, C, 1, 1] to [channel tile, channel, vector, lane], zero in padding lanes."""
    table = space(task, tile).channel_table()  # [tile, vector, lane]
    filled = np.concatenate([weight[:, :, 0, 0], np.zeros((1, weight.shape[1]), weight.dtype)])
    rows = np.minimum(table, weight.shape[0])
    return np.ascontiguousarray(filled[rows].transpose(0, 3, 1, 2))


def pack_bias(task: ConvTask, tile: Tile, bias: np.ndarray) -> np.ndarray:
    """[K] to [channel tile, vector, lane], zero in padding lanes."""
    return grouped_conv2d.pack_bias(task, grouped_knobs(tile), bias)


@functools.lru_cache(maxsize=4096)
def cycles(task: ConvTask, tile: Tile, device: Device) -> float:
    """Cycles of one register tile, as Grouped Spatial Pack estimates them."""
    return grouped_conv2d.tile_cycles(task, grouped_knobs(tile), device)


class Registers:
    """The accumulators of a tile, `arrays` of one vector by pixel and number."""

    def __init__(self, tile: Tile, name: str = "acc") -> None:
        self.tile, self.every = tile, emit.run(0, tile.lanes)
        self.arrays = {
            (p, m): emit.local(name, (tile.lanes,))
            for p in tile.pixels
            for m in range(tile.vectors)
        }

    def start(self, value: Callable[[int], Any]) -> None:
        """Set the accumulators of each vector."""
        for m in range(self.tile.vectors):
            first = T.Bind(value(m))
            for p in self.tile.pixels:
                emit.store(self.arrays[p, m], first, [self.every])

    def value(self, pixel: Pixel, m: int) -> Any:
        """What has been summed."""
        return self.arrays[pixel, m][self.every]

    def multiply(
        self,
        channels: int,
        block: int,
        data: Callable[[Pixel, Any, Any], Any],
        weight: Callable[[Any, int], Any],
        prefetch: Callable[[Any], None] | None = None,
    ) -> None:
        """Add the products of `channels` channels in blocks of `block`.

        Args:
            channels, block: of the data.
            data: the element, or vector, of a pixel at (chunk, lane or lanes).
            weight: the vector `m` of an input channel.
            prefetch: told each input channel (or quad's first) when it is at hand.
        """
        whole, rest, quad = channels // block, channels % block, self.tile.quad
        if whole:
            with T.serial(0, whole) as chunk, T.serial(0, block // quad) as q:
                if prefetch is not None:
                    prefetch(chunk * block + q * quad)
                self._step(chunk * block, chunk, q * quad, quad, data, weight)
        if rest:
            with T.serial(0, rest) as slot:
                if prefetch is not None:
                    prefetch(whole * block + slot)
                self._step(whole * block, whole, slot, 1, data, weight)

    def _step(
        self,
        first: Any,
        chunk: Any,
        slot: Any,
        quad: int,
        data: Callable[[Pixel, Any, Any], Any],
        weight: Callable[[Any, int], Any],
    ) -> None:
        """Products of one channel, or of a quad."""
        tile = self.tile
        quads = {}
        if quad > 1:
            quads = {p: T.Bind(data(p, chunk, Ramp(slot, 1, quad))) for p in tile.pixels}
        for k in range(quad):
            weights = [T.Bind(weight(first + slot + k, m)) for m in range(tile.vectors)]
            for p in tile.pixels:
                if quad > 1:
                    x = tirx.Shuffle([quads[p]], [k] * tile.lanes)
                else:
                    x = emit.spread(data(p, chunk, slot), tile.lanes)
                for m in range(tile.vectors):
                    array = self.arrays[p, m]
                    emit.store(array, array[self.every] + x * weights[m], [self.every])
