"""ResNet-18, -34 and -50 (He et al. 2016), and with BSConv-U or BSConv-S for their 3×3 convolutions
(Haase and Amthor, CVPR 2020).

The stride of ResNet-50's bottlenecks is in the 3×3, as in torchvision and the onnx package. The
stem and the shortcuts stay dense.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from edgeconv.benchmarks.models.blueprint import bsconv_s, bsconv_u
from edgeconv.benchmarks.onnx_builder import Builder

WIDTHS = (64, 128, 256, 512)  # channels of the 3×3 convolutions of each stage
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
EXPANSION = 4  # output channels of a bottleneck over those of its 3×3

Convolution = Callable[[Builder, str, int, int, int, str], str]
"""(builder, x, input channels, output channels, stride, activation) -> name: a 3×3 with batch norm,
or what replaces it.
"""


def _dense(
    b: Builder, x: str, inputs: int, outputs: int, stride: int, activation: str = "relu"
) -> str:
    return b.conv_bn(x, inputs, outputs, 3, stride, activation=activation)


CONVOLUTIONS: dict[str, Convolution] = {"": _dense, "bsconv_": bsconv_u, "bsconv_s_": bsconv_s}


def name(depth: int, kind: str = "") -> str:
    """ "resnet18", "bsconv_resnet34", "bsconv_s_resnet50"."""
    return f"{kind}resnet{depth}"


def resnet(depth: int, kind: str = "", seed: int = 0, size: int = 224) -> onnx.ModelProto:
    """The network of a depth, its 3×3 convolutions of a kind in `CONVOLUTIONS`."""
    b = Builder(name(depth, kind), (1, 3, size, size), seed)
    x, channels = b.max_pool(b.conv_bn("input", 3, 64, 7, 2), 3, 2, 1), 64
    block, expansion = (_bottleneck, EXPANSION) if depth >= 50 else (_basic, 1)
    for stage, (width, count) in enumerate(zip(WIDTHS, BLOCKS[depth], strict=True)):
        for i in range(count):
            stride = 2 if i == 0 and stage > 0 else 1
            x = block(b, x, channels, width, stride, CONVOLUTIONS[kind])
            channels = width * expansion
    return b.model(b.classifier(x, channels))


def _basic(
    b: Builder, x: str, inputs: int, width: int, stride: int, convolution: Convolution
) -> str:
    y = convolution(b, x, inputs, width, stride, "relu")
    y = convolution(b, y, width, width, 1, "")
    return _joined(b, x, y, inputs, width, stride)


def _bottleneck(
    b: Builder, x: str, inputs: int, width: int, stride: int, convolution: Convolution
) -> str:
    outputs = width * EXPANSION
    y = b.conv_bn(x, inputs, width, 1)
    y = convolution(b, y, width, width, stride, "relu")
    y = b.conv_bn(y, width, outputs, 1, activation="")
    return _joined(b, x, y, inputs, outputs, stride)


def _joined(b: Builder, x: str, y: str, inputs: int, outputs: int, stride: int) -> str:
    """The sum with the shortcut, which is a 1×1 where shapes differ."""
    if stride != 1 or inputs != outputs:
        x = b.conv_bn(x, inputs, outputs, 1, stride, activation="")
    return b.relu(b.node("Add", [y, x]))
