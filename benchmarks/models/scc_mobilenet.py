"""MobileNetV1 whose 1×1 convolutions are sliding-channel ones, or grouped ones, which those are
compared with (Wang et al., "DSXplore", 2021).
"""

from __future__ import annotations

import math
from fractions import Fraction

import onnx

from edgeconv.benchmarks.models.mobilenet import v1_blocks
from edgeconv.benchmarks.onnx_builder import Builder


def name(groups: int, overlap: Fraction) -> str:
    """ "scc_mobilenet_cg2_co50"."""
    return f"scc_mobilenet_cg{groups}_co{round(100 * overlap)}"


def scc_mobilenet(
    groups: int = 2, overlap: Fraction = Fraction(1, 2), seed: int = 0, size: int = 224
) -> onnx.ModelProto:
    """Windows of 1/groups of the channels, which overlap by that share.

    `size` is a multiple of 32.
    """
    b = Builder(name(groups, overlap), (1, 3, size, size), seed)
    x, channels, size = b.conv_bn("input", 3, 32, 3, 2), 32, size // 2
    for outputs, stride in v1_blocks():
        size //= stride
        x = b.conv_bn(x, channels, channels, 3, stride, groups=channels)
        x = sliding_channels(b, x, channels, outputs, groups, overlap, size)
        x = b.relu(b.batch_norm(x, outputs))
        channels = outputs
    return b.model(b.classifier(x, channels))


def grouped_mobilenet(groups: int = 2, seed: int = 0, size: int = 224) -> onnx.ModelProto:
    """1×1 convolutions in so many groups, their channels not shuffled."""
    b = Builder(f"grouped_mobilenet_cg{groups}", (1, 3, size, size), seed)
    x, channels = b.conv_bn("input", 3, 32, 3, 2), 32
    for outputs, stride in v1_blocks():
        x = b.conv_bn(x, channels, channels, 3, stride, groups=channels)
        x = b.conv_bn(x, channels, outputs, 1, groups=groups)
        channels = outputs
    return b.model(b.classifier(x, channels))


def sliding_channels(
    b: Builder, x: str, inputs: int, outputs: int, groups: int, overlap: Fraction, size: int
) -> str:
    """As it is exported: windows, one after another, a grouped 1×1, and a shuffle where windows
    repeat, cut off where the last cycle of windows is not complete.

    Output k reads the channels from floor(k·(1 − co)·u) on, u = inputs / groups.
    """
    width = inputs // groups
    starts = [math.floor(k * (1 - overlap) * width) % inputs for k in range(outputs)]
    period = next(
        p
        for p in range(1, outputs + 1)
        if -outputs % p <= outputs // 8 and starts == (starts[:p] * -(-outputs // p))[:outputs]
    )
    full = outputs + -outputs % period  # with the outputs that fill up the last cycle
    windows = [_window(b, x, start, start + width, inputs) for start in starts[:period]]
    stacked = b.node("Concat", windows, axis=1) if period > 1 else windows[0]
    y = b.conv(stacked, period * width, full, (1, 1), groups=period, bias=False)
    y = b.shuffle(y, full, period, size, size) if 1 < period < full else y
    return b.slice_channels(y, 0, outputs) if full > outputs else y


def _window(b: Builder, x: str, start: int, end: int, channels: int) -> str:
    """Channels start … end − 1, from the first on behind the last."""
    if end <= channels:
        return b.slice_channels(x, start, end)
    parts = [b.slice_channels(x, start, channels), b.slice_channels(x, 0, end - channels)]
    return b.node("Concat", parts, axis=1)
