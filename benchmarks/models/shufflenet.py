"""ShuffleNetV1 (Zhang et al. 2018): grouped pointwise convolutions and channel shuffle."""

from __future__ import annotations

import numpy as np
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
    y = _shuffle(b, y, middle, groups, size)
    y = b.conv_bn(y, middle, middle, 3, stride, middle, activation="")
    y = b.conv_bn(y, middle, made, 1, groups=groups, activation="")
    if stride == 2:
        return b.relu(b.node("Concat", [b.average_pool(x, 3, 2, 1), y], axis=1))
    return b.relu(b.node("Add", [x, y]))


def _shuffle(b: Builder, x: str, channels: int, groups: int, size: int) -> str:
    """Channels of all groups interleaved, as frameworks export it."""
    grouped = b.constant(np.array([1, groups, channels // groups, size, size], np.int64))
    whole = b.constant(np.array([1, channels, size, size], np.int64))
    x = b.node("Reshape", [x, grouped])
    x = b.node("Transpose", [x], perm=[0, 2, 1, 3, 4])
    return b.node("Reshape", [x, whole])
