"""Arguments that the blocks share, and what they take over from a convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from edgeconv.errors import EdgeconvError

Pair = int | tuple[int, int]
Padding = int | tuple[int, int] | str
Activation = Callable[[], nn.Module]
B = TypeVar("B", bound="Block")


def pair(value: Pair) -> tuple[int, int]:
    """(vertical, horizontal)."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def require(condition: bool, message: str) -> None:
    """Raise EdgeconvError unless the condition holds."""
    if not condition:
        raise EdgeconvError(message)


def window_of(conv: nn.Conv2d) -> dict[str, Any]:
    """Kernel, stride, padding, dilation, padding mode and presence of a bias, as arguments."""
    padding = conv.padding
    if padding == "same" and not any(r % 2 for r in _reach(conv.kernel_size, conv.dilation)):
        # by number: exported, "same" is an auto_pad, which ONNX Runtime refuses with dilation
        padding = same_padding(conv.kernel_size, conv.dilation)
    return {
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": padding,
        "dilation": conv.dilation,
        "padding_mode": conv.padding_mode,
        "bias": conv.bias is not None,
    }


class Block(nn.Sequential):
    """Modules in a row that may stand for a convolution."""

    @classmethod
    def from_conv(cls: type[B], conv: nn.Conv2d, **options: Any) -> B:
        """The block in the place of a convolution, with weights of its own."""
        return cls(conv.in_channels, conv.out_channels, **{**window_of(conv), **options})


def depthwise(channels: int, kernel_size: Pair, **options: Any) -> nn.Conv2d:
    """One filter a channel; options of nn.Conv2d."""
    return nn.Conv2d(channels, channels, kernel_size, groups=channels, **options)


def pointwise(in_channels: int, out_channels: int, bias: bool = False) -> nn.Conv2d:
    """1×1 convolution."""
    return nn.Conv2d(in_channels, out_channels, 1, bias=bias)


def same_padding(kernel_size: Pair, dilation: Pair) -> tuple[int, int]:
    """d·(k − 1) / 2 of each axis.

    Raises:
        EdgeconvError: that is no whole number.
    """
    reach = _reach(kernel_size, dilation)
    require(
        all(r % 2 == 0 for r in reach),
        f"no symmetric padding keeps the size for kernel {kernel_size} and dilation {dilation}; "
        "give the padding",
    )
    return reach[0] // 2, reach[1] // 2


def _reach(kernel_size: Pair, dilation: Pair) -> tuple[int, int]:
    """d·(k − 1) of each axis."""
    (r, s), (down, right) = pair(kernel_size), pair(dilation)
    return down * (r - 1), right * (s - 1)
