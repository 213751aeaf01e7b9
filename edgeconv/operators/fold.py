"""Windows added up where they overlap: the second half of a transposed convolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import te, tirx

from edgeconv.layout import Halo
from edgeconv.operators.broadcasting import static_shape
from edgeconv.operators.convolution import apply_activation
from edgeconv.operators.registry import Pattern, ShapeError, operator


@operator("fold", Pattern.OPAQUE)
def fold(
    x: te.Tensor,
    *bias: te.Tensor,
    window: tuple[int, int],
    stride: tuple[int, int],
    start: tuple[int, int],
    size: tuple[int, int],
    activation: tuple[str, tuple[tuple[str, Any], ...]] | None = None,
) -> te.Tensor:
    """Each pixel of x spreads over a window of `window · stride` outputs; overlapping ones add up.

    x: [N, C, H, W] with C = (j, jj, k, a, b): filter k at row j·stride + a and column jj·stride + b
    of its window; bias: [K]. `start` rows and columns are cut off the beginning (or put before it,
    if negative) and `size` are kept: [N, K, *size].
    """
    n, c, h, w = static_shape(x)
    (rows, columns), (down, across) = window, stride
    if c % (rows * columns * down * across):
        raise ShapeError(f"{c} channels hold no windows of {window} times {stride}")
    filters = c // (rows * columns * down * across)
    j, jj = te.reduce_axis((0, rows), "j"), te.reduce_axis((0, columns), "jj")

    def element(i: Any, k: Any, y: Any, z: Any) -> Any:
        a, b = (y + start[0]) % down, (z + start[1]) % across
        row, column = (y + start[0]) // down - j, (z + start[1]) // across - jj
        channel = (((j * columns + jj) * filters + k) * down + a) * across + b
        inside = tirx.all(row >= 0, row < h, column >= 0, column < w)
        value = tirx.if_then_else(inside, x[i, channel, row, column], tirx.const(0, str(x.dtype)))
        return te.sum(value, axis=[j, jj])

    out = te.compute((n, filters, *size), element, name="fold")

    def finish(i: Any, k: Any, y: Any, z: Any) -> Any:
        value = out[i, k, y, z]
        return apply_activation(value + bias[0][k] if bias else value, activation)

    return te.compute(out.shape, finish, name="epilogue") if bias or activation else out


class FoldRange:
    """Which pixels of x [N, C, H, W] the outputs of a `fold` read."""

    def __init__(self, shape: Sequence[int], attrs: Mapping[str, Any]) -> None:
        stride, start = attrs["stride"], attrs["start"]
        last = [o - 1 + c for o, c in zip(attrs["size"], start, strict=True)]
        # positions, in steps of the stride, of the first output, and how many there are
        self.first = tuple(c // s for c, s in zip(start, stride, strict=True))
        self.count = tuple(p // s - f + 1 for p, s, f in zip(last, stride, self.first, strict=True))
        before = [max(0, w - 1 - f) for w, f in zip(attrs["window"], self.first, strict=True)]
        after = [
            max(0, f + c - d) for f, c, d in zip(self.first, self.count, shape[2:], strict=True)
        ]
        self.halo: Halo = (before[0], before[1], after[0], after[1])
