"""MobileNetV3 (Howard et al. 2019): hard-swish, squeeze-and-excite; widths as in torchvision."""

from __future__ import annotations

import onnx

from edgeconv.benchmarks.onnx_builder import Builder

_R, _H = "relu", "hardswish"
_LARGE = (  # (kernel, expanded channels, output channels, squeeze-excite, activation, stride)
    *((3, 16, 16, False, _R, 1), (3, 64, 24, False, _R, 2), (3, 72, 24, False, _R, 1)),
    *((5, 72, 40, True, _R, 2), (5, 120, 40, True, _R, 1), (5, 120, 40, True, _R, 1)),
    *((3, 240, 80, False, _H, 2), (3, 200, 80, False, _H, 1), (3, 184, 80, False, _H, 1)),
    *((3, 184, 80, False, _H, 1), (3, 480, 112, True, _H, 1), (3, 672, 112, True, _H, 1)),
    *((5, 672, 160, True, _H, 2), (5, 960, 160, True, _H, 1), (5, 960, 160, True, _H, 1)),
)
_SMALL = (
    *((3, 16, 16, True, _R, 2), (3, 72, 24, False, _R, 2), (3, 88, 24, False, _R, 1)),
    *((5, 96, 40, True, _H, 2), (5, 240, 40, True, _H, 1), (5, 240, 40, True, _H, 1)),
    *((5, 120, 48, True, _H, 1), (5, 144, 48, True, _H, 1), (5, 288, 96, True, _H, 2)),
    *((5, 576, 96, True, _H, 1), (5, 576, 96, True, _H, 1)),
)


def mobilenet_v3_large(seed: int = 0, size: int = 224) -> onnx.ModelProto:
    """Fifteen blocks."""
    return _network("mobilenetv3_large", _LARGE, 1280, seed, size)


def mobilenet_v3_small(seed: int = 0, size: int = 224) -> onnx.ModelProto:
    """Eleven blocks."""
    return _network("mobilenetv3_small", _SMALL, 1024, seed, size)


def _network(
    name: str,
    blocks: tuple[tuple[int, int, int, bool, str, int], ...],
    last: int,
    seed: int,
    size: int,
) -> onnx.ModelProto:
    b = Builder(name, (1, 3, size, size), seed, opset=14)
    x, channels = b.conv_bn("input", 3, 16, 3, 2, activation=_H), 16
    for kernel, hidden, outputs, excite, activation, stride in blocks:
        y = x if hidden == channels else b.conv_bn(x, channels, hidden, 1, activation=activation)
        y = b.conv_bn(y, hidden, hidden, kernel, stride, hidden, activation)
        if excite:
            y = b.squeeze_excite(y, hidden, _divisible(hidden // 4), hard=True)
        y = b.conv_bn(y, hidden, outputs, 1, activation="")
        x = b.node("Add", [x, y]) if stride == 1 and channels == outputs else y
        channels = outputs
    x = b.conv_bn(x, channels, 6 * channels, 1, activation=_H)
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x])], axis=1)
    x = b.activation(b.linear(x, 6 * channels, last), _H)
    return b.model(b.linear(x, last, 1000))


def _divisible(channels: int) -> int:
    """The nearest multiple of 8 that is not more than a tenth below."""
    rounded = max(8, (channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
