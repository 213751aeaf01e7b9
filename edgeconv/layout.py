"""Where the elements of a 4-D activation lie in memory.

A layout cuts the channels into chunks of `block` and stores [N, C/block, H, W, block], with a rim
of `halo` zero pixels around each map: block 1 is NCHW, block C is NHWC, block = lanes is NCHW{L}c.
The halo belongs to the buffer, is zeroed once, and stands in for the padding of every convolution
that reads it, so no kernel copies or tests a border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Halo = tuple[int, int, int, int]

ALIGNMENT = 64  # bytes; TVM assumes it of every buffer, kernels of all but inputs
NO_HALO: Halo = (0, 0, 0, 0)


@dataclass(frozen=True)
class Layout:
    """Physical form of a value. `block` 0 means row-major of any rank (ONNX's own)."""

    block: int = 0
    halo: Halo = NO_HALO  # top, left, bottom, right

    @property
    def is_plain(self) -> bool:
        """Row-major without halo."""
        return self.block == 0

    def buffer_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the whole buffer, halo and padding lanes included."""
        if self.block == 0:
            return tuple(shape)
        n, c, h, w = shape
        top, left, bottom, right = self.halo
        chunks = -(-c // self.block)
        return (n, chunks, top + h + bottom, left + w + right, self.block)

    def interior_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape without the halo: what producers write and pixelwise consumers read."""
        return Layout(self.block).buffer_shape(shape)

    def strides(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Element strides of the buffer."""
        strides: list[int] = []
        step = 1
        for extent in reversed(self.buffer_shape(shape)):
            strides.insert(0, step)
            step *= extent
        return tuple(strides)

    def offset(self, shape: Sequence[int]) -> int:
        """Elements from the start of the buffer to the first interior one."""
        if self.block == 0:
            return 0
        strides = self.strides(shape)
        return self.halo[0] * strides[2] + self.halo[1] * strides[3]

    def elements(self, shape: Sequence[int]) -> int:
        """Number of elements of the buffer."""
        total = 1
        for extent in self.buffer_shape(shape):
            total *= extent
        return total

    def with_halo(self, halo: Halo) -> Layout:
        """The same blocks with another halo."""
        return Layout(self.block, halo)

    def __str__(self) -> str:
        name = {0: "plain", 1: "NCHW"}.get(self.block, f"NCHW{self.block}c")
        return name if self.halo == NO_HALO else f"{name}+{','.join(map(str, self.halo))}"


PLAIN = Layout()
