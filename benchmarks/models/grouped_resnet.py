"""ResNet-34 and WRN-40-2 whose 3×3 convolutions are G(g) blocks (Gibson et al., ASAP 2020).

G(g) replaces a 3×3 convolution in→out by: grouped 3×3, in→in, g groups → batch norm → ReLU → 1×1,
in→out. The stem and the shortcuts stay dense. G(N) has as many groups as channels: depthwise.
"""

from __future__ import annotations

import onnx

from edgeconv.benchmarks.onnx_builder import Builder

GROUPS: tuple[int | None, ...] = (2, 4, 8, 16, None)  # None: G(N)
_RESNET34 = ((64, 3), (128, 4), (256, 6), (512, 3))  # (channels, blocks) of each stage
_WRN_STAGES = (32, 64, 128)  # channels at width 2
_WRN_BLOCKS = 6  # (depth 40 − 4) / 6 a stage


def name(base: str, groups: int | None) -> str:
    """ "resnet34_g8", "resnet34_gn"."""
    return f"{base}_g{'n' if groups is None else groups}"


def g_block(b: Builder, x: str, inputs: int, outputs: int, stride: int, groups: int | None) -> str:
    """The block in place of a 3×3 convolution; what follows that one follows this."""
    x = b.conv_bn(x, inputs, inputs, 3, stride, inputs if groups is None else groups)
    return b.conv(x, inputs, outputs, (1, 1), bias=False)


def resnet34(groups: int | None, seed: int = 0) -> onnx.ModelProto:
    """Basic blocks (He et al. 2016) of two G(groups) each, on 224×224 images."""
    b = Builder(name("resnet34", groups), (1, 3, 224, 224), seed)
    x = b.max_pool(b.conv_bn("input", 3, 64, 7, 2), 3, 2, 1)
    channels = 64
    for stage, (outputs, blocks) in enumerate(_RESNET34):
        for i in range(blocks):
            stride = 2 if stage > 0 and i == 0 else 1
            x = _basic(b, x, channels, outputs, stride, groups)
            channels = outputs
    return b.model(b.classifier(x, channels))


def _basic(b: Builder, x: str, inputs: int, outputs: int, stride: int, groups: int | None) -> str:
    y = b.relu(b.batch_norm(g_block(b, x, inputs, outputs, stride, groups), outputs))
    y = b.batch_norm(g_block(b, y, outputs, outputs, 1, groups), outputs)
    if stride != 1 or inputs != outputs:
        x = b.conv_bn(x, inputs, outputs, 1, stride, activation="")
    return b.relu(b.node("Add", [y, x]))


def wrn40_2(groups: int | None, seed: int = 0) -> onnx.ModelProto:
    """Wide residual network (Zagoruyko and Komodakis 2016), batch norm and ReLU before each
    convolution, on 32×32 images; ten classes.
    """
    b = Builder(name("wrn40_2", groups), (1, 3, 32, 32), seed)
    x, channels = b.conv("input", 3, 16, (3, 3), bias=False), 16
    for stage, outputs in enumerate(_WRN_STAGES):
        for i in range(_WRN_BLOCKS):
            stride = 2 if stage > 0 and i == 0 else 1
            x = _wide_basic(b, x, channels, outputs, stride, groups)
            channels = outputs
    x = b.relu(b.batch_norm(x, channels))
    return b.model(b.classifier(x, channels, classes=10))


def _wide_basic(
    b: Builder, x: str, inputs: int, outputs: int, stride: int, groups: int | None
) -> str:
    active = b.relu(b.batch_norm(x, inputs))
    y = b.relu(b.batch_norm(g_block(b, active, inputs, outputs, stride, groups), outputs))
    y = g_block(b, y, outputs, outputs, 1, groups)
    if inputs != outputs:
        strides, padding = (stride, stride), (0, 0, 0, 0)
        x = b.conv(active, inputs, outputs, (1, 1), stride=strides, padding=padding, bias=False)
    return b.node("Add", [x, y])
