"""ResNeXt-50 32×4d (Xie et al. 2017): grouped 3×3 bottlenecks."""

from __future__ import annotations

import onnx

from edgeconv.benchmarks.onnx_builder import Builder

_STAGES = ((128, 256, 3, 1), (256, 512, 4, 2), (512, 1024, 6, 2), (1024, 2048, 3, 2))


def resnext50(groups: int = 32, seed: int = 0) -> onnx.ModelProto:
    """Four stages of bottlenecks."""
    b = Builder("resnext50", (1, 3, 224, 224), seed)
    x = b.max_pool(b.conv_bn("input", 3, 64, 7, 2), 3, 2, 1)
    channels = 64
    for width, outputs, repeats, stride in _STAGES:
        for i in range(repeats):
            x = _bottleneck(b, x, channels, width, outputs, stride if i == 0 else 1, groups)
            channels = outputs
    return b.model(b.classifier(x, channels))


def _bottleneck(
    b: Builder, x: str, inputs: int, width: int, outputs: int, stride: int, groups: int
) -> str:
    """1×1, grouped 3×3, 1×1, and a shortcut."""
    y = b.conv_bn(x, inputs, width, 1)
    y = b.conv_bn(y, width, width, 3, stride, groups)
    y = b.conv_bn(y, width, outputs, 1, activation="")
    if stride != 1 or inputs != outputs:
        x = b.conv_bn(x, inputs, outputs, 1, stride, activation="")
    return b.relu(b.node("Add", [y, x]))
