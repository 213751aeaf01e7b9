"""ShuffleNetV1 (Zhang et al. 2018): grouped pointwise convolutions and channel shuffle."""

from __future__ import annotations

import torch
from torch import nn

from edgeconv.benchmarks.models.blocks import Classifier, conv_bn

_STAGES = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # output channels of the second stage by groups


class Unit(nn.Module):
    """Grouped 1×1, shuffle, depthwise 3×3, grouped 1×1; added to or joined with the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, first: bool) -> None:
        super().__init__()
        self.groups, self.stride = groups, stride
        middle = outputs // 4
        made = outputs - inputs if stride == 2 else outputs
        self.reduce = conv_bn(inputs, middle, 1, groups=1 if first else groups)
        self.filter = conv_bn(middle, middle, 3, stride, middle, activation=None)
        self.expand = conv_bn(middle, made, 1, groups=groups, activation=None)
        self.pool = nn.AvgPool2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The unit's output."""
        y = self.reduce(x)
        n, c, h, w = y.shape
        y = y.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = self.expand(self.filter(y))
        return torch.relu(torch.cat([self.pool(x), y], 1) if self.stride == 2 else x + y)


class ShuffleNetV1(Classifier):
    """Three stages of units."""

    def __init__(self, groups: int = 3, classes: int = 1000) -> None:
        layers: list[nn.Module] = [conv_bn(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
        channels = 24
        for stage, repeats in enumerate((4, 8, 4)):
            outputs = _STAGES[groups] * 2**stage
            for i in range(repeats):
                first = stage == 0 and i == 0
                layers.append(Unit(channels, outputs, 2 if i == 0 else 1, groups, first))
                channels = outputs
        super().__init__(nn.Sequential(*layers), channels, classes)
