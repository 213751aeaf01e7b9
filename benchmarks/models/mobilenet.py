"""MobileNetV1 (Howard et al. 2017), MobileNetV2 (Sandler et al. 2018), and both with blueprint
separable convolutions (Haase and Amthor, CVPR 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx

from edgeconv.benchmarks.models.blueprint import bsconv_s, bsconv_u
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


Separable = Callable[[Builder, str, int, int, int], str]


def mobilenet_v1(seed: int = 0, width: float = 1.0, size: int = 224) -> onnx.ModelProto:
    """Depthwise-separable convolutions; `width` multiplies all channels."""
    b = Builder(_v1_name("mobilenetv1", width), (1, 3, size, size), seed)
    return _mobilenet_v1(b, depthwise_separable, width)


def bsconv_mobilenet_v1(seed: int = 0, width: float = 1.0, size: int = 224) -> onnx.ModelProto:
    """BSConv-U in the place of the depthwise-separable convolutions: 1×1, then depthwise."""
    b = Builder(_v1_name("bsconv_mobilenetv1", width), (1, 3, size, size), seed)
    return _mobilenet_v1(b, bsconv_u, width)


def bsconv_s_mobilenet_v1(seed: int = 0, width: float = 1.0, size: int = 224) -> onnx.ModelProto:
    """BSConv-S of p = 1/6 there: two 1×1, then depthwise."""
    b = Builder(_v1_name("bsconv_s_mobilenetv1", width), (1, 3, size, size), seed)
    return _mobilenet_v1(b, partial(bsconv_s, share=1 / 6), width)


def _v1_name(base: str, width: float) -> str:
    return base if width == 1 else f"{base}_{width:g}"


def _mobilenet_v1(b: Builder, block: Separable, width: float = 1.0) -> onnx.ModelProto:
    channels = int(32 * width)
    x = b.conv_bn("input", 3, channels, 3, 2)
    for outputs, stride in v1_blocks(width):
        x = block(b, x, channels, outputs, stride)
        channels = outputs
    return b.model(b.classifier(x, channels))


def v1_blocks(width: float = 1.0) -> list[tuple[int, int]]:
    """(output channels, stride) of MobileNetV1's blocks."""
    return [(int(outputs * width), stride) for outputs, stride in _V1]


def depthwise_separable(b: Builder, x: str, inputs: int, outputs: int, stride: int) -> str:
    """Depthwise 3×3, then 1×1, each with batch norm and ReLU."""
    x = b.conv_bn(x, inputs, inputs, 3, stride, groups=inputs)
    return b.conv_bn(x, inputs, outputs, 1)


def mobilenet_v2(seed: int = 0, size: int = 224) -> onnx.ModelProto:
    """Inverted residuals with linear bottlenecks."""
    return _mobilenet_v2(Builder("mobilenetv2", (1, 3, size, size), seed), "relu6")


def bsconv_mobilenet_v2(seed: int = 0, size: int = 224) -> onnx.ModelProto:
    """BSConv-S of p = 1/6: projection, expansion and the next depthwise are one block, without an
    activation between expansion and depthwise. As many weights and as much work as MobileNetV2.
    """
    return _mobilenet_v2(Builder("bsconv_mobilenetv2", (1, 3, size, size), seed), "")


def _mobilenet_v2(b: Builder, expanded: str) -> onnx.ModelProto:
    """`expanded` is the activation after each expansion."""
    x, channels = b.conv_bn("input", 3, 32, 3, 2, activation="relu6"), 32
    for expansion, outputs, repeats, stride in _V2:
        for i in range(repeats):
            step = stride if i == 0 else 1
            x = _inverted_residual(b, x, channels, outputs, step, expansion, expanded)
            channels = outputs
    x = b.conv_bn(x, channels, 1280, 1, activation="relu6")
    return b.model(b.classifier(x, 1280))


def _inverted_residual(
    b: Builder, x: str, inputs: int, outputs: int, stride: int, expansion: int, expanded: str
) -> str:
    """Expand by a pointwise, filter depthwise, project; with a shortcut where shapes agree."""
    hidden = inputs * expansion
    y = x if expansion == 1 else b.conv_bn(x, inputs, hidden, 1, activation=expanded)
    y = b.conv_bn(y, hidden, hidden, 3, stride, groups=hidden, activation="relu6")
    y = b.conv_bn(y, hidden, outputs, 1, activation="")
    return b.node("Add", [x, y]) if stride == 1 and inputs == outputs else y
