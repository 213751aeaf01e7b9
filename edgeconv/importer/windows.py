"""Attributes of sliding windows: kernels, strides, pads and their automatic choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeconv.graph.ir import Value
from edgeconv.importer.context import NodeContext
from edgeconv.operators.registry import ShapeError

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """One sliding window; padding holds all begins, then all ends."""

    kernel: Ints
    stride: Ints
    dilation: Ints
    padding: Ints
    overhang: Ints  # extra padding at the ends that a ceiling in the output size asks for

    @property
    def whole_padding(self) -> Ints:
        """Padding with the overhang."""
        rank = len(self.kernel)
        ends = (p + o for p, o in zip(self.padding[rank:], self.overhang, strict=True))
        return (*self.padding[:rank], *ends)

    def with_front_axis(self) -> Window:
        """The same window with an axis of size 1 before the others."""
        rank = len(self.kernel)
        return Window(
            (1, *self.kernel),
            (1, *self.stride),
            (1, *self.dilation),
            (0, *self.padding[:rank], 0, *self.padding[rank:]),
            (0, *self.overhang),
        )


def integers(node: NodeContext, name: str, default: Sequence[int]) -> Ints:
    """An attribute that is a list of integers."""
    value = node.attr(name)
    return tuple(int(v) for v in (default if value is None else value))


def window(node: NodeContext, spatial: Sequence[int], kernel: Sequence[int]) -> Window:
    """The window of a convolution or pooling node over axes of these sizes."""
    rank = len(spatial)
    kernel = tuple(kernel)
    stride = integers(node, "strides", [1] * rank)
    dilation = integers(node, "dilations", [1] * rank)
    pads = integers(node, "pads", [0] * (2 * rank))
    if not len(kernel) == len(stride) == len(dilation) == rank or len(pads) != 2 * rank:
        raise ShapeError(
            f"kernel {list(kernel)}, strides {list(stride)}, dilations {list(dilation)} and pads "
            f"{list(pads)} do not fit {rank} spatial axes"
        )
    mode = node.attr("auto_pad", "NOTSET") or "NOTSET"
    if mode == "VALID":
        pads = (0,) * (2 * rank)
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        pads = same_padding(spatial, kernel, stride, dilation, lower=mode == "SAME_LOWER")
    overhang = [0] * rank
    if node.attr("ceil_mode", 0) and mode == "NOTSET":
        for i, size in enumerate(spatial):
            begin, padded = pads[i], size + pads[i] + pads[rank + i]
            reach = dilation[i] * (kernel[i] - 1) + 1
            count = -(-(padded - reach) // stride[i]) + 1
            if (count - 1) * stride[i] >= size + begin:
                count -= 1  # a window must not begin behind the input
            overhang[i] = max((count - 1) * stride[i] + reach - padded, 0)
    return Window(kernel, stride, dilation, pads, tuple(overhang))


def same_padding(
    spatial: Sequence[int], kernel: Ints, stride: Ints, dilation: Ints, *, lower: bool
) -> Ints:
    """Padding for ceil(size / stride) outputs; the odd one at the end, or begin with `lower`."""
    begins, ends = [], []
    for size, k, s, d in zip(spatial, kernel, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        small, big = total // 2, total - total // 2
        begins.append(big if lower else small)
        ends.append(small if lower else big)
    return (*begins, *ends)


def as_2d(node: NodeContext, x: Value) -> Value:
    """[N, C, W] as [N, C, 1, W]."""
    return node.reshape(x, (*x.shape[:2], 1, x.shape[2]))


def as_1d(node: NodeContext, x: Value) -> Value:
    """[N, C, 1, W] as [N, C, W]."""
    return node.reshape(x, (*x.shape[:2], x.shape[3]))
