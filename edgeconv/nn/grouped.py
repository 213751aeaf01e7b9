"""The G(g) block (Gibson et al., "Optimizing Grouped Convolutions on Edge Devices", ASAP 2020)."""

from __future__ import annotations

from torch import nn

from edgeconv.nn.options import (
    Activation,
    Block,
    Padding,
    Pair,
    pointwise,
    require,
    same_padding,
)


class GroupedBottleneck(Block):
    """Grouped k×k (C→C), batch norm, activation, 1×1 (C→K).

    Args:
        groups: G; None is G(N), as many groups as input channels.
        padding: None keeps the size at stride 1.
        bias: of the 1×1; the grouped convolution has none, batch norm follows it.
        activation: makes the module between, or None.
        padding_mode: of nn.Conv2d.

    Raises:
        EdgeconvError: the input channels don't divide by groups, or there is no padding that
            keeps the size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair = 3,
        stride: Pair = 1,
        padding: Padding | None = None,
        dilation: Pair = 1,
        *,
        groups: int | None = None,
        bias: bool = False,
        activation: Activation | None = nn.ReLU,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        count = in_channels if groups is None else groups
        require(
            count > 0 and in_channels % count == 0,
            f"{in_channels} channels do not divide into {count} groups",
        )
        grouped = nn.Conv2d(
            in_channels,
            in_channels,
            kernel_size,
            stride=stride,
            padding=same_padding(kernel_size, dilation) if padding is None else padding,
            dilation=dilation,
            groups=count,
            bias=False,
            padding_mode=padding_mode,
        )
        self.add_module("grouped", grouped)
        self.add_module("norm", nn.BatchNorm2d(in_channels))
        if activation is not None:
            self.add_module("activation", activation())
        self.add_module("pointwise", pointwise(in_channels, out_channels, bias))
