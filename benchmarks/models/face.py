"""A face detector on MobileNetV1 of width 1/4, with DDC layers or dense ones as context modules.

Backbone, pyramid and heads of RetinaFace's small model (Deng et al. 2020). Its context modules are
3×3 convolutions of dilations 1, 2 and 3 on one input, joined, then 1×1: dense, or depthwise, which
makes them DDC layers (after Chen et al. 2021, whose exact wiring is not public).
"""

from __future__ import annotations

import numpy as np
import onnx

from edgeconv.benchmarks.models.mobilenet import depthwise_separable, v1_blocks
from edgeconv.benchmarks.onnx_builder import Builder

_WIDTH = 64
_LEVELS = (5, 11, 13)  # blocks of the backbone that the pyramid reads: strides 8, 16, 32
_ANCHORS = 2
_DILATIONS = (1, 2, 3)
_HEADS = (("class", 2), ("box", 4), ("landmarks", 10))  # values of an anchor


def ddc_face(seed: int = 0, size: int = 320) -> onnx.ModelProto:
    """Three outputs of three levels each: [1, anchors·values, size/s, size/s]; `size` is a multiple
    of 32.
    """
    return _face(Builder("ddc_face", (1, 3, size, size), seed), _WIDTH)


def dense_face(seed: int = 0, size: int = 320) -> onnx.ModelProto:
    """The same with dense context modules."""
    return _face(Builder("dense_face", (1, 3, size, size), seed), 1)


def _face(b: Builder, groups: int) -> onnx.ModelProto:
    """`groups` are those of the context modules' 3×3 convolutions."""
    levels = [_context(b, x, groups) for x in _pyramid(b, _backbone(b))]
    return b.model(
        *(b.conv(x, _WIDTH, _ANCHORS * n, (1, 1)) for _, n in _HEADS for x in levels),
    )


def _backbone(b: Builder) -> list[tuple[str, int]]:
    """Maps and channels of the levels, the largest map first."""
    x, channels, found = b.conv_bn("input", 3, 8, 3, 2), 8, []
    for number, (outputs, stride) in enumerate(v1_blocks(0.25), 1):
        x = depthwise_separable(b, x, channels, outputs, stride)
        channels = outputs
        if number in _LEVELS:
            found.append((x, channels))
    return found


def _pyramid(b: Builder, maps: list[tuple[str, int]]) -> list[str]:
    """Each level brought to 64 channels, plus the next one enlarged, filtered."""
    sides = [b.conv_bn(x, channels, _WIDTH, 1, activation="leaky") for x, channels in maps]
    result = [sides[-1]]
    for side in reversed(sides[:-1]):
        scales = b.constant(np.array([1, 1, 2, 2], np.float32))
        nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
        larger = b.node("Resize", [result[0], "", scales], nearest_mode="floor", **nearest)
        joined = b.node("Add", [side, larger])
        x = b.conv_bn(joined, _WIDTH, _WIDTH, 3, groups=_WIDTH, activation="leaky")
        result.insert(0, b.conv_bn(x, _WIDTH, _WIDTH, 1, activation="leaky"))
    return result


def _context(b: Builder, x: str, groups: int) -> str:
    """Each branch with batch norm and activation; all joined, 1×1."""
    branches = [
        b.conv_bn(x, _WIDTH, _WIDTH, 3, groups=groups, activation="leaky", dilation=d)
        for d in _DILATIONS
    ]
    joined = b.node("Concat", branches, axis=1)
    return b.conv_bn(joined, len(branches) * _WIDTH, _WIDTH, 1)
