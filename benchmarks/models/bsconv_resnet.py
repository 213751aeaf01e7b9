"""ResNet-18 (He et al. 2016) whose 3×3 convolutions are BSConv-U (Haase and Amthor, CVPR 2020)."""

from __future__ import annotations

import onnx

from edgeconv.benchmarks.models.mobilenet import bsconv_u
from edgeconv.benchmarks.onnx_builder import Builder

STAGES = (64, 128, 256, 512)  # channels, of two blocks each


def bsconv_resnet18(seed: int = 0, size: int = 224) -> onnx.ModelProto:
    """The stem and the shortcuts stay dense."""
    b = Builder("bsconv_resnet18", (1, 3, size, size), seed)
    x, channels = b.max_pool(b.conv_bn("input", 3, 64, 7, 2), 3, 2, 1), 64
    for outputs in STAGES:
        for i in range(2):
            x = _basic(b, x, channels, outputs, 2 if i == 0 and outputs > 64 else 1)
            channels = outputs
    return b.model(b.classifier(x, channels))


def _basic(b: Builder, x: str, inputs: int, outputs: int, stride: int) -> str:
    y = bsconv_u(b, x, inputs, outputs, stride)
    y = b.conv(y, outputs, outputs, (1, 1), bias=False)
    y = b.conv_bn(y, outputs, outputs, 3, groups=outputs, activation="")
    if stride != 1 or inputs != outputs:
        x = b.conv_bn(x, inputs, outputs, 1, stride, activation="")
    return b.relu(b.node("Add", [y, x]))
