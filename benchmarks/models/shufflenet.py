"""ShuffleNetV1 (Zhang et al. 2018): grouped pointwise convolutions and channel shuffle.
ShuffleNetV2 (Ma et al. 2018): channel split.
"""

from __future__ import annotations

import onnx

from edgeconv.benchmarks.onnx_builder import Builder

_STAGES = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # output channels of the second stage by groups


def shufflenet_v1(groups: int = 3, seed: int = 0) -> onnx.ModelProto:
    """Three stages of units."""
    b = Builder("shufflenetv1", (1, 3, 224, 224), seed)
    x = b.max_pool(b.conv_bn("input", 3, 24, 3, 2), 3, 2, 1)
    channels, size = 24, 56
    for stage, repeats in enumerate((4, 8, 4)):
        outputs = _STAGES[groups] * 2**stage
        for i in range(repeats):
            # the first unit reads too few channels to group its first convolution
            entry = 1 if stage == 0 and i == 0 else groups
            x = _unit(b, x, channels, outputs, 2 if i == 0 else 1, groups, entry, size)
            channels, size = outputs, size // 2 if i == 0 else size
    return b.model(b.classifier(x, channels))


def _unit(
    b: Builder,
    x: str,
    inputs: int,
    outputs: int,
    stride: int,
    groups: int,
    entry_groups: int,
    size: int,
) -> str:
    """Grouped 1×1, shuffle, depthwise 3×3, grouped 1×1; added to or joined with the shortcut."""
    middle = outputs // 4
    made = outputs - inputs if stride == 2 else outputs
    y = b.conv_bn(x, inputs, middle, 1, groups=entry_groups)
    y = b.shuffle(y, middle, groups, size, size)
    y = b.conv_bn(y, middle, middle, 3, stride, middle, activation="")
    y = b.conv_bn(y, middle, made, 1, groups=groups, activation="")
    if stride == 2:
        return b.relu(b.node("Concat", [b.average_pool(x, 3, 2, 1), y], axis=1))
    return b.relu(b.node("Add", [x, y]))


def shufflenet_v2(seed: int = 0, size: int = 224) -> onnx.ModelProto:
    """Width 1.0: three stages of units, a last 1×1; `size` is a multiple of 32."""
    b = Builder("shufflenetv2", (1, 3, size, size), seed)
    x = b.max_pool(b.conv_bn("input", 3, 24, 3, 2), 3, 2, 1)
    channels, size = 24, size // 8
    for outputs, repeats in ((116, 4), (232, 8), (464, 4)):
        x = _down(b, x, channels, outputs, size)
        for _ in range(repeats - 1):
            x = _split(b, x, outputs, size)
        channels, size = outputs, size // 2
    return b.model(b.classifier(b.conv_bn(x, channels, 1024, 1), 1024))


def _down(b: Builder, x: str, inputs: int, outputs: int, size: int) -> str:
    """Unit of stride two: two branches on the whole input; `size` is that of the output."""
    half = outputs // 2
    left = b.conv_bn(x, inputs, inputs, 3, 2, inputs, activation="")
    left = b.conv_bn(left, inputs, half, 1)
    right = _branch(b, x, inputs, half, 2)
    return b.shuffle(b.node("Concat", [left, right], axis=1), outputs, 2, size, size)


def _split(b: Builder, x: str, channels: int, size: int) -> str:
    """Unit of stride one: half of the channels pass."""
    half = channels // 2
    left, right = b.slice_channels(x, 0, half), b.slice_channels(x, half, channels)
    y = b.node("Concat", [left, _branch(b, right, half, half, 1)], axis=1)
    return b.shuffle(y, channels, 2, size, size)


def _branch(b: Builder, x: str, inputs: int, outputs: int, stride: int) -> str:
    """1×1, depthwise 3×3, 1×1."""
    x = b.conv_bn(x, inputs, outputs, 1)
    x = b.conv_bn(x, outputs, outputs, 3, stride, outputs, activation="")
    return b.conv_bn(x, outputs, outputs, 1)
