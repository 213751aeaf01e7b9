"""EfficientNet-lite0 (Tan and Le 2019; the lite variant of TensorFlow's TPU models, 2020): no
squeeze-and-excite, ReLU6, TensorFlow's "same" padding, which is asymmetric at stride two.
"""

from __future__ import annotations

import onnx

from edgeconv.benchmarks.onnx_builder import Builder

_STAGES = (  # (expansion, kernel, output channels, repeats, stride of the first)
    *((1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2)),
    *((6, 5, 112, 3, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1)),
)


def efficientnet_lite0(seed: int = 0, size: int = 224) -> onnx.ModelProto:
    """Seven stages of inverted residuals; `size` is a multiple of 32."""
    b = Builder("efficientnet_lite0", (1, 3, size, size), seed)
    x, channels = _conv(b, "input", 3, 32, 3, 2), 32
    for expansion, kernel, outputs, repeats, stride in _STAGES:
        for i in range(repeats):
            step, hidden = stride if i == 0 else 1, channels * expansion
            y = x if expansion == 1 else _conv(b, x, channels, hidden, 1)
            y = _conv(b, y, hidden, hidden, kernel, step, hidden)
            y = b.conv_bn(y, hidden, outputs, 1, activation="")
            x = b.node("Add", [x, y]) if step == 1 and channels == outputs else y
            channels = outputs
    return b.model(b.classifier(_conv(b, x, channels, 1280, 1), 1280))


def _conv(
    b: Builder, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> str:
    """With batch norm and ReLU6; of an odd sum of padding the end gets more (even maps)."""
    total = kernel - stride if stride > 1 else kernel - 1
    low, high = total // 2, total - total // 2
    padding = (low, low, high, high)
    return b.conv_bn(x, inputs, outputs, kernel, stride, groups, "relu6", padding=padding)
