"""RegNetY-400MF (Radosavovic et al., "Designing Network Design Spaces", 2020): groups of eight
channels, squeeze-and-excite.
"""

from __future__ import annotations

import onnx

from edgeconv.benchmarks.onnx_builder import Builder

_STAGES = ((48, 1), (104, 3), (208, 6), (440, 6))  # (channels, blocks)
_GROUP_WIDTH = 8


def regnety_400mf(seed: int = 0, size: int = 224) -> onnx.ModelProto:
    """Four stages; the first block of each halves the map."""
    b = Builder("regnety_400mf", (1, 3, size, size), seed)
    x, channels = b.conv_bn("input", 3, 32, 3, 2), 32
    for outputs, blocks in _STAGES:
        for i in range(blocks):
            x = _block(b, x, channels, outputs, 2 if i == 0 else 1)
            channels = outputs
    return b.model(b.classifier(x, channels))


def _block(b: Builder, x: str, inputs: int, outputs: int, stride: int) -> str:
    """1×1, grouped 3×3, squeeze-excite by a quarter of the input channels, 1×1; a shortcut."""
    y = b.conv_bn(x, inputs, outputs, 1)
    y = b.conv_bn(y, outputs, outputs, 3, stride, outputs // _GROUP_WIDTH)
    y = b.squeeze_excite(y, outputs, round(inputs / 4))
    y = b.conv_bn(y, outputs, outputs, 1, activation="")
    if stride != 1 or inputs != outputs:
        x = b.conv_bn(x, inputs, outputs, 1, stride, activation="")
    return b.relu(b.node("Add", [y, x]))
