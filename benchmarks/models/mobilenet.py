"""MobileNetV1 (Howard et al. 2017) and MobileNetV2 (Sandler et al. 2018)."""

from __future__ import annotations

import onnx

from edgeconv.benchmarks.onnx_builder import Builder

_V1 = (  # (output channels, stride) of each depthwise-separable block
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
_V2 = (  # (expansion, output channels, repeats, stride of the first)
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


def mobilenet_v1(seed: int = 0) -> onnx.ModelProto:
    """Depthwise-separable convolutions."""
    b = Builder("mobilenetv1", (1, 3, 224, 224), seed)
    x, channels = b.conv_bn("input", 3, 32, 3, 2), 32
    for outputs, stride in _V1:
        x = b.conv_bn(x, channels, channels, 3, stride, groups=channels)
        x = b.conv_bn(x, channels, outputs, 1)
        channels = outputs
    return b.model(b.classifier(x, channels))


def mobilenet_v2(seed: int = 0) -> onnx.ModelProto:
    """Inverted residuals with linear bottlenecks."""
    b = Builder("mobilenetv2", (1, 3, 224, 224), seed)
    x, channels = b.conv_bn("input", 3, 32, 3, 2, activation="relu6"), 32
    for expansion, outputs, repeats, stride in _V2:
        for i in range(repeats):
            x = _inverted_residual(b, x, channels, outputs, stride if i == 0 else 1, expansion)
            channels = outputs
    x = b.conv_bn(x, channels, 1280, 1, activation="relu6")
    return b.model(b.classifier(x, 1280))


def _inverted_residual(
    b: Builder, x: str, inputs: int, outputs: int, stride: int, expansion: int
) -> str:
    """Expand by a pointwise, filter depthwise, project; with a shortcut where shapes agree."""
    hidden = inputs * expansion
    y = x if expansion == 1 else b.conv_bn(x, inputs, hidden, 1, activation="relu6")
    y = b.conv_bn(y, hidden, hidden, 3, stride, groups=hidden, activation="relu6")
    y = b.conv_bn(y, hidden, outputs, 1, activation="")
    return b.node("Add", [x, y]) if stride == 1 and inputs == outputs else y
