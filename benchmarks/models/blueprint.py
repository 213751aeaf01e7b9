"""Blueprint separable convolutions (Haase and Amthor, CVPR 2020) in the place of a 3×3."""

from __future__ import annotations

import math

from edgeconv.benchmarks.onnx_builder import Builder

LEAST = 4  # channels of BSConv-S' subspace, where there are so many


def bsconv_u(
    b: Builder, x: str, inputs: int, outputs: int, stride: int, activation: str = "relu"
) -> str:
    """1×1 without anything after it, then depthwise 3×3 with batch norm and activation."""
    x = b.conv(x, inputs, outputs, (1, 1), bias=False)
    return b.conv_bn(x, outputs, outputs, 3, stride, groups=outputs, activation=activation)


def bsconv_s(
    b: Builder,
    x: str,
    inputs: int,
    outputs: int,
    stride: int,
    activation: str = "relu",
    *,
    share: float = 1 / 4,
) -> str:
    """1×1 to a subspace of that share of the channels, 1×1, then depthwise 3×3 with batch norm and
    activation. The paper's share is 1/4, and 1/6 in MobileNets.
    """
    middle = subspace(inputs, share)
    x = b.conv(x, inputs, middle, (1, 1), bias=False)
    return bsconv_u(b, x, middle, outputs, stride, activation)


def subspace(inputs: int, share: float) -> int:
    """Channels between the two 1×1 convolutions of BSConv-S."""
    return min(inputs, max(LEAST, math.ceil(share * inputs)))
